//! Laws of the container, over random models of all kinds.

mod compress;
mod file;
mod open;
mod whole;

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, Array4, ArrayD, ArrayView2, IxDyn};
use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;
use crate::Geometry;
use crate::factorize::Rank;
use crate::factorize::convolution::{CpConv2d, Tucker2};
use crate::factorize::cp::CpAls;
use crate::factorize::svd::{SingularValues, TruncatedSvd};
use crate::prune::SparseMatrix;
use crate::quantize::binary::Binarizer;
use crate::quantize::fixed_point::{FixedPointQuantizer, Granularity, Symmetry};
use crate::quantize::product::{
    Codebook, OptimizedProductQuantizer, ProductQuantizer, ResidualQuantizer, SplitAxis,
};
use crate::{DType, Error, Factorizer, Precision, Quantizer, Result, Seed};

fn numbers(shape: &[usize], seed: u64) -> ArrayD<f32> {
    let mut stream = 0;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        stream += 1;
        let uniform = |i: u64| (Seed::from(seed).uniform(2 * stream + i) + 1.0) / 2.0;
        // Bell-shaped, as weights are.
        ((-2.0 * (uniform(0) + 1e-9).ln()).sqrt() * (std::f64::consts::TAU * uniform(1)).cos())
            as f32
    })
}

fn matrix(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    numbers(&[rows, columns], seed)
        .into_dimensionality()
        .unwrap()
}

fn kernel(seed: u64) -> Array4<f32> {
    numbers(&[6, 4, 3, 3], seed).into_dimensionality().unwrap()
}

fn pruned(weights: &Array2<f32>, threshold: f32) -> Array2<f32> {
    weights.mapv(|w| if w.abs() < threshold { 0.0 } else { w })
}

fn precision(seed: u64) -> Precision {
    [Precision::F16, Precision::F32][seed as usize % 2]
}

/// A container of these lines and arrays.
fn forged(contents: &str, arrays: &[u8]) -> Vec<u8> {
    with_contents(&entropy::text::encode(contents), arrays)
}

/// A container with this table of contents.
fn with_contents(contents: &[u8], arrays: &[u8]) -> Vec<u8> {
    let lengths = [("arrays", arrays.len()), ("contents", contents.len())];
    let planned =
        lengths.map(|(name, length)| header::Planned::new(name, DType::U8, &[length]).unwrap());
    let metadata = BTreeMap::from([("taper".to_owned(), "3".to_owned())]);
    let mut file = header::write(&planned, &metadata).unwrap();
    file.extend(arrays);
    file.extend(contents);
    file
}

/// Writes containers whose tables of contents a fuzzer can change: after the format or the kinds have changed,
/// `cargo test -p taper --lib write_containers -- --ignored`.
#[test]
#[ignore = "writes files"]
fn write_containers() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/container");
    for kind in 0..KINDS {
        let bytes = model(&[(kind, [8, 6], kind as u64)]).to_bytes().unwrap();
        let (text, arrays) = contents(&bytes);
        let file = with_contents(&entropy::text::as_it_is(text.as_bytes()), &arrays);
        same(
            &CompressedModel::from_bytes(&file).unwrap(),
            &CompressedModel::from_bytes(&bytes).unwrap(),
        );
        std::fs::write(seeds.join(format!("lines.{kind}")), file).unwrap();
    }
}

/// The lines and the arrays of a container.
fn contents(container: &[u8]) -> (String, Vec<u8>) {
    let file = NamedTensors::from_bytes(container.to_vec()).unwrap();
    let text = entropy::text::decode(&file.data("contents").unwrap().bytes).unwrap();
    (text, file.data("arrays").unwrap().bytes.into_owned())
}

const KINDS: usize = 17;

