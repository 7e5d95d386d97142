//! TC ingress of a tap: judges what the workload sends, and sends it on.
//!
//! The program itself holds the fast path: parse, one conntrack look-up, send. Everything else is in programs
//! of their own, reached by tail call: they parse again, and have the whole stack to themselves.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::address::AddressEntry;
use calico_ebpf_common::endpoint::{Endpoint, SLOT_HOST, SLOT_NONE, SOURCE_ANY_MAC, Slot};
use calico_ebpf_common::flow::{FLOW_ORIGIN_ANY_MAC, FLOW_RESPONDER_ANY_MAC, Flow};
use calico_ebpf_common::nat::is_nat_slot;
use calico_ebpf_common::tombstone::{RESETS, WAITS};
use calico_ebpf_common::verdict::{DropReason, PassReason};

use super::{ANSWER4, ANSWER6, NO_FLOW, drop_packet, leave_to, refuse};
use crate::announcement;
use crate::antispoof;
use crate::conntrack::{self, Meaning, Place};
use crate::counters;
use crate::family::{Family, V4, V6};
use crate::forward::{self, Action};
use crate::host;
use crate::judgement::{End, check_opens, is_kept, judge, note_kept, note_not_kept};
use crate::nat;
use crate::packet::{Packet, PacketKind};
use crate::parse::ethernet::{self, EtherType};
use crate::policy::Classes;
use crate::settings;
use crate::skb::{Mac, Skb};
use crate::tables::Tables;
use crate::tombstones;

/// Entries of the programs that finish what this one does not settle.
pub(super) const UNSETTLED4: u32 = 0;
pub(super) const UNSETTLED6: u32 = 1;
const NEIGHBOR: u32 = 4;
const ARP: u32 = 5;
const NAT4: u32 = 6;
const NAT6: u32 = 7;
const NAT_ERROR4: u32 = 10;
const NAT_ERROR6: u32 = 11;
const FRAGMENT4: u32 = 18;
const FRAGMENT6: u32 = 19;

#[classifier]
pub(crate) fn from_workload(context: TcContext) -> i32 {
    verdict(&context)
}

/// Returns the TC verdict of a packet from a workload.
#[inline(always)]
pub(super) fn verdict(context: &TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_from_workload(context, &skb) {
        Ok(action) => action,
        Err(reason) => drop_packet(&skb, reason),
    }
}

/// The sender: the endpoint of the tap, and the frame's source address.
pub(super) struct Sender<'a> {
    pub(super) slot: Slot,
    pub(super) endpoint: &'a Endpoint,
    pub(super) source: Mac,
}

impl<'a> Sender<'a> {
    /// Returns who sent the frame.
    #[inline(always)]
    pub(super) fn of(tables: &'a Tables, skb: &Skb) -> Result<Self, DropReason> {
        let (slot, endpoint) = tables.endpoint_of_interface(skb.ifindex())?;
        let source = ethernet::source(skb)?;
        Ok(Self {
            slot,
            endpoint,
            source,
        })
    }
}

#[inline(always)]
fn try_from_workload(context: &TcContext, skb: &Skb) -> Result<Action, DropReason> {
    let mark = skb.mark();
    if mark & settings::judged_mark() != 0 {
        skb.set_mark(mark & !settings::judged_mark());
    }
    skb.make_headers_linear();
    let tables = Tables::active()?;
    let (slot, endpoint) = tables.endpoint_of_interface(skb.ifindex())?;
    let (source, ethertype) = ethernet::parse(skb)?;
    let sender = Sender {
        slot,
        endpoint,
        source,
    };
    match ethertype {
        EtherType::Ipv4 => {
            from_sender::<V4, UNSETTLED4, NAT4, NAT_ERROR4, FRAGMENT4>(context, skb, &tables, &sender)
        }
        EtherType::Ipv6 => {
            if !settings::ipv6() {
                return Err(DropReason::Ipv6Disabled);
            }
            from_sender::<V6, UNSETTLED6, NAT6, NAT_ERROR6, FRAGMENT6>(context, skb, &tables, &sender)
        }
        EtherType::Arp | EtherType::Rarp => Err(leave_to::<ARP>(context)),
    }
}

