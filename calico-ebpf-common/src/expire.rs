//! How the agent asks the kernel to delete expired flows.
//!
//! The agent finds candidates in a batch read. Between that read and a delete by key a packet may touch the flow, so
//! the delete is done by a program that looks again: it deletes an entry only if `last_seen` is still the same.

use bytemuck::{Pod, Zeroable};

/// Entries that one run takes.
pub const MAX_ENTRIES: usize = 32;
/// Bytes before the first entry: covers the Ethernet header that BPF_PROG_TEST_RUN looks at.
pub const HEADER_BYTES: usize = 16;

/// Start of the packet that `expire_flows` is run with, followed by `count` [`ExpireEntry`]s. Numbers are in the
/// host's byte order. The program's return value is the number of deleted flows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ExpireHeader {
    /// Number of entries, at most [`MAX_ENTRIES`].
    pub count: u32,
    /// 4 or 6.
    pub family: u32,
    /// [`crate::quota::FOUND_HALF_OPEN`] or [`crate::quota::FOUND_CONFIRMED`]: in which table the flows are.
    pub table: u32,
    pub reserved: u32,
}
crate::shared_type!(ExpireHeader, HEADER_BYTES);

/// One candidate.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ExpireEntry {
    /// [`crate::flow::FlowKey6`], or [`crate::flow::FlowKey4`] followed by zeros.
    pub key: [u8; 40],
    /// `last_seen` as the agent read it.
    pub last_seen: u64,
}
crate::shared_type!(ExpireEntry, 48);

/// What `read_clock` writes at the start of its packet (at least 64 bytes long). Numbers in the host's byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Clock {
    /// `jiffies64`.
    pub jiffies: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub monotonic_ns: u64,
}
crate::shared_type!(Clock, 16);
