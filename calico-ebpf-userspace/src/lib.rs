//! Calico's host agent for OpenStack with a TC eBPF dataplane.
//!
//! One way through the house: `datastore -> model -> calc -> compile -> dataplane -> kernel`. The arrows are the only
//! allowed directions of `use`; `cargo xtask lint` checks it. `model`, `calc` and `compile` are pure.

pub mod agent;
pub mod calc;
pub mod changeover;
pub mod cli;
pub mod compile;
pub mod config;
pub mod dataplane;
pub mod datastore;
pub mod etcd;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod observe;
pub mod report;
pub mod status;
