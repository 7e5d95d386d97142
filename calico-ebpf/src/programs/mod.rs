//! The programs, one to a file.

#[cfg(feature = "bench")]
mod bench;
mod from_workload;
mod maintenance;
mod to_workload;

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use calico_ebpf_common::verdict::DropReason;

use crate::counters;
use crate::settings;
use crate::skb::Skb;

/// Counts a refused packet and returns the verdict for it.
#[inline(always)]
fn drop_packet(skb: &Skb, reason: DropReason) -> i32 {
    counters::count_drop(skb, reason);
    if settings::debug_log() {
        let context = TcContext::new(skb.raw());
        debug!(&context, "drop reason={} ifindex={} bytes={}", reason as u32, skb.ifindex(), skb.len());
    }
    TC_ACT_SHOT
}
