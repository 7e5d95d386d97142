//! The root of one version of the policy table.

use bytemuck::{Pod, Zeroable};

/// First line of a version: where each of its tables begins. All numbers are line numbers in the whole table
/// unless they say otherwise; masks are `buckets - 1` with a power of two of buckets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Root {
    /// Version number, never 0 in a valid root.
    pub epoch: u32,
    /// [`crate::endpoint::InterfaceBucket`] lines.
    pub interfaces: u32,
    pub interfaces_mask: u32,
    /// [`crate::endpoint::Endpoint`] lines, indexed by slot; slot 0 is never used.
    pub endpoints: u32,
    /// Number of endpoint lines, including slot 0.
    pub endpoint_count: u32,
    /// [`crate::address::Bucket4`] lines.
    pub exact4: u32,
    pub exact4_mask: u32,
    /// [`crate::address::Bucket6`] lines.
    pub exact6: u32,
    pub exact6_mask: u32,
    /// [`crate::address::PrefixTree`] line for IPv4.
    pub prefixes4: u32,
    /// [`crate::address::PrefixTree`] line for IPv6.
    pub prefixes6: u32,
    /// [`crate::port::PortTables`] line.
    pub ports: u32,
    /// Seed of the address hashes, low and high half.
    pub seed: [u32; 2],
    /// [`crate::nat::Nat`] lines, and their number.
    pub nats: u32,
    pub nat_count: u32,
}
crate::line_type!(Root);

impl Root {
    /// Returns the seed of the address hashes.
    #[inline(always)]
    pub fn hash_seed(&self) -> u64 {
        u64::from(self.seed[1]) << 32 | u64::from(self.seed[0])
    }
}