/// The fast path: the packet continues a flow that was judged under the policy in force.
#[inline(always)]
fn from_sender<F: Family, const UNSETTLED: u32, const NAT: u32, const NAT_ERROR: u32, const FRAGMENT: u32>(
    context: &TcContext,
    skb: &Skb,
    tables: &Tables,
    sender: &Sender<'_>,
) -> Result<Action, DropReason> {
    let packet = match F::parse(skb) {
        Ok(packet) => packet,
        Err(DropReason::Fragment) => return Err(leave_to::<FRAGMENT>(context)),
        Err(reason) => return Err(reason),
    };
    match packet.kind {
        PacketKind::Neighbor => return Err(leave_to::<NEIGHBOR>(context)),
        PacketKind::IcmpError => {
            skb.leave(0);
            if nat::concerns_error_sent::<F>(tables) {
                return Err(leave_to::<NAT_ERROR>(context));
            }
            return Err(leave_to::<UNSETTLED>(context));
        }
        PacketKind::Plain | PacketKind::IcmpQuery | PacketKind::IcmpReply => {}
    }
    let seen = conntrack::look_up_confirmed(&packet);
    let Some(flow) = seen.flow() else {
        note_not_kept();
        skb.leave(NO_FLOW);
        if nat::concerns_sent(tables, &packet) && !seen.is_half_open() {
            return Err(leave_to::<NAT>(context));
        }
        return Err(leave_to::<UNSETTLED>(context));
    };
    let place = seen.place(&flow);
    if is_current(sender, &flow, &place)
        && !conntrack::is_syn(&packet)
        && let Some(end) = current_destination(tables, &place)
        && seen.touch_at_once(skb, &flow, &packet, place.original)
    {
        counters::count_rules(skb, flow.rule);
        return send(skb, &packet, end);
    }
    note_kept(tables, &place);
    skb.leave(0);
    Err(leave_to::<UNSETTLED>(context))
}

/// Returns whether the flow's source is this sender, judged under its present policy, and the frame comes from a
/// MAC that may use the address. The address itself was checked when the flow was opened: another sender's packet
/// with the same tuple has another slot.
#[inline(always)]
pub(super) fn is_current(sender: &Sender<'_>, flow: &Flow, place: &Place) -> bool {
    if place.source_slot != sender.slot || place.source_generation != sender.endpoint.generation {
        return false;
    }
    if sender.source == Mac::of(&sender.endpoint.mac) {
        return true;
    }
    let any_mac = if place.original {
        FLOW_ORIGIN_ANY_MAC
    } else {
        FLOW_RESPONDER_ANY_MAC
    };
    flow.flags & any_mac != 0 && !sender.source.is_group()
}

/// Returns the flow's destination, or `None` if its policy changed since the flow was judged.
#[inline(always)]
pub(super) fn current_destination<'a>(tables: &'a Tables, place: &Place) -> Option<End<'a>> {
    if place.destination_slot == SLOT_NONE || place.destination_slot == SLOT_HOST {
        return Some(End {
            slot: place.destination_slot,
            endpoint: None,
        });
    }
    let endpoint = tables.endpoint(place.destination_slot)?;
    if endpoint.generation != place.destination_generation {
        return None;
    }
    Some(End::of_endpoint(place.destination_slot, endpoint))
}

/// Sends a judged packet to its destination.
#[inline(always)]
pub(super) fn send<F: Family>(
    skb: &Skb,
    packet: &Packet<F>,
    destination: End<'_>,
) -> Result<Action, DropReason> {
    if let Some(target) = destination.endpoint {
        return forward::to_workload(skb, packet, target, PassReason::LocalWorkload);
    }
    let reason = if destination.slot == SLOT_HOST {
        PassReason::Host
    } else {
        PassReason::Remote
    };
    Ok(forward::to_stack(skb, reason))
}

/// Judges a packet that the fast path does not settle: a new flow, a flow whose verdict may no longer hold, an ICMP
/// error, neighbour discovery.
#[classifier]
pub(crate) fn from_workload4(context: TcContext) -> i32 {
    unsettled::<V4, NAT4, ANSWER4>(&context)
}

