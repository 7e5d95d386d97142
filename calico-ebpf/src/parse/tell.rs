//! Tells what the parser understood, field by field: what the programs decide with, for tests to compare.
//!
//! The same calls as in the programs, which all of it is compiled into, in the kernel and on the host.

use calico_ebpf_common::parsed::{NOT_ASKED, Parsed, reader};
use calico_ebpf_common::verdict::DropReason;

use super::ethernet::{self, EtherType};
use crate::antispoof;
use crate::family::{Family, V4, V6};
use crate::packet::{Packet, PacketKind};
use crate::related::ERROR_BYTES;
use crate::skb::Skb;

/// Reads the frame as a program does (see [`reader`]) and writes what it understood, over zeros.
#[inline(always)]
pub(crate) fn tell<const READER: u32>(skb: &Skb, parsed: &mut Parsed) {
    skb.make_headers_linear();
    parsed.told = 1;
    parsed.linear = skb.data_end().wrapping_sub(skb.data()) as u32;
    if let Err(reason) = try_tell::<READER>(skb, parsed) {
        parsed.reason = reason as u32;
    }
}

#[inline(always)]
fn try_tell<const READER: u32>(skb: &Skb, parsed: &mut Parsed) -> Result<(), DropReason> {
    let (source, ethertype) = ethernet::parse(skb)?;
    parsed.mac = source.numbers();
    parsed.ethertype = ethertype as u32 + 1;
    match ethertype {
        EtherType::Ipv4 if READER != reader::ARP => tell_ip::<V4, READER>(skb, parsed),
        EtherType::Ipv6 if READER != reader::ARP => tell_ip::<V6, READER>(skb, parsed),
        EtherType::Arp if READER == reader::ARP => tell_arp(skb, parsed),
        EtherType::Ipv4 | EtherType::Ipv6 | EtherType::Arp | EtherType::Rarp => {
            parsed.reason = NOT_ASKED;
            Ok(())
        }
    }
}

#[inline(always)]
fn tell_ip<F: Family, const READER: u32>(skb: &Skb, parsed: &mut Parsed) -> Result<(), DropReason> {
    match READER {
        reader::WHOLE => tell_packet(&F::parse(skb)?, parsed),
        reader::WITH_PORTS => tell_packet(&F::parse_with_ports(skb)?.forget_way(skb), parsed),
        reader::FRAGMENT => {
            let (packet, fragment) = F::parse_fragment(skb)?;
            parsed.fragment = fragment.numbers();
            tell_packet(&packet.forget_way(skb), parsed);
        }
        _ => {
            let packet = F::parse(skb)?;
            if packet.kind != PacketKind::IcmpError || packet.transport_bytes < ERROR_BYTES {
                parsed.reason = NOT_ASKED;
                return Ok(());
            }
            let offset = packet.transport_offset + ERROR_BYTES;
            let quoted = F::parse_quoted(skb, offset, packet.transport_bytes - ERROR_BYTES)?;
            tell_packet(&quoted, parsed);
        }
    }
    Ok(())
}

#[inline(always)]
fn tell_packet<F: Family>(packet: &Packet<F>, parsed: &mut Parsed) {
    parsed.source = F::to_halves(packet.source);
    parsed.destination = F::to_halves(packet.destination);
    parsed.protocol = packet.protocol.into();
    parsed.hop_limit = packet.hop_limit.into();
    parsed.tcp_flags = packet.tcp_flags.into();
    parsed.kind = packet.kind as u32;
    parsed.source_port = packet.source_port.into();
    parsed.destination_port = packet.destination_port.into();
    parsed.class_value = packet.class_value.into();
    parsed.transport_offset = packet.transport_offset as u32;
    parsed.transport_bytes = packet.transport_bytes as u32;
}

#[inline(always)]
fn tell_arp(skb: &Skb, parsed: &mut Parsed) -> Result<(), DropReason> {
    let arp = antispoof::view_arp(skb)?;
    parsed.mac = arp.mac::<8>().numbers();
    parsed.kind = arp.be16::<6>().into();
    parsed.source = V4::to_halves(arp.be32::<14>());
    parsed.destination = V4::to_halves(arp.be32::<24>());
    Ok(())
}
