//! What a plain hash map of the kernel needs for the flows that come and go.

use aya_ebpf::bindings::{BPF_ANY, TC_ACT_SHOT};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::flow::{Flow, FlowKey4};

use super::{BENCH_VARY, restore};

#[map]
static BENCH_FLOWS: HashMap<FlowKey4, Flow> = HashMap::with_max_entries(1024, 0);

/// Inserts the next key.
#[classifier]
pub(crate) fn bench_insert(context: TcContext) -> i32 {
    restore(&context);
    match BENCH_FLOWS.insert(next_key(), Flow::NONE, u64::from(BPF_ANY)) {
        Ok(()) => 0,
        Err(_) => TC_ACT_SHOT,
    }
}

/// Deletes the next key.
#[classifier]
pub(crate) fn bench_delete(context: TcContext) -> i32 {
    restore(&context);
    match BENCH_FLOWS.remove(next_key()) {
        Ok(()) => 0,
        Err(_) => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn next_key() -> FlowKey4 {
    // SAFETY: points to a map value; one program runs at a time.
    let count = BENCH_VARY.get(0).map_or(0, |vary| vary.count as u32);
    FlowKey4 {
        low_address: count.to_be_bytes(),
        high_port: [1, 187],
        protocol: 17,
        ..FlowKey4::default()
    }
}
