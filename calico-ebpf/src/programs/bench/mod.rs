//! Programs that only benchmarks load.
//!
//! BPF_PROG_TEST_RUN and the recycled frames of the XDP generator keep a packet's edits between runs, so each of
//! these programs first restores the header that forwarding changes: both MAC addresses, TTL and checksum.

mod chain;
mod churn;
mod linear;
mod parse;

use aya_ebpf::Global;
use aya_ebpf::bindings::{TC_ACT_SHOT, xdp_action};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::{TcContext, XdpContext};
use calico_ebpf_common::bench::Vary;
use calico_ebpf_common::flow::{Flow, FlowKey4};

use super::from_workload;
use crate::skb::{Plain, Skb};

/// The map of the baseline: one look-up with a 16-byte key.
#[map]
static BENCH_LOOKUP: HashMap<FlowKey4, Flow> = HashMap::with_max_entries(1024, 0);

/// The sender's MAC and the tap's, as numbers of four and two bytes in frame order.
#[unsafe(no_mangle)]
static BENCH_SOURCE_FIRST: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static BENCH_SOURCE_LAST: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static BENCH_DESTINATION_FIRST: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static BENCH_DESTINATION_LAST: Global<u32> = Global::new(0);
/// Offset of TTL or hop limit: 22 for IPv4, 21 for IPv6.
#[unsafe(no_mangle)]
static BENCH_HOP_LIMIT_OFFSET: Global<u32> = Global::new(22);
/// IPv4 checksum in frame order that goes with a TTL of 64.
#[unsafe(no_mangle)]
static BENCH_CHECKSUM: Global<u32> = Global::new(0);
/// Where `bench_redirect` sends.
#[unsafe(no_mangle)]
static BENCH_TARGET: Global<u32> = Global::new(0);
/// How each packet differs from the one before.
#[map]
static BENCH_VARY: Array<Vary> = Array::with_max_entries(1, 0);

/// Nothing but the prologue: what all others are measured against.
#[classifier]
pub(crate) fn bench_empty(context: TcContext) -> i32 {
    restore(&context);
    TC_ACT_SHOT
}

/// One look-up that hits.
#[classifier]
pub(crate) fn bench_lookup(context: TcContext) -> i32 {
    restore(&context);
    let key = FlowKey4 {
        low_port: [0, 1],
        high_port: [0, 2],
        protocol: 17,
        ..FlowKey4::default()
    };
    match BENCH_LOOKUP.get_ptr(key) {
        // SAFETY: points to a map value.
        Some(flow) => unsafe { (*flow).state.into() },
        None => TC_ACT_SHOT,
    }
}

/// `from_workload` behind the prologue.
#[classifier]
pub(crate) fn bench_from_workload(context: TcContext) -> i32 {
    restore(&context);
    from_workload::verdict(&context)
}

/// A bare redirect: the least that forwarding can cost.
#[classifier]
pub(crate) fn bench_redirect(_context: TcContext) -> i32 {
    // SAFETY: no pointers.
    unsafe { bpf_redirect(BENCH_TARGET.load(), 0) as i32 }
}

/// Passes each frame of a live-frames run to the stack, as if received.
#[xdp]
pub(crate) fn bench_generate(context: XdpContext) -> u32 {
    if write_header(context.data(), context.data_end()) {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_ABORTED
    }
}

/// The generator's own cost.
#[xdp]
pub(crate) fn bench_generate_nothing(context: XdpContext) -> u32 {
    let _ = write_header(context.data(), context.data_end());
    xdp_action::XDP_DROP
}

#[inline(always)]
fn restore(context: &TcContext) {
    let skb = Skb::new(context.skb.skb);
    let _ = write_header(skb.data(), skb.data_end());
}

/// Bytes that are written or needed: Ethernet, IPv4 and ports.
const WRITTEN: usize = 38;

#[inline(always)]
fn write_header(data: usize, data_end: usize) -> bool {
    if data + WRITTEN > data_end {
        return false;
    }
    // SAFETY: the range ends before `data_end`.
    unsafe {
        u32::store_at(data, BENCH_DESTINATION_FIRST.load());
        u16::store_at(data + 4, BENCH_DESTINATION_LAST.load() as u16);
        u32::store_at(data + 6, BENCH_SOURCE_FIRST.load());
        u16::store_at(data + 10, BENCH_SOURCE_LAST.load() as u16);
        if BENCH_HOP_LIMIT_OFFSET.load() == 22 {
            u8::store_at(data + 22, 64);
            u16::store_at(data + 24, BENCH_CHECKSUM.load() as u16);
        } else {
            u8::store_at(data + 21, 64);
        }
        if BENCH_HOP_LIMIT_OFFSET.load() == 22 {
            vary(data);
        }
    }
    true
}

/// Writes source port and destination as [`BENCH_VARY`] says.
///
/// # Safety
/// The first [`WRITTEN`] bytes at `data` may be written.
#[inline(always)]
unsafe fn vary(data: usize) {
    let Some(vary) = BENCH_VARY.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: points to a map value; one program runs at a time.
    let vary = unsafe { &mut *vary };
    let Vary { count, ports, .. } = *vary;
    vary.count = count.wrapping_add(1);
    let mut round = count;
    if ports != 0 {
        let port = vary.first_port.wrapping_add((count % u64::from(ports)) as u32);
        // SAFETY: the caller's promise.
        unsafe { u16::store_at(data + 34, (port as u16).to_be()) };
        round = count / u64::from(ports);
    }
    if vary.destinations == 0 {
        return;
    }
    let index = if vary.by_chance != 0 {
        // SplitMix64's last steps.
        let mixed = (count ^ (count >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 32) * u64::from(vary.destinations)) >> 32
    } else {
        round % u64::from(vary.destinations)
    };
    let address = vary
        .first_destination
        .wrapping_add((index as u32).wrapping_mul(vary.step));
    // SAFETY: the caller's promise.
    unsafe { u32::store_at(data + 30, address.to_be()) };
}
