//! What holds for every kind of artifact: one line in `kinds` brings a new one under all of it, and under the fuzz
//! targets, which share the table.

mod agreement;
mod draw;
mod kinds;
mod ladders;
mod laws;
mod replay;
mod scale;
mod stored;
#[path = "../../fuzz/src/targets.rs"]
mod targets;
