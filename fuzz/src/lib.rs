//! What the fuzz targets run. The table of kinds is that of the laws, so that a new kind is fuzzed too.

#[path = "../../tests/artifacts/draw.rs"]
pub mod draw;
#[path = "../../tests/artifacts/kinds.rs"]
pub mod kinds;
#[path = "../../tests/artifacts/stored.rs"]
pub mod stored;
pub mod targets;
