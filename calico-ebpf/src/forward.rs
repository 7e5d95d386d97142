//! Sending a judged packet on.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::bpf_redirect;
use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::verdict::{DropReason, PassReason};

use crate::counters;
use crate::family::Family;
use crate::packet::Packet;
use crate::parse::ethernet::ETHERNET_BYTES;
use crate::parse::transport;
use crate::settings;
use crate::skb::{Mac, Skb};

/// A TC verdict of a packet that may go on.
pub(crate) type Action = i32;

/// Hands the packet to the next program and the host stack as it is. It bears no mark: should the stack route it to a
/// workload after all (an address pair that is a prefix), that workload's ingress policy is still to be judged.
#[inline(always)]
pub(crate) fn to_stack(skb: &Skb, reason: PassReason) -> Action {
    counters::count_pass(skb, reason);
    TC_ACT_UNSPEC as Action
}

/// Returns why the host stack is to send the packet on, or to answer it, so that `traceroute` and path MTU discovery see
/// this host: its TTL or hop limit is spent, or the target's tap does not take packets of its length.
#[inline(always)]
pub(crate) fn is_for_stack<F: Family>(
    skb: &Skb,
    packet: &Packet<F>,
    target: &Endpoint,
) -> Option<PassReason> {
    if packet.hop_limit <= 1 {
        return Some(PassReason::TtlExceeded);
    }
    if longest(skb, packet) > u32::from(target.mtu) {
        return Some(PassReason::PacketTooBig);
    }
    None
}

/// Returns the bytes of the packet, of the longest segment if it is to be cut into segments, without the Ethernet header.
#[inline(always)]
fn longest<F: Family>(skb: &Skb, packet: &Packet<F>) -> u32 {
    let segment = skb.gso_size();
    if segment == 0 {
        return skb.len() - ETHERNET_BYTES as u32;
    }
    let headers = packet.transport_offset as u32 - ETHERNET_BYTES as u32;
    headers + transport::header_bytes(skb, packet) + segment
}

/// Sends the packet out of a local workload's tap, unless the [stack](is_for_stack) is to do that.
#[inline(always)]
pub(crate) fn to_workload<F: Family>(
    skb: &Skb,
    packet: &Packet<F>,
    target: &Endpoint,
    reason: PassReason,
) -> Result<Action, DropReason> {
    if target.ifindex == 0 {
        return Err(DropReason::TargetNotReady);
    }
    if let Some(reason) = is_for_stack(skb, packet, target) {
        return Ok(to_stack(skb, reason));
    }
    skb.store_mac(0, Mac::of(&target.mac))?;
    skb.store_mac(6, Mac::of(&target.host_mac))?;
    F::decrement_hop_limit(skb)?;
    skb.set_mark(skb.mark() | settings::judged_mark());
    counters::count_pass(skb, reason);
    // SAFETY: no pointers; flags 0 is egress.
    Ok(unsafe { bpf_redirect(target.ifindex, 0) } as Action)
}
