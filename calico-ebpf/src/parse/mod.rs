//! Helper-free parsing. Nothing is read beyond the lengths that the headers state; what is not understood is an error.

pub(crate) mod ethernet;
pub(crate) mod ipv4;
pub(crate) mod ipv6;
#[cfg(any(feature = "bench", feature = "on-host"))]
pub(crate) mod tell;
pub(crate) mod transport;
