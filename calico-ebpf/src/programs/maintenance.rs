//! Programs that the agent runs with BPF_PROG_TEST_RUN; never attached to an interface.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::expire::{ExpireEntry, HEADER_BYTES, MAX_ENTRIES};
use calico_ebpf_common::flow::{Flow, FlowKey6};
use calico_ebpf_common::quota::{Correction, FOUND_HALF_OPEN, Kind};
use calico_ebpf_common::verdict::DropReason;

use crate::family::{Family, V4, V6};
use crate::flow_tables;
use crate::quotas;
use crate::scratch;
use crate::skb::Skb;

/// Deletes the flows that the packet names (see [`calico_ebpf_common::expire::ExpireHeader`]) and that no packet has touched since the agent
/// read them. Returns how many it deleted.
#[classifier]
pub(crate) fn expire_flows(context: TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    try_expire(&skb).unwrap_or_default()
}

#[inline(always)]
fn try_expire(skb: &Skb) -> Result<i32, DropReason> {
    let header = skb.view::<HEADER_BYTES>(0)?;
    let (count, family, table) = (header.ne32::<0>(), header.ne32::<4>(), header.ne32::<8>());
    let mut deleted = 0;
    for index in 0..MAX_ENTRIES {
        if index as u32 >= count {
            break;
        }
        let offset = HEADER_BYTES + index * size_of::<ExpireEntry>();
        let last_seen: u64 = skb.load(offset + size_of::<FlowKey6>())?;
        let key: [u64; 5] = load_words(skb, offset)?;
        let room = scratch::room().ok_or(DropReason::NoPolicyTable)?;
        // SAFETY: the room is ours until the program ends.
        unsafe { core::ptr::addr_of_mut!((*room).key).write(key) };
        let is_expired = if family == 4 {
            expire_flow4(table, last_seen)
        } else {
            expire_flow6(table, last_seen)
        };
        deleted += is_expired.cast_signed();
    }
    Ok(deleted)
}

/// Adds to a quota what the packet says (see [`Correction`]). Returns 0.
#[classifier]
pub(crate) fn correct_quota(context: TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    if let Ok(correction) = skb.view::<{ size_of::<Correction>() }>(0)
        && let Ok(count) = skb.load::<u64>(8)
    {
        let kind = if correction.ne32::<4>() == Kind::HalfOpen as u32 {
            Kind::HalfOpen
        } else {
            Kind::Confirmed
        };
        quotas::add(correction.ne32::<0>() as u16, kind, count.cast_signed());
    }
    0
}

/// Ends the IPv4 flow whose key is in the scratch room if no packet has touched it. Returns 1 if it did.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn expire_flow4(table: u32, last_seen: u64) -> u32 {
    expire::<V4>(table, last_seen)
}

/// As [`expire_flow4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn expire_flow6(table: u32, last_seen: u64) -> u32 {
    expire::<V6>(table, last_seen)
}

#[inline(always)]
fn expire<F: Family>(table: u32, last_seen: u64) -> u32 {
    let Some(room) = scratch::room() else { return 0 };
    // SAFETY: the room is ours until the program ends.
    let key = unsafe { F::read_key(core::ptr::addr_of!((*room).key)) };
    let entry = if table == FOUND_HALF_OPEN {
        F::half_open().get_ptr_mut(key)
    } else {
        F::confirmed().get_ptr_mut(key)
    };
    u32::from(is_untouched(entry, last_seen) && flow_tables::close_kept::<F>(table))
}

#[inline(always)]
fn load_words<const COUNT: usize>(skb: &Skb, offset: usize) -> Result<[u64; COUNT], DropReason> {
    let mut words = [0; COUNT];
    for (index, word) in words.iter_mut().enumerate() {
        *word = skb.load(offset + index * 8)?;
    }
    Ok(words)
}

#[inline(always)]
fn is_untouched(entry: Option<*mut Flow>, last_seen: u64) -> bool {
    // SAFETY: points to a map value, which stays mapped while the program runs.
    entry.is_some_and(|flow| unsafe { (*flow).last_seen == last_seen })
}

/// Writes both clocks at the start of its packet (see [`calico_ebpf_common::expire::Clock`]).
#[classifier]
pub(crate) fn read_clock(context: TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    // SAFETY: no arguments.
    let (jiffies, monotonic_ns) = unsafe { (bpf_jiffies64(), bpf_ktime_get_ns()) };
    match skb.store(0, jiffies).and_then(|()| skb.store(8, monotonic_ns)) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}
