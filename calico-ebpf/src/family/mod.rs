//! IPv4 and IPv6: what differs between them.

mod v4;
mod v6;

use aya_ebpf::maps::HashMap;
use calico_ebpf_common::address::{AddressEntry, CLASS_NONE};
use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::flow::Flow;
use calico_ebpf_common::verdict::DropReason;

use crate::fragments::Fragment;
use crate::packet::{Packet, PacketKind};
use crate::related::QuotedSlots;
use crate::skb::Skb;
use crate::tables::Tables;

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
    type Key: 'static;

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
    /// The flows that were answered.
    fn confirmed() -> &'static HashMap<Self::Key, Flow>;
    /// The flows that were not answered yet.
    fn half_open() -> &'static HashMap<Self::Key, Flow>;
    fn protocol_of(key: &Self::Key) -> u8;
    /// # Safety
    /// `room` can be written.
    unsafe fn write_key(room: *mut [u64; 5], key: &Self::Key);
    /// # Safety
    /// `room` can be read, and nothing else writes it.
    unsafe fn read_key<'a>(room: *const [u64; 5]) -> &'a Self::Key;
    /// Opens the flow in the scratch room. Returns whether there was room in the table.
    fn open_kept(found: u32) -> bool;
    /// Takes the window of the flow in the scratch room over from its entry. Returns whether it goes on.
    fn recall_kept(found: u32) -> bool;
    /// Ends the flow whose key is in the scratch room.
    fn close_kept(found: u32);
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
