//! A dataplane that walks rules: what the tables are measured against.
//!
//! As rivals do, each rule with a set costs one look-up in an LPM trie that all sets share. Apart from how it judges it
//! does less than ours: no anti-spoofing, no rewriting, nothing is counted.

use aya_ebpf::Global;
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, LpmTrie, lpm_trie::Key};
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::bench::{LINEAR_CHUNK, LINEAR_RULES, LinearRule};
use calico_ebpf_common::flow::{FLOW_ORIGIN_LOW, Flow};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use super::BENCH_TARGET;
use crate::conntrack;
use crate::family::{Family, V4};
use crate::parse::ethernet::{self, EtherType};
use crate::skb::Skb;

#[map]
static BENCH_LINEAR: Array<LinearRule> = Array::with_max_entries(LINEAR_RULES, 0);

/// Number of a set and an address in network byte order.
#[map]
static BENCH_LINEAR_SETS: LpmTrie<[u32; 2], u32> = LpmTrie::with_max_entries(131_072, 0);

#[unsafe(no_mangle)]
static BENCH_LINEAR_COUNT: Global<u32> = Global::new(0);

/// Judges by the rules in order, for the sender and for the receiver, tracks the flow, and redirects.
#[classifier]
pub(crate) fn bench_linear(context: TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_linear(&skb) {
        Ok(action) => action,
        Err(_) => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn try_linear(skb: &Skb) -> Result<i32, DropReason> {
    skb.make_headers_linear();
    let (_, ethertype) = ethernet::parse(skb)?;
    if ethertype != EtherType::Ipv4 {
        return Err(DropReason::Malformed);
    }
    let packet = V4::parse(skb)?;
    let seen = conntrack::look_up(&packet);
    if seen.flow().is_none() {
        let port = u32::from(packet.destination_port);
        if packet.protocol != protocol::UDP || !walk(packet.destination, port) || !walk(packet.source, port) {
            return Err(DropReason::EgressPolicy);
        }
        let now = conntrack::now();
        let flow = Flow {
            last_seen: now,
            created: now,
            flags: if seen.source_is_low { FLOW_ORIGIN_LOW } else { 0 },
            ..Flow::NONE
        };
        if !seen.open(skb, &packet, &flow) {
            return Err(DropReason::NoFlow);
        }
    }
    // SAFETY: no pointers.
    Ok(unsafe { bpf_redirect(BENCH_TARGET.load(), 0) as i32 })
}

/// Returns whether a rule allows a peer.
#[inline(always)]
fn walk(peer: u32, port: u32) -> bool {
    let count = BENCH_LINEAR_COUNT.load();
    for chunk in 0..LINEAR_RULES / LINEAR_CHUNK {
        let first = chunk * LINEAR_CHUNK;
        if first >= count {
            break;
        }
        if bench_walk(first, count, peer, port) != 0 {
            return true;
        }
    }
    false
}

/// Returns 1 if one of the [`LINEAR_CHUNK`] rules from `first` on allows a peer. Global, so that the verifier proves it
/// once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn bench_walk(first: u32, count: u32, peer: u32, port: u32) -> u32 {
    for index in 0..LINEAR_CHUNK {
        let number = first.wrapping_add(index);
        if number >= count {
            break;
        }
        let Some(rule) = BENCH_LINEAR.get(number) else {
            break;
        };
        if peer & rule.mask != rule.net {
            continue;
        }
        if rule.set != 0 {
            let key = Key::new(64, [rule.set.to_be(), peer.to_be()]);
            if BENCH_LINEAR_SETS.get(&key).is_none() {
                continue;
            }
        }
        if port >= u32::from(rule.first_port) && port <= u32::from(rule.last_port) {
            return 1;
        }
    }
    0
}