/// As [`from_workload4`], for IPv6.
#[classifier]
pub(crate) fn from_workload6(context: TcContext) -> i32 {
    unsettled::<V6, NAT6, ANSWER6>(&context)
}

#[inline(always)]
fn unsettled<F: Family, const NAT: u32, const ANSWER: u32>(context: &TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_unsettled::<F, NAT>(context, &skb, skb.left() == NO_FLOW) {
        Ok(action) => action,
        Err(reason) => refuse::<ANSWER>(context, &skb, reason, 0),
    }
}

#[inline(always)]
fn try_unsettled<F: Family, const NAT: u32>(
    context: &TcContext,
    skb: &Skb,
    no_flow: bool,
) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let sender = Sender::of(&tables, skb)?;
    let packet = F::parse_with_ports(skb)?.forget_way(skb);
    if host::is_dhcp_server(&packet) {
        return Err(DropReason::DhcpServer);
    }
    match packet.kind {
        PacketKind::Neighbor => return Err(DropReason::NeighborSender),
        PacketKind::IcmpError => return icmp_error(skb, &tables, &sender, &packet),
        PacketKind::Plain | PacketKind::IcmpQuery | PacketKind::IcmpReply => {}
    }
    if host::has_dhcp_client_ports(&packet)
        && host::is_dhcp_to_host(&tables, sender.endpoint, sender.source, &packet)?
    {
        return Ok(forward::to_stack(skb, PassReason::Dhcp));
    }
    judge_packet::<F, NAT>(context, skb, &tables, &sender, &packet, no_flow)
}

/// Judges a packet as the first of a flow, or a flow again by its first packet.
#[inline(always)]
fn judge_packet<F: Family, const NAT: u32>(
    context: &TcContext,
    skb: &Skb,
    tables: &Tables,
    sender: &Sender<'_>,
    packet: &Packet<F>,
    no_flow: bool,
) -> Result<Action, DropReason> {
    let mut seen = conntrack::look_up_unless(packet, no_flow);
    let old = seen.flow_aside();
    let (meaning, original) = match old {
        Some(flow) => {
            let place = seen.place(flow);
            if is_current(sender, flow, &place)
                && !conntrack::is_syn(packet)
                && let Some(end) = current_destination(tables, &place)
            {
                // Half open, or in another state than it was.
                seen.go_on(skb, packet, flow, place.original);
                counters::count_rules(skb, flow.rule);
                return send(skb, packet, end);
            }
            (conntrack::meaning(packet, flow, &place), place.original)
        }
        None => (Meaning::Opens, true),
    };
    let old = old.filter(|_| meaning == Meaning::Continues);
    let forward = original || meaning != Meaning::Continues;
    let classes = Classes::of(tables, packet, !forward)?;
    let (my_entry, peer_entry) = if forward {
        (classes.source, classes.destination)
    } else {
        (classes.destination, classes.source)
    };
    if forward && is_nat_slot(peer_entry.slot) {
        // The flow is of a time when its destination was not translated.
        seen.close();
        return Err(leave_to::<NAT>(context));
    }
    let any_mac = check_source(sender, packet, my_entry)?;
    host::check_destination::<F>(packet.destination, peer_entry.slot)?;
    let me = End::of_endpoint(sender.slot, sender.endpoint);
    let peer = End::of_address(tables, peer_entry);
    if meaning != Meaning::Continues {
        if peer.slot == SLOT_HOST && host::is_always_allowed(packet) {
            return Ok(forward::to_stack(skb, PassReason::Host));
        }
        if peer.endpoint.is_some() && host::has_dhcp_client_ports(packet) {
            // Its answer would be a DHCP server's, and go by the flow.
            return Err(DropReason::DhcpServer);
        }
        check_opens(packet, me, peer)?;
    }
    let tombstone = tombstones::effect(packet, old, original, peer);
    if tombstone == RESETS {
        if let Some(flow) = old {
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
            if meaning != Meaning::Aside {
                seen.close();
            }
            return Err(reason);
        }
    };
    let mut entry = judged.flow(packet, &seen, old, forward, any_mac);
    if tombstone == WAITS
        && let Some(flow) = old
    {
        tombstones::keep_other_end(&mut entry, flow, original);
    }
    let room = meaning == Meaning::Aside || seen.open(skb, packet, &entry);
    if !room {
        return untracked(skb, packet, peer);
    }
    send(skb, packet, peer)
}

