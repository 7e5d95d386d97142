//! Ethernet II.

use calico_ebpf_common::verdict::DropReason;

use crate::skb::{Header, Skb};

/// Bytes of an Ethernet header without VLAN tag.
pub(crate) const ETHERNET_BYTES: usize = 14;

/// Ethernet header, as in the frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ethernet {
    pub(crate) destination: [u8; 6],
    pub(crate) source: [u8; 6],
    /// In network byte order.
    pub(crate) ethertype: [u8; 2],
}
// SAFETY: byte arrays accept every bit pattern.
unsafe impl Header for Ethernet {}

/// What the frame carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EtherType {
    Ipv4,
    Ipv6,
    Arp,
}

/// Parses the frame's header. A VLAN tag is an error, be it in the skb or in the data.
#[inline(always)]
pub(crate) fn parse(skb: &Skb) -> Result<(Ethernet, EtherType), DropReason> {
    if skb.has_vlan_tag() {
        return Err(DropReason::Vlan);
    }
    let header: Ethernet = skb.load(0)?;
    let ethertype = match u16::from_be_bytes(header.ethertype) {
        0x0800 => EtherType::Ipv4,
        0x86dd => EtherType::Ipv6,
        0x0806 => EtherType::Arp,
        0x8100 | 0x88a8 | 0x9100 => return Err(DropReason::Vlan),
        _ => return Err(DropReason::UnknownEthertype),
    };
    Ok((header, ethertype))
}

/// Returns whether a MAC address names a group.
#[inline(always)]
pub(crate) fn is_group(mac: [u8; 6]) -> bool {
    mac[0] & 1 != 0
}
