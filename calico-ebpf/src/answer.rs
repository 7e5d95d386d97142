//! How often denied packets are answered, and by whom.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use calico_ebpf_common::answer::{ANSWER_INTERVAL_NS, ANSWER_SOURCES_ENTRIES, ANSWERS_ENTRIES, MOST_AT_ONCE};
use calico_ebpf_common::endpoint::Slot;

/// By slot: until when, by `CLOCK_MONOTONIC`, the answers given so far use up the endpoint's share.
#[map]
static CEBPF_ANSWERS: Array<u64> = Array::with_max_entries(ANSWERS_ENTRIES, 0);

/// By family: the host's address that ICMP errors come from, as two numbers, high half first; 0 is none.
#[map]
static CEBPF_ANSWER_SOURCES: Array<[u64; 2]> = Array::with_max_entries(ANSWER_SOURCES_ENTRIES, 0);

/// Returns whether the endpoint may be given another answer now, and notes that it is. Two processors at once may give
/// one more.
#[inline(always)]
pub(crate) fn take_turn(slot: Slot) -> bool {
    let Some(used) = CEBPF_ANSWERS.get_ptr_mut(u32::from(slot)) else {
        return false;
    };
    // SAFETY: points to a map value of a whole number, which is read and written in one piece.
    let used_until = unsafe { used.read_volatile() };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let begins = if used_until > now { used_until } else { now };
    if begins - now > ANSWER_INTERVAL_NS * (MOST_AT_ONCE - 1) {
        return false;
    }
    // SAFETY: as above.
    unsafe { used.write_volatile(begins + ANSWER_INTERVAL_NS) };
    true
}

/// Returns the address of the host at `index` of the sources, if it has one.
#[inline(always)]
pub(crate) fn source(index: u32) -> Option<[u64; 2]> {
    let source = *CEBPF_ANSWER_SOURCES.get(index)?;
    if source == [0; 2] { None } else { Some(source) }
}
