//! Which policy hits which endpoint, and who belongs to which set. Pure: state in, state out.
//!
//! **Invariant:** nothing here knows that eBPF exists. Output depends on the current state only, not on history.

pub mod calculation;
pub mod effective;
mod endpoints;
#[cfg(test)]
pub(crate) mod fixture;
mod members;
mod migrations;
mod order;
pub mod resolve;
mod rules;
mod set_members;
mod shared;
