//! Ethernet II.

use calico_ebpf_common::verdict::DropReason;

use crate::skb::{Mac, Skb};

/// Bytes of an Ethernet header without VLAN tag.
pub(crate) const ETHERNET_BYTES: usize = 14;

/// What the frame carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EtherType {
    Ipv4,
    Ipv6,
    Arp,
    /// Reverse ARP (RFC 903): nothing answers it, but QEMU announces a migrated guest by it.
    Rarp,
}

/// Returns the frame's source address.
#[inline(always)]
pub(crate) fn source(skb: &Skb) -> Result<Mac, DropReason> {
    Ok(skb.view::<ETHERNET_BYTES>(0)?.mac::<6>())
}

/// Parses the frame's header: its source and what it carries. A VLAN tag is an error, be it in the skb or in the data.
#[inline(always)]
pub(crate) fn parse(skb: &Skb) -> Result<(Mac, EtherType), DropReason> {
    if skb.has_vlan_tag() {
        return Err(DropReason::Vlan);
    }
    let header = skb.view::<ETHERNET_BYTES>(0)?;
    let ethertype = match header.be16::<12>() {
        0x0800 => EtherType::Ipv4,
        0x86dd => EtherType::Ipv6,
        0x0806 => EtherType::Arp,
        0x8035 => EtherType::Rarp,
        0x8100 | 0x88a8 | 0x9100 => return Err(DropReason::Vlan),
        _ => return Err(DropReason::UnknownEthertype),
    };
    Ok((header.mac::<6>(), ethertype))
}
