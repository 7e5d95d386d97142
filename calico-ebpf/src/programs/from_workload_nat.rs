//! What a workload sends and the fast path finds no flow for, on hosts that translate: to the metadata service, to an
//! external address, or the answer to what came by one. All else is judged as it is.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::endpoint::{Endpoint, SLOT_HOST, SLOT_NONE, SOURCE_ANY_MAC};
use calico_ebpf_common::flow::{Flow, NAT_METADATA};
use calico_ebpf_common::moved_port::NAT_PORT_ONLY;
use calico_ebpf_common::nat::{NAT_LOWEST, Nat};
use calico_ebpf_common::tombstone::{RESETS, WAITS};
use calico_ebpf_common::verdict::{DropReason, PassReason};

use super::from_workload::{
    Sender, UNSETTLED4, UNSETTLED6, check_source, current_destination, is_current, send,
};
use super::{ANSWER4, ANSWER6, NO_FLOW, leave_to, refuse};
use crate::antispoof;
use crate::conntrack::{self, Meaning, Seen};
use crate::counters;
use crate::family::{V4, V6};
use crate::forward::{self, Action};
use crate::host;
use crate::judgement::{End, Judged, check_opens, is_kept, judge, note_kept};
use crate::nat;
use crate::packet::Packet;
use crate::policy::Classes;
use crate::rewrite::{self, Rewrite, translate};
use crate::skb::Skb;
use crate::tables::{self, Tables};
use crate::tombstones;

/// Entries of the programs for packets whose tuple behind the translation another flow has.
const CLASH4: u32 = 14;
const CLASH6: u32 = 15;

/// Translates and judges what has no plain flow.
#[classifier]
pub(crate) fn from_workload_nat4(context: TcContext) -> i32 {
    verdict::<V4, UNSETTLED4, CLASH4, ANSWER4>(&context)
}

/// As [`from_workload_nat4`], for IPv6.
#[classifier]
pub(crate) fn from_workload_nat6(context: TcContext) -> i32 {
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
    refuse::<ANSWER>(context, &skb, reason, 0)
}

#[inline(always)]
fn try_nat<F: Rewrite, const UNSETTLED: u32>(context: &TcContext, skb: &Skb) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let sender = Sender::of(&tables, skb)?;
    let packet = F::parse(skb)?.forget_way(skb);
    if F::is_to_metadata(&packet) {
        return to_metadata(skb, &tables, &sender, &packet);
    }
    let entry = F::address_entry(&tables, packet.destination)?;
    let nat = tables.nat(entry.slot);
    let packet = packet.translated_to(match nat {
        Some(nat) => F::from_halves(nat.internal),
        None => packet.destination,
    });
    let (mut seen, flow) = conntrack::look_up_forgetting(&packet);
    let translation = match (nat, flow) {
        (Some(nat), flow) => {
            let line = tables.line_of_nat(entry.slot);
            to_external(&sender, &packet, &seen, flow, nat, line)?
        }
        (None, Some(flow)) if flow.moved_place().is_some() => return Err(DropReason::NatClash),
        (None, Some(flow)) if is_answer(&packet, &seen, flow) => answer(&sender, &packet, &seen, flow)?,
        (None, flow) => {
            if let Some(flow) = flow {
                nat::end_if_closed(&seen, flow)?;
            }
            if tables.endpoint(entry.slot).is_some_and(Endpoint::has_nats) {
                nat::check_not_moved(&packet, NAT_PORT_ONLY)?;
            }
            skb.leave(NO_FLOW);
            return Err(leave_to::<UNSETTLED>(context));
        }
    };
    let flow = match flow {
        Some(flow) if translation.continues => Some(flow),
        _ => None,
    };
    // By which of the ways the packet came here is forgotten: see `Packet::forget_way`.
    let translation = Translation {
        tag: skb.forget::<1>(u32::from(translation.tag)) as u16,
        source: skb.forget::<2>(translation.source),
        destination: skb.forget::<3>(translation.destination),
        continues: true,
        moved: 0,
    };
    let end = carry(skb, &tables, &sender, &packet, &translation, &mut seen, flow)?;
    if let Some(target) = end.endpoint
        && let Some(reason) = forward::is_for_stack(skb, &packet, target)
    {
        // As it came: the error that the host answers with quotes what the workload sent.
        return Ok(forward::to_stack(skb, reason));
    }
    translate(skb, &packet, translation.destination, translation.source)?;
    send(skb, &packet, end)
}

