//! ICMP errors: let pass when they quote a packet of a live flow (RFC 5508 section 4).

use aya_ebpf::bindings::__sk_buff;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::flow::NOT_TRANSLATED;
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use crate::conntrack::{self, Place};
use crate::family::{Family, V4, V6};
use crate::packet::{Packet, PacketKind};
use crate::parse::ipv4::IPV4_BYTES;
use crate::parse::ipv6::IPV6_BYTES;
use crate::parse::transport::set_icmp;
use crate::skb::Skb;

/// Bytes of an ICMP error before the quoted packet, both families.
pub(crate) const ERROR_BYTES: usize = 8;
/// Bytes of transport header that every error quotes (RFC 792).
const QUOTED_TRANSPORT: usize = 8;

/// Fragment offset in the IPv4 header.
const OFFSET_MASK: u16 = 0x1fff;

/// The ends of the flow that an ICMP error quotes, from the quoted packet's point of view.
#[derive(Clone, Copy)]
pub(crate) struct QuotedSlots {
    /// Who sent the quoted packet: whom the error is for.
    pub(crate) source: Slot,
    pub(crate) destination: Slot,
}

/// Returns the slots of the flow that the IPv4 error in `raw` quotes: `1 << 32 | destination << 16 | source`, or 0.
/// With `sent_by_target` the error must come from the quoted packet's destination.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn quoted_slots4(raw: *mut __sk_buff, sent_by_target: u32) -> u64 {
    quoted_slots::<V4>(&Skb::new(raw), sent_by_target != 0)
}

/// As [`quoted_slots4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn quoted_slots6(raw: *mut __sk_buff, sent_by_target: u32) -> u64 {
    quoted_slots::<V6>(&Skb::new(raw), sent_by_target != 0)
}

/// Reads the answer of [`quoted_slots4`] and [`quoted_slots6`].
#[inline(always)]
pub(crate) fn unpack_slots(packed: u64) -> Result<QuotedSlots, DropReason> {
    if packed == 0 {
        return Err(DropReason::IcmpUnrelated);
    }
    Ok(QuotedSlots {
        source: packed as Slot,
        destination: (packed >> 16) as Slot,
    })
}

#[inline(always)]
fn quoted_slots<F: Family>(skb: &Skb, sent_by_target: bool) -> u64 {
    match quoted_place::<F>(skb, sent_by_target) {
        Ok(place) => 1 << 32 | u64::from(place.destination_slot) << 16 | u64::from(place.source_slot),
        Err(_) => 0,
    }
}

/// The quoted packet must have been sent by the error's destination; an error that a workload sends must be about a
/// packet that was sent to the workload.
#[inline(always)]
fn quoted_place<F: Family>(skb: &Skb, sent_by_target: bool) -> Result<Place, DropReason> {
    let packet = F::parse(skb)?;
    if packet.transport_bytes < ERROR_BYTES {
        return Err(DropReason::IcmpUnrelated);
    }
    let offset = packet.transport_offset + ERROR_BYTES;
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
    let header = skb
        .view::<IPV4_BYTES>(offset)
        .or(Err(DropReason::IcmpUnrelated))?;
    let version_ihl = header.u8::<0>();
    let header_bytes = usize::from(version_ihl & 0x0f) * 4;
    let first = header.be16::<6>() & OFFSET_MASK == 0;
    let whole = header_bytes >= IPV4_BYTES && bytes >= header_bytes + QUOTED_TRANSPORT;
    if version_ihl >> 4 != 4 || !first || !whole {
        return Err(DropReason::IcmpUnrelated);
    }
    let mut packet = Packet {
        source: header.be32::<12>(),
        destination: header.be32::<16>(),
        protocol: header.u8::<9>(),
        hop_limit: header.u8::<8>(),
        tcp_flags: 0,
        source_port: 0,
        destination_port: 0,
        class_value: 0,
        transport_offset: offset + header_bytes,
        transport_bytes: bytes - header_bytes,
        kind: PacketKind::Plain,
        translation: NOT_TRANSLATED,
    };
    parse_quoted_transport(skb, &mut packet)?;
    Ok(packet)
}

/// Parses a quoted IPv6 packet. One with extension headers is unrelated.
#[inline(always)]
pub(crate) fn parse_quoted6(skb: &Skb, offset: usize, bytes: usize) -> Result<Packet<V6>, DropReason> {
    let header = skb
        .view::<IPV6_BYTES>(offset)
        .or(Err(DropReason::IcmpUnrelated))?;
    if header.u8::<0>() >> 4 != 6 || bytes < IPV6_BYTES + QUOTED_TRANSPORT {
        return Err(DropReason::IcmpUnrelated);
    }
    let mut packet = Packet {
        source: header.address6::<8>(),
        destination: header.address6::<24>(),
        protocol: header.u8::<6>(),
        hop_limit: header.u8::<7>(),
        tcp_flags: 0,
        source_port: 0,
        destination_port: 0,
        class_value: 0,
        transport_offset: offset + IPV6_BYTES,
        transport_bytes: bytes - IPV6_BYTES,
        kind: PacketKind::Plain,
        translation: NOT_TRANSLATED,
    };
    parse_quoted_transport(skb, &mut packet)?;
    Ok(packet)
}

#[inline(always)]
fn parse_quoted_transport<F: Family>(skb: &Skb, packet: &mut Packet<F>) -> Result<(), DropReason> {
    let quoted = skb
        .view::<QUOTED_TRANSPORT>(packet.transport_offset)
        .or(Err(DropReason::IcmpUnrelated))?;
    match packet.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDPLITE | protocol::DCCP => {
            packet.source_port = quoted.be16::<0>();
            packet.destination_port = quoted.be16::<2>();
        }
        number if number == F::ICMP_PROTOCOL => {
            set_icmp(packet, quoted.u8::<0>(), quoted.u8::<1>(), quoted.be16::<4>());
            if packet.kind == PacketKind::IcmpError {
                return Err(DropReason::IcmpUnrelated);
            }
        }
        _ => {}
    }
    Ok(())
}
