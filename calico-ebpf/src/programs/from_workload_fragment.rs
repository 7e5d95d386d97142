//! Fragments that a workload sends: the first one of a datagram is judged like a packet, the others go by its flow.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::fragment::FROM_WORKLOAD;
use calico_ebpf_common::moved_port::NAT_PORT_ONLY;
use calico_ebpf_common::nat::is_nat_slot;
use calico_ebpf_common::verdict::DropReason;

use super::from_workload::{Sender, UNSETTLED4, UNSETTLED6, current_destination, is_current, send};
use super::{drop_packet, leave_to};
use crate::conntrack;
use crate::counters;
use crate::family::{Family, V4, V6};
use crate::forward::Action;
use crate::fragments::Part;
use crate::host;
use crate::judgement::{note_kept, note_not_kept};
use crate::nat;
use crate::packet::{Packet, PacketKind};
use crate::settings;
use crate::skb::Skb;
use crate::tables::Tables;

/// Judges a fragment.
#[classifier]
pub(crate) fn from_workload_fragment4(context: TcContext) -> i32 {
    verdict::<V4, UNSETTLED4>(&context)
}

/// As [`from_workload_fragment4`], for IPv6.
#[classifier]
pub(crate) fn from_workload_fragment6(context: TcContext) -> i32 {
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
    let sender = Sender::of(&tables, skb)?;
    let (packet, fragment) = F::parse_fragment(skb)?;
    let packet = packet.forget_way(skb);
    let mut part = Part::of(&packet, fragment, sender.slot, FROM_WORKLOAD);
    if fragment.is_first() {
        let entry = F::address_entry(&tables, packet.destination)?;
        if is_nat_slot(entry.slot) || F::is_to_metadata(&packet) || F::is_at_metadata(&packet) {
            return Err(DropReason::Fragment);
        }
        check_can_be_judged(&packet)?;
        check_is_not_translated(&packet, tables.endpoint(entry.slot))?;
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
    if !is_current(&sender, &flow, &place) {
        return Err(DropReason::FragmentWithoutFirst);
    }
    let end = current_destination(&tables, &place).ok_or(DropReason::FragmentWithoutFirst)?;
    seen.touch(skb, &flow, &packet, place.original);
    counters::count_rules(skb, flow.rule);
    send(skb, &packet, end)
}

/// Refuses what is never long enough to be cut, and must be seen whole (RFC 6980 for neighbour discovery).
#[inline(always)]
pub(super) fn check_can_be_judged<F: Family>(packet: &Packet<F>) -> Result<(), DropReason> {
    if host::is_dhcp_server(packet) {
        return Err(DropReason::DhcpServer);
    }
    match packet.kind {
        PacketKind::Neighbor | PacketKind::IcmpError => Err(DropReason::Fragment),
        PacketKind::Plain if host::has_dhcp_client_ports(packet) => Err(DropReason::Fragment),
        PacketKind::Plain | PacketKind::IcmpQuery | PacketKind::IcmpReply => Ok(()),
    }
}

/// Refuses a fragment that belongs to a translated flow, or whose tuple one has: translation is for whole packets.
#[inline(always)]
pub(super) fn check_is_not_translated<F: Family>(
    packet: &Packet<F>,
    destination: Option<&Endpoint>,
) -> Result<(), DropReason> {
    let mut seen = conntrack::look_up(packet);
    if seen.flow().is_some() {
        return Ok(());
    }
    if seen.of_other_kind(|other| other.flow().is_some()) {
        return Err(DropReason::Fragment);
    }
    if destination.is_some_and(Endpoint::has_nats) {
        nat::check_not_moved(packet, NAT_PORT_ONLY)?;
    }
    Ok(())
}

/// As the attached programs do for packets: notes between whom the flow goes on whatever policy says.
#[inline(always)]
pub(super) fn note_kept_first<F: Family>(tables: &Tables, packet: &Packet<F>) {
    if settings::keep_flows() {
        let seen = conntrack::look_up(packet);
        if let Some(flow) = seen.flow() {
            note_kept(tables, &seen.place(&flow));
        } else {
            note_not_kept();
        }
    }
}
