//! IPv4.

use aya_ebpf::maps::HashMap;
use calico_ebpf_common::address::AddressEntry;
use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::flow::{Flow, FlowKey4, TRANSLATED};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use super::{Family, Scope, V4, unpack_entries, unpack_entry};
use crate::flow_tables;
use crate::fragments::Fragment;
use crate::moved_port;
use crate::nat;
use crate::packet::{Packet, PacketKind};
use crate::related::{self, QuotedSlots};
use crate::skb::Skb;
use crate::tables::{self, Tables};
use crate::windows;

impl Family for V4 {
    type Address = u32;
    type Key = FlowKey4;

    const VERSION: u8 = 4;
    const ICMP_PROTOCOL: u8 = protocol::ICMP;
    const HAS_METADATA: bool = true;
    const UNSPECIFIED: u32 = 0;
    const DHCP_CLIENT_PORT: u16 = 68;
    const DHCP_SERVER_PORT: u16 = 67;

    #[inline(always)]
    fn icmp_kind(kind: u8) -> PacketKind {
        match kind {
            8 | 13 | 15 | 17 => PacketKind::IcmpQuery,
            0 | 14 | 16 | 18 => PacketKind::IcmpReply,
            3 | 4 | 5 | 11 | 12 => PacketKind::IcmpError,
            _ => PacketKind::Plain,
        }
    }

    #[inline(always)]
    fn icmp_query_of(kind: u8) -> u8 {
        if kind == 0 { 8 } else { kind - 1 }
    }

    #[inline(always)]
    fn parse(skb: &Skb) -> Result<Packet<Self>, DropReason> {
        crate::parse::ipv4::parse(skb)
    }

    #[inline(always)]
    fn parse_with_ports(skb: &Skb) -> Result<Packet<Self>, DropReason> {
        crate::parse::ipv4::parse_with_ports(skb)
    }

    #[inline(always)]
    fn parse_fragment(skb: &Skb) -> Result<(Packet<Self>, Fragment), DropReason> {
        crate::parse::ipv4::parse_fragment(skb)
    }

    #[inline(always)]
    fn flow_key(packet: &Packet<Self>) -> (FlowKey4, bool) {
        let source = u64::from(packet.source) << 16 | u64::from(packet.source_port);
        let destination = u64::from(packet.destination) << 16 | u64::from(packet.destination_port);
        let source_is_low = source <= destination;
        let (low, high) = if source_is_low {
            (source, destination)
        } else {
            (destination, source)
        };
        let key = FlowKey4 {
            low_address: ((low >> 16) as u32).to_be_bytes(),
            high_address: ((high >> 16) as u32).to_be_bytes(),
            low_port: (low as u16).to_be_bytes(),
            high_port: (high as u16).to_be_bytes(),
            protocol: packet.protocol,
            translation: packet.translation,
            reserved: [0; 2],
        };
        (key, source_is_low)
    }

    #[inline(always)]
    fn flip_translation(key: &mut FlowKey4) {
        key.translation ^= TRANSLATED;
    }

    #[inline(always)]
    fn set_ports(key: &mut FlowKey4, low: u16, high: u16) {
        (key.low_port, key.high_port) = (low.to_be_bytes(), high.to_be_bytes());
    }

