//! Flows whose other end was a workload of this host that is gone.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use calico_ebpf_common::endpoint::SLOT_NONE;
use calico_ebpf_common::flow::{FLOW_ORIGIN_ANY_MAC, FLOW_RESPONDER_ANY_MAC, Flow, ORIGIN, RESPONDER};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::tombstone::{NO_TOMBSTONE, TOMBSTONE_ENTRIES, Tombstone};

use crate::conntrack;
use crate::family::Family;
use crate::judgement::End;
use crate::packet::Packet;

#[map]
static CEBPF_TOMBSTONES: Array<Tombstone> = Array::with_max_entries(TOMBSTONE_ENTRIES, 0);

/// Returns what the tombstone of its other end means for a packet that goes on with `flow`: `NO_TOMBSTONE`, `WAITS` or
/// `RESETS`. `original` says whether it goes from originator to responder, `peer` who has its destination now.
///
/// Not meant are flows of addresses that the workload only forwards for, which may come from any MAC: another one may do it
/// by now.
#[inline(always)]
pub(crate) fn effect<F: Family>(
    packet: &Packet<F>,
    flow: Option<&Flow>,
    original: bool,
    peer: End<'_>,
) -> u32 {
    let Some(flow) = flow.filter(|_| packet.protocol == protocol::TCP && peer.slot == SLOT_NONE) else {
        return NO_TOMBSTONE;
    };
    let (slot, generation, any_mac) = if original {
        (
            flow.slot[RESPONDER],
            flow.generation[RESPONDER],
            FLOW_RESPONDER_ANY_MAC,
        )
    } else {
        (flow.slot[ORIGIN], flow.generation[ORIGIN], FLOW_ORIGIN_ANY_MAC)
    };
    if slot == SLOT_NONE || flow.flags & any_mac != 0 {
        return NO_TOMBSTONE;
    }
    tombstone_effect(u32::from(slot), generation)
}

/// Returns what becomes of a flow that was judged under `generation` and has an end at `slot`. Global, as the look-ups in
/// `tables` are.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tombstone_effect(slot: u32, generation: u32) -> u32 {
    match CEBPF_TOMBSTONES.get(slot) {
        Some(tombstone) => tombstone.effect_on(generation, conntrack::now()),
        None => NO_TOMBSTONE,
    }
}

/// Gives `entry` the other end that `old` has: it may still come to be known as gone.
#[inline(always)]
pub(crate) fn keep_other_end(entry: &mut Flow, old: &Flow, original: bool) {
    if original {
        entry.slot[RESPONDER] = old.slot[RESPONDER];
        entry.generation[RESPONDER] = old.generation[RESPONDER];
    } else {
        entry.slot[ORIGIN] = old.slot[ORIGIN];
        entry.generation[ORIGIN] = old.generation[ORIGIN];
    }
}