/// A tensor of the `kind`-th kind.
fn tensor(kind: usize, [rows, columns]: [usize; 2], seed: u64) -> Result<CompressedTensor> {
    let weights = matrix(rows, columns, seed);
    let view = weights.view();
    let precision = precision(seed);
    let rank = Rank::Fixed(2);
    let pq = ProductQuantizer::new(1)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(1 + seed as usize % 9)
        .precision(precision)
        .seed(seed);
    let affine = seed.is_multiple_of(3);
    let fixed = FixedPointQuantizer::new(1 + seed as u32 % 16).precision(Precision::F32);
    let fixed = if affine {
        fixed.symmetry(Symmetry::Affine)
    } else {
        fixed
    };
    let of_column = |values: ArrayView2<'_, f32>| pq.clone().centroids(4).quantize(values);
    Ok(match kind % KINDS {
        0 => CompressedTensor::new(pq.quantize(view)?),
        1 => CompressedTensor::new(pq.axis(SplitAxis::In).quantize(view)?),
        2 => CompressedTensor::new(ResidualQuantizer::new(pq, 2).quantize(view)?),
        3 => CompressedTensor::new(fixed.quantize(view)?),
        4 => CompressedTensor::new(fixed.granularity(Granularity::PerRow).quantize(view)?),
        5 => {
            let scaling = [
                None,
                Some(Granularity::PerTensor),
                Some(Granularity::PerRow),
            ];
            let scaling = scaling[seed as usize % 3];
            CompressedTensor::new(Binarizer::new().scaling(scaling).quantize(view)?)
        }
        6 => {
            let svd = TruncatedSvd::new(rank).precision(precision);
            let svd = if affine {
                svd.singular_values(SingularValues::Apart)
            } else {
                svd
            };
            CompressedTensor::new(svd.factorize(view)?)
        }
        7 => CompressedTensor::new(TruncatedSvd::new(rank).factorize(kernel(seed).view())?),
        8 => {
            let kernel = numbers(&[4, 3, 5], seed).into_dimensionality::<ndarray::Ix3>();
            CompressedTensor::new(
                CpAls::new(Rank::Fixed(2))
                    .seed(seed)
                    .factorize(kernel.unwrap().view())?,
            )
        }
        9 => {
            let kernel = CpAls::new(Rank::Fixed(2))
                .seed(seed)
                .factorize(kernel(seed).view())?;
            let geometry = Geometry {
                stride: [1, 2],
                padding: [1, 0],
                dilation: [1, 1],
            };
            CompressedTensor::new(CpConv2d::new(&kernel, None, geometry)?)
        }
        10 => CompressedTensor::new(Tucker2::ranks(2, 3).factorize(kernel(seed).view())?),
        11 => CompressedTensor::new(SparseMatrix::from_dense(
            pruned(&weights, 1.5).view(),
            precision,
        )?),
        12 => {
            let mut weights = pruned(&weights, 1.0);
            weights[[0, 0]] = 1.0;
            CompressedTensor::new(SparseQuantized::new(weights.view(), of_column)?)
        }
        13 => {
            let product = TruncatedSvd::new(rank).factorize(view)?;
            let left = fixed.quantize(product.left())?;
            CompressedTensor::new(FactoredMatrix::new(left, of_column(product.right())?)?)
        }
        14 => {
            let factors = [
                matrix(4, 2, seed),
                matrix(3, 2, seed + 1),
                matrix(5, 2, seed + 2),
            ];
            let factors = factors.iter().map(|factor| fixed.quantize(factor.view()));
            CompressedTensor::new(FactoredTensor::new(factors.collect::<Result<Vec<_>>>()?)?)
        }
        15 => CompressedTensor::new(OptimizedProductQuantizer::new(pq).quantize(view)?),
        _ => CompressedTensor::new(Dense::new(weights.into_dyn().view(), precision)?)
            .with_shape(&[1, rows, columns])?
            .with_dtype(DType::BF16),
    })
}

fn model(tensors: &[(usize, [usize; 2], u64)]) -> CompressedModel {
    let mut model = CompressedModel::new();
    model.set_metadata("format", "pt");
    for (i, &(kind, shape, seed)) in tensors.iter().enumerate() {
        let tensor = tensor(kind, shape, seed).unwrap();
        model
            .insert(&format!("layer {i}/π.weight"), tensor)
            .unwrap();
        let bias = Array1::from_elem(i, 0.5).into_dyn();
        let bias = TensorData::from(bias.view());
        model
            .insert_plain(&format!("layer {i}.bias"), bias)
            .unwrap();
    }
    let indices = TensorData {
        dtype: DType::I64,
        shape: vec![2],
        bytes: vec![1; 16].into(),
    };
    model.insert_plain("indices", indices).unwrap();
    model
}

