//! The program ring: every program on real kernel maps, packet in, packet out, map state. Needs root, no network.

mod announcement;
mod answers;
mod antispoof;
mod changes;
mod conntrack;
mod counted;
mod expiry;
mod forwarding;
mod fragments;
mod host_traffic;
mod hostile;
mod icmp;
mod kept;
mod large_policies;
mod loads;
mod matching;
mod metadata;
mod nat;
mod nat_clash;
mod nat_errors;
mod neighbor;
mod parsing;
mod policy;
mod random;
mod scene;
mod updates;