/// How a packet is translated, its destination apart.
pub(super) struct Translation {
    /// By which external address its flow came in.
    pub(super) tag: u16,
    /// `FLOW_*` bits of its flow that say how the source port was moved.
    pub(super) moved: u8,
    /// Line of the translation whose external address becomes its source; 0 if that stays.
    pub(super) source: u32,
    /// Line of the translation whose internal address becomes its destination; 0 if that stays.
    pub(super) destination: u32,
    /// Whether the flow that was found is the packet's.
    pub(super) continues: bool,
}

/// To an external address of a workload here, which may be the sender itself.
#[inline(always)]
fn to_external<F: Rewrite>(
    sender: &Sender<'_>,
    packet: &Packet<F>,
    seen: &Seen<F>,
    flow: Option<&Flow>,
    nat: &Nat,
    line: u32,
) -> Result<Translation, DropReason> {
    let own = nat.slot == sender.slot && packet.source == packet.destination;
    // What a workload sends to itself comes from its lowest external address; what answers comes from the one that
    // was asked.
    let mut translation = Translation {
        tag: nat.tag,
        moved: 0,
        source: if own {
            nat::external_line::<F>(sender.endpoint, packet.source, 0)?
        } else {
            0
        },
        destination: line,
        continues: false,
    };
    let Some(flow) = flow else {
        nat::check_not_moved(packet, nat.tag)?;
        return Ok(translation);
    };
    let original = seen.place(flow).original;
    if flow.moved_place().is_some() {
        return Err(DropReason::NatClash);
    }
    if !original && own && nat.flags & NAT_LOWEST != 0 {
        translation.tag = flow.nat;
        translation.source = nat::external_line::<F>(sender.endpoint, packet.source, flow.nat)?;
        translation.continues = true;
    } else if original && flow.nat == nat.tag {
        translation.continues = true;
    } else if conntrack::is_syn(packet) {
        nat::end_if_closed(seen, flow)?;
        nat::check_not_moved(packet, nat.tag)?;
    } else {
        return Err(DropReason::NatClash);
    }
    Ok(translation)
}

/// Returns whether the packet answers what came by an external address.
#[inline(always)]
fn is_answer<F: Rewrite>(packet: &Packet<F>, seen: &Seen<F>, flow: &Flow) -> bool {
    !seen.place(flow).original && flow.nat != NAT_METADATA && !conntrack::is_syn(packet)
}

/// An answer to what came by an external address: it comes from there.
#[inline(always)]
pub(super) fn answer<F: Rewrite>(
    sender: &Sender<'_>,
    packet: &Packet<F>,
    seen: &Seen<F>,
    flow: &Flow,
) -> Result<Translation, DropReason> {
    match nat::external_line::<F>(sender.endpoint, packet.source, flow.nat) {
        Ok(source) => Ok(Translation {
            tag: flow.nat,
            moved: 0,
            source,
            destination: 0,
            continues: true,
        }),
        Err(reason) => {
            seen.close();
            Err(reason)
        }
    }
}

/// Lets the packet go on with its flow, or judges it. Returns its destination.
#[inline(always)]
pub(super) fn carry<'a, F: Rewrite>(
    skb: &Skb,
    tables: &'a Tables,
    sender: &Sender<'a>,
    packet: &Packet<F>,
    translation: &Translation,
    seen: &mut Seen<F>,
    flow: Option<&Flow>,
) -> Result<End<'a>, DropReason> {
    if let Some(flow) = flow {
        let place = seen.place(flow);
        if is_current(sender, flow, &place)
            && !conntrack::is_syn(packet)
            && let Some(end) = current_destination(tables, &place)
        {
            seen.carry_on(skb, flow, packet, place.original);
            counters::count_rules(skb, flow.rule);
            return Ok(end);
        }
        note_kept(tables, &place);
    }
    judge_translated(skb, tables, packet, translation, seen, flow)
}

