//! The kernel: maps, links, routes, sysctls.

mod amend;
pub mod apply;
mod arrivals;
pub mod assignments;
mod bpf_probe;
pub mod bpf_syscall;
pub mod check;
pub mod cleanup;
mod describe;
pub mod diff;
mod filters;
pub mod flows;
pub mod host_addresses;
pub mod interfaces;
pub mod links;
pub mod migration;
pub mod neighbors;
pub mod netlink;
pub mod object;
mod open;
pub mod pins;
pub mod policy_map;
pub mod programs;
pub mod routes;
pub mod state_file;
pub mod sysctls;
pub mod taps;
