//! TC egress of a tap: judges what reaches the workload without having been judged.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::endpoint::{Endpoint, SLOT_HOST, SLOT_NONE, Slot};
use calico_ebpf_common::flow::Flow;
use calico_ebpf_common::nat::is_nat_slot;
use calico_ebpf_common::verdict::{DropReason, PassReason};

use super::{ANSWER4, ANSWER6, NO_FLOW, drop_packet, leave_to, refuse};
use crate::antispoof;
use crate::conntrack::{self, Meaning, Place, Seen};
use crate::counters;
use crate::family::{Family, V4, V6};
use crate::forward::{self, Action};
use crate::host;
use crate::judgement::{End, Judged, check_opens, is_kept, judge, note_kept, note_not_kept};
use crate::nat;
use crate::packet::{Packet, PacketKind};
use crate::parse::ethernet::{self, EtherType};
use crate::policy::Classes;
use crate::settings;
use crate::skb::Skb;
use crate::tables::Tables;

/// Entries of the programs that finish what this one does not settle.
pub(super) const UNSETTLED4: u32 = 2;
pub(super) const UNSETTLED6: u32 = 3;
const NAT4: u32 = 8;
const NAT6: u32 = 9;
const NAT_ERROR4: u32 = 12;
const NAT_ERROR6: u32 = 13;
const FRAGMENT4: u32 = 20;
const FRAGMENT6: u32 = 21;

#[classifier]
pub(crate) fn to_workload(context: TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    if skb.mark() & settings::judged_mark() != 0 {
        return TC_ACT_UNSPEC;
    }
    match try_to_workload(&context, &skb) {
        Ok(action) => action,
        Err(reason) => drop_packet(&skb, reason),
    }
}

/// The workload behind the tap.
pub(super) struct Receiver<'a> {
    pub(super) slot: Slot,
    pub(super) endpoint: &'a Endpoint,
}

impl<'a> Receiver<'a> {
    /// Returns whose tap the packet leaves by.
    #[inline(always)]
    pub(super) fn of(tables: &'a Tables, skb: &Skb) -> Result<Self, DropReason> {
        let (slot, endpoint) = tables.endpoint_of_interface(skb.ifindex())?;
        Ok(Self { slot, endpoint })
    }
}

#[inline(always)]
fn try_to_workload(context: &TcContext, skb: &Skb) -> Result<Action, DropReason> {
    skb.make_headers_linear();
    let tables = Tables::active()?;
    let receiver = Receiver::of(&tables, skb)?;
    if skb.ingress_ifindex() == 0 {
        return from_host(context, skb, &receiver);
    }
    let (_, ethertype) = ethernet::parse(skb)?;
    match ethertype {
        EtherType::Ipv4 => {
            from_remote::<V4, UNSETTLED4, NAT4, NAT_ERROR4, FRAGMENT4>(context, skb, &tables, &receiver)
        }
        EtherType::Ipv6 => {
            from_remote::<V6, UNSETTLED6, NAT6, NAT_ERROR6, FRAGMENT6>(context, skb, &tables, &receiver)
        }
        // Nothing forwards ARP to a tap: proxy ARP answers are the host's own.
        EtherType::Arp => Err(DropReason::ArpSender),
        EtherType::Rarp => Err(DropReason::UnknownEthertype),
    }
}

/// What the host sends always passes (DHCP answers, neighbour discovery, metadata); its flows are tracked so that the
/// workload's answers pass. What cannot be parsed passes untracked.
#[inline(always)]
fn from_host(context: &TcContext, skb: &Skb, receiver: &Receiver<'_>) -> Result<Action, DropReason> {
    if let Ok((_, ethertype)) = ethernet::parse(skb) {
        match ethertype {
            EtherType::Ipv4 => match to_workload_track4(skb.raw()) {
                TRACK_NAT => return Err(leave_to::<NAT4>(context)),
                TRACK_NAT_ERROR => return Err(leave_to::<NAT_ERROR4>(context)),
                TRACK_FRAGMENT => return Err(leave_to::<FRAGMENT4>(context)),
                _ => {}
            },
            EtherType::Ipv6 => match to_workload_track6(skb.raw()) {
                TRACK_NAT => return Err(leave_to::<NAT6>(context)),
                TRACK_NAT_ERROR => return Err(leave_to::<NAT_ERROR6>(context)),
                TRACK_FRAGMENT => return Err(leave_to::<FRAGMENT6>(context)),
                _ => {}
            },
            EtherType::Arp => {
                if antispoof::answers_for_own_address(skb, receiver.endpoint) {
                    return Err(DropReason::ProxyArpOwnAddress);
                }
            }
            EtherType::Rarp => {}
        }
    }
    Ok(forward::to_stack(skb, PassReason::FromHost))
}

