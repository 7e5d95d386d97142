//! What a workload may claim to be: MAC, IP, ARP and neighbour discovery senders.

use calico_ebpf_common::endpoint::{Endpoint, FLAG_ANY_SOURCE, SOURCE_ANY_MAC, SOURCE_VALID};
use calico_ebpf_common::verdict::DropReason;

use crate::family::{Family, Scope, V4};
use crate::packet::Packet;
use crate::parse::ethernet::{ETHERNET_BYTES, Ethernet, is_group};
use crate::skb::{Header, Skb};

/// Returns the `SOURCE_*` flags of the packet's source, or the reason why it is refused.
///
/// A fixed or floating address comes from the port's own MAC. An address of `allowedIps` comes from any unicast MAC,
/// because VRRP answers from a virtual one.
#[inline(always)]
pub(crate) fn check_source<F: Family>(
    endpoint: &Endpoint,
    ethernet: &Ethernet,
    address: F::Address,
) -> Result<u32, DropReason> {
    if is_group(ethernet.source) {
        return Err(DropReason::SourceMac);
    }
    let flags = source_flags::<F>(endpoint, address);
    if ethernet.source != endpoint.mac && flags & SOURCE_ANY_MAC == 0 {
        return Err(DropReason::SourceMac);
    }
    if flags == 0 { Err(DropReason::SourceAddress) } else { Ok(flags) }
}

/// Returns the flags of an address that the endpoint may use as source, or 0. Link-local IPv6 is every port's own.
#[inline(always)]
fn source_flags<F: Family>(endpoint: &Endpoint, address: F::Address) -> u32 {
    if F::is_own_link_local(address) {
        return SOURCE_VALID;
    }
    if endpoint.flags & FLAG_ANY_SOURCE != 0 && F::scope(address) == Scope::Routable {
        return SOURCE_VALID | SOURCE_ANY_MAC;
    }
    F::source_flags(endpoint, address)
}

/// Returns the reason why a MAC that is not the port's own may not send.
#[inline(always)]
pub(crate) fn check_mac(endpoint: &Endpoint, ethernet: &Ethernet) -> Result<(), DropReason> {
    if ethernet.source == endpoint.mac { Ok(()) } else { Err(DropReason::SourceMac) }
}

/// ARP for IPv4 over Ethernet, RFC 826.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arp {
    hardware: [u8; 2],
    protocol: [u8; 2],
    lengths: [u8; 2],
    operation: [u8; 2],
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}
// SAFETY: byte arrays accept every bit pattern.
unsafe impl Header for Arp {}

const ARP_REPLY: [u8; 2] = [0, 2];

#[inline(always)]
fn load_arp(skb: &Skb) -> Result<Arp, DropReason> {
    let arp: Arp = skb.load(ETHERNET_BYTES)?;
    let ethernet_ipv4 = arp.hardware == [0, 1] && arp.protocol == [8, 0] && arp.lengths == [6, 4];
    if ethernet_ipv4 { Ok(arp) } else { Err(DropReason::Malformed) }
}

/// Checks an ARP packet from a workload: sender MAC and IP are the port's. Sender 0.0.0.0 is a probe (RFC 5227).
#[inline(always)]
pub(crate) fn check_arp(
    skb: &Skb,
    endpoint: &Endpoint,
    ethernet: &Ethernet,
) -> Result<(), DropReason> {
    let arp = load_arp(skb)?;
    if arp.sender_mac != ethernet.source {
        return Err(DropReason::ArpSender);
    }
    let sender = u32::from_be_bytes(arp.sender_ip);
    if sender == V4::UNSPECIFIED {
        return check_mac(endpoint, ethernet);
    }
    match check_source::<V4>(endpoint, ethernet, sender) {
        Ok(_) => Ok(()),
        Err(DropReason::SourceMac) => Err(DropReason::SourceMac),
        Err(_) => Err(DropReason::ArpSender),
    }
}

