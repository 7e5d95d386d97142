//! What a workload says when it begins to run on a host: the agent waits for it at the end of a live migration.
//!
//! A note for each endpoint, overwritten by the next: however often a guest announces itself, there is one fact to read.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::maps::ANNOUNCED_ENTRIES;
use calico_ebpf_common::verdict::DropReason;

use crate::antispoof;
use crate::conntrack;
use crate::family::Family;
use crate::packet::Packet;
use crate::settings;
use crate::skb::Skb;

#[map]
static CEBPF_ANNOUNCED: Array<u64> = Array::with_max_entries(ANNOUNCED_ENTRIES, 0);

/// Notes that the workload at `slot` runs here.
#[inline(always)]
pub(crate) fn note(slot: Slot) {
    if settings::dry_run() {
        return;
    }
    if let Some(stamp) = CEBPF_ANNOUNCED.get_ptr_mut(u32::from(slot)) {
        // SAFETY: points to the slot's value; a torn write would still not be 0.
        unsafe { core::ptr::write_volatile(stamp, conntrack::now()) };
    }
}

/// Returns whether an ARP packet is gratuitous (RFC 5227 section 3): it tells an address and asks for none.
#[inline(always)]
pub(crate) fn is_gratuitous_arp(skb: &Skb) -> Result<bool, DropReason> {
    let arp = antispoof::view_arp(skb)?;
    let sender = arp.be32::<14>();
    Ok(sender != 0 && sender == arp.be32::<24>())
}

const NEIGHBOR_ADVERTISEMENT: u16 = 136;
/// The S flag of an advertisement, RFC 4861 section 4.4.
const SOLICITED: u8 = 0x40;

/// Returns whether a neighbour discovery packet is an advertisement that nobody asked for (RFC 4861 section 7.2.6).
#[inline(always)]
pub(crate) fn is_unsolicited_advertisement<F: Family>(
    skb: &Skb,
    packet: &Packet<F>,
) -> Result<bool, DropReason> {
    if packet.class_value >> 8 != NEIGHBOR_ADVERTISEMENT {
        return Ok(false);
    }
    Ok(skb.view::<8>(packet.transport_offset)?.u8::<4>() & SOLICITED == 0)
}
