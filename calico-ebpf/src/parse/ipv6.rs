//! IPv6, RFC 8200.

use calico_ebpf_common::flow::NOT_TRANSLATED;
use calico_ebpf_common::verdict::DropReason;

use crate::family::V6;
use crate::fragments::Fragment;
use crate::packet::{Packet, PacketKind};
use crate::parse::ethernet::ETHERNET_BYTES;
use crate::parse::transport;
use crate::skb::Skb;

/// Bytes of the header. Offsets: version 0, payload length 4, next header 6, hop limit 7, source 8, destination 24.
pub(crate) const IPV6_BYTES: usize = 40;

/// Extension headers that are walked; one more is an error (RFC 8504 section 5.3 lets a node set such a limit).
const MAX_EXTENSION_HEADERS: usize = 8;
/// Bytes that they may have together. More do not fit the linear headers anyway, and offsets are kept in eleven bits.
const MAX_EXTENSION_BYTES: usize = 1024;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Bits of a fragment header's second word (RFC 8200 section 4.5): the offset in bytes, and that more follow.
const OFFSET_MASK: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 1;

/// Parses the header behind Ethernet, the extension headers and the transport header.
///
/// Hop-by-hop, routing and destination options are walked. Everything else is the packet's protocol, by name: AH
/// (51) and ESP (50) too.
#[inline(always)]
pub(crate) fn parse(skb: &Skb) -> Result<Packet<V6>, DropReason> {
    let (mut packet, _) = parse_headers::<false>(skb)?;
    transport::parse(skb, &mut packet)?;
    Ok(packet)
}

/// As [`parse`], but the first fragment of a datagram is none: it has the ports.
#[inline(always)]
pub(crate) fn parse_with_ports(skb: &Skb) -> Result<Packet<V6>, DropReason> {
    let (mut packet, fragment) = parse_headers::<true>(skb)?;
    if !fragment.is_first() {
        return Err(DropReason::Fragment);
    }
    if fragment.is_whole() {
        transport::parse(skb, &mut packet)?;
    } else {
        transport::parse_first(skb, &mut packet)?;
    }
    Ok(packet)
}

/// Parses a fragment: the headers before the fragment header, and of a first fragment all that follow. A first one must
/// hold them all (RFC 7112).
#[inline(always)]
pub(crate) fn parse_fragment(skb: &Skb) -> Result<(Packet<V6>, Fragment), DropReason> {
    let (mut packet, fragment) = parse_headers::<true>(skb)?;
    if fragment.is_first() {
        transport::parse_first(skb, &mut packet)?;
    }
    Ok((packet, fragment))
}

/// Parses all headers before the transport header, of a later fragment those up to the fragment header. A fragment is an
/// error unless `FRAGMENTS`.
#[inline(always)]
fn parse_headers<const FRAGMENTS: bool>(skb: &Skb) -> Result<(Packet<V6>, Fragment), DropReason> {
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
    let mut fragment = Fragment::WHOLE;
    if is_extension(next) {
        (next, walked, fragment) = walk::<FRAGMENTS>(skb, next, payload)?;
    }
    let packet = Packet {
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
    Ok((packet, fragment))
}

/// Returns the source address of a packet that was parsed before.
#[inline(always)]
pub(crate) fn source(skb: &Skb) -> Result<[u64; 2], DropReason> {
    Ok(skb.view::<IPV6_BYTES>(ETHERNET_BYTES)?.address6::<8>())
}

#[inline(always)]
pub(crate) fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Returns the protocol behind the extension headers, their bytes (at most `payload`) and what the fragment header says.
#[inline(always)]
pub(crate) fn walk<const FRAGMENTS: bool>(
    skb: &Skb,
    first: u8,
    payload: usize,
) -> Result<(u8, usize, Fragment), DropReason> {
    let mut next = first;
    let mut walked = 0_usize;
    // All its values are always set: copies of an `Option` that is `None` read what was never written, which the verifier refuses.
    let mut fragment = Fragment::WHOLE;
    let mut found = false;
    for index in 0..MAX_EXTENSION_HEADERS {
        if next == FRAGMENT && !FRAGMENTS {
            return Err(DropReason::Fragment);
        }
        if next == HOP_BY_HOP && index > 0 {
            return Err(DropReason::Malformed);
        }
        // Keeps the offset's bound visible to the verifier.
        if walked > MAX_EXTENSION_BYTES {
            return Err(DropReason::ExtensionHeaders);
        }
        if FRAGMENTS && next == FRAGMENT {
            if found || walked + 8 > payload {
                return Err(DropReason::Malformed);
            }
            let header = skb.view::<8>(ETHERNET_BYTES + IPV6_BYTES + walked)?;
            let bits = header.be16::<2>();
            walked += 8;
            let more = bits & MORE_FRAGMENTS != 0;
            let here = Fragment::new(
                header.be32::<4>(),
                u32::from(bits & OFFSET_MASK),
                payload - walked,
                more,
            )?;
            next = header.u8::<0>();
            if !here.is_first() || !is_extension(next) {
                return Ok((next, walked, here));
            }
            fragment = here;
            found = true;
            continue;
        }
        let option = skb.view::<4>(ETHERNET_BYTES + IPV6_BYTES + walked)?;
        walked += (usize::from(option.u8::<1>()) + 1) * 8;
        // What was read of a header beyond the packet may be padding.
        if walked > payload {
            return Err(DropReason::Malformed);
        }
        // Segments left: the destination address is not the final one, so policy cannot be judged.
        let is_routed = next == ROUTING && option.u8::<3>() != 0;
        #[expect(
            clippy::needless_bitwise_bool,
            reason = "one branch: with two, LLVM copies what was never written, which the verifier refuses"
        )]
        if is_routed | (walked > MAX_EXTENSION_BYTES) {
            return Err(DropReason::ExtensionHeaders);
        }
        next = option.u8::<0>();
        if !is_extension(next) {
            return Ok((next, walked, fragment));
        }
    }
    Err(DropReason::ExtensionHeaders)
}
