#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers are packed into registers and taken apart"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's macros hand the context over by value"
)]
//! The TC programs of calico-ebpf.
//!
//! `from_workload` sits on TC ingress of each tap and judges what the workload sends; `to_workload` sits on TC
//! egress and judges what reaches the tap without having been judged. Both return `TC_ACT_UNSPEC` for what they let
//! pass, so that programs attached behind them still run.

mod announcement;
mod answer;
mod antispoof;
mod conntrack;
mod counters;
mod event;
mod family;
mod flow_tables;
mod forward;
mod fragments;
mod host;
mod judgement;
mod moved_port;
mod nat;
#[cfg(feature = "on-host")]
pub mod on_host;
mod packet;
mod parse;
mod policy;
mod programs;
mod quotas;
mod related;
mod rewrite;
mod scratch;
mod segment;
mod settings;
mod skb;
mod tables;
mod tombstones;
mod windows;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs use the helpers needed here.
#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(any(target_arch = "bpf", feature = "on-host")))]
fn main() {}
