//! Transport headers: ports, TCP flags, ICMP.

use calico_ebpf_common::flow::ICMP_PORT;
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use crate::family::Family;
use crate::packet::{Packet, PacketKind};
use crate::skb::Skb;

pub(crate) const TCP_FIN: u8 = 1;
pub(crate) const TCP_SYN: u8 = 2;
pub(crate) const TCP_RST: u8 = 4;
pub(crate) const TCP_ACK: u8 = 16;

/// Bytes of a TCP header without options, RFC 9293. Offsets: ports 0 and 2, data offset 12, flags 13.
pub(crate) const TCP_BYTES: usize = 20;
/// Bytes of the longest TCP header.
const MAX_TCP_BYTES: u32 = 60;
/// Bytes of a UDP header, RFC 768. Offsets: ports 0 and 2, length 4. UDPLite (RFC 3828) has checksum coverage in place of
/// the length; SCTP and DCCP begin with the same two ports.
const UDP_BYTES: usize = 8;
/// First bytes of ICMP (RFC 792) and ICMPv6 (RFC 4443). Offsets: type 0, code 1, identifier 4.
const ICMP_BYTES: usize = 8;
/// Bytes of the smallest SCTP (RFC 9260) and DCCP (RFC 4340) header.
const SCTP_BYTES: usize = 12;

/// Parses the transport header into `packet`. ICMP of the other family is a protocol like any other.
#[inline(always)]
pub(crate) fn parse<F: Family>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    parse_part::<F, true>(skb, packet)
}

/// As [`parse`], for the first fragment of a datagram: the header must be in it as a whole, what follows need not.
#[inline(always)]
pub(crate) fn parse_first<F: Family>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    parse_part::<F, false>(skb, packet)
}

#[inline(always)]
fn parse_part<F: Family, const WHOLE: bool>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    match packet.protocol {
        protocol::TCP => parse_tcp(skb, packet),
        protocol::UDP => parse_udp::<F, WHOLE>(skb, packet),
        protocol::SCTP | protocol::DCCP => parse_ports(skb, packet, SCTP_BYTES),
        protocol::UDPLITE => parse_ports(skb, packet, UDP_BYTES),
        number if number == F::ICMP_PROTOCOL => parse_icmp(skb, packet),
        _ => Ok(()),
    }
}

#[inline(always)]
fn parse_tcp<F: Family>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    if packet.transport_bytes < TCP_BYTES {
        return Err(DropReason::TooShort);
    }
    let tcp = skb.view::<TCP_BYTES>(packet.transport_offset)?;
    let header_bytes = usize::from(tcp.u8::<12>() >> 4) * 4;
    if header_bytes < TCP_BYTES {
        return Err(DropReason::Malformed);
    }
    if packet.transport_bytes < header_bytes {
        return Err(DropReason::TooShort);
    }
    packet.tcp_flags = tcp.u8::<13>();
    set_ports(packet, tcp.be16::<0>(), tcp.be16::<2>());
    Ok(())
}

/// Returns the bytes of the transport header of a packet that is to be cut into segments: TCP or UDP.
#[inline(always)]
pub(crate) fn header_bytes<F: Family>(skb: &Skb, packet: &Packet<F>) -> u32 {
    if packet.protocol != protocol::TCP {
        return UDP_BYTES as u32;
    }
    match skb.view::<TCP_BYTES>(packet.transport_offset) {
        Ok(tcp) => u32::from(tcp.u8::<12>() >> 4) * 4,
        Err(_) => MAX_TCP_BYTES,
    }
}

#[inline(always)]
fn parse_udp<F: Family, const WHOLE: bool>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    if packet.transport_bytes < UDP_BYTES {
        return Err(DropReason::TooShort);
    }
    let udp = skb.view::<UDP_BYTES>(packet.transport_offset)?;
    let length = usize::from(udp.be16::<4>());
    if length < UDP_BYTES || WHOLE && length > packet.transport_bytes {
        return Err(DropReason::Malformed);
    }
    set_ports(packet, udp.be16::<0>(), udp.be16::<2>());
    Ok(())
}

#[inline(always)]
fn parse_ports<F: Family>(skb: &Skb, packet: &mut Packet<F>, least: usize) -> Result<(), DropReason> {
    if packet.transport_bytes < least {
        return Err(DropReason::TooShort);
    }
    let ports = skb.view::<4>(packet.transport_offset)?;
    set_ports(packet, ports.be16::<0>(), ports.be16::<2>());
    Ok(())
}

#[inline(always)]
fn set_ports<F: Family>(packet: &mut Packet<F>, source: u16, destination: u16) {
    packet.source_port = source;
    packet.destination_port = destination;
    packet.class_value = packet.destination_port;
}

#[inline(always)]
fn parse_icmp<F: Family>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    if packet.transport_bytes < ICMP_BYTES {
        return Err(DropReason::TooShort);
    }
    let icmp = skb.view::<ICMP_BYTES>(packet.transport_offset)?;
    set_icmp(packet, icmp.u8::<0>(), icmp.u8::<1>(), icmp.be16::<4>());
    Ok(())
}

/// Sets what conntrack and policy know of an ICMP packet.
#[inline(always)]
pub(crate) fn set_icmp<F: Family>(packet: &mut Packet<F>, kind: u8, code: u8, id: u16) {
    packet.class_value = u16::from(kind) << 8 | u16::from(code);
    packet.kind = F::icmp_kind(kind);
    match packet.kind {
        PacketKind::IcmpQuery => {
            packet.source_port = id;
            packet.destination_port = ICMP_PORT | u16::from(kind);
        }
        PacketKind::IcmpReply => {
            let query = F::icmp_query_of(kind);
            packet.class_value = u16::from(query) << 8;
            packet.source_port = ICMP_PORT | u16::from(query);
            packet.destination_port = id;
        }
        PacketKind::Plain | PacketKind::IcmpError | PacketKind::Neighbor => {}
    }
}
