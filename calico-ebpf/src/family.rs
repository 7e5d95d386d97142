//! IPv4 and IPv6: what differs between them.

use calico_ebpf_common::address::{AddressEntry, CLASS_NONE};
use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::flow::{Flow, FlowKey4, FlowKey6, TRANSLATED};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use crate::conntrack;
use crate::fragments::Fragment;
use crate::moved_port;
use crate::nat;
use crate::packet::{Packet, PacketKind};
use crate::related::{self, QuotedSlots};
use crate::skb::Skb;
use crate::tables::{self, Tables};

/// Where a destination leads, by the address alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Routable,
    /// Link-local: reaches the host at most.
    Link,
    Multicast,
    /// Must never be routed or reach the host from a workload.
    Martian,
}

/// An address family.
pub(crate) trait Family: Copy {
    /// An address in the host's byte order.
    type Address: Copy + PartialEq;
    /// Key of the family's conntrack map.
    type Key;

    /// Version in the IP header.
    const VERSION: u8;
    const ICMP_PROTOCOL: u8;
    /// Whether the metadata service is reached by this family.
    const HAS_METADATA: bool;
    const UNSPECIFIED: Self::Address;
    const DHCP_CLIENT_PORT: u16;
    const DHCP_SERVER_PORT: u16;

    fn icmp_kind(kind: u8) -> PacketKind;
    /// Returns the query that an answer of type `kind` belongs to.
    fn icmp_query_of(kind: u8) -> u8;

    /// Parses the packet behind the Ethernet header.
    fn parse(skb: &Skb) -> Result<Packet<Self>, DropReason>;

    /// As [`Self::parse`], the first fragment of a datagram too.
    fn parse_with_ports(skb: &Skb) -> Result<Packet<Self>, DropReason>;

    /// Parses a fragment behind the Ethernet header.
    fn parse_fragment(skb: &Skb) -> Result<(Packet<Self>, Fragment), DropReason>;

    /// Returns the flow's key and whether the packet's source is the key's low side.
    fn flow_key(packet: &Packet<Self>) -> (Self::Key, bool);
    /// Makes the key of a translated flow that of an untranslated one, or the other way.
    fn flip_translation(key: &mut Self::Key);
    fn set_ports(key: &mut Self::Key, low: u16, high: u16);
    fn find_flow(key: &Self::Key) -> Option<*mut Flow>;
    fn write_flow(key: &Self::Key, flow: &Flow, flags: u64) -> Result<(), i32>;
    fn delete_flow(key: &Self::Key);
    /// What [`moved_port::find`] calls.
    fn moved_places(packet: &Packet<Self>, tag: u16) -> u32;

    fn address_entry(tables: &Tables, address: Self::Address) -> Result<AddressEntry, DropReason>;
    /// Returns the entries of two addresses.
    fn address_entries(
        tables: &Tables,
        first: Self::Address,
        second: Self::Address,
    ) -> Result<[AddressEntry; 2], DropReason>;
    /// Returns the `SOURCE_*` flags of an address that the endpoint may use as source, or 0.
    fn source_flags(endpoint: &Endpoint, address: Self::Address) -> u32;
    fn scope(address: Self::Address) -> Scope;
    /// Returns whether the address is of `fe80::/64`, which every interface has one of.
    fn is_own_link_local(address: Self::Address) -> bool;
    /// Returns whether packets to the address are never routed.
    fn stays_on_link(address: Self::Address) -> bool;
    /// Makes an address of two numbers, high half first.
    fn from_halves(halves: [u64; 2]) -> Self::Address;
    /// As [`Self::from_halves`], the other way.
    fn to_halves(address: Self::Address) -> [u64; 2];
    /// Returns whether DHCP clients send to the address to reach any server.
    fn is_dhcp_group(address: Self::Address) -> bool;
    /// Returns whether the packet is to the metadata service as workloads know it, to where the service is, or from
    /// there. IPv6 has none.
    fn is_to_metadata(packet: &Packet<Self>) -> bool;
    fn is_at_metadata(packet: &Packet<Self>) -> bool;
    fn is_from_metadata(packet: &Packet<Self>) -> bool;
    /// Decrements TTL or hop limit in the packet.
    fn decrement_hop_limit(skb: &Skb) -> Result<(), DropReason>;
    /// Returns the ends of the flow that the ICMP error in `skb` quotes.
    fn quoted_slots(skb: &Skb, sent_by_target: bool) -> Result<QuotedSlots, DropReason>;
    /// Parses the packet that an ICMP error quotes at `offset`.
    fn parse_quoted(skb: &Skb, offset: usize, bytes: usize) -> Result<Packet<Self>, DropReason>;
}

#[derive(Clone, Copy)]
pub(crate) struct V4;

#[derive(Clone, Copy)]
pub(crate) struct V6;

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
    fn find_flow(key: &FlowKey4) -> Option<*mut Flow> {
        conntrack::find4(key)
    }

    #[inline(always)]
    fn write_flow(key: &FlowKey4, flow: &Flow, flags: u64) -> Result<(), i32> {
        conntrack::write4(key, flow, flags)
    }

    #[inline(always)]
    fn delete_flow(key: &FlowKey4) {
        conntrack::delete4(key);
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
    fn find_flow(key: &FlowKey6) -> Option<*mut Flow> {
        conntrack::find6(key)
    }

    #[inline(always)]
    fn write_flow(key: &FlowKey6, flow: &Flow, flags: u64) -> Result<(), i32> {
        conntrack::write6(key, flow, flags)
    }

    #[inline(always)]
    fn delete_flow(key: &FlowKey6) {
        conntrack::delete6(key);
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

/// Reads the answer of `address_entry4` and `address_entry6`.
#[inline(always)]
fn unpack_entry(packed: u32) -> Result<AddressEntry, DropReason> {
    let entry = AddressEntry {
        class: packed as u16,
        slot: (packed >> 16) as u16,
    };
    if entry.class == CLASS_NONE {
        Err(DropReason::NoPolicyTable)
    } else {
        Ok(entry)
    }
}

/// Reads the answer of `address_entries4` and `address_entries6`.
#[inline(always)]
fn unpack_entries(packed: u64) -> Result<[AddressEntry; 2], DropReason> {
    Ok([unpack_entry(packed as u32)?, unpack_entry((packed >> 32) as u32)?])
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
