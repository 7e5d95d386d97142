//! How many flows each endpoint has, and may have.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::maps::QUOTA_ENTRIES;
use calico_ebpf_common::quota::{FlowLimits, Kind, Quota, half_open_by_others};

#[map]
static CEBPF_QUOTAS: Array<Quota> = Array::with_max_entries(QUOTA_ENTRIES, 0);

#[map]
static CEBPF_LIMITS: Array<FlowLimits> = Array::with_max_entries(1, 0);

/// Returns whether the endpoint may have one more, which it opens itself or not: others must not use up all of what it needs
/// for its own.
#[inline(always)]
pub(crate) fn has_room(slot: Slot, kind: Kind, is_own: bool) -> bool {
    let (Some(quota), Some(limits)) = (CEBPF_QUOTAS.get(u32::from(slot)), CEBPF_LIMITS.get(0)) else {
        return false;
    };
    let (used, limit) = match kind {
        Kind::HalfOpen if is_own => (quota.half_open, limits.half_open),
        Kind::HalfOpen => (quota.half_open, half_open_by_others(limits.half_open)),
        Kind::Confirmed => (quota.confirmed, limits.confirmed),
    };
    used < i64::from(limit)
}

/// Counts flows that came or went.
#[inline(always)]
pub(crate) fn add(slot: Slot, kind: Kind, count: i64) {
    let Some(quota) = CEBPF_QUOTAS.get_ptr_mut(u32::from(slot)) else {
        return;
    };
    // SAFETY: points to a map value.
    unsafe {
        match kind {
            Kind::HalfOpen => add_at_once(core::ptr::addr_of_mut!((*quota).half_open), count),
            Kind::Confirmed => add_at_once(core::ptr::addr_of_mut!((*quota).confirmed), count),
        }
    }
}

/// Counts a flow for which there was no room.
#[inline(always)]
pub(crate) fn refuse(slot: Slot) {
    if let Some(quota) = CEBPF_QUOTAS.get_ptr_mut(u32::from(slot)) {
        // SAFETY: points to a map value.
        unsafe { add_at_once(core::ptr::addr_of_mut!((*quota).refused).cast(), 1) };
    }
}

/// Adds in one piece, as other processors do.
///
/// # Safety
/// `number` points to a map value.
#[inline(always)]
unsafe fn add_at_once(number: *mut i64, count: i64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise. The instruction is as old as eBPF; the compiler has no name for it on this target.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) number, in(reg) count, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        *number += count;
    }
}
