//! IPv4, RFC 791.

use calico_ebpf_common::flow::NOT_TRANSLATED;
use calico_ebpf_common::verdict::DropReason;

use crate::family::V4;
use crate::fragments::Fragment;
use crate::packet::Packet;
use crate::parse::ethernet::ETHERNET_BYTES;
use crate::parse::transport;
use crate::skb::Skb;

/// Bytes of the header without options. Offsets: version and IHL 0, total length 2, identification 4, fragment 6, TTL 8, protocol 9,
/// checksum 10, source 12, destination 16.
pub(crate) const IPV4_BYTES: usize = 20;

/// More fragments, or an offset: either makes it a fragment.
const FRAGMENT_MASK: u16 = OFFSET_MASK | MORE_FRAGMENTS;
/// The offset, in units of eight bytes.
const OFFSET_MASK: u16 = 0x1fff;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Parses the header behind Ethernet and the transport header behind it. A fragment is an error.
#[inline(always)]
pub(crate) fn parse(skb: &Skb) -> Result<Packet<V4>, DropReason> {
    let (mut packet, bits) = parse_header(skb)?;
    if bits & FRAGMENT_MASK != 0 {
        return Err(DropReason::Fragment);
    }
    transport::parse(skb, &mut packet)?;
    Ok(packet)
}

/// As [`parse`], but the first fragment of a datagram is none: it has the ports.
#[inline(always)]
pub(crate) fn parse_with_ports(skb: &Skb) -> Result<Packet<V4>, DropReason> {
    let (mut packet, bits) = parse_header(skb)?;
    if bits & OFFSET_MASK != 0 {
        return Err(DropReason::Fragment);
    }
    if bits & MORE_FRAGMENTS == 0 {
        transport::parse(skb, &mut packet)?;
    } else {
        transport::parse_first(skb, &mut packet)?;
    }
    Ok(packet)
}

/// Parses a fragment; the transport header only of a first one.
#[inline(always)]
pub(crate) fn parse_fragment(skb: &Skb) -> Result<(Packet<V4>, Fragment), DropReason> {
    let (mut packet, bits) = parse_header(skb)?;
    let id = skb.view::<IPV4_BYTES>(ETHERNET_BYTES)?.be16::<4>();
    let begin = u32::from(bits & OFFSET_MASK) * 8;
    let fragment = Fragment::new(
        u32::from(id),
        begin,
        packet.transport_bytes,
        bits & MORE_FRAGMENTS != 0,
    )?;
    if fragment.is_first() {
        transport::parse_first(skb, &mut packet)?;
    }
    Ok((packet, fragment))
}

/// Returns what the header says, and its word of fragment bits.
#[inline(always)]
fn parse_header(skb: &Skb) -> Result<(Packet<V4>, u16), DropReason> {
    let header = skb.view::<IPV4_BYTES>(ETHERNET_BYTES)?;
    let version_ihl = header.u8::<0>();
    let header_bytes = usize::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4 || header_bytes < IPV4_BYTES {
        return Err(DropReason::Malformed);
    }
    let total = usize::from(header.be16::<2>());
    if total < header_bytes || ETHERNET_BYTES + total > skb.len() as usize {
        return Err(DropReason::Malformed);
    }
    let packet = Packet {
        source: header.be32::<12>(),
        destination: header.be32::<16>(),
        protocol: header.u8::<9>(),
        hop_limit: header.u8::<8>(),
        tcp_flags: 0,
        source_port: 0,
        destination_port: 0,
        class_value: 0,
        transport_offset: ETHERNET_BYTES + header_bytes,
        transport_bytes: total - header_bytes,
        kind: crate::packet::PacketKind::Plain,
        translation: NOT_TRANSLATED,
    };
    Ok((packet, header.be16::<6>()))
}
