//! ICMP errors: let pass when they quote a packet of a live flow (RFC 5508 section 4).

use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use crate::conntrack::{self, Place};
use crate::family::{Family, V4, V6};
use crate::packet::{Packet, PacketKind};
use crate::parse::ipv4::Ipv4;
use crate::parse::ipv6::Ipv6;
use crate::parse::transport::set_icmp;
use crate::skb::{Header, Skb};

/// Bytes of an ICMP error before the quoted packet, both families.
const ERROR_BYTES: usize = 8;
/// Bytes of transport header that every error quotes (RFC 792).
const QUOTED_TRANSPORT: usize = 8;

/// First eight bytes of any transport header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Quoted {
    first: [u8; 2],
    second: [u8; 2],
    third: [u8; 2],
    fourth: [u8; 2],
}
// SAFETY: byte arrays accept every bit pattern.
unsafe impl Header for Quoted {}

/// Returns where the quoted packet stands in its flow: its source is whom the error is for.
///
/// The quoted packet must have been sent by the error's destination; an error that a workload sends must be about a
/// packet that was sent to the workload (`sent_by_target`).
#[inline(always)]
pub(crate) fn quoted_place<F: Family>(
    skb: &Skb,
    packet: &Packet<F>,
    sent_by_target: bool,
) -> Result<Place, DropReason> {
    let offset = packet.transport_offset + ERROR_BYTES;
    if packet.transport_bytes < ERROR_BYTES {
        return Err(DropReason::IcmpUnrelated);
    }
    let quoted = F::parse_quoted(skb, offset, packet.transport_bytes - ERROR_BYTES)?;
    if quoted.source != packet.destination || sent_by_target && quoted.destination != packet.source {
        return Err(DropReason::IcmpUnrelated);
    }
    let seen = conntrack::look_up(&quoted);
    let flow = seen.flow().ok_or(DropReason::IcmpUnrelated)?;
    Ok(seen.place(&flow))
}

/// Parses a quoted IPv4 packet. Fragments but the first have no ports: unrelated.
#[inline(always)]
pub(crate) fn parse_quoted4(skb: &Skb, offset: usize, bytes: usize) -> Result<Packet<V4>, DropReason> {
    let header: Ipv4 = skb.load(offset).or(Err(DropReason::IcmpUnrelated))?;
    let header_bytes = usize::from(header.version_ihl & 0x0f) * 4;
    let first = u16::from_be_bytes(header.fragment) & 0x1fff == 0;
    let whole = header_bytes >= size_of::<Ipv4>() && bytes >= header_bytes + QUOTED_TRANSPORT;
    if header.version_ihl >> 4 != 4 || !first || !whole {
        return Err(DropReason::IcmpUnrelated);
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
        transport_offset: offset + header_bytes,
        transport_bytes: bytes - header_bytes,
        kind: PacketKind::Plain,
    };
    parse_quoted_transport(skb, &mut packet)?;
    Ok(packet)
}

/// Parses a quoted IPv6 packet. One with extension headers is unrelated.
#[inline(always)]
pub(crate) fn parse_quoted6(skb: &Skb, offset: usize, bytes: usize) -> Result<Packet<V6>, DropReason> {
    let header: Ipv6 = skb.load(offset).or(Err(DropReason::IcmpUnrelated))?;
    if header.version_class_flow[0] >> 4 != 6 || bytes < size_of::<Ipv6>() + QUOTED_TRANSPORT {
        return Err(DropReason::IcmpUnrelated);
    }
    let mut packet = Packet {
        source: [u64::from_be_bytes(header.source[0]), u64::from_be_bytes(header.source[1])],
        destination: [u64::from_be_bytes(header.destination[0]), u64::from_be_bytes(header.destination[1])],
        protocol: header.next_header,
        hop_limit: header.hop_limit,
        tcp_flags: 0,
        source_port: 0,
        destination_port: 0,
        class_value: 0,
        transport_offset: offset + size_of::<Ipv6>(),
        transport_bytes: bytes - size_of::<Ipv6>(),
        kind: PacketKind::Plain,
    };
    parse_quoted_transport(skb, &mut packet)?;
    Ok(packet)
}

#[inline(always)]
fn parse_quoted_transport<F: Family>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    let quoted: Quoted = skb.load(packet.transport_offset).or(Err(DropReason::IcmpUnrelated))?;
    match packet.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDPLITE | protocol::DCCP => {
            packet.source_port = u16::from_be_bytes(quoted.first);
            packet.destination_port = u16::from_be_bytes(quoted.second);
        }
        number if number == F::ICMP_PROTOCOL => {
            set_icmp(packet, quoted.first[0], quoted.first[1], u16::from_be_bytes(quoted.third));
            if packet.kind == PacketKind::IcmpError {
                return Err(DropReason::IcmpUnrelated);
            }
        }
        _ => {}
    }
    Ok(())
}
