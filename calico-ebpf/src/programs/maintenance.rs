//! Programs that the agent runs with BPF_PROG_TEST_RUN; never attached to an interface.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::expire::{ExpireEntry, HEADER_BYTES, MAX_ENTRIES};
use calico_ebpf_common::flow::{Flow, FlowKey4, FlowKey6};
use calico_ebpf_common::verdict::DropReason;

use crate::conntrack;
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
    let (count, family) = (header.ne32::<0>(), header.ne32::<4>());
    let mut deleted = 0;
    for index in 0..MAX_ENTRIES {
        if index as u32 >= count {
            break;
        }
        let offset = HEADER_BYTES + index * size_of::<ExpireEntry>();
        let last_seen: u64 = skb.load(offset + size_of::<FlowKey6>())?;
        if family == 4 {
            let words: [u64; 2] = load_words(skb, offset)?;
            let key: FlowKey4 = bytemuck::must_cast(words);
            if is_untouched(conntrack::find4(&key), last_seen) {
                conntrack::delete4(&key);
                deleted += 1;
            }
        } else {
            let words: [u64; 5] = load_words(skb, offset)?;
            let key: FlowKey6 = bytemuck::must_cast(words);
            if is_untouched(conntrack::find6(&key), last_seen) {
                conntrack::delete6(&key);
                deleted += 1;
            }
        }
    }
    Ok(deleted)
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
