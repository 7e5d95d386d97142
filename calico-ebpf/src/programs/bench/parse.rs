//! Tells what the parser understood of a packet: one program to each way of reading, on any hook.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::parsed::{Parsed, reader};

use crate::parse::tell::tell;
use crate::skb::Skb;

/// What the last packet was understood as, by reader.
#[map]
static BENCH_PARSED: Array<Parsed> = Array::with_max_entries(reader::COUNT, 0);

#[classifier]
pub(crate) fn bench_parse_whole(context: TcContext) -> i32 {
    note::<{ reader::WHOLE }>(&context)
}

#[classifier]
pub(crate) fn bench_parse_with_ports(context: TcContext) -> i32 {
    note::<{ reader::WITH_PORTS }>(&context)
}

#[classifier]
pub(crate) fn bench_parse_fragment(context: TcContext) -> i32 {
    note::<{ reader::FRAGMENT }>(&context)
}

#[classifier]
pub(crate) fn bench_parse_quoted(context: TcContext) -> i32 {
    note::<{ reader::QUOTED }>(&context)
}

#[classifier]
pub(crate) fn bench_parse_arp(context: TcContext) -> i32 {
    note::<{ reader::ARP }>(&context)
}

#[inline(always)]
fn note<const READER: u32>(context: &TcContext) -> i32 {
    if let Some(place) = BENCH_PARSED.get_ptr_mut(READER) {
        // SAFETY: points to a map value; one packet is read at a time.
        let parsed = unsafe { &mut *place };
        *parsed = Parsed::default();
        tell::<READER>(&Skb::new(context.skb.skb), parsed);
    }
    TC_ACT_UNSPEC
}
