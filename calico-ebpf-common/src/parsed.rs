//! What a program understood of a packet: told by the programs that only tests load, compared by the fuzzer.

use bytemuck::{Pod, Zeroable};

/// How the headers are read: the ways in which programs call the parser.
pub mod reader {
    /// As on the fast path: a fragment is refused.
    pub const WHOLE: u32 = 0;
    /// As where a packet is judged: a first fragment has ports.
    pub const WITH_PORTS: u32 = 1;
    /// As where fragments are judged.
    pub const FRAGMENT: u32 = 2;
    /// The packet that an ICMP error quotes.
    pub const QUOTED: u32 = 3;
    /// ARP for IPv4 over Ethernet.
    pub const ARP: u32 = 4;
    /// Number of readers.
    pub const COUNT: u32 = 5;
}

/// In [`Parsed::reason`]: the reader has nothing to say about such a packet.
pub const NOT_ASKED: u32 = u32::MAX;

/// What was understood. Numbers and addresses are in the host's byte order; what was not read is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Parsed {
    /// Halves of the addresses, high one first; IPv4 is in the low half.
    pub source: [u64; 2],
    pub destination: [u64; 2],
    /// Source MAC in frame order: first four bytes, last two.
    pub mac: [u32; 2],
    /// 1 if a program ran.
    pub told: u32,
    /// Bytes from the frame's beginning that the program can read.
    pub linear: u32,
    /// Drop reason, 0 for none, or [`NOT_ASKED`].
    pub reason: u32,
    /// `EtherType` as a number from 1 on.
    pub ethertype: u32,
    pub protocol: u32,
    pub hop_limit: u32,
    pub tcp_flags: u32,
    /// `PacketKind` as a number; of ARP the operation.
    pub kind: u32,
    pub source_port: u32,
    pub destination_port: u32,
    pub class_value: u32,
    pub transport_offset: u32,
    pub transport_bytes: u32,
    /// Of a fragment: identification, first byte, byte behind the last, and whether more follow.
    pub fragment: [u32; 4],
    pub reserved: u32,
}
crate::shared_type!(Parsed, 112);
