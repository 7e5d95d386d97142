//! What is understood of a frame, said three times: by a plain reading of the RFCs over a slice of bytes, by the parser of
//! the programs built for the host, and by the same parser in the kernel. All three must agree about any frame, and no
//! byte outside of a packet may change what is said.
//!
//! `cargo xtask fuzz parse` compares them, for as long as one likes.

mod chance;
mod compared;
mod coverage;
mod frames;
mod host_build;
mod in_kernel;
mod links;
mod mistakes;
mod on_tap;
mod quotations;
mod reference;
mod shrink;

pub use chance::Chance;
pub use compared::{Bed, Difference, Input};
pub use coverage::Coverage;
pub use frames::frame;
pub use mistakes::Mistake;
pub use reference::{Sight, read};
pub use shrink::shrink;
