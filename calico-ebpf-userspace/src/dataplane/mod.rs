//! The kernel: maps, links, routes, sysctls.

pub mod object;

mod bpf_probe;
pub mod check;
