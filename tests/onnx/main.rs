//! The seeds of the fuzz target `onnx`, without a fuzzer.

use std::path::Path;

#[path = "../../fuzz/src/onnx.rs"]
mod target;

#[test]
fn seeds_of_the_fuzz_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/onnx");
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let result = std::panic::catch_unwind(|| {
            target::onnx(&bytes);
            // Every field may be cut off.
            let ends = (0..bytes.len()).step_by(61);
            ends.for_each(|end| target::onnx(&bytes[..end]));
        });
        assert!(result.is_ok(), "{}", path.display());
        files += 1;
    }
    assert!(files > 0, "no seeds");
}