/// Returns whether a frame from the host is an ARP reply for one of the workload's own addresses: proxy ARP would
/// answer the guest's probe for its own address (RFC 5227) and the guest would give the address up.
#[inline(always)]
pub(crate) fn answers_for_own_address(skb: &Skb, endpoint: &Endpoint) -> bool {
    let Ok(arp) = load_arp(skb) else { return false };
    arp.operation == ARP_REPLY
        && V4::source_flags(endpoint, u32::from_be_bytes(arp.sender_ip)) != 0
}

const ROUTER_ADVERTISEMENT: u16 = 134;
const NEIGHBOR_SOLICITATION: u16 = 135;
const NEIGHBOR_ADVERTISEMENT: u16 = 136;
const REDIRECT: u16 = 137;

/// Neighbour solicitation and advertisement up to the options, RFC 4861 sections 4.3 and 4.4.
#[repr(C)]
#[derive(Clone, Copy)]
struct Neighbor {
    icmp: [u8; 8],
    target: [[u8; 8]; 2],
}
// SAFETY: byte arrays accept every bit pattern.
unsafe impl Header for Neighbor {}

/// Start of a link-layer address option, RFC 4861 section 4.6.1.
#[repr(C)]
#[derive(Clone, Copy)]
struct LinkLayerOption {
    kind: u8,
    /// In units of eight bytes.
    length: u8,
    mac: [u8; 6],
}
// SAFETY: byte arrays accept every bit pattern.
unsafe impl Header for LinkLayerOption {}

/// Options that are looked through; more are refused.
const MAX_OPTIONS: usize = 6;

/// Checks neighbour discovery and MLD from a workload: sent on the link only, by the port, for the port's addresses.
#[inline(always)]
pub(crate) fn check_neighbor<F: Family>(
    skb: &Skb,
    endpoint: &Endpoint,
    ethernet: &Ethernet,
    packet: &Packet<F>,
) -> Result<(), DropReason> {
    let kind = packet.class_value >> 8;
    if kind == ROUTER_ADVERTISEMENT || kind == REDIRECT {
        return Err(DropReason::RouterAdvertisement);
    }
    if packet.source == F::UNSPECIFIED {
        check_mac(endpoint, ethernet)?;
    } else {
        match check_source::<F>(endpoint, ethernet, packet.source) {
            Ok(_) => {}
            Err(DropReason::SourceMac) => return Err(DropReason::SourceMac),
            Err(_) => return Err(DropReason::NeighborSender),
        }
    }
    if kind != NEIGHBOR_SOLICITATION && kind != NEIGHBOR_ADVERTISEMENT {
        return Ok(());
    }
    if packet.hop_limit != 255 || packet.transport_bytes < size_of::<Neighbor>() {
        return Err(DropReason::Malformed);
    }
    let neighbor: Neighbor = skb.load(packet.transport_offset)?;
    let target = F::from_halves(neighbor.target.map(u64::from_be_bytes));
    if kind == NEIGHBOR_ADVERTISEMENT && source_flags::<F>(endpoint, target) == 0 {
        return Err(DropReason::NeighborSender);
    }
    check_link_layer_options(skb, ethernet, packet)
}

/// Checks that link-layer address options name the frame's source.
#[inline(always)]
fn check_link_layer_options<F: Family>(
    skb: &Skb,
    ethernet: &Ethernet,
    packet: &Packet<F>,
) -> Result<(), DropReason> {
    let mut offset = size_of::<Neighbor>();
    for _ in 0..MAX_OPTIONS {
        if offset + size_of::<LinkLayerOption>() > packet.transport_bytes || offset > 512 {
            return Ok(());
        }
        let option: LinkLayerOption = skb.load(packet.transport_offset + offset)?;
        if option.length == 0 {
            return Err(DropReason::Malformed);
        }
        if (option.kind == 1 || option.kind == 2) && option.mac != ethernet.source {
            return Err(DropReason::NeighborSender);
        }
        offset += usize::from(option.length) * 8;
    }
    if offset < packet.transport_bytes { Err(DropReason::Malformed) } else { Ok(()) }
}
