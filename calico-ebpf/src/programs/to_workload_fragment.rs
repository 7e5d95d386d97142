//! Fragments that reach a tap without having been judged: from other hosts, from outside, or from the host itself.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::fragment::TO_WORKLOAD;
use calico_ebpf_common::nat::is_nat_slot;
use calico_ebpf_common::verdict::{DropReason, PassReason};

use super::from_workload_fragment::{check_can_be_judged, check_is_not_translated, note_kept_first};
use super::to_workload::{Receiver, UNSETTLED4, UNSETTLED6, track};
use super::{drop_packet, leave_to};
use crate::conntrack;
use crate::counters;
use crate::family::{Family, V4, V6};
use crate::forward::{self, Action};
use crate::fragments::{Fragment, Part};
use crate::packet::{Packet, PacketKind};
use crate::skb::Skb;
use crate::tables::Tables;

/// Judges a fragment.
#[classifier]
pub(crate) fn to_workload_fragment4(context: TcContext) -> i32 {
    verdict::<V4, UNSETTLED4>(&context)
}

/// As [`to_workload_fragment4`], for IPv6.
#[classifier]
pub(crate) fn to_workload_fragment6(context: TcContext) -> i32 {
    verdict::<V6, UNSETTLED6>(&context)
}

#[inline(always)]
fn verdict<F: Family, const UNSETTLED: u32>(context: &TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_fragment::<F, UNSETTLED>(context, &skb) {
        Ok(action) => action,
        Err(reason) => drop_packet(&skb, reason),
    }
}

#[inline(always)]
fn try_fragment<F: Family, const UNSETTLED: u32>(
    context: &TcContext,
    skb: &Skb,
) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let receiver = Receiver::of(&tables, skb)?;
    if skb.ingress_ifindex() == 0 {
        if let Ok((packet, fragment)) = F::parse_fragment(skb) {
            track_first(skb, &receiver, &packet, fragment);
        }
        return Ok(forward::to_stack(skb, PassReason::FromHost));
    }
    let (packet, fragment) = F::parse_fragment(skb)?;
    let packet = packet.forget_way(skb);
    let mut part = Part::of(&packet, fragment, receiver.slot, TO_WORKLOAD);
    if fragment.is_first() {
        let entry = F::address_entry(&tables, packet.destination)?;
        if is_nat_slot(entry.slot) || F::is_from_metadata(&packet) {
            return Err(DropReason::Fragment);
        }
        check_can_be_judged(&packet)?;
        check_is_not_translated(&packet, Some(receiver.endpoint))?;
        note_kept_first(&tables, &packet);
        // Without a flow, because it is refused, the others find none.
        part.remember()?;
        skb.leave(0);
        return Err(leave_to::<UNSETTLED>(context));
    }
    let packet = part.follow(&packet)?;
    let seen = conntrack::look_up(&packet);
    let flow = seen.flow().ok_or(DropReason::FragmentWithoutFirst)?;
    let place = seen.place(&flow);
    if place.destination_slot != receiver.slot || place.destination_generation != receiver.endpoint.generation
    {
        return Err(DropReason::FragmentWithoutFirst);
    }
    seen.touch(skb, &flow, &packet, place.original);
    counters::count_rules(skb, flow.rule);
    Ok(forward::to_stack(skb, PassReason::FromRemote))
}

/// Keeps the flow of what the host sends in fragments, so that the workload's answers pass.
#[inline(always)]
fn track_first<F: Family>(skb: &Skb, receiver: &Receiver<'_>, packet: &Packet<F>, fragment: Fragment) {
    let is_query = match packet.kind {
        PacketKind::Plain | PacketKind::IcmpQuery | PacketKind::IcmpReply => true,
        PacketKind::Neighbor | PacketKind::IcmpError => false,
    };
    if fragment.is_first() && is_query {
        track(skb, receiver, packet, &conntrack::look_up(packet));
    }
}
