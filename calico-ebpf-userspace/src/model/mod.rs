//! Valid Calico v3 objects. Pure: no I/O, no clock, no kernel.
//!
//! A value of these types is valid by construction; what was wrong in a datastore object is told as
//! [`problem::Problem`]s beside it.

pub mod decode;
pub mod labels;
pub mod name;
pub mod problem;
pub mod resource;
pub mod rule;
pub mod selector;
