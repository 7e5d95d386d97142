//! From ordered rules to cells, and the plain ordered evaluator beside it. Pure.
//!
//! [`reference`] is the judge: what it says about a packet is right. [`classes`], [`ports`], [`cells`] and
//! [`table`] turn the same policy into the lines that the kernel reads, `fall_back` where cells would be too many; [`amend`]
//! makes them follow small changes.

#[macro_use]
pub mod mutants;

pub mod amend;
mod bits;
pub mod cells;
pub mod classes;
pub mod describe;
mod endpoints;
mod exact;
mod fall_back;
#[cfg(any(test, feature = "test-generators"))]
pub mod generate;
mod grid;
#[cfg(any(test, feature = "test-generators"))]
pub mod hostile;
pub mod input;
pub mod lower;
mod nats;
pub mod ports;
mod prefixes;
mod projection;
pub mod reference;
mod rows;
pub mod rule_ids;
pub mod table;
mod writer;
