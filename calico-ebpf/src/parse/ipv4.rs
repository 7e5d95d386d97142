//! IPv4, RFC 791.

use calico_ebpf_common::verdict::DropReason;

use crate::family::V4;
use crate::packet::Packet;
use crate::parse::ethernet::ETHERNET_BYTES;
use crate::parse::transport;
use crate::skb::{Header, Skb};

/// IPv4 header without options, as in the packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    pub(crate) version_ihl: u8,
    pub(crate) tos: u8,
    pub(crate) total_length: [u8; 2],
    pub(crate) id: [u8; 2],
    pub(crate) fragment: [u8; 2],
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: [u8; 2],
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
}
// SAFETY: byte arrays accept every bit pattern.
unsafe impl Header for Ipv4 {}

/// More fragments, or an offset: either makes it a fragment.
const FRAGMENT_MASK: u16 = 0x3fff;

/// Parses the header behind Ethernet and the transport header behind it.
#[inline(always)]
pub(crate) fn parse(skb: &Skb) -> Result<Packet<V4>, DropReason> {
    let header: Ipv4 = skb.load(ETHERNET_BYTES)?;
    let header_bytes = usize::from(header.version_ihl & 0x0f) * 4;
    if header.version_ihl >> 4 != 4 || header_bytes < size_of::<Ipv4>() {
        return Err(DropReason::Malformed);
    }
    let total = usize::from(u16::from_be_bytes(header.total_length));
    if total < header_bytes || ETHERNET_BYTES + total > skb.len() as usize {
        return Err(DropReason::Malformed);
    }
    if u16::from_be_bytes(header.fragment) & FRAGMENT_MASK != 0 {
        return Err(DropReason::Fragment);
    }
    let mut packet = Packet {
        source: u32::from_be_bytes(header.source),
        destination: u32::from_be_bytes(header.destination),
        protocol: header.protocol,
        hop_limit: header.ttl,
        tcp_flags: 0,
        source_port: 0,
        destination_port: 0,
        class_value: 0,
        transport_offset: ETHERNET_BYTES + header_bytes,
        transport_bytes: total - header_bytes,
        kind: crate::packet::PacketKind::Plain,
    };
    transport::parse(skb, &mut packet)?;
    Ok(packet)
}
