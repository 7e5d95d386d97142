//! What the fuzzers of our own have in common: cases by number on every processor, and what people read of them.

pub mod cases;
pub mod edges;
pub mod told;
pub mod workers;