/// Answers of [`to_workload_track4`]: the packet may have to be translated, is an error about one that was, or a
/// fragment.
const TRACK_NAT: i32 = 1;
const TRACK_NAT_ERROR: i32 = 2;
const TRACK_FRAGMENT: i32 = 3;

/// Keeps the flow of a packet that the host sends. Returns 0, or what is to be done instead.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn to_workload_track4(raw: *mut __sk_buff) -> i32 {
    track_host_packet::<V4>(raw)
}

/// As [`to_workload_track4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn to_workload_track6(raw: *mut __sk_buff) -> i32 {
    track_host_packet::<V6>(raw)
}

#[inline(always)]
fn track_host_packet<F: Family>(raw: *mut __sk_buff) -> i32 {
    let skb = Skb::new(raw);
    let Ok(tables) = Tables::active() else { return 0 };
    let Ok(receiver) = Receiver::of(&tables, &skb) else {
        return 0;
    };
    let packet = match F::parse(&skb) {
        Ok(packet) => packet,
        Err(DropReason::Fragment) => return TRACK_FRAGMENT,
        Err(_) => return 0,
    };
    match packet.kind {
        PacketKind::IcmpError if nat::concerns_error_received::<F>(receiver.endpoint) => {
            return TRACK_NAT_ERROR;
        }
        PacketKind::IcmpError | PacketKind::Neighbor => return 0,
        PacketKind::Plain | PacketKind::IcmpQuery | PacketKind::IcmpReply => {}
    }
    let seen = conntrack::look_up(&packet);
    if seen.flow().is_none() && nat::concerns_received(receiver.endpoint, &packet) {
        return TRACK_NAT;
    }
    track(&skb, &receiver, &packet, &seen);
    0
}

/// Keeps the flow of a packet that the host sends untranslated.
#[inline(always)]
pub(super) fn track<F: Family>(skb: &Skb, receiver: &Receiver<'_>, packet: &Packet<F>, seen: &Seen<F>) {
    let by_host = Judged::by_host(End::of_endpoint(receiver.slot, receiver.endpoint));
    let Some(flow) = seen.flow() else {
        if packet.kind != PacketKind::IcmpReply {
            seen.open(skb, packet, &by_host.flow(packet, seen, None, true, false));
        }
        return;
    };
    let place = seen.place(&flow);
    let opens_anew = place.original && place.destination_generation != receiver.endpoint.generation
        || conntrack::meaning(packet, &flow, &place) == Meaning::Opens;
    if opens_anew {
        seen.open(skb, packet, &by_host.flow(packet, seen, None, true, false));
        return;
    }
    // Of another generation, its numbers may be those of other rules by now.
    if place.destination_slot == receiver.slot && place.destination_generation == receiver.endpoint.generation
    {
        counters::count_rules(skb, flow.rule);
    }
    // Half open, it stays so until the workload answers: this function has no stack to spare.
    if !seen.touch(skb, &flow, packet, place.original) {
        seen.go_on(skb, packet, &flow, place.original);
    }
}

