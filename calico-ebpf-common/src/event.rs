//! What the programs tell whoever watches: drops, and packets that a `Log` rule matched. And what a dry run tells about
//! its packet.
//!
//! Events go through a ring buffer, but only while the deadline in [`crate::maps::WATCHED`] has not passed: whoever
//! watches puts it off again and again, so that nothing is paid for a watcher that was killed.

use bytemuck::{Pod, Zeroable};

/// Events of one endpoint in one second of `CLOCK_MONOTONIC`; more are counted ([`Budget::suppressed`]) and not told.
pub const EVENTS_A_SECOND: u32 = 100;
/// Bytes of the ring buffer: a multiple of every page size, and room for 2,700 events.
pub const EVENT_BYTES: u32 = 262_144;

/// [`Event::reason`] of a packet that went on: a `Log` rule matched.
pub const REASON_NONE: u8 = 0;

/// [`Event::transport`] holds bytes of the packet.
pub const HAS_TRANSPORT: u8 = 1;
/// [`Event::source`] and [`Event::destination`] hold addresses of the packet.
pub const HAS_ADDRESSES: u8 = 2;

/// One packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub at_ns: u64,
    /// Addresses in network byte order; IPv4 in the first four bytes. Of ARP, sender and target.
    pub source: [u8; 16],
    pub destination: [u8; 16],
    /// Deciding cells of the flow's originator (egress) and responder (ingress); 0 for an end that is no local endpoint.
    /// Both 0 unless policy was asked. If egress denied, ingress had no say.
    pub cells: [u32; 2],
    /// Interfaces of the two ends; 0 for an end that is no local endpoint.
    pub ends: [u32; 2],
    /// The tap at whose hook the packet was judged.
    pub ifindex: u32,
    /// Where it came in: the tap itself for what its workload sent, 0 for what the host sent.
    pub ingress_ifindex: u32,
    /// Whole length from the Ethernet header on.
    pub bytes: u32,
    /// First bytes behind the IP header: both ports, or type and code of ICMP.
    pub transport: [u8; 4],
    /// Slot of the tap's endpoint.
    pub slot: u16,
    pub ethertype: u16,
    pub source_mac: [u8; 6],
    /// Number of the [`crate::verdict::DropReason`], or [`REASON_NONE`].
    pub reason: u8,
    /// Protocol behind the IP header and its extension headers.
    pub protocol: u8,
    /// `HAS_*` bits.
    pub flags: u8,
    pub reserved: [u8; 3],
}
crate::shared_type!(Event, 88);

/// What one endpoint may still tell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Budget {
    /// The second that `used` is of.
    pub second: u32,
    /// Events told in it.
    pub used: u32,
    /// Events beyond [`EVENTS_A_SECOND`], ever; wraps.
    pub suppressed: u32,
    /// Events for which the ring buffer had no room, ever; wraps.
    pub lost: u32,
}
crate::shared_type!(Budget, 16);

/// Words of `skb->cb` in which a dry run leaves what it found.
pub const WORD_EGRESS: usize = 1;
pub const WORD_INGRESS: usize = 2;
pub const WORD_FATE: usize = 4;

/// In [`WORD_FATE`]: policy was asked; its cells are in the other two words.
pub const FATE_JUDGED: u32 = 1 << 31;
/// In [`WORD_FATE`]: the low byte is the packet's place among the counters ([`crate::maps::COUNTERS`]).
pub const FATE_KNOWN: u32 = 1 << 30;
/// The place among the counters.
pub const FATE_COUNTER: u32 = 0xff;
