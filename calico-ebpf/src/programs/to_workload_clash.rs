//! What reaches a workload with external addresses when another flow has its tuple behind the translation: who comes
//! second gets another source port (see [`calico_ebpf_common::moved_port`]).

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::moved_port::{NAT_PORT_ONLY, moved_flags};
use calico_ebpf_common::verdict::DropReason;

use super::to_workload::Receiver;
use super::to_workload_nat::{judge_received, passed};
use super::{ANSWER4, ANSWER6, refuse};
use crate::conntrack;
use crate::counters;
use crate::family::{V4, V6};
use crate::forward::{self, Action};
use crate::moved_port;
use crate::rewrite::{NewPort, Rewrite, translate_with};
use crate::skb::Skb;
use crate::tables::Tables;

/// Moves the port of what has no tuple of its own.
#[classifier]
pub(crate) fn to_workload_clash4(context: TcContext) -> i32 {
    verdict::<V4, ANSWER4>(&context)
}

/// As [`to_workload_clash4`], for IPv6.
#[classifier]
pub(crate) fn to_workload_clash6(context: TcContext) -> i32 {
    verdict::<V6, ANSWER6>(&context)
}

#[inline(always)]
fn verdict<F: Rewrite, const ANSWER: u32>(context: &TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_clash::<F>(&skb) {
        Ok(action) => action,
        Err(reason) => refuse::<ANSWER>(context, &skb, reason, skb.ingress_ifindex()),
    }
}

#[inline(always)]
fn try_clash<F: Rewrite>(skb: &Skb) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let receiver = Receiver::of(&tables, skb)?;
    let packet = F::parse(skb)?.forget_way(skb);
    let by_host = skb.ingress_ifindex() == 0;
    let entry = F::address_entry(&tables, packet.destination)?;
    let (internal, tag, line) = match tables.nat(entry.slot) {
        Some(nat) if nat.slot != receiver.slot => return Err(DropReason::NatUnknown),
        Some(nat) => (
            F::from_halves(nat.internal),
            nat.tag,
            tables.line_of_nat(entry.slot),
        ),
        None => (packet.destination, NAT_PORT_ONLY, 0),
    };
    let packet = packet.translated_to(internal);
    let own = conntrack::look_up(&packet);
    if own.flow().is_some_and(|flow| !own.place(&flow).original) {
        return Err(DropReason::NatClash);
    }
    let found = moved_port::find(&packet, tag);
    let place = found.taken().or(found.free()).ok_or(DropReason::NatClash)?;
    let moved = packet.moved_to(place);
    let mut seen = conntrack::look_up(&moved);
    let flow = seen.flow_aside();
    let goes_on = match flow {
        Some(flow) => {
            let stands = seen.place(flow);
            stands.destination_slot == receiver.slot
                && stands.destination_generation == receiver.endpoint.generation
                && !conntrack::is_syn(&packet)
        }
        None => false,
    };
    if goes_on && let Some(flow) = flow {
        seen.carry_on(skb, flow, &packet, true);
        counters::count_rules(skb, flow.rule);
    } else {
        let mut judged = judge_received(skb, &tables, &receiver, &packet, &mut seen, flow, by_host)?;
        judged.nat = tag;
        judged.flags |= moved_flags(place);
        if !seen.open_translated(skb, &packet, &judged) {
            return Err(DropReason::FlowTableFull);
        }
    }
    let port = NewPort::source(moved.source_port);
    translate_with(skb, &packet, line, 0, port)?;
    Ok(forward::to_stack(skb, passed(by_host)))
}
