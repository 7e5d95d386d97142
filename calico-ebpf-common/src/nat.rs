//! Floating addresses: one-to-one translation without state (contract 3.5).
//!
//! The exact entry of an external address has a slot of [`FIRST_NAT_SLOT`] on: the number of its [`Nat`] line. An
//! endpoint names its own lines, from which a flow's [`tag`](tag_of) finds the external address again.

use core::net::IpAddr;

use bytemuck::{Pod, Zeroable};

use crate::endpoint::{Endpoint, SLOT_HOST, Slot};
use crate::line::Lines;
use crate::root::Root;

/// Slots from here on stand for external addresses, not for endpoints; [`SLOT_HOST`] is none of them.
pub const FIRST_NAT_SLOT: Slot = 0x8000;
/// External addresses that one host may have.
pub const MAX_NATS: u32 = (SLOT_HOST - FIRST_NAT_SLOT) as u32;
/// External addresses that one endpoint may have.
pub const MAX_ENDPOINT_NATS: u32 = 32;

/// The lowest external address of its internal one: the source of what the workload sends to itself by way of an
/// external address.
pub const NAT_LOWEST: u32 = 1;

/// One external address. Addresses are two numbers in the host's byte order, high half first; IPv4 is in the low half.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Nat {
    pub external: [u64; 2],
    pub internal: [u64; 2],
    /// The endpoint that has the internal address.
    pub slot: Slot,
    /// What flows remember the external address by: [`tag_of`] it. One endpoint has no tag twice.
    pub tag: u16,
    /// `NAT_*` bits.
    pub flags: u32,
    pub reserved: [u32; 6],
}
crate::line_type!(Nat);

/// Returns an address as the tables have it.
pub const fn halves(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, address.to_bits() as u64],
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [(bits >> 64) as u64, bits as u64]
        }
    }
}

/// Returns what flows remember an external address by; never 0.
pub const fn tag_of(external: [u64; 2]) -> u16 {
    let product = (external[0].rotate_left(29) ^ external[1]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let tag = (product >> 48) as u16;
    if tag == 0 { 1 } else { tag }
}

/// Returns whether an address entry's slot stands for an external address.
#[inline(always)]
pub fn is_nat_slot(slot: Slot) -> bool {
    slot >= FIRST_NAT_SLOT && slot != SLOT_HOST
}

/// Returns the translation that an address entry's slot stands for.
#[inline(always)]
pub fn nat_at<'a, L: Lines + ?Sized>(lines: &'a L, root: &Root, slot: Slot) -> Option<&'a Nat> {
    if !is_nat_slot(slot) {
        return None;
    }
    let index = u32::from(slot - FIRST_NAT_SLOT);
    if index >= root.nat_count {
        return None;
    }
    Some(lines.line(root.nats.wrapping_add(index))?.read_as())
}

/// Which external address of an internal one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The one that a flow remembers.
    Tagged(u16),
    /// The one with [`NAT_LOWEST`].
    Lowest,
}

/// Returns the line of the external address of `internal` among the `count` lines at `first`, which are one
/// endpoint's; `None` if it has none any more.
#[inline(always)]
pub fn nat_line<L: Lines + ?Sized>(
    lines: &L,
    first: u32,
    count: u32,
    internal: [u64; 2],
    wanted: Wanted,
) -> Option<u32> {
    let mut index = 0;
    while index < MAX_ENDPOINT_NATS {
        if index >= count {
            return None;
        }
        let number = first.wrapping_add(index);
        let nat: &Nat = lines.line(number)?.read_as();
        let is_wanted = match wanted {
            Wanted::Tagged(tag) => nat.tag == tag,
            Wanted::Lowest => nat.flags & NAT_LOWEST != 0,
        };
        if is_wanted && nat.internal[0] == internal[0] && nat.internal[1] == internal[1] {
            return Some(number);
        }
        index += 1;
    }
    None
}

impl Endpoint {
    /// Returns whether the endpoint has external addresses.
    #[inline(always)]
    pub fn has_nats(&self) -> bool {
        self.nat_count != 0
    }
}
