//! IPv6, RFC 8200.

use calico_ebpf_common::flow::NOT_TRANSLATED;
use calico_ebpf_common::verdict::DropReason;

use crate::family::V6;
use crate::packet::{Packet, PacketKind};
use crate::parse::ethernet::ETHERNET_BYTES;
use crate::parse::transport;
use crate::skb::Skb;

/// Bytes of the header. Offsets: version 0, payload length 4, next header 6, hop limit 7, source 8, destination 24.
pub(crate) const IPV6_BYTES: usize = 40;

/// Extension headers that are walked; one more is an error (RFC 8504 section 5.3 lets a node set such a limit).
const MAX_EXTENSION_HEADERS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Parses the header behind Ethernet, the extension headers and the transport header.
///
/// Hop-by-hop, routing and destination options are walked. Everything else is the packet's protocol, by name: AH
/// (51) and ESP (50) too.
#[inline(always)]
pub(crate) fn parse(skb: &Skb) -> Result<Packet<V6>, DropReason> {
    let header = skb.view::<IPV6_BYTES>(ETHERNET_BYTES)?;
    if header.u8::<0>() >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let payload = usize::from(header.be16::<4>());
    if ETHERNET_BYTES + IPV6_BYTES + payload > skb.len() as usize {
        return Err(DropReason::Malformed);
    }
    let mut next = header.u8::<6>();
    let mut walked = 0_usize;
    if is_extension(next) {
        (next, walked) = walk(skb, next, payload)?;
    }
    let mut packet = Packet {
        source: header.address6::<8>(),
        destination: header.address6::<24>(),
        protocol: next,
        hop_limit: header.u8::<7>(),
        tcp_flags: 0,
        source_port: 0,
        destination_port: 0,
        class_value: 0,
        transport_offset: ETHERNET_BYTES + IPV6_BYTES + walked,
        transport_bytes: payload - walked,
        kind: PacketKind::Plain,
        translation: NOT_TRANSLATED,
    };
    transport::parse(skb, &mut packet)?;
    Ok(packet)
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Returns the protocol behind the extension headers and their bytes, at most `payload`.
#[inline(always)]
fn walk(skb: &Skb, first: u8, payload: usize) -> Result<(u8, usize), DropReason> {
    let mut next = first;
    let mut walked = 0_usize;
    for index in 0..MAX_EXTENSION_HEADERS {
        if next == FRAGMENT {
            return Err(DropReason::Fragment);
        }
        if next == HOP_BY_HOP && index > 0 {
            return Err(DropReason::Malformed);
        }
        // Keeps the offset's bound visible to the verifier; longer chains do not fit the linear headers anyway.
        if walked > 1024 {
            return Err(DropReason::ExtensionHeaders);
        }
        let option = skb.view::<4>(ETHERNET_BYTES + IPV6_BYTES + walked)?;
        if next == ROUTING && option.u8::<3>() != 0 {
            // Segments left: the destination address is not the final one, so policy cannot be judged.
            return Err(DropReason::ExtensionHeaders);
        }
        walked += (usize::from(option.u8::<1>()) + 1) * 8;
        if walked > payload {
            return Err(DropReason::Malformed);
        }
        next = option.u8::<0>();
        if !is_extension(next) {
            return Ok((next, walked));
        }
    }
    Err(DropReason::ExtensionHeaders)
}