fn tensors() -> impl Strategy<Value = Vec<(usize, [usize; 2], u64)>> {
    let one = (0..KINDS, 2_usize..40, 2_usize..40, 0_u64..1000);
    prop::collection::vec(
        one.prop_map(|(kind, m, n, seed)| (kind, [m, n], seed)),
        0..6,
    )
}

/// Asserts that two models are equal, and what holds for each of their artifacts.
pub(super) fn same(a: &CompressedModel, b: &CompressedModel) {
    assert_eq!(a.iter().count(), b.iter().count());
    for ((name, a), (other, b)) in a.iter().zip(b.iter()) {
        assert_eq!(name, other);
        match (a, b) {
            (Entry::Plain(a), Entry::Plain(b)) => assert_eq!(a, b),
            (Entry::Compressed(a), Entry::Compressed(b)) => {
                assert_eq!(a.artifact().kind(), b.artifact().kind());
                assert_eq!(a.artifact().parts(), b.artifact().parts());
                assert_eq!(a.artifact().attributes(), b.artifact().attributes());
                assert_eq!((a.shape(), a.dtype()), (b.shape(), b.dtype()));
                assert_eq!(a.decompress().unwrap(), b.decompress().unwrap());
                let storage = a.artifact().storage();
                let parts = a.artifact().parts();
                let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
                assert_eq!(storage.bytes(), bytes as u64);
                if a.artifact().as_linear().is_some() {
                    let x = matrix(3, a.artifact().shape()[1], 1);
                    assert_eq!(a.apply(x.view()).unwrap(), b.apply(x.view()).unwrap());
                }
            }
            _ => panic!("{name:?} is compressed in one model and plain in the other"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn models_read_back_and_are_as_long_as_reported(tensors in tensors()) {
        let model = model(&tensors);
        let bytes = model.to_bytes().unwrap();
        prop_assert_eq!(model.file_bytes().unwrap(), bytes.len() as u64);
        let again = CompressedModel::from_bytes(&bytes).unwrap();
        same(&model, &again);
        prop_assert_eq!(&again.to_bytes().unwrap(), &bytes);
        // Any reader of safetensors reads it.
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(tensors.len(), 2);
        // The order in which tensors are added does not matter.
        let mut assembler = container::Assembler::new(std::io::Cursor::new(Vec::new()));
        assembler.metadata("format", "pt");
        let entries: Vec<_> = model.iter().collect();
        for (name, entry) in entries.into_iter().rev() {
            assembler.entry(name, entry).unwrap();
        }
        let mut reversed = Vec::new();
        assembler.finish(&mut reversed).unwrap();
        prop_assert_eq!(reversed, bytes);
    }

    #[test]
    fn damaged_files_are_errors(
        tensors in tensors(),
        damages in prop::collection::vec(
            (
                prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
                prop::option::of(any::<prop::sample::Index>()),
                any::<bool>(),
            ),
            32,
        ),
    ) {
        let bytes = model(&tensors).to_bytes().unwrap();
        let (text, arrays) = contents(&bytes);
        for (changes, cut, in_text) in damages {
            let mut damaged = if in_text { text.clone().into_bytes() } else { bytes.clone() };
            for (place, value) in changes {
                // In text, digits for digits: it is read, and says something else.
                let byte = place.get_mut(&mut damaged);
                *byte = match *byte {
                    digit if digit.is_ascii_digit() => b'0' + value % 10,
                    _ if in_text => value % 128,
                    _ => value,
                };
            }
            if in_text {
                damaged = forged(&String::from_utf8_lossy(&damaged), &arrays);
            }
            if let Some(cut) = cut {
                damaged.truncate(cut.index(damaged.len()));
            }
            // An error, or a model: what matters is that nothing panics, and that what is read is sound.
            if let Ok(model) = CompressedModel::from_bytes(&damaged) {
                for (_, entry) in model.iter() {
                    if entry.shape().iter().product::<usize>() < 1 << 20 {
                        let _ = entry.decompress();
                    }
                }
            }
        }
    }
}

/// Files that claim more than they hold are refused, and nothing of the size that they claim is allocated.
#[test]
fn forged_files_are_refused() {
    let file = |json: &str, data: &[u8]| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.bytes());
        bytes.extend(data);
        bytes
    };
    let json = |metadata: &str, tensors: &str| {
        file(
            &format!(r#"{{"__metadata__":{{{metadata}}}{tensors}}}"#),
            &[0; 2],
        )
    };
    let one = r#","arrays":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}"#;
    let both = r#","arrays":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"contents":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}"#;
    // Without tensors, the table of contents is one zero.
    assert_eq!(forged("", &[]).last(), Some(&0));
    assert!(CompressedModel::from_bytes(&forged("", &[])).is_ok());
    let files = [
        file("", &[]),
        file("{}", &[]),
        json(r#""taper":"2""#, both),
        json(r#""taper":"3""#, one),
        json(r#""taper":"3""#, &one.replace("arrays", "contents")),
        json(r#""taper":"3""#, &both.replace("arrays", "array")),
        json(r#""taper":"3","taper:w":"dense""#, both),
        json(r#""taper":"3""#, both),
        file(
            r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}"#,
            &[],
        ),
        file(
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0]}}"#,
            &[],
        ),
        file(
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
            &[0],
        ),
        u64::MAX.to_le_bytes().to_vec(),
    ];
    for (i, bytes) in files.iter().enumerate() {
        assert!(
            CompressedModel::from_bytes(bytes).is_err(),
            "file {i} was read"
        );
    }
    let fixed_point = |codes: &str| {
        format!(
            "w\tfixed_point shape=2x2 bits=4 symmetry=symmetric scaling=tensor +codes={codes} +scales=F32:1\n"
        )
    };
    let signs = |signs: &str| format!("w\tbinary shape=2x2 scaling=none +signs={signs}\n");
    // The lines, and the number of bytes that they say there are.
    let cases = [
        ("w".to_owned(), 0),
        ("w\t".to_owned(), 0),
        ("w\t\n".to_owned(), 0),
        ("w\tU8:1".to_owned(), 1),
        ("w\tU8:2\n".to_owned(), 1),
        ("w\tU8:1\n".to_owned(), 2),
        ("w\tU8:1\nw\tU8:1\n".to_owned(), 2),
        ("w\tU8:1\na\tU8:1\n".to_owned(), 2),
        ("%\tU8:1\n".to_owned(), 1),
        ("w\tU8:18446744073709551615x2\n".to_owned(), 0),
        ("v\tU8:18446744073709551615\nw\tU8:2\n".to_owned(), 1),
        ("w\tF4:1\n".to_owned(), 1),
        ("w\tF32:1099511627776:planes:8\n".to_owned(), 8),
        ("w\tF32:2:planes:8\n".to_owned(), 8),
        ("w\tF32:2:planes:18446744073709551615\n".to_owned(), 8),
        ("w\tF32:2:planes\n".to_owned(), 8),
        ("w\tnothing shape=1\n".to_owned(), 0),
        ("w\tdense shape=1 +values\n".to_owned(), 0),
        ("w\tdense shape=1 +values=F4:2\n".to_owned(), 1),
        ("w\tdense shape=2 /w\n".to_owned(), 0),
        ("w\tdense shape=2 /\n".to_owned(), 0),
        (
            "w\tbinary shape=4294967296x4294967296 scaling=none +signs=U8:1\n".to_owned(),
            1,
        ),
        (
            "w\tsparse shape=1099511627776x1 +gap_bits=U8:1 +gaps=U8:0 +values=F32:0\n".to_owned(),
            1,
        ),
        (
            "w\tbinary shape=1048576x1048576 scaling=none +signs=codes:1:1099511627776:2:1:8\n"
                .to_owned(),
            8,
        ),
        (signs("codes:1:4:2:1:1"), 1),
        (signs("codes:17:4:2:1:8"), 8),
        (signs("codes:1:4:2:0:8"), 8),
        // Coded with more coefficients than there are bytes.
        (fixed_point("numbers:4:4:0:7:12"), 16),
        (fixed_point("numbers:4:4:5:7:12"), 16),
        (fixed_point("numbers:4:4:2:16:12"), 16),
        (fixed_point("numbers:17:4:2:7:12"), 16),
        (fixed_point("numbers:0:4:2:7:12"), 16),
        (fixed_point("numbers:4:1099511627776:2:7:12"), 16),
        (fixed_point("numbers:4:4:2:7:12"), 16),
        (
            (0..20).fold("w\t".to_owned(), |text, _| {
                text + "factored_matrix shape=1x1 /left\n"
            }),
            0,
        ),
    ];
    for (lines, length) in cases {
        let model = CompressedModel::from_bytes(&forged(&lines, &vec![9; length]));
        assert!(model.is_err(), "{lines:?} was read");
    }
}

/// A file whose descriptions claim larger shapes is refused, or what it stands for is: nothing of that size is allocated.
#[test]
fn shapes_that_no_machine_holds_are_errors() {
    for kind in 0..KINDS {
        for (axis, length) in [(0, 1_u64 << 44), (1, 1 << 44), (0, u64::MAX), (1, u64::MAX)] {
            let mut model = CompressedModel::new();
            model.insert("w", tensor(kind, [8, 6], 1).unwrap()).unwrap();
            let bytes = model.to_bytes().unwrap();
            let (text, arrays) = contents(&bytes);
            let mut lines = String::new();
            for (i, rest) in text.split("shape=").enumerate() {
                if i == 0 {
                    lines += rest;
                    continue;
                }
                let (shape, rest) = rest.split_at(rest.find([' ', '\n']).unwrap());
                let mut lengths: Vec<String> = shape.split('x').map(str::to_owned).collect();
                if let Some(other) = lengths.get_mut(axis) {
                    *other = length.to_string();
                }
                lines += &format!("shape={}{rest}", lengths.join("x"));
            }
            let file = forged(&lines, &arrays);
            let Ok(model) = CompressedModel::from_bytes(&file) else {
                continue;
            };
            let Entry::Compressed(tensor) = model.get("w").unwrap() else {
                unreachable!("the file was made of artifacts");
            };
            assert!(
                tensor.decompress().is_err(),
                "kind {kind}: {:?}",
                tensor.shape()
            );
            let x = Array2::zeros((1, 6));
            assert!(
                tensor.apply(x.view()).is_err(),
                "kind {kind}: {:?}",
                tensor.shape()
            );
        }
    }
}

#[test]
fn entropy_coding_makes_real_laws_smaller() {
    let weights = matrix(256, 256, 3);
    let coded = |tensor: CompressedTensor| {
        let bytes = tensor.artifact().storage().bytes();
        let mut model = CompressedModel::new();
        model.insert("w", tensor).unwrap();
        (model.file_bytes().unwrap() as f64, bytes as f64)
    };
    // Eight bits that span ±4.3 σ of a normal law carry log2(255 / 8.6 · √(2πe)) = 6.94 bits.
    let quantizer = FixedPointQuantizer::new(8);
    let (file, raw) = coded(CompressedTensor::new(
        quantizer.quantize(weights.view()).unwrap(),
    ));
    assert!(file < 0.9 * raw, "{file} of {raw}");
    // One weight in ten: 0.47 bits each for where they are.
    let sparse = pruned(&weights, 1.645);
    let nonzeros = sparse.iter().filter(|&&w| w != 0.0).count() as f64;
    let values = |values: ArrayView2<'_, f32>| {
        ProductQuantizer::new(1)
            .codebook(Codebook::PerGroup)
            .centroids(16)
            .axis(SplitAxis::In)
            .seed(1)
            .quantize(values)
    };
    let (file, _) = coded(CompressedTensor::new(
        SparseQuantized::new(sparse.view(), values).unwrap(),
    ));
    let p = nonzeros / 65536.0;
    let entropy = -(p * p.log2() + (1.0 - p) * (1.0 - p).log2()) * 65536.0 / 8.0;
    let limit = 1.02 * (entropy + nonzeros * 4.0 / 8.0) + 1200.0;
    assert!(file < limit, "{file}, limit {limit}");
}

#[test]
fn a_name_that_is_given_twice_is_an_error() {
    let mut model = CompressedModel::new();
    let model_tensor =
        || CompressedTensor::new(Dense::new(numbers(&[4], 1).view(), Precision::F32).unwrap());
    model.insert("w", model_tensor()).unwrap();
    let plain = TensorData::from(numbers(&[2], 1).view());
    assert_eq!(
        model.insert_plain("w", plain.clone()),
        Err(Error::DuplicateName {
            name: "w".to_owned()
        })
    );
    // Not known before the tensor is written: a container that is written tensor by tensor.
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ContainerWriter::create(folder.path().join("model")).unwrap();
    let weight = Entry::Compressed(model_tensor());
    writer.add("w", &weight).unwrap();
    for again in [weight, Entry::Plain(plain)] {
        let error = writer.add("w", &again).unwrap_err();
        assert!(matches!(error, Error::DuplicateName { .. }), "{error}");
    }
}

#[test]
fn half_precision_is_read_exactly() {
    let values = [1.0_f32, -0.5, 3.140_625, 0.0];
    let halves: Vec<u8> = values
        .iter()
        .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
        .collect();
    let brains: Vec<u8> = values
        .iter()
        .flat_map(|&x| half::bf16::from_f32(x).to_le_bytes())
        .collect();
    let tensor = |dtype, bytes: Vec<u8>| TensorData {
        dtype,
        shape: vec![2, 2],
        bytes: bytes.into(),
    };
    let halves = [
        ("f16", tensor(DType::F16, halves)),
        ("bf16", tensor(DType::BF16, brains)),
    ];
    let tensors = NamedTensors::from_bytes(NamedTensors::to_bytes(halves).unwrap()).unwrap();
    let expected: BTreeMap<&str, ArrayD<f32>> = ["bf16", "f16"]
        .into_iter()
        .map(|name| {
            (
                name,
                ArrayD::from_shape_vec(IxDyn(&[2, 2]), values.to_vec()).unwrap(),
            )
        })
        .collect();
    for (name, values) in expected {
        assert_eq!(tensors.get(name).unwrap(), values);
    }
}

/// Names and descriptions of a network like a published one take a few bytes a tensor.
#[test]
fn tables_of_contents_are_short() {
    let mut model = CompressedModel::new();
    let mut count = 0;
    for layer in 0..6 {
        for part in [
            "attention.self.query",
            "attention.self.key",
            "attention.output.dense",
            "intermediate.dense",
        ] {
            count += 1;
            let name = format!("encoder.layer.{layer}.{part}");
            let quantizer =
                FixedPointQuantizer::new(3 + count as u32 % 3).granularity(Granularity::PerRow);
            let weight = quantizer.quantize(matrix(32, 32, count).view()).unwrap();
            model
                .insert(&format!("{name}.weight"), CompressedTensor::new(weight))
                .unwrap();
            let bias = TensorData::from(numbers(&[32], 100 + count).view());
            model.insert_plain(&format!("{name}.bias"), bias).unwrap();
        }
    }
    let bytes = model.to_bytes().unwrap();
    let arrays = contents(&bytes).1.len() as u64;
    let header = bytes.len() as u64 - arrays;
    assert!(
        header <= 25 * 2 * count,
        "{header} bytes for {} tensors",
        2 * count
    );
}

/// Vectors that are kept take less than their bytes, and come back bit for bit.
#[test]
fn kept_vectors_are_coded_without_loss() {
    let mut vector = TensorData::from(numbers(&[384], 1).view());
    // A NaN with a payload, negative zero and the least number there is.
    for (place, bits) in [(7, 0xffc0_1234_u32), (8, 1 << 31), (9, 1)] {
        vector.bytes.to_mut()[4 * place..][..4].copy_from_slice(&bits.to_le_bytes());
    }
    let mut model = CompressedModel::new();
    model.insert_plain("norm.bias", vector.clone()).unwrap();
    let container = Container::from_bytes(model.to_bytes().unwrap()).unwrap();
    let Entry::Plain(again) = container.get("norm.bias").unwrap() else {
        panic!("the vector was compressed");
    };
    assert_eq!(again, vector);
    // 24 bits and the entropy of the exponents, which is below 3 bits; some bytes to begin with.
    let bytes = container.report(None, false).unwrap().rows[0].bytes_after;
    assert!(bytes < 384 * 27 / 8 + 32, "{bytes} bytes");
}
