//! The plain reading of Ethernet and ARP (RFC 826).

use calico_ebpf_common::parsed::Parsed;
use calico_ebpf_common::verdict::DropReason;

use super::mistakes::Mistake;
use super::reference::{Sight, number16, number32};

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;

/// What a frame carries; the numbers are those that are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    Ipv4 = 1,
    Ipv6 = 2,
    Arp = 3,
    Rarp = 4,
}

pub(super) fn read(sight: &Sight<'_>, parsed: &mut Parsed) -> Result<Carried, DropReason> {
    if sight.has_vlan_tag {
        return Err(DropReason::Vlan);
    }
    let header = sight.bytes(0, ETHERNET)?;
    let mut ethertype = number16(header, 12);
    if ethertype == 0x8100 && sight.makes(Mistake::VlanLookedThrough) {
        ethertype = number16(sight.bytes(16, 2)?, 0);
    }
    let carried = match ethertype {
        0x0800 => Carried::Ipv4,
        0x86dd => Carried::Ipv6,
        0x0806 => Carried::Arp,
        0x8035 => Carried::Rarp,
        0x8100 | 0x88a8 | 0x9100 => return Err(DropReason::Vlan),
        _ => return Err(DropReason::UnknownEthertype),
    };
    parsed.mac = mac(header, 6);
    parsed.ethertype = carried as u32;
    Ok(carried)
}

pub(super) fn read_arp(sight: &Sight<'_>, parsed: &mut Parsed) -> Result<(), DropReason> {
    let arp = sight.bytes(ETHERNET, 28)?;
    if arp[..6] != [0, 1, 8, 0, 6, 4] && !sight.makes(Mistake::AnyArp) {
        return Err(DropReason::Malformed);
    }
    parsed.kind = number16(arp, 6).into();
    parsed.mac = mac(arp, 8);
    parsed.source = [0, number32(arp, 14).into()];
    parsed.destination = [0, number32(arp, 24).into()];
    Ok(())
}

/// Returns a MAC address in numbers of four and two bytes, in frame order.
fn mac(bytes: &[u8], at: usize) -> [u32; 2] {
    let first = u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [first, u16::from_ne_bytes([bytes[at + 4], bytes[at + 5]]).into()]
}
