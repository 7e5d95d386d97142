//! The kernel: maps, links, routes, sysctls.

pub mod object;
