//! What a workload may claim to be: MAC, IP, ARP and neighbour discovery senders.

use calico_ebpf_common::endpoint::{Endpoint, FLAG_ANY_SOURCE, SOURCE_ANY_MAC, SOURCE_VALID};
use calico_ebpf_common::verdict::DropReason;

use crate::family::{Family, Scope, V4};
use crate::packet::Packet;
use crate::parse::ethernet::ETHERNET_BYTES;
use crate::skb::{Mac, Skb, View};

/// Returns the `SOURCE_*` flags of the packet's source, or the reason why it is refused.
///
/// A fixed or floating address comes from the port's own MAC. An address of `allowedIps` comes from any unicast MAC,
/// because VRRP answers from a virtual one.
#[inline(always)]
pub(crate) fn check_source<F: Family>(
    endpoint: &Endpoint,
    source: Mac,
    address: F::Address,
) -> Result<u32, DropReason> {
    if source.is_group() {
        return Err(DropReason::SourceMac);
    }
    let flags = source_flags::<F>(endpoint, address);
    if source != Mac::of(&endpoint.mac) && flags & SOURCE_ANY_MAC == 0 {
        return Err(DropReason::SourceMac);
    }
    if flags == 0 {
        Err(DropReason::SourceAddress)
    } else {
        Ok(flags)
    }
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
pub(crate) fn check_mac(endpoint: &Endpoint, source: Mac) -> Result<(), DropReason> {
    if source == Mac::of(&endpoint.mac) {
        Ok(())
    } else {
        Err(DropReason::SourceMac)
    }
}

/// Bytes of ARP for IPv4 over Ethernet, RFC 826. Offsets: hardware, protocol and lengths 0 to 5, operation 6, sender MAC 8,
/// sender IP 14, target IP 24.
const ARP_BYTES: usize = 28;

const ARP_REPLY: u16 = 2;

/// Views an ARP packet; one that is not for IPv4 over Ethernet is malformed.
#[inline(always)]
pub(crate) fn view_arp(skb: &Skb) -> Result<View<ARP_BYTES>, DropReason> {
    let arp = skb.view::<ARP_BYTES>(ETHERNET_BYTES)?;
    let ethernet_ipv4 = arp.be32::<0>() == 0x0001_0800 && arp.be16::<4>() == 0x0604;
    if ethernet_ipv4 {
        Ok(arp)
    } else {
        Err(DropReason::Malformed)
    }
}

/// Checks an ARP packet from a workload: sender MAC and IP are the port's. Sender 0.0.0.0 is a probe (RFC 5227).
#[inline(always)]
pub(crate) fn check_arp(skb: &Skb, endpoint: &Endpoint, source: Mac) -> Result<(), DropReason> {
    let arp = view_arp(skb)?;
    if arp.mac::<8>() != source {
        return Err(DropReason::ArpSender);
    }
    let sender = arp.be32::<14>();
    if sender == V4::UNSPECIFIED {
        return check_mac(endpoint, source);
    }
    match check_source::<V4>(endpoint, source, sender) {
        Ok(_) => Ok(()),
        Err(DropReason::SourceMac) => Err(DropReason::SourceMac),
        Err(_) => Err(DropReason::ArpSender),
    }
}

/// Returns whether a frame from the host is an ARP reply for one of the workload's own addresses: proxy ARP would
/// answer the guest's probe for its own address (RFC 5227) and the guest would give the address up.
#[inline(always)]
pub(crate) fn answers_for_own_address(skb: &Skb, endpoint: &Endpoint) -> bool {
    let Ok(arp) = view_arp(skb) else { return false };
    arp.be16::<6>() == ARP_REPLY && V4::source_flags(endpoint, arp.be32::<14>()) != 0
}

const ROUTER_ADVERTISEMENT: u16 = 134;
const NEIGHBOR_SOLICITATION: u16 = 135;
const NEIGHBOR_ADVERTISEMENT: u16 = 136;
const REDIRECT: u16 = 137;

/// Bytes of neighbour solicitation and advertisement up to the options, RFC 4861 sections 4.3 and 4.4. Offset: target 8.
const NEIGHBOR_BYTES: usize = 24;
/// Bytes of a link-layer address option, RFC 4861 section 4.6.1. Offsets: type 0, length in units of eight bytes 1,
/// address 2.
const OPTION_BYTES: usize = 8;

/// Options that are looked through; more are refused.
const MAX_OPTIONS: usize = 6;

/// Checks neighbour discovery and MLD from a workload: sent on the link only, by the port, for the port's addresses.
#[inline(always)]
pub(crate) fn check_neighbor<F: Family>(
    skb: &Skb,
    endpoint: &Endpoint,
    source: Mac,
    packet: &Packet<F>,
) -> Result<(), DropReason> {
    let kind = packet.class_value >> 8;
    if kind == ROUTER_ADVERTISEMENT || kind == REDIRECT {
        return Err(DropReason::RouterAdvertisement);
    }
    if packet.source == F::UNSPECIFIED {
        check_mac(endpoint, source)?;
    } else {
        match check_source::<F>(endpoint, source, packet.source) {
            Ok(_) => {}
            Err(DropReason::SourceMac) => return Err(DropReason::SourceMac),
            Err(_) => return Err(DropReason::NeighborSender),
        }
    }
    if kind != NEIGHBOR_SOLICITATION && kind != NEIGHBOR_ADVERTISEMENT {
        return Ok(());
    }
    if packet.hop_limit != 255 || packet.transport_bytes < NEIGHBOR_BYTES {
        return Err(DropReason::Malformed);
    }
    let neighbor = skb.view::<NEIGHBOR_BYTES>(packet.transport_offset)?;
    let target = F::from_halves(neighbor.address6::<8>());
    if kind == NEIGHBOR_ADVERTISEMENT && source_flags::<F>(endpoint, target) == 0 {
        return Err(DropReason::NeighborSender);
    }
    check_link_layer_options(skb, source, packet)
}

/// Checks that link-layer address options name the frame's source.
#[inline(always)]
fn check_link_layer_options<F: Family>(skb: &Skb, source: Mac, packet: &Packet<F>) -> Result<(), DropReason> {
    let mut offset = NEIGHBOR_BYTES;
    for _ in 0..MAX_OPTIONS {
        if offset + OPTION_BYTES > packet.transport_bytes || offset > 512 {
            return Ok(());
        }
        let option = skb.view::<OPTION_BYTES>(packet.transport_offset + offset)?;
        if option.u8::<1>() == 0 {
            return Err(DropReason::Malformed);
        }
        if matches!(option.u8::<0>(), 1 | 2) && option.mac::<2>() != source {
            return Err(DropReason::NeighborSender);
        }
        offset += usize::from(option.u8::<1>()) * 8;
    }
    if offset < packet.transport_bytes {
        Err(DropReason::Malformed)
    } else {
        Ok(())
    }
}
