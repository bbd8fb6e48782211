//! The code of the fuzz targets. They use the table of kinds of the tests, so that a new kind is fuzzed too.

#[path = "../../tests/artifacts/draw.rs"]
pub mod draw;
#[path = "../../tests/artifacts/kinds.rs"]
pub mod kinds;
pub mod onnx;
#[path = "../../tests/artifacts/stored.rs"]
pub mod stored;
pub mod targets;
