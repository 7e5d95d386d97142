//! From ordered rules to cells, and the plain ordered evaluator beside it. Pure.
//!
//! [`reference`] is the judge: what it says about a packet is right. [`classes`], [`ports`], [`cells`] and
//! [`table`] turn the same policy into the lines that the kernel reads.

pub mod cells;
pub mod classes;
pub mod input;
pub mod ports;
pub mod reference;
pub mod rule_ids;
pub mod table;
