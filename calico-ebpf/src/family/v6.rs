//! IPv6.

use aya_ebpf::maps::HashMap;
use calico_ebpf_common::address::AddressEntry;
use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::flow::{Flow, FlowKey6, TRANSLATED};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use super::{Family, Scope, V6, unpack_entries, unpack_entry};
use crate::flow_tables;
use crate::fragments::Fragment;
use crate::moved_port;
use crate::packet::{Packet, PacketKind};
use crate::related::{self, QuotedSlots};
use crate::skb::Skb;
use crate::tables::{self, Tables};
use crate::windows;

impl Family for V6 {
    type Address = [u64; 2];
    type Key = FlowKey6;

    const VERSION: u8 = 6;
    const ICMP_PROTOCOL: u8 = protocol::ICMPV6;
    const HAS_METADATA: bool = false;
    const UNSPECIFIED: [u64; 2] = [0; 2];
    const DHCP_CLIENT_PORT: u16 = 546;
    const DHCP_SERVER_PORT: u16 = 547;

    #[inline(always)]
    fn icmp_kind(kind: u8) -> PacketKind {
        match kind {
            128 => PacketKind::IcmpQuery,
            129 => PacketKind::IcmpReply,
            1..=4 => PacketKind::IcmpError,
            130..=137 | 143 => PacketKind::Neighbor,
            _ => PacketKind::Plain,
        }
    }

    #[inline(always)]
    fn icmp_query_of(_kind: u8) -> u8 {
        128
    }

    #[inline(always)]
    fn parse(skb: &Skb) -> Result<Packet<Self>, DropReason> {
        crate::parse::ipv6::parse(skb)
    }

    #[inline(always)]
    fn parse_with_ports(skb: &Skb) -> Result<Packet<Self>, DropReason> {
        crate::parse::ipv6::parse_with_ports(skb)
    }

    #[inline(always)]
    fn parse_fragment(skb: &Skb) -> Result<(Packet<Self>, Fragment), DropReason> {
        crate::parse::ipv6::parse_fragment(skb)
    }

    #[inline(always)]
    fn flow_key(packet: &Packet<Self>) -> (FlowKey6, bool) {
        let source = (packet.source, packet.source_port);
        let destination = (packet.destination, packet.destination_port);
        let source_is_low = is_low(packet);
        let (low, high) = if source_is_low {
            (source, destination)
        } else {
            (destination, source)
        };
        let key = FlowKey6 {
            low_address: address_bytes(low.0),
            high_address: address_bytes(high.0),
            low_port: low.1.to_be_bytes(),
            high_port: high.1.to_be_bytes(),
            protocol: packet.protocol,
            translation: packet.translation,
            reserved: [0; 2],
        };
        (key, source_is_low)
    }

    #[inline(always)]
    fn flip_translation(key: &mut FlowKey6) {
        key.translation ^= TRANSLATED;
    }

    #[inline(always)]
    fn set_ports(key: &mut FlowKey6, low: u16, high: u16) {
        (key.low_port, key.high_port) = (low.to_be_bytes(), high.to_be_bytes());
    }