/// Judges the packet by its translated tuple as the first of a flow, or a flow again by its first packet. Returns the
/// destination. Without room for the flow nothing goes: its answers could not be translated back.
#[inline(always)]
fn judge_translated<'a, F: Rewrite>(
    skb: &Skb,
    tables: &'a Tables,
    packet: &Packet<F>,
    translation: &Translation,
    seen: &mut Seen<F>,
    flow: Option<&Flow>,
) -> Result<End<'a>, DropReason> {
    if host::is_dhcp_server(packet) || host::has_dhcp_client_ports(packet) {
        return Err(DropReason::DhcpServer);
    }
    let (meaning, original) = match flow {
        Some(flow) => {
            let place = seen.place(flow);
            (conntrack::meaning(packet, flow, &place), place.original)
        }
        None => (Meaning::Opens, true),
    };
    if meaning == Meaning::Aside {
        return Err(DropReason::NatClash);
    }
    let forward = original || meaning == Meaning::Opens;
    let classes = Classes::one_by_one(tables, packet, !forward)?;
    let (my_entry, mut peer_entry) = if forward {
        (classes.source, classes.destination)
    } else {
        (classes.destination, classes.source)
    };
    // Looked up again: the stack is too small to keep it.
    let sender = &Sender::of(tables, skb)?;
    let any_mac = check_source(sender, packet, my_entry)?;
    host::check_destination::<F>(packet.destination, peer_entry.slot)?;
    let me = End::of_endpoint(sender.slot, sender.endpoint);
    if let Some(nat) = tables::nat_at_line(translation.destination) {
        peer_entry.slot = nat.slot;
    }
    let peer = End::of_address(tables, peer_entry);
    if meaning == Meaning::Opens {
        check_opens(packet, me, peer)?;
        nat::supersede(seen)?;
    }
    let kept = if meaning == Meaning::Continues { flow } else { None };
    let tombstone = tombstones::effect(packet, kept, original, peer);
    if tombstone == RESETS {
        if let Some(flow) = kept {
            seen.reset(skb, packet, flow);
        }
        return Err(DropReason::WorkloadGone);
    }
    if tombstone == WAITS {
        seen.keep();
    }
    let (originator, responder) = if forward { (me, peer) } else { (peer, me) };
    let is_kept = meaning == Meaning::Continues && is_kept(me.slot, peer.slot);
    let judged = match judge(skb, packet, !forward, &classes, originator, responder, is_kept) {
        Ok(judged) => judged,
        Err(reason) => {
            seen.close();
            return Err(reason);
        }
    };
    let mut entry = judged.flow(packet, seen, kept, forward, any_mac);
    if tombstone == WAITS
        && let Some(flow) = kept
    {
        tombstones::keep_other_end(&mut entry, flow, original);
    }
    entry.nat = translation.tag;
    entry.flags |= translation.moved;
    if seen.open_translated(skb, packet, &entry) {
        Ok(peer)
    } else {
        Err(DropReason::FlowTableFull)
    }
}

/// To the metadata service, which every workload may always reach (contract 3.4).
#[inline(always)]
fn to_metadata<F: Rewrite>(
    skb: &Skb,
    tables: &Tables,
    sender: &Sender<'_>,
    packet: &Packet<F>,
) -> Result<Action, DropReason> {
    let translated = F::at_metadata(packet);
    let mut seen = conntrack::look_up(&translated);
    let mut kept = None;
    if let Some(flow) = seen.flow() {
        let place = seen.place(&flow);
        if !place.original || flow.nat != NAT_METADATA {
            nat::end_if_closed(&seen, &flow)?;
        } else if !conntrack::is_syn(packet) {
            if is_current(sender, &flow, &place) {
                seen.carry_on(skb, &flow, packet, true);
                return send_to_metadata(skb, packet, &translated);
            }
            kept = Some(flow);
        }
    }
    let flags = antispoof::check_source::<F>(sender.endpoint, sender.source, packet.source)?;
    let me = End::of_endpoint(sender.slot, sender.endpoint);
    let service = F::address_entry(tables, translated.destination)?;
    let slot = if service.slot == SLOT_HOST {
        SLOT_HOST
    } else {
        SLOT_NONE
    };
    let responder = End { slot, endpoint: None };
    if kept.is_none() {
        check_opens(&translated, me, responder)?;
        nat::supersede(&mut seen)?;
    }
    let any_mac = flags & SOURCE_ANY_MAC != 0;
    let judged = Judged::always(me, responder);
    let entry = judged.flow(&translated, &seen, kept.as_ref(), true, any_mac);
    if !seen.open_translated(skb, packet, &entry) {
        return Err(DropReason::FlowTableFull);
    }
    send_to_metadata(skb, packet, &translated)
}

#[inline(always)]
fn send_to_metadata<F: Rewrite>(
    skb: &Skb,
    packet: &Packet<F>,
    translated: &Packet<F>,
) -> Result<Action, DropReason> {
    rewrite::to_metadata(skb, packet, translated)?;
    Ok(forward::to_stack(skb, PassReason::Metadata))
}
