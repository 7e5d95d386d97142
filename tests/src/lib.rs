//! Fixtures of the test rings. They panic instead of returning errors: a test wants the place where it failed.
#![expect(
    clippy::missing_panics_doc,
    reason = "every fixture panics when the kernel refuses its set-up"
)]

pub mod agent;
pub mod bird;
pub mod capture;
pub mod cloud;
pub mod dhcp;
pub mod etcd;
mod evidence;
pub mod fabric;
pub mod felix;
pub mod felix_oracle;
pub mod felix_rules;
pub mod file_server;
pub mod following;
pub mod foreign;
pub mod frames;
#[cfg(test)]
mod fuzz_seeds;
#[cfg(any(feature = "fuzz", feature = "parse"))]
pub mod fuzzing;
pub mod guest;
pub mod host;
pub mod manifests;
pub mod netns;
pub mod node;
pub mod offload;
pub mod packets;
#[cfg(feature = "parse")]
pub mod parsing;
pub mod policy_packets;
pub mod port;
pub mod probe;
pub mod programs;
pub mod recording;
pub mod scene;
pub mod snapshot;
pub mod tap;
pub mod traffic;
pub mod wait;
pub mod watching;
pub mod wire;
