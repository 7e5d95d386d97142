//! ICMP errors about translated packets: outer and quoted addresses are translated, so that both ends recognise their
//! packets and path MTU discovery and `traceroute` work through an external address. Transport checksums inside a
//! quotation stay as they were sent. What quotes no translated flow is judged as it is.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::flow::{Flow, NAT_METADATA, TRANSLATED};
use calico_ebpf_common::nat::Nat;
use calico_ebpf_common::verdict::{DropReason, PassReason};

use super::from_workload::{self, Sender, send};
use super::to_workload::{self, Receiver};
use super::{drop_packet, leave_to};
use crate::antispoof;
use crate::conntrack::{self, Place};
use crate::family::{V4, V6};
use crate::forward::{self, Action};
use crate::host;
use crate::judgement::End;
use crate::nat;
use crate::packet::Packet;
use crate::related::ERROR_BYTES;
use crate::rewrite::{Rewrite, translate};
use crate::skb::Skb;
use crate::tables::{self, Tables};

/// Translates errors that a workload sends.
#[classifier]
pub(crate) fn from_workload_nat_error4(context: TcContext) -> i32 {
    sent_verdict::<V4, { from_workload::UNSETTLED4 }>(&context)
}

/// As [`from_workload_nat_error4`], for IPv6.
#[classifier]
pub(crate) fn from_workload_nat_error6(context: TcContext) -> i32 {
    sent_verdict::<V6, { from_workload::UNSETTLED6 }>(&context)
}

/// Translates errors that reach a workload with external addresses.
#[classifier]
pub(crate) fn to_workload_nat_error4(context: TcContext) -> i32 {
    received_verdict::<V4, { to_workload::UNSETTLED4 }>(&context)
}

/// As [`to_workload_nat_error4`], for IPv6.
#[classifier]
pub(crate) fn to_workload_nat_error6(context: TcContext) -> i32 {
    received_verdict::<V6, { to_workload::UNSETTLED6 }>(&context)
}

#[inline(always)]
fn sent_verdict<F: Rewrite, const UNSETTLED: u32>(context: &TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_sent::<F, UNSETTLED>(context, &skb) {
        Ok(action) => action,
        Err(reason) => drop_packet(&skb, reason),
    }
}

#[inline(always)]
fn received_verdict<F: Rewrite, const UNSETTLED: u32>(context: &TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_received::<F, UNSETTLED>(context, &skb) {
        Ok(action) => action,
        Err(reason) => drop_packet(&skb, reason),
    }
}

#[inline(always)]
fn try_sent<F: Rewrite, const UNSETTLED: u32>(context: &TcContext, skb: &Skb) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let sender = Sender::of(&tables, skb)?;
    let error = QuotingError::<F>::parse(skb)?;
    let (packet, quoted) = (&error.packet, &error.quoted);
    let entry = F::address_entry(&tables, packet.destination)?;
    if let Some(nat) = tables.nat(entry.slot) {
        antispoof::check_source::<F>(sender.endpoint, sender.source, packet.source)?;
        let (_, place) = error.answer_by(nat).ok_or(DropReason::IcmpUnrelated)?;
        // What a workload tells itself is not translated.
        let to_other = nat.slot != sender.slot && place.destination_slot == sender.slot;
        if !to_other || quoted.destination != packet.source {
            return Err(DropReason::IcmpUnrelated);
        }
        let target = tables.endpoint(nat.slot).ok_or(DropReason::TargetNotReady)?;
        if packet.hop_limit <= 1 {
            return Ok(forward::to_stack(skb, PassReason::TtlExceeded));
        }
        error.translate_towards(skb, tables.line_of_nat(entry.slot), nat)?;
        return send(skb, packet, End::of_endpoint(nat.slot, target));
    }
    if sender.endpoint.has_nats()
        && let Some((flow, place)) = QuotingError::<F>::flow(quoted)
        && place.original
        && flow.nat != NAT_METADATA
    {
        antispoof::check_source::<F>(sender.endpoint, sender.source, packet.source)?;
        let by_target = place.destination_slot == sender.slot && quoted.destination == packet.source;
        if !by_target || quoted.source != packet.destination {
            return Err(DropReason::IcmpUnrelated);
        }
        host::check_destination::<F>(packet.destination, entry.slot)?;
        let end = End::of_address(&tables, entry);
        if end.endpoint.is_some() && packet.hop_limit <= 1 {
            return Ok(forward::to_stack(skb, PassReason::TtlExceeded));
        }
        let line = nat::external_line::<F>(sender.endpoint, packet.source, flow.nat)?;
        let external = tables::nat_at_line(line).ok_or(DropReason::NatUnknown)?;
        translate(skb, packet, 0, line)?;
        let quoted = error.quoted_header();
        F::replace(
            skb,
            quoted + F::DESTINATION,
            quoted,
            F::from_halves(external.external),
            F::body_checksum(packet),
        )?;
        return send(skb, packet, end);
    }
    skb.leave(0);
    Err(leave_to::<UNSETTLED>(context))
}

