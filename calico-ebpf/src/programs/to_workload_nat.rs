//! What reaches the tap of a workload with external addresses, or from the metadata service, and has no plain flow. All
//! else is judged as it is.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::endpoint::SLOT_NONE;
use calico_ebpf_common::flow::{Flow, NAT_METADATA};
use calico_ebpf_common::moved_port::NAT_PORT_ONLY;
use calico_ebpf_common::nat::Nat;
use calico_ebpf_common::verdict::{DropReason, PassReason};

use super::to_workload::{REMOTE, Receiver, UNSETTLED4, UNSETTLED6, track};
use super::{ANSWER4, ANSWER6, NO_FLOW, leave_to, refuse};
use crate::conntrack::{self, Meaning, Seen};
use crate::counters;
use crate::family::{V4, V6};
use crate::forward::{self, Action};
use crate::host;
use crate::judgement::{End, Judged, check_opens, is_kept, judge, note_kept};
use crate::nat;
use crate::packet::{Packet, PacketKind};
use crate::policy::Classes;
use crate::rewrite::{self, Rewrite, translate};
use crate::skb::Skb;
use crate::tables::Tables;

/// Entries of the programs for packets whose tuple behind the translation another flow has.
const CLASH4: u32 = 16;
const CLASH6: u32 = 17;

/// Translates and judges what has no plain flow.
#[classifier]
pub(crate) fn to_workload_nat4(context: TcContext) -> i32 {
    verdict::<V4, UNSETTLED4, CLASH4, ANSWER4>(&context)
}

/// As [`to_workload_nat4`], for IPv6.
#[classifier]
pub(crate) fn to_workload_nat6(context: TcContext) -> i32 {
    verdict::<V6, UNSETTLED6, CLASH6, ANSWER6>(&context)
}

#[inline(always)]
fn verdict<F: Rewrite, const UNSETTLED: u32, const CLASH: u32, const ANSWER: u32>(
    context: &TcContext,
) -> i32 {
    let skb = Skb::new(context.skb.skb);
    let reason = match try_nat::<F, UNSETTLED>(context, &skb) {
        Ok(action) => return action,
        Err(DropReason::NatClash) => leave_to::<CLASH>(context),
        Err(reason) => reason,
    };
    refuse::<ANSWER>(context, &skb, reason, skb.ingress_ifindex())
}

#[inline(always)]
fn try_nat<F: Rewrite, const UNSETTLED: u32>(context: &TcContext, skb: &Skb) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let receiver = Receiver::of(&tables, skb)?;
    let packet = F::parse(skb)?.forget_way(skb);
    let by_host = skb.ingress_ifindex() == 0;
    let entry = F::address_entry(&tables, packet.destination)?;
    if let Some(nat) = tables.nat(entry.slot) {
        to_external(skb, &tables, &receiver, &packet, nat, by_host)?;
        translate(skb, &packet, tables.line_of_nat(entry.slot), 0)?;
        return Ok(forward::to_stack(skb, passed(by_host)));
    }
    let translated = packet.translated_to(packet.destination);
    let seen = conntrack::look_up(&translated);
    if let Some(flow) = seen.flow_aside() {
        let place = seen.place(flow);
        let is_answer =
            !place.original && flow.nat == NAT_METADATA && place.destination_slot == receiver.slot;
        if is_answer && F::is_from_metadata(&packet) {
            return from_metadata(skb, &packet, &seen, flow);
        }
        nat::end_if_closed(&seen, flow)?;
    }
    if receiver.endpoint.has_nats() {
        nat::check_not_moved(&translated, NAT_PORT_ONLY)?;
    }
    if by_host {
        track(skb, &receiver, &packet, &conntrack::look_up_unless(&packet, true));
        return Ok(forward::to_stack(skb, PassReason::FromHost));
    }
    skb.leave(NO_FLOW);
    Err(leave_to::<UNSETTLED>(context))
}

