//! Workload endpoints as the programs see them.

use bytemuck::{Pod, Zeroable};

use crate::branchless::is_equal;
use crate::line::{Line, Lines};
use crate::root::Root;

/// Index of a local endpoint in the endpoint table. 0 is no local endpoint.
pub type Slot = u16;
/// Not a local endpoint: another host, or outside.
pub const SLOT_NONE: Slot = 0;
/// An address of the host itself.
pub const SLOT_HOST: Slot = 0xffff;
/// Endpoints that one host may have. Slots above stand for external addresses ([`crate::nat`]).
pub const MAX_ENDPOINTS: u32 = 0x7fff;

/// Sources are not checked: port security is off (`allowSpoofedSourcePrefixes` of /0).
pub const FLAG_ANY_SOURCE: u16 = 1;

/// One local workload endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Endpoint {
    /// Interface number of the tap; 0 while the tap or its programs are missing.
    pub ifindex: u32,
    /// Changes whenever a verdict about this endpoint may have changed. Never re-used, never 0.
    pub generation: u32,
    /// The workload's MAC address.
    pub mac: [u8; 6],
    pub flags: u16,
    /// The tap's own MAC address, the source of frames towards the workload.
    pub host_mac: [u8; 6],
    /// Longest packet that the tap takes, in bytes without the Ethernet header; longer ones are the host stack's to
    /// answer or to cut.
    pub mtu: u16,
    /// [`crate::policy::PolicySet`] line that judges packets from the workload; 0 denies.
    pub egress_set: u32,
    /// [`crate::policy::PolicySet`] line that judges packets to the workload; 0 denies.
    pub ingress_set: u32,
    /// First [`Sources4`] line and number of such lines: addresses the workload may use as source.
    pub sources4: u32,
    /// First [`Sources6`] line and number of such lines.
    pub sources6: u32,
    pub sources4_lines: u16,
    pub sources6_lines: u16,
    /// First generation of this endpoint with its present addresses: a flow of an older one is somebody else's. Never 0.
    pub born: u32,
    /// Until this `jiffies64`, TCP in mid-stream without a flow is judged as new.
    pub loose_until: u64,
    /// First [`crate::nat::Nat`] line and number of such lines: the external addresses of this endpoint.
    pub nats: u32,
    pub nat_count: u32,
}
crate::line_type!(Endpoint);

impl Endpoint {
    /// Returns whether a flow that was judged under `generation` is of this endpoint as it is now, whatever its policy was.
    #[inline(always)]
    pub fn is_born_by(&self, generation: u32) -> bool {
        self.born != 0 && generation >= self.born
    }
}

/// Pairs of interface number and slot; a free pair is 0, 0. The bucket of an interface is `ifindex & mask`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct InterfaceBucket {
    pub pairs: [[u32; 2]; 8],
}
crate::line_type!(InterfaceBucket);

/// The source may come from any unicast MAC address (`allowedIps`; VRRP answers from a MAC of its own).
pub const SOURCE_ANY_MAC: u32 = 1;
/// The entry is in use. A zero entry matches nothing.
pub const SOURCE_VALID: u32 = 2;

/// Allowed IPv4 sources. Numbers are in the host's byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Sources4 {
    pub entries: [Source4; 5],
    pub reserved: u32,
}
crate::line_type!(Sources4);

/// One prefix of allowed IPv4 sources: `address & mask == prefix`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Source4 {
    pub prefix: u32,
    pub mask: u32,
    pub flags: u32,
}

/// Allowed IPv6 sources.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Sources6 {
    pub entries: [Source6; 2],
    pub reserved: [u32; 4],
}
crate::line_type!(Sources6);

/// One prefix of allowed IPv6 sources. `prefix` is the address as two numbers, high half first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Source6 {
    pub prefix: [u64; 2],
    pub prefix_length: u32,
    pub flags: u32,
}

/// Lines of allowed sources that one endpoint may have, by family.
pub const MAX_SOURCE_LINES: u32 = 32;

/// Returns the slot of the endpoint on interface `ifindex`, or [`SLOT_NONE`].
#[inline(always)]
pub fn slot_of_interface<L: Lines + ?Sized>(lines: &L, root: &Root, ifindex: u32) -> Slot {
    let Some(line) = lines.line(root.interfaces.wrapping_add(ifindex & root.interfaces_mask)) else {
        return SLOT_NONE;
    };
    let bucket: &InterfaceBucket = line.read_as();
    // Interface numbers are handed out one by one, so nearly every bucket has one.
    if bucket.pairs[0][0] == ifindex {
        return bucket.pairs[0][1] as Slot;
    }
    let mut slot = 0;
    for pair in &bucket.pairs {
        slot |= u64::from(pair[1]) * is_equal(u64::from(pair[0]), u64::from(ifindex));
    }
    slot as Slot
}

/// Returns the endpoint at `slot`, or `None` for no endpoint.
#[inline(always)]
pub fn endpoint_at<'a, L: Lines + ?Sized>(lines: &'a L, root: &Root, slot: Slot) -> Option<&'a Endpoint> {
    if slot == SLOT_NONE || u32::from(slot) >= root.endpoint_count {
        return None;
    }
    Some(
        lines
            .line(root.endpoints.wrapping_add(u32::from(slot)))?
            .read_as(),
    )
}

/// Returns the flags of the allowed source that holds `address`, or 0, from the `count` lines at `first`. Fixed addresses come first in the list, so
/// an address that is both fixed and a pair keeps the strict MAC check.
#[inline(always)]
pub fn source4_flags<L: Lines + ?Sized>(lines: &L, first: u32, count: u32, address: u32) -> u32 {
    let mut index = 0;
    while index < MAX_SOURCE_LINES {
        if index >= count {
            return 0;
        }
        let Some(line) = lines.line(first.wrapping_add(index)) else {
            return 0;
        };
        for entry in &source_line4(line).entries {
            if entry.flags != 0 && address & entry.mask == entry.prefix {
                return entry.flags;
            }
        }
        index += 1;
    }
    0
}

/// As [`source4_flags`], for an IPv6 address as two numbers.
#[inline(always)]
pub fn source6_flags<L: Lines + ?Sized>(lines: &L, first: u32, count: u32, address: [u64; 2]) -> u32 {
    let mut index = 0;
    while index < MAX_SOURCE_LINES {
        if index >= count {
            return 0;
        }
        let Some(line) = lines.line(first.wrapping_add(index)) else {
            return 0;
        };
        for entry in &source_line6(line).entries {
            if entry.flags != 0 && in_prefix6(address, entry.prefix, entry.prefix_length) {
                return entry.flags;
            }
        }
        index += 1;
    }
    0
}

#[inline(always)]
fn source_line4(line: &Line) -> &Sources4 {
    line.read_as()
}

#[inline(always)]
fn source_line6(line: &Line) -> &Sources6 {
    line.read_as()
}

/// Returns whether `address` lies in `prefix`/`length` (length of 0 to 128).
#[inline(always)]
pub fn in_prefix6(address: [u64; 2], prefix: [u64; 2], length: u32) -> bool {
    let high = high_bits(length.min(64));
    let low = high_bits(length.saturating_sub(64).min(64));
    (address[0] ^ prefix[0]) & high == 0 && (address[1] ^ prefix[1]) & low == 0
}

/// Returns a mask of the `count` highest bits, `count` of 0 to 64.
#[inline(always)]
fn high_bits(count: u32) -> u64 {
    if count == 0 { 0 } else { u64::MAX << (64 - count) }
}
