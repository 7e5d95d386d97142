//! The programs, one to a file.

mod answer;
#[cfg(feature = "bench")]
mod bench;
mod from_workload;
mod from_workload_clash;
mod from_workload_fragment;
mod from_workload_nat;
mod maintenance;
mod nat_error;
mod to_workload;
mod to_workload_clash;
mod to_workload_fragment;
mod to_workload_nat;

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::macros::map;
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use calico_ebpf_common::maps::UNSETTLED_ENTRIES;
use calico_ebpf_common::verdict::DropReason;

use crate::counters;
use crate::event;
use crate::settings;
use crate::skb::Skb;

/// Programs that finish what the attached ones do not settle on the fast path. They are reached by tail call: each has
/// the whole stack, and the verifier proves each by itself. The loader fills the map; an empty entry drops the packet.
#[map]
static CEBPF_UNSETTLED: ProgramArray = ProgramArray::with_max_entries(UNSETTLED_ENTRIES, 0);

/// Word that is left to say that the look-up found no flow.
const NO_FLOW: u32 = 1;

/// Hands the packet to the program at `ENTRY` of [`CEBPF_UNSETTLED`]. Comes back only if that is missing.
#[inline(always)]
fn leave_to<const ENTRY: u32>(context: &TcContext) -> DropReason {
    // SAFETY: the context is the program's own.
    unsafe { CEBPF_UNSETTLED.tail_call(context, ENTRY) };
    // Keeps the calls of a program apart: merged into one, the entry is a variable, and the jump costs 10 ns, not 2.
    #[cfg(target_arch = "bpf")]
    // SAFETY: sets a register that nothing reads.
    unsafe {
        core::arch::asm!("{0} = {1}", out(reg) _, const ENTRY, options(nomem, nostack));
    }
    DropReason::NoPolicyTable
}

/// Entries of the programs that answer what policy denies.
const ANSWER4: u32 = 22;
const ANSWER6: u32 = 23;

/// As [`drop_packet`]; what policy denies is answered, if that is wanted, and TCP to who is gone always. `back_by` is the
/// interface that the answer leaves by, to a neighbour; 0 is this one, to whom sent the packet.
#[inline(always)]
fn refuse<const ANSWER: u32>(context: &TcContext, skb: &Skb, reason: DropReason, back_by: u32) -> i32 {
    // Kept there while it is counted: the stack has no room.
    skb.leave(reason as u32);
    let verdict = drop_packet(skb, reason);
    let is_policy =
        skb.left() == DropReason::EgressPolicy as u32 || skb.left() == DropReason::IngressPolicy as u32;
    let is_gone = skb.left() == DropReason::WorkloadGone as u32;
    if (settings::answer_denied() && is_policy || is_gone) && !settings::dry_run() {
        skb.leave(back_by);
        leave_to::<ANSWER>(context);
    }
    verdict
}

/// Counts a refused packet and returns the verdict for it. Neither answers nor logs: for the programs that come next to
/// the 1,000,000 instructions that Linux 6.1 follows.
#[inline(always)]
fn drop_silently(skb: &Skb, reason: DropReason) -> i32 {
    counters::count_drop(skb, reason);
    event::dropped(skb, reason);
    TC_ACT_SHOT
}

/// Counts a refused packet and returns the verdict for it.
#[inline(always)]
fn drop_packet(skb: &Skb, reason: DropReason) -> i32 {
    let verdict = drop_silently(skb, reason);
    if settings::debug_log() {
        let context = TcContext::new(skb.raw());
        debug!(
            &context,
            "drop reason={} ifindex={} bytes={}",
            reason as u32,
            skb.ifindex(),
            skb.len()
        );
    }
    verdict
}
