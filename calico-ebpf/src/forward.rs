//! Sending a judged packet on.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::bpf_redirect;
use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::verdict::{DropReason, PassReason};

use crate::counters;
use crate::family::Family;
use crate::packet::Packet;
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

/// Sends the packet out of a local workload's tap. A packet whose TTL or hop limit is spent goes to the stack, which
/// answers it, so that `traceroute` sees this host.
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
    if packet.hop_limit <= 1 {
        return Ok(to_stack(skb, PassReason::TtlExceeded));
    }
    skb.store_mac(0, Mac::of(&target.mac))?;
    skb.store_mac(6, Mac::of(&target.host_mac))?;
    F::decrement_hop_limit(skb)?;
    skb.set_mark(skb.mark() | settings::judged_mark());
    counters::count_pass(skb, reason);
    // SAFETY: no pointers; flags 0 is egress.
    Ok(unsafe { bpf_redirect(target.ifindex, 0) } as Action)
}
