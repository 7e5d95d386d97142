//! The tables that flows are in: half-open ones, confirmed ones.

use aya_ebpf::bindings::{BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use calico_ebpf_common::flow::{Flow, FlowKey4, FlowKey6, ORIGIN, STATE_ESTABLISHED};
use calico_ebpf_common::maps::{FLOW_ENTRIES, HALF_OPEN_ENTRIES};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::quota::{FOUND_CONFIRMED, FOUND_HALF_OPEN, Kind, payer};

use crate::family::{Family, V4, V6};
use crate::quotas;
use crate::scratch;

#[map]
static CEBPF_FLOWS4: HashMap<FlowKey4, Flow> = HashMap::with_max_entries(FLOW_ENTRIES, 0);

#[map]
static CEBPF_FLOWS6: HashMap<FlowKey6, Flow> = HashMap::with_max_entries(FLOW_ENTRIES, 0);

#[map]
static CEBPF_HALFOPEN4: HashMap<FlowKey4, Flow> = HashMap::with_max_entries(HALF_OPEN_ENTRIES, 0);

#[map]
static CEBPF_HALFOPEN6: HashMap<FlowKey6, Flow> = HashMap::with_max_entries(HALF_OPEN_ENTRIES, 0);

/// Opens the IPv4 flow in the [scratch room](scratch) and returns 1, or 0 without room. `found` says where its entry was
/// found.
///
/// This and the functions below are global, as the look-ups in `tables` are.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn open_flow4(found: u32) -> u32 {
    u32::from(open_kept::<V4>(found))
}

/// As [`open_flow4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn open_flow6(found: u32) -> u32 {
    u32::from(open_kept::<V6>(found))
}

/// A flow that is half open stays in a table of its own: who opens many fills that, and only its own share. TCP is open
/// when its handshake is complete; the second packet of a protocol without a handshake completes it.
#[inline(always)]
fn open_kept<F: Family>(found: u32) -> bool {
    let Some(room) = scratch::room() else { return false };
    // SAFETY: the room is ours until the program ends.
    let (key, flow) = unsafe { (F::read_key(core::ptr::addr_of!((*room).key)), &(*room).flow) };
    let slot = payer(flow);
    // A flow that ended since it was found is a new one.
    if found == FOUND_CONFIRMED && write_over::<F>(F::confirmed(), Kind::Confirmed, key, flow) {
        return true;
    }
    let is_confirmed = flow.state & STATE_ESTABLISHED != 0 && !flow.is_closed();
    if found == FOUND_HALF_OPEN && (is_confirmed || F::protocol_of(key) != protocol::TCP) {
        if add::<F>(F::confirmed(), Kind::Confirmed, key, flow) {
            // Whoever pays for it now, another sender of the address may have paid until now.
            end::<F>(F::half_open(), Kind::HalfOpen, key);
            return true;
        }
        // It goes on where it is, off the fast path.
        quotas::refuse(slot);
    }
    if found == FOUND_HALF_OPEN && write_over::<F>(F::half_open(), Kind::HalfOpen, key, flow) {
        return true;
    }
    if add::<F>(F::half_open(), Kind::HalfOpen, key, flow) {
        return true;
    }
    quotas::refuse(slot);
    false
}

/// Writes over an entry. Returns whether it is still there.
#[inline(always)]
fn write_over<F: Family>(table: &HashMap<F::Key, Flow>, kind: Kind, key: &F::Key, flow: &Flow) -> bool {
    let Some(entry) = table.get_ptr(key) else {
        return false;
    };
    // SAFETY: points to a map value.
    let (before, now) = (unsafe { payer(&*entry) }, payer(flow));
    if table.insert(key, flow, u64::from(BPF_EXIST)).is_err() {
        return false;
    }
    if before != now {
        quotas::add(before, kind, -1);
        quotas::add(now, kind, 1);
    }
    true
}

/// Adds an entry, if its endpoint may have one more. Returns whether there is one now: another processor may have been
/// faster.
#[inline(always)]
fn add<F: Family>(table: &HashMap<F::Key, Flow>, kind: Kind, key: &F::Key, flow: &Flow) -> bool {
    const EXISTS: i32 = -17;
    let slot = payer(flow);
    if !quotas::has_room(slot, kind, flow.slot[ORIGIN] == slot) {
        return false;
    }
    match table.insert(key, flow, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            quotas::add(slot, kind, 1);
            true
        }
        Err(error) => error == EXISTS,
    }
}

/// Ends the IPv4 flow whose key is in the [scratch room](scratch). Returns 1 if there was one.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn close_flow4(found: u32) -> u32 {
    u32::from(close_kept::<V4>(found))
}

/// As [`close_flow4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn close_flow6(found: u32) -> u32 {
    u32::from(close_kept::<V6>(found))
}

#[inline(always)]
pub(crate) fn close_kept<F: Family>(found: u32) -> bool {
    let Some(room) = scratch::room() else { return false };
    // SAFETY: the room is ours until the program ends.
    let key = unsafe { F::read_key(core::ptr::addr_of!((*room).key)) };
    let (table, kind) = if found == FOUND_HALF_OPEN {
        (F::half_open(), Kind::HalfOpen)
    } else {
        (F::confirmed(), Kind::Confirmed)
    };
    end::<F>(table, kind, key)
}

/// Removes an entry and gives its place back to who paid for it. Returns whether there was one.
#[inline(always)]
fn end<F: Family>(table: &HashMap<F::Key, Flow>, kind: Kind, key: &F::Key) -> bool {
    let Some(entry) = table.get_ptr(key) else {
        return false;
    };
    // SAFETY: points to a map value.
    let slot = unsafe { payer(&*entry) };
    let is_ended = table.remove(key).is_ok();
    if is_ended {
        quotas::add(slot, kind, -1);
    }
    is_ended
}

/// The tables of IPv4.
#[inline(always)]
pub(crate) fn tables4() -> [&'static HashMap<FlowKey4, Flow>; 2] {
    [&CEBPF_FLOWS4, &CEBPF_HALFOPEN4]
}

/// The tables of IPv6.
#[inline(always)]
pub(crate) fn tables6() -> [&'static HashMap<FlowKey6, Flow>; 2] {
    [&CEBPF_FLOWS6, &CEBPF_HALFOPEN6]
}