/// Refuses a source that is not the sender's. Returns whether it may come from any MAC.
///
/// An address that the exact table gives to this sender is one of its fixed ones; only for others is the list walked.
#[inline(always)]
pub(super) fn check_source<F: Family>(
    sender: &Sender<'_>,
    packet: &Packet<F>,
    entry: AddressEntry,
) -> Result<bool, DropReason> {
    if entry.slot == sender.slot && sender.source == Mac::of(&sender.endpoint.mac) {
        return Ok(false);
    }
    let flags = antispoof::check_source::<F>(sender.endpoint, sender.source, packet.source)?;
    Ok(flags & SOURCE_ANY_MAC != 0)
}

/// No room for the flow: this packet passes by policy alone, and so must each that follows, in both directions.
#[inline(always)]
fn untracked<F: Family>(skb: &Skb, packet: &Packet<F>, destination: End<'_>) -> Result<Action, DropReason> {
    match destination.endpoint {
        Some(target) => forward::to_workload(skb, packet, target, PassReason::Untracked),
        None => Ok(forward::to_stack(skb, PassReason::Untracked)),
    }
}

/// Judges neighbour discovery and MLD, which reach the host only. Returns the TC verdict.
#[classifier]
pub(crate) fn from_workload_neighbor(context: TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_neighbor(&skb) {
        Ok(action) => action,
        Err(reason) => drop_packet(&skb, reason),
    }
}

#[inline(always)]
fn try_neighbor(skb: &Skb) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let (slot, endpoint) = tables.endpoint_of_interface(skb.ifindex())?;
    let source = ethernet::source(skb)?;
    let packet = V6::parse(skb)?;
    antispoof::check_neighbor(skb, endpoint, source, &packet)?;
    if !V6::stays_on_link(packet.destination)
        && V6::address_entry(&tables, packet.destination)?.slot != SLOT_HOST
    {
        return Err(DropReason::NeighborSender);
    }
    if announcement::is_unsolicited_advertisement(skb, &packet)? {
        announcement::note(slot);
    }
    Ok(forward::to_stack(skb, PassReason::Neighbor))
}

/// An ICMP error about a packet that the workload received: to whoever sent that packet.
#[inline(always)]
fn icmp_error<F: Family>(
    skb: &Skb,
    tables: &Tables,
    sender: &Sender<'_>,
    packet: &Packet<F>,
) -> Result<Action, DropReason> {
    antispoof::check_source::<F>(sender.endpoint, sender.source, packet.source)?;
    if F::quoted_slots(skb, true)?.destination != sender.slot {
        return Err(DropReason::IcmpUnrelated);
    }
    let entry = F::address_entry(tables, packet.destination)?;
    host::check_destination::<F>(packet.destination, entry.slot)?;
    send(skb, packet, End::of_address(tables, entry))
}

/// Judges an ARP or RARP packet. Returns the TC verdict.
#[classifier]
pub(crate) fn from_workload_arp(context: TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_arp(&skb) {
        Ok(action) => action,
        Err(reason) => drop_packet(&skb, reason),
    }
}

#[inline(always)]
fn try_arp(skb: &Skb) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let (slot, endpoint) = tables.endpoint_of_interface(skb.ifindex())?;
    let (source, ethertype) = ethernet::parse(skb)?;
    if ethertype == EtherType::Rarp {
        antispoof::check_mac(endpoint, source)?;
        announcement::note(slot);
        return Err(DropReason::UnknownEthertype);
    }
    antispoof::check_arp(skb, endpoint, source)?;
    if announcement::is_gratuitous_arp(skb)? {
        announcement::note(slot);
    }
    Ok(forward::to_stack(skb, PassReason::Neighbor))
}
