//! The program ring: every program on real kernel maps, packet in, packet out, map state.

mod loads;