/// The fast path of traffic from outside: the packet continues a flow that was judged under the policy in force.
#[inline(always)]
fn from_remote<F: Family, const UNSETTLED: u32, const NAT: u32, const NAT_ERROR: u32, const FRAGMENT: u32>(
    context: &TcContext,
    skb: &Skb,
    tables: &Tables,
    receiver: &Receiver<'_>,
) -> Result<Action, DropReason> {
    let packet = match F::parse(skb) {
        Ok(packet) => packet,
        Err(DropReason::Fragment) => return Err(leave_to::<FRAGMENT>(context)),
        Err(reason) => return Err(reason),
    };
    match packet.kind {
        PacketKind::Neighbor => return Err(DropReason::NeighborSender),
        PacketKind::IcmpError => {
            skb.leave(0);
            if nat::concerns_error_received::<F>(receiver.endpoint) {
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
        if nat::concerns_received(receiver.endpoint, &packet) && !seen.is_half_open() {
            return Err(leave_to::<NAT>(context));
        }
        return Err(leave_to::<UNSETTLED>(context));
    };
    let place = seen.place(&flow);
    if is_current(receiver, &place)
        && !conntrack::is_syn(&packet)
        && seen.touch(skb, &flow, &packet, place.original)
    {
        counters::count_rules(skb, flow.rule);
        return Ok(forward::to_stack(skb, PassReason::FromRemote));
    }
    note_kept(tables, &place);
    skb.leave(0);
    Err(leave_to::<UNSETTLED>(context))
}

/// Returns whether the flow's destination is this receiver, judged under its present policy.
#[inline(always)]
fn is_current(receiver: &Receiver<'_>, place: &Place) -> bool {
    place.destination_slot == receiver.slot && place.destination_generation == receiver.endpoint.generation
}

/// Judges a packet that the fast path does not settle.
#[classifier]
pub(crate) fn to_workload4(context: TcContext) -> i32 {
    unsettled::<V4, NAT4, ANSWER4>(&context)
}

/// As [`to_workload4`], for IPv6.
#[classifier]
pub(crate) fn to_workload6(context: TcContext) -> i32 {
    unsettled::<V6, NAT6, ANSWER6>(&context)
}

#[inline(always)]
fn unsettled<F: Family, const NAT: u32, const ANSWER: u32>(context: &TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_unsettled::<F, NAT>(context, &skb, skb.left() == NO_FLOW) {
        Ok(action) => action,
        Err(reason) => refuse::<ANSWER>(context, &skb, reason, skb.ingress_ifindex()),
    }
}

#[inline(always)]
fn try_unsettled<F: Family, const NAT: u32>(
    context: &TcContext,
    skb: &Skb,
    no_flow: bool,
) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let receiver = Receiver::of(&tables, skb)?;
    let packet = F::parse_with_ports(skb)?.forget_way(skb);
    if packet.kind == PacketKind::IcmpError {
        if F::quoted_slots(skb, false)?.source != receiver.slot {
            return Err(DropReason::IcmpUnrelated);
        }
        return Ok(forward::to_stack(skb, PassReason::FromRemote));
    }
    judge_packet::<F, NAT>(context, skb, &tables, &receiver, &packet, no_flow)
}

/// The other end of what arrives here: not this host's, whatever its address says.
pub(super) const REMOTE: End<'static> = End {
    slot: SLOT_NONE,
    endpoint: None,
};

/// Judges a packet as the first of a flow, or a flow again by its first packet.
#[inline(always)]
fn judge_packet<F: Family, const NAT: u32>(
    context: &TcContext,
    skb: &Skb,
    tables: &Tables,
    receiver: &Receiver<'_>,
    packet: &Packet<F>,
    no_flow: bool,
) -> Result<Action, DropReason> {
    let seen = conntrack::look_up_unless(packet, no_flow);
    let (old, meaning, original, peer) = match seen.flow() {
        Some(flow) => {
            let place = seen.place(&flow);
            if is_current(receiver, &place) && !conntrack::is_syn(packet) {
                // Half open, or in another state than it was.
                seen.go_on(skb, packet, &flow, place.original);
                counters::count_rules(skb, flow.rule);
                return Ok(forward::to_stack(skb, PassReason::FromRemote));
            }
            let host = place.source_slot == SLOT_HOST;
            let peer = if host {
                End {
                    slot: SLOT_HOST,
                    endpoint: None,
                }
            } else {
                REMOTE
            };
            (
                flow,
                conntrack::meaning(packet, &flow, &place),
                place.original,
                peer,
            )
        }
        None => (Flow::NONE, Meaning::Opens, true, REMOTE),
    };
    let me = End::of_endpoint(receiver.slot, receiver.endpoint);
    let peer = if meaning == Meaning::Continues {
        peer
    } else {
        REMOTE
    };
    if meaning != Meaning::Continues {
        if host::has_dhcp_client_ports(packet) {
            // Its answer would be a DHCP server's, and go by the flow.
            return Err(DropReason::DhcpServer);
        }
        check_opens(packet, peer, me)?;
    }
    let forward = original || meaning != Meaning::Continues;
    let classes = Classes::of(tables, packet, !forward)?;
    if forward && is_nat_slot(classes.destination.slot) {
        // The flow is of a time when its destination was not translated.
        seen.close();
        return Err(leave_to::<NAT>(context));
    }
    let (originator, responder) = if forward { (peer, me) } else { (me, peer) };
    let is_kept = meaning == Meaning::Continues && is_kept(peer.slot, me.slot);
    let judged = match judge(skb, packet, !forward, &classes, originator, responder, is_kept) {
        Ok(judged) => judged,
        Err(reason) => {
            if meaning != Meaning::Aside {
                seen.close();
            }
            return Err(reason);
        }
    };
    let kept = if meaning == Meaning::Continues {
        Some(&old)
    } else {
        None
    };
    let room = meaning == Meaning::Aside
        || seen.open(skb, packet, &judged.flow(packet, &seen, kept, forward, false));
    let reason = if room {
        PassReason::FromRemote
    } else {
        PassReason::Untracked
    };
    Ok(forward::to_stack(skb, reason))
}