    #[inline(always)]
    fn confirmed() -> &'static HashMap<FlowKey4, Flow> {
        flow_tables::tables4()[0]
    }

    #[inline(always)]
    fn half_open() -> &'static HashMap<FlowKey4, Flow> {
        flow_tables::tables4()[1]
    }

    #[inline(always)]
    fn protocol_of(key: &FlowKey4) -> u8 {
        key.protocol
    }

    #[inline(always)]
    unsafe fn write_key(room: *mut [u64; 5], key: &FlowKey4) {
        // SAFETY: the caller's promise; the key is not longer, and less aligned.
        unsafe { room.cast::<FlowKey4>().write(*key) }
    }

    #[inline(always)]
    unsafe fn read_key<'a>(room: *const [u64; 5]) -> &'a FlowKey4 {
        // SAFETY: as in `write_key`; any bytes are a key.
        unsafe { &*room.cast::<FlowKey4>() }
    }

    #[inline(always)]
    fn open_kept(found: u32) -> bool {
        flow_tables::open_flow4(found) != 0
    }

    #[inline(always)]
    fn recall_kept(found: u32) -> bool {
        windows::recall_flow4(found) != 0
    }

    #[inline(always)]
    fn close_kept(found: u32) {
        flow_tables::close_flow4(found);
    }

    #[inline(always)]
    fn moved_places(packet: &Packet<Self>, tag: u16) -> u32 {
        let rest = moved_port::pack(packet, tag);
        moved_port::moved_places4(packet.source, packet.destination, rest)
    }

    #[inline(always)]
    fn address_entry(tables: &Tables, address: u32) -> Result<AddressEntry, DropReason> {
        unpack_entry(tables::address_entry4(tables.root_line(), address))
    }

    #[inline(always)]
    fn address_entries(tables: &Tables, first: u32, second: u32) -> Result<[AddressEntry; 2], DropReason> {
        unpack_entries(tables::address_entries4(tables.root_line(), first, second))
    }

    #[inline(always)]
    fn source_flags(endpoint: &Endpoint, address: u32) -> u32 {
        tables::source4_flags(endpoint.sources4, u32::from(endpoint.sources4_lines), address)
    }

    #[inline(always)]
    fn scope(address: u32) -> Scope {
        match (address >> 24) as u8 {
            0 | 127 => Scope::Martian,
            224..=239 => Scope::Multicast,
            // 240/4 is reserved; its last address is the limited broadcast.
            240..=255 => {
                if address == u32::MAX {
                    Scope::Multicast
                } else {
                    Scope::Martian
                }
            }
            169 if address >> 16 == 0xa9fe => Scope::Link,
            _ => Scope::Routable,
        }
    }

    #[inline(always)]
    fn is_own_link_local(_address: u32) -> bool {
        false
    }

    #[inline(always)]
    fn stays_on_link(address: u32) -> bool {
        matches!(Self::scope(address), Scope::Multicast | Scope::Link)
    }

    #[inline(always)]
    fn from_halves(halves: [u64; 2]) -> u32 {
        halves[1] as u32
    }

    #[inline(always)]
    fn to_halves(address: u32) -> [u64; 2] {
        [0, u64::from(address)]
    }

    #[inline(always)]
    fn is_dhcp_group(address: u32) -> bool {
        address == u32::MAX
    }

    #[inline(always)]
    fn is_to_metadata(packet: &Packet<Self>) -> bool {
        nat::is_to_metadata(packet)
    }

    #[inline(always)]
    fn is_at_metadata(packet: &Packet<Self>) -> bool {
        nat::is_at_metadata(packet)
    }

    #[inline(always)]
    fn is_from_metadata(packet: &Packet<Self>) -> bool {
        nat::is_from_metadata(packet)
    }

    #[inline(always)]
    fn decrement_hop_limit(skb: &Skb) -> Result<(), DropReason> {
        const TTL: usize = crate::parse::ethernet::ETHERNET_BYTES + 8;
        const CHECKSUM: usize = crate::parse::ethernet::ETHERNET_BYTES + 10;
        let ttl: u8 = skb.load(TTL)?;
        let checksum: u16 = skb.load(CHECKSUM)?;
        skb.store(TTL, ttl.wrapping_sub(1))?;
        // RFC 1624 for a decrement of a word's high byte: add 0x0100 in network order with end-around carry, as the
        // kernel's ip_decrease_ttl does.
        let sum = u32::from(checksum) + u32::from(0x0100_u16.to_be());
        let sum = (sum + u32::from(sum >= 0xffff)) as u16;
        skb.store(CHECKSUM, sum)
    }

    #[inline(always)]
    fn parse_quoted(skb: &Skb, offset: usize, bytes: usize) -> Result<Packet<Self>, DropReason> {
        related::parse_quoted4(skb, offset, bytes)
    }

    #[inline(always)]
    fn quoted_slots(skb: &Skb, sent_by_target: bool) -> Result<QuotedSlots, DropReason> {
        related::unpack_slots(related::quoted_slots4(skb.raw(), u32::from(sent_by_target)))
    }
}
