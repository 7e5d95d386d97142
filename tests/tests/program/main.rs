//! The program ring: every program on real kernel maps, packet in, packet out, map state. Needs root, no network.

mod antispoof;
mod host_traffic;
mod loads;
mod parsing;
mod scene;