#[inline(always)]
fn try_received<F: Rewrite, const UNSETTLED: u32>(
    context: &TcContext,
    skb: &Skb,
) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let receiver = Receiver::of(&tables, skb)?;
    let reason = if skb.ingress_ifindex() == 0 {
        PassReason::FromHost
    } else {
        PassReason::FromRemote
    };
    let error = QuotingError::<F>::parse(skb)?;
    let entry = F::address_entry(&tables, error.packet.destination)?;
    if let Some(nat) = tables.nat(entry.slot) {
        let (_, place) = error.answer_by(nat).ok_or(DropReason::IcmpUnrelated)?;
        if nat.slot != receiver.slot || place.source_slot != receiver.slot {
            return Err(DropReason::IcmpUnrelated);
        }
        error.translate_towards(skb, tables.line_of_nat(entry.slot), nat)?;
        return Ok(forward::to_stack(skb, reason));
    }
    if reason == PassReason::FromHost {
        return Ok(forward::to_stack(skb, reason));
    }
    skb.leave(0);
    Err(leave_to::<UNSETTLED>(context))
}

/// An ICMP error and the packet that it is about.
struct QuotingError<F: Rewrite> {
    packet: Packet<F>,
    quoted: Packet<F>,
}

impl<F: Rewrite> QuotingError<F> {
    #[inline(always)]
    fn parse(skb: &Skb) -> Result<Self, DropReason> {
        let packet = F::parse(skb)?;
        if packet.transport_bytes < ERROR_BYTES {
            return Err(DropReason::IcmpUnrelated);
        }
        let offset = packet.transport_offset + ERROR_BYTES;
        let quoted = F::parse_quoted(skb, offset, packet.transport_bytes - ERROR_BYTES)?;
        Ok(Self { packet, quoted })
    }

    /// Returns where the quoted IP header begins.
    #[inline(always)]
    fn quoted_header(&self) -> usize {
        self.packet.transport_offset + ERROR_BYTES
    }

    /// Returns the translated flow of a quoted packet, and the packet's place in it.
    #[inline(always)]
    fn flow(quoted: &Packet<F>) -> Option<(Flow, Place)> {
        let seen = conntrack::look_up(&Packet {
            translation: TRANSLATED,
            ..*quoted
        });
        let flow = seen.flow()?;
        let place = seen.place(&flow);
        Some((flow, place))
    }

    /// Returns the flow whose answer is quoted: it was sent from the external address that the error is for.
    #[inline(always)]
    fn answer_by(&self, nat: &Nat) -> Option<(Flow, Place)> {
        if self.quoted.source != self.packet.destination {
            return None;
        }
        let (flow, place) = Self::flow(&Packet {
            source: F::from_halves(nat.internal),
            ..self.quoted
        })?;
        let slot: Slot = place.source_slot;
        if !place.original && flow.nat == nat.tag && slot == nat.slot {
            Some((flow, place))
        } else {
            None
        }
    }

    /// Gives the error and the packet that it quotes the address that the quoted packet's sender has.
    #[inline(always)]
    fn translate_towards(&self, skb: &Skb, line: u32, nat: &Nat) -> Result<(), DropReason> {
        translate(skb, &self.packet, line, 0)?;
        let internal = F::from_halves(nat.internal);
        let quoted = self.quoted_header();
        let checksum = F::body_checksum(&self.packet);
        F::replace(skb, quoted + F::SOURCE, quoted, internal, checksum)
    }
}
