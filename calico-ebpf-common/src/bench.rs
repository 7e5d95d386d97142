//! What benchmarks tell the programs that only they load.

use bytemuck::{Pod, Zeroable};

/// How a packet differs from the one before. Numbers are in the host's byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Vary {
    /// Packets so far.
    pub count: u64,
    /// Source ports to go round from `first_port` on; 0 leaves the packet's own.
    pub ports: u32,
    pub first_port: u32,
    /// IPv4 destinations to go round, at [`Vary::step`] from each other; 0 leaves the packet's own.
    pub destinations: u32,
    pub first_destination: u32,
    pub step: u32,
    /// 1: destinations by chance; 0: the next one after each round of ports.
    pub by_chance: u32,
}
crate::shared_type!(Vary, 32);

/// Look-ups each of which waits for the one before: the answer is part of the next address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Chain {
    pub state: u64,
    /// Member `n` of the set is `first + n * step`, of IPv6 in the low half of the address.
    pub first: u64,
    pub step: u64,
    /// High half of IPv6 addresses.
    pub high: u64,
    pub members: u32,
    pub reserved: u32,
}
crate::shared_type!(Chain, 40);

impl Chain {
    /// Returns the number of the next member, after `answer` to the look-up of the last one.
    #[inline(always)]
    pub fn next_member(&mut self, answer: u32) -> u64 {
        // Knuth's MMIX generator; the product takes the well-mixed upper half to a member.
        self.state = self
            .state
            .wrapping_add(u64::from(answer))
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 32) * u64::from(self.members)) >> 32
    }

    /// Returns the low half of a member's address.
    #[inline(always)]
    pub fn address(&self, member: u64) -> u64 {
        self.first.wrapping_add(member.wrapping_mul(self.step))
    }
}

/// Look-ups of one run of a chain.
pub const CHAIN_LENGTH: u32 = 64;

/// A rule as a linear walk reads it: allow UDP of peers in a net, and in a set if there is one, to some ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct LinearRule {
    /// IPv4 net as number and mask; mask 0 is every address.
    pub net: u32,
    pub mask: u32,
    /// Number of the set; 0 is none.
    pub set: u32,
    pub first_port: u16,
    pub last_port: u16,
}
crate::shared_type!(LinearRule, 16);

/// Rules that one call of the walk looks at.
pub const LINEAR_CHUNK: u32 = 128;
/// Rules that there is room for.
pub const LINEAR_RULES: u32 = 80 * LINEAR_CHUNK;
