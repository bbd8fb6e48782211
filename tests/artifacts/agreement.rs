//! The same artifact whatever the number of threads, the process, the processor and the number type.

use std::collections::BTreeMap;
use std::process::Command;

use taper::ndarray::ArrayD;

use crate::draw::Draw;
use crate::kinds::{Again, Kind, kinds};
use crate::laws::{numbers, rounding, squared_error};

/// Large enough to be shared out over threads.
fn weights(kind: &Kind, draw: &mut Draw<'_>) -> ArrayD<f32> {
    let shape: &[usize] = match kind.axes {
        2 => &[96, 120],
        3 => &[20, 18, 16],
        _ => &[24, 16, 3, 3],
    };
    numbers(shape, draw)
}

/// The bytes of all artifacts, by name.
fn all() -> BTreeMap<&'static str, Vec<u8>> {
    let one = |kind: Kind| {
        let mut draw = Draw::from(3);
        let artifact = (kind.single)(weights(&kind, &mut draw).view(), &mut draw).unwrap();
        let parts = artifact.parts().into_iter();
        let bytes = parts.flat_map(|part| part.bytes.into_owned());
        (kind.name, bytes.collect())
    };
    kinds().into_iter().map(one).collect()
}

/// The names of the artifacts that are not the same in both.
fn differences<'a>(a: &BTreeMap<&'a str, Vec<u8>>, b: &BTreeMap<&'a str, Vec<u8>>) -> Vec<&'a str> {
    assert!(a.keys().eq(b.keys()));
    let pairs = a.iter().zip(b.values());
    pairs
        .filter(|(a, b)| a.1 != *b)
        .map(|(a, _)| *a.0)
        .collect()
}

#[cfg(feature = "rayon")]
#[test]
fn for_any_number_of_threads() {
    let expected = all();
    for threads in [1, 2, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let found = pool.build().unwrap().install(all);
        assert_eq!(differences(&expected, &found), [""; 0], "{threads} threads");
    }
}

const FILE: &str = "TAPER_TEST_ARTIFACTS";

/// Writes all artifacts to the file that the environment names.
#[test]
#[ignore = "run by `for_every_process_and_processor`, in a process of its own"]
fn child() {
    let file = std::env::var(FILE).expect("the file to write to");
    let lines = all().into_iter().map(|(name, bytes)| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}:{hex}\n")
    });
    std::fs::write(file, lines.collect::<String>()).unwrap();
}

/// The artifacts that another process makes, with kernels for a processor of this level.
fn in_another_process(level: &str) -> BTreeMap<&'static str, Vec<u8>> {
    let file = std::env::temp_dir().join(format!("taper-{}-{level}", std::process::id()));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "agreement::child"]);
    command.env("TAPER_CPU", level).env(FILE, &file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let read = |line: &str| {
        let (name, hex) = line.split_once(':').unwrap();
        let name = kinds().iter().find(|kind| kind.name == name).unwrap().name;
        let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        (name, (0..hex.len()).step_by(2).map(byte).collect())
    };
    text.lines().map(read).collect()
}

/// The levels of kernels that this processor has, by the names that `TAPER_CPU` takes.
fn levels() -> Vec<&'static str> {
    #[allow(unused_mut)]
    let mut levels = vec!["scalar"];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            levels.push("avx2");
        }
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
            levels.push("avx512");
        }
    }
    #[cfg(target_arch = "aarch64")]
    levels.push("neon");
    levels
}

#[test]
fn for_every_process_and_processor() {
    let expected = all();
    let levels = levels();
    for level in &levels {
        let found = in_another_process(level);
        let different = differences(&expected, &found);
        assert_eq!(different, [""; 0], "at level {level}");
    }
    // Only `--nocapture` shows this; a run that compares nothing fails.
    println!("compared the kernels of the levels {levels:?}");
    let has_vectors = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    assert!(
        !has_vectors || levels.len() > 1,
        "compared {levels:?} only: this processor has no vector kernels to compare with the scalar ones"
    );
}

/// In double precision the fit is the same but for the rounding of single precision (or of what is stored in half).
///
/// A minimum is flat: its error changes by the rounding of a norm, ε √n. What is fitted may move further. Quantized
/// weights move by ε, and singular vectors by ε over the gap between their singular values, which is about 1/√n of
/// the norm here. Fits that end at a local optimum may move by more.
#[test]
fn for_single_and_double_precision() {
    for kind in kinds() {
        let Some(double) = kind.double else { continue };
        let mut draw = Draw::from(7);
        let weights = weights(&kind, &mut draw);
        let exact = weights.mapv(f64::from);
        let a = (kind.single)(weights.view(), &mut draw.clone()).unwrap();
        let b = double(exact.view(), &mut draw).unwrap();
        assert_eq!(a.shape(), b.shape());
        assert_eq!(a.storage(), b.storage(), "{}", kind.name);
        let norm = exact.iter().map(|w| w * w).sum::<f64>().sqrt();
        let tolerance = rounding::<f32>(&*a) * (exact.len() as f64).sqrt();
        let a = a.decompress().unwrap().mapv(f64::from);
        let b = b.decompress().unwrap();
        let distance = |a, b| squared_error::<f64>(a, b).sqrt() / norm;
        let errors = [distance(&a, exact.view()), distance(&b, exact.view())];
        assert!(
            (errors[0] - errors[1]).abs() <= tolerance,
            "{}: {errors:?}",
            kind.name
        );
        if !matches!(kind.again, Again::NoLaw(_)) {
            let moved = distance(&a, b.view());
            assert!(moved <= tolerance, "{}: moved by {moved}", kind.name);
        }
    }
}
