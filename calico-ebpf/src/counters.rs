//! Counters: each packet once, at the hook that decides about it.
//!
//! Bytes are those of the whole frame. A super-frame that segmentation offload carries is one packet, as for the
//! kernel's own counters: what a guest hands over does not say into how many it will be cut.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use calico_ebpf_common::maps::{COUNTER_ENTRIES, Counter, PASS_COUNTERS, RULE_ENTRIES};
use calico_ebpf_common::verdict::{DropReason, PassReason};

use crate::event;
use crate::settings;
use crate::skb::Skb;

#[map]
static CEBPF_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTER_ENTRIES, 0);

#[map]
static CEBPF_RULES: PerCpuArray<Counter> = PerCpuArray::with_max_entries(RULE_ENTRIES, 0);

#[inline(always)]
pub(crate) fn count_drop(skb: &Skb, reason: DropReason) {
    event::note_fate(skb, reason as u32);
    count(&CEBPF_COUNTERS, reason as u32, skb);
}

#[inline(always)]
pub(crate) fn count_pass(skb: &Skb, reason: PassReason) {
    event::note_fate(skb, PASS_COUNTERS + reason as u32);
    count(&CEBPF_COUNTERS, PASS_COUNTERS + reason as u32, skb);
}

/// Counts a packet that is judged by the rule with this counter number; number 0 is what no rule decides.
#[inline(always)]
pub(crate) fn count_rule(skb: &Skb, rule: u32) {
    count(&CEBPF_RULES, rule, skb);
}

/// Counts a packet that goes on with a flow at the rules that allowed it: one for each end, 0 where none had a say.
#[inline(always)]
pub(crate) fn count_rules(skb: &Skb, rules: [u32; 2]) {
    for rule in rules {
        if rule != 0 {
            count(&CEBPF_RULES, rule, skb);
        }
    }
}

#[inline(always)]
fn count(map: &PerCpuArray<Counter>, index: u32, skb: &Skb) {
    if settings::dry_run() {
        return;
    }
    if let Some(counter) = map.get_ptr_mut(index) {
        // SAFETY: points to this CPU's value; the program does not migrate while it runs.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(u64::from(skb.len()));
        }
    }
}