/// Returns what a packet counts as that is let pass.
#[inline(always)]
pub(super) fn passed(by_host: bool) -> PassReason {
    if by_host {
        PassReason::FromHost
    } else {
        PassReason::FromRemote
    }
}

/// The answer of the metadata service: it comes from where the workload knows it.
#[inline(always)]
fn from_metadata<F: Rewrite>(
    skb: &Skb,
    packet: &Packet<F>,
    seen: &Seen<F>,
    flow: &Flow,
) -> Result<Action, DropReason> {
    seen.carry_on(skb, flow, packet, false);
    rewrite::from_metadata(skb, packet)?;
    Ok(forward::to_stack(skb, PassReason::Metadata))
}

/// Judges what goes to an external address of the workload, from the host or from elsewhere.
#[inline(always)]
fn to_external<F: Rewrite>(
    skb: &Skb,
    tables: &Tables,
    receiver: &Receiver<'_>,
    packet: &Packet<F>,
    nat: &Nat,
    by_host: bool,
) -> Result<(), DropReason> {
    if nat.slot != receiver.slot {
        return Err(DropReason::NatUnknown);
    }
    let internal = F::from_halves(nat.internal);
    let translated = packet.translated_to(internal);
    let mut seen = conntrack::look_up(&translated);
    let mut flow = seen.flow_aside();
    if let Some(found) = flow {
        let place = seen.place(found);
        if !place.original || found.nat != nat.tag || found.moved_place().is_some() {
            if !conntrack::is_syn(packet) {
                return Err(DropReason::NatClash);
            }
            nat::end_if_closed(&seen, found)?;
            flow = None;
        } else if place.destination_slot == receiver.slot
            && place.destination_generation == receiver.endpoint.generation
            && !conntrack::is_syn(packet)
        {
            seen.carry_on(skb, found, packet, true);
            counters::count_rules(skb, found.rule);
            return Ok(());
        }
    }
    if flow.is_none() {
        nat::check_not_moved(&translated, nat.tag)?;
    }
    let mut entry = judge_received(skb, tables, receiver, &translated, &mut seen, flow, by_host)?;
    entry.nat = nat.tag;
    if seen.open_translated(skb, packet, &entry) {
        Ok(())
    } else {
        Err(DropReason::FlowTableFull)
    }
}

/// Judges the packet by its translated tuple. What the host itself sends is allowed. Returns the flow's entry.
#[inline(always)]
pub(super) fn judge_received<F: Rewrite>(
    skb: &Skb,
    tables: &Tables,
    receiver: &Receiver<'_>,
    packet: &Packet<F>,
    seen: &mut Seen<F>,
    flow: Option<&Flow>,
    by_host: bool,
) -> Result<Flow, DropReason> {
    let me = End::of_endpoint(receiver.slot, receiver.endpoint);
    let kept = match flow {
        Some(flow) if conntrack::meaning(packet, flow, &seen.place(flow)) == Meaning::Continues => Some(flow),
        _ => None,
    };
    if kept.is_none() {
        if packet.kind == PacketKind::IcmpReply {
            return Err(DropReason::NoFlow);
        }
        if !by_host {
            if host::has_dhcp_client_ports(packet) {
                return Err(DropReason::DhcpServer);
            }
            check_opens(packet, REMOTE, me)?;
        }
        nat::supersede(seen)?;
    }
    let judged = if by_host {
        Judged::by_host(me)
    } else {
        if let Some(flow) = kept {
            note_kept(tables, &seen.place(flow));
        }
        let is_kept = kept.is_some() && is_kept(SLOT_NONE, receiver.slot);
        let classes = Classes::of(tables, packet, false)?;
        match judge(skb, packet, false, &classes, REMOTE, me, is_kept) {
            Ok(judged) => judged,
            Err(reason) => {
                seen.close();
                return Err(reason);
            }
        }
    };
    Ok(judged.flow(packet, seen, kept, true, false))
}