    #[inline(always)]
    fn confirmed() -> &'static HashMap<FlowKey6, Flow> {
        flow_tables::tables6()[0]
    }

    #[inline(always)]
    fn half_open() -> &'static HashMap<FlowKey6, Flow> {
        flow_tables::tables6()[1]
    }

    #[inline(always)]
    fn protocol_of(key: &FlowKey6) -> u8 {
        key.protocol
    }

    #[inline(always)]
    unsafe fn write_key(room: *mut [u64; 5], key: &FlowKey6) {
        // SAFETY: the caller's promise; the key is not longer, and less aligned.
        unsafe { room.cast::<FlowKey6>().write(*key) }
    }

    #[inline(always)]
    unsafe fn read_key<'a>(room: *const [u64; 5]) -> &'a FlowKey6 {
        // SAFETY: as in `write_key`; any bytes are a key.
        unsafe { &*room.cast::<FlowKey6>() }
    }

    #[inline(always)]
    fn open_kept(found: u32) -> bool {
        flow_tables::open_flow6(found) != 0
    }

    #[inline(always)]
    fn recall_kept(found: u32) -> bool {
        windows::recall_flow6(found) != 0
    }

    #[inline(always)]
    fn close_kept(found: u32) {
        flow_tables::close_flow6(found);
    }

    #[inline(always)]
    fn moved_places(packet: &Packet<Self>, tag: u16) -> u32 {
        let (source, destination) = (packet.source, packet.destination);
        let rest = moved_port::pack(packet, tag);
        moved_port::moved_places6(source[0], source[1], destination[0], destination[1], rest)
    }

    #[inline(always)]
    fn address_entry(tables: &Tables, address: [u64; 2]) -> Result<AddressEntry, DropReason> {
        unpack_entry(tables::address_entry6(tables.root_line(), address[0], address[1]))
    }

    #[inline(always)]
    fn address_entries(
        tables: &Tables,
        first: [u64; 2],
        second: [u64; 2],
    ) -> Result<[AddressEntry; 2], DropReason> {
        let root = tables.root_line();
        unpack_entries(tables::address_entries6(
            root, first[0], first[1], second[0], second[1],
        ))
    }

    #[inline(always)]
    fn source_flags(endpoint: &Endpoint, address: [u64; 2]) -> u32 {
        let lines = u32::from(endpoint.sources6_lines);
        tables::source6_flags(endpoint.sources6, lines, address[0], address[1])
    }

    #[inline(always)]
    fn scope(address: [u64; 2]) -> Scope {
        let first = (address[0] >> 48) as u16;
        if first >> 8 == 0xff {
            return Scope::Multicast;
        }
        if first & 0xffc0 == 0xfe80 {
            return Scope::Link;
        }
        // ::/96 (unspecified, loopback, IPv4-compatible) and ::ffff:0:0/96 (IPv4-mapped) never stand on the wire.
        if address[0] == 0 && (address[1] >> 32 == 0 || address[1] >> 32 == 0xffff) {
            return Scope::Martian;
        }
        Scope::Routable
    }

    #[inline(always)]
    fn is_own_link_local(address: [u64; 2]) -> bool {
        address[0] == 0xfe80 << 48
    }

    #[inline(always)]
    fn stays_on_link(address: [u64; 2]) -> bool {
        matches!(Self::scope(address), Scope::Multicast | Scope::Link)
    }

    #[inline(always)]
    fn from_halves(halves: [u64; 2]) -> [u64; 2] {
        halves
    }

    #[inline(always)]
    fn to_halves(address: [u64; 2]) -> [u64; 2] {
        address
    }

    /// `All_DHCP_Relay_Agents_and_Servers`, `ff02::1:2` (RFC 8415 section 7.1).
    #[inline(always)]
    fn is_dhcp_group(address: [u64; 2]) -> bool {
        address == [0xff02 << 48, 0x0001_0002]
    }

    #[inline(always)]
    fn is_to_metadata(_packet: &Packet<Self>) -> bool {
        false
    }

    #[inline(always)]
    fn is_at_metadata(_packet: &Packet<Self>) -> bool {
        false
    }

    #[inline(always)]
    fn is_from_metadata(_packet: &Packet<Self>) -> bool {
        false
    }

    #[inline(always)]
    fn decrement_hop_limit(skb: &Skb) -> Result<(), DropReason> {
        const HOP_LIMIT: usize = crate::parse::ethernet::ETHERNET_BYTES + 7;
        let hop_limit: u8 = skb.load(HOP_LIMIT)?;
        skb.store(HOP_LIMIT, hop_limit.wrapping_sub(1))
    }

    #[inline(always)]
    fn parse_quoted(skb: &Skb, offset: usize, bytes: usize) -> Result<Packet<Self>, DropReason> {
        related::parse_quoted6(skb, offset, bytes)
    }

    #[inline(always)]
    fn quoted_slots(skb: &Skb, sent_by_target: bool) -> Result<QuotedSlots, DropReason> {
        related::unpack_slots(related::quoted_slots6(skb.raw(), u32::from(sent_by_target)))
    }
}

#[inline(always)]
fn is_low(packet: &Packet<V6>) -> bool {
    let (source, destination) = (packet.source, packet.destination);
    if source[0] != destination[0] {
        return source[0] < destination[0];
    }
    if source[1] != destination[1] {
        return source[1] < destination[1];
    }
    packet.source_port <= packet.destination_port
}

#[inline(always)]
fn address_bytes(address: [u64; 2]) -> [u8; 16] {
    let bytes = [address[0].to_be_bytes(), address[1].to_be_bytes()];
    // SAFETY: two arrays of eight bytes are sixteen bytes.
    unsafe { core::mem::transmute(bytes) }
}
