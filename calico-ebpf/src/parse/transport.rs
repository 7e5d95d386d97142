//! Transport headers: ports, TCP flags, ICMP.

use calico_ebpf_common::flow::ICMP_PORT;
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use crate::family::Family;
use crate::packet::{Packet, PacketKind};
use crate::skb::{Header, Skb};

pub(crate) const TCP_FIN: u8 = 1;
pub(crate) const TCP_SYN: u8 = 2;
pub(crate) const TCP_RST: u8 = 4;
pub(crate) const TCP_ACK: u8 = 16;

/// TCP header without options, RFC 9293.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tcp {
    source: [u8; 2],
    destination: [u8; 2],
    sequence: [u8; 4],
    acknowledgment: [u8; 4],
    data_offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}
// SAFETY: byte arrays accept every bit pattern.
unsafe impl Header for Tcp {}

/// UDP header, RFC 768. UDPLite (RFC 3828) has checksum coverage in place of the length; SCTP and DCCP begin with the
/// same two ports.
#[repr(C)]
#[derive(Clone, Copy)]
struct Udp {
    source: [u8; 2],
    destination: [u8; 2],
    length: [u8; 2],
    checksum: [u8; 2],
}
// SAFETY: byte arrays accept every bit pattern.
unsafe impl Header for Udp {}

/// First eight bytes of ICMP (RFC 792) and ICMPv6 (RFC 4443).
#[repr(C)]
#[derive(Clone, Copy)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    id: [u8; 2],
    sequence: [u8; 2],
}
// SAFETY: byte arrays accept every bit pattern.
unsafe impl Header for Icmp {}

/// Bytes of the smallest SCTP (RFC 9260) and DCCP (RFC 4340) header.
const SCTP_BYTES: usize = 12;

/// Parses the transport header into `packet`. ICMP of the other family is a protocol like any other.
#[inline(always)]
pub(crate) fn parse<F: Family>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    match packet.protocol {
        protocol::TCP => parse_tcp(skb, packet),
        protocol::UDP => parse_udp(skb, packet),
        protocol::SCTP | protocol::DCCP => parse_ports(skb, packet, SCTP_BYTES),
        protocol::UDPLITE => parse_ports(skb, packet, size_of::<Udp>()),
        number if number == F::ICMP_PROTOCOL => parse_icmp(skb, packet),
        _ => Ok(()),
    }
}

#[inline(always)]
fn parse_tcp<F: Family>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    if packet.transport_bytes < size_of::<Tcp>() {
        return Err(DropReason::TooShort);
    }
    let tcp: Tcp = skb.load(packet.transport_offset)?;
    let header_bytes = usize::from(tcp.data_offset >> 4) * 4;
    if header_bytes < size_of::<Tcp>() {
        return Err(DropReason::Malformed);
    }
    if packet.transport_bytes < header_bytes {
        return Err(DropReason::TooShort);
    }
    packet.tcp_flags = tcp.flags;
    set_ports(packet, tcp.source, tcp.destination);
    Ok(())
}

#[inline(always)]
fn parse_udp<F: Family>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    if packet.transport_bytes < size_of::<Udp>() {
        return Err(DropReason::TooShort);
    }
    let udp: Udp = skb.load(packet.transport_offset)?;
    let length = usize::from(u16::from_be_bytes(udp.length));
    if length < size_of::<Udp>() || length > packet.transport_bytes {
        return Err(DropReason::Malformed);
    }
    set_ports(packet, udp.source, udp.destination);
    Ok(())
}

#[inline(always)]
fn parse_ports<F: Family>(skb: &Skb, packet: &mut Packet<F>, least: usize) -> Result<(), DropReason> {
    if packet.transport_bytes < least {
        return Err(DropReason::TooShort);
    }
    let ports: [u8; 4] = skb.load(packet.transport_offset)?;
    set_ports(packet, [ports[0], ports[1]], [ports[2], ports[3]]);
    Ok(())
}

#[inline(always)]
fn set_ports<F: Family>(packet: &mut Packet<F>, source: [u8; 2], destination: [u8; 2]) {
    packet.source_port = u16::from_be_bytes(source);
    packet.destination_port = u16::from_be_bytes(destination);
    packet.class_value = packet.destination_port;
}

#[inline(always)]
fn parse_icmp<F: Family>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    if packet.transport_bytes < size_of::<Icmp>() {
        return Err(DropReason::TooShort);
    }
    let icmp: Icmp = skb.load(packet.transport_offset)?;
    set_icmp(packet, icmp.kind, icmp.code, u16::from_be_bytes(icmp.id));
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
