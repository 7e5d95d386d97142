//! ICMP errors about translated packets: outer and quoted addresses are translated, so that both ends recognise their
//! packets and path MTU discovery and `traceroute` work through an external address. Transport checksums inside a
//! quotation stay as they were sent. What quotes no translated flow is judged as it is.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::flow::{Flow, NAT_METADATA, TRANSLATED};
use calico_ebpf_common::moved_port::{NAT_PORT_ONLY, moved_port};
use calico_ebpf_common::nat::{NAT_LOWEST, Nat};
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
use crate::moved_port;
use crate::nat;
use crate::packet::Packet;
use crate::parse::ethernet::ETHERNET_BYTES;
use crate::related::ERROR_BYTES;
use crate::rewrite::{self, Port, Rewrite, translate};
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
    if F::is_to_metadata(&quoted.reversed()) {
        antispoof::check_source::<F>(sender.endpoint, sender.source, packet.source)?;
        return error.lead_to_metadata(skb, sender.slot);
    }
    let entry = F::address_entry(&tables, packet.destination)?;
    if let Some(nat) = tables.nat(entry.slot) {
        antispoof::check_source::<F>(sender.endpoint, sender.source, packet.source)?;
        if quoted.destination != packet.source {
            return Err(DropReason::IcmpUnrelated);
        }
        if nat.slot == sender.slot {
            error.to_itself(skb, &sender, tables.line_of_nat(entry.slot), nat)?;
            return send(skb, packet, End::of_endpoint(sender.slot, sender.endpoint));
        }
        let answer = error.answer_by(nat).ok_or(DropReason::IcmpUnrelated)?;
        if answer.place.destination_slot != sender.slot {
            return Err(DropReason::IcmpUnrelated);
        }
        let target = tables.endpoint(nat.slot).ok_or(DropReason::TargetNotReady)?;
        if packet.hop_limit <= 1 {
            return Ok(forward::to_stack(skb, PassReason::TtlExceeded));
        }
        error.translate_towards(skb, tables.line_of_nat(entry.slot), nat, answer.port)?;
        return send(skb, packet, End::of_endpoint(nat.slot, target));
    }
    if sender.endpoint.has_nats()
        && let Some((flow, place)) = QuotingError::<F>::flow(quoted)
        && place.original
        && (flow.nat != NAT_METADATA || flow.moved_place().is_some())
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
        if flow.nat != NAT_PORT_ONLY {
            let line = nat::external_line::<F>(sender.endpoint, packet.source, flow.nat)?;
            let external = tables::nat_at_line(line).ok_or(DropReason::NatUnknown)?;
            translate(skb, packet, 0, line)?;
            error.replace_quoted(skb, F::DESTINATION, F::from_halves(external.external))?;
        }
        if let Some(at) = flow.moved_place() {
            let port = moved_port(quoted.source_port, at);
            rewrite::quoted_port(skb, packet, quoted, Port::Source, port)?;
        }
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
    let Ok(error) = QuotingError::<F>::parse(skb) else {
        // What the host sends passes, whether it is understood or not.
        if reason == PassReason::FromHost {
            return Ok(forward::to_stack(skb, reason));
        }
        return Err(DropReason::IcmpUnrelated);
    };
    let entry = F::address_entry(&tables, error.packet.destination)?;
    if let Some(nat) = tables.nat(entry.slot) {
        let answer = error.answer_by(nat).ok_or(DropReason::IcmpUnrelated)?;
        if nat.slot != receiver.slot {
            return Err(DropReason::IcmpUnrelated);
        }
        error.translate_towards(skb, tables.line_of_nat(entry.slot), nat, answer.port)?;
        return Ok(forward::to_stack(skb, reason));
    }
    if F::is_at_metadata(&error.quoted) && error.tell_of_metadata(skb, receiver.slot)? {
        return Ok(forward::to_stack(skb, PassReason::Metadata));
    }
    if receiver.endpoint.has_nats()
        && let Some(answer) = error.moved_answer(error.quoted.source, NAT_PORT_ONLY)
        && answer.place.source_slot == receiver.slot
        && error.quoted.source == error.packet.destination
    {
        error.replace_answer_port(skb, answer.port)?;
        return Ok(forward::to_stack(skb, reason));
    }
    if reason == PassReason::FromHost {
        return Ok(forward::to_stack(skb, reason));
    }
    skb.leave(0);
    Err(leave_to::<UNSETTLED>(context))
}

/// An answer that an error quotes.
struct Answer {
    place: Place,
    /// The port that it was sent to, if the client's was moved.
    port: Option<u16>,
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

    /// Returns the answer that is quoted: it was sent from the external address that the error is for.
    #[inline(always)]
    fn answer_by(&self, nat: &Nat) -> Option<Answer> {
        if self.quoted.source != self.packet.destination {
            return None;
        }
        let internal = F::from_halves(nat.internal);
        let direct = Self::flow(&Packet {
            source: internal,
            ..self.quoted
        });
        let answer = match direct {
            Some((flow, place)) if !place.original && flow.nat == nat.tag && flow.moved_place().is_none() => {
                Answer { place, port: None }
            }
            _ => self.moved_answer(internal, nat.tag)?,
        };
        if answer.place.source_slot == nat.slot {
            Some(answer)
        } else {
            None
        }
    }

    /// Returns the quoted answer of `source` to a client whose port was moved.
    #[inline(always)]
    fn moved_answer(&self, source: F::Address, tag: u16) -> Option<Answer> {
        let answer = Packet {
            source,
            translation: TRANSLATED,
            ..self.quoted
        };
        let at = moved_port::find(&answer.reversed(), tag).taken()?;
        let port = moved_port(answer.destination_port, at);
        let (_, place) = Self::flow(&Packet {
            destination_port: port,
            ..answer
        })?;
        Some(Answer {
            place,
            port: Some(port),
        })
    }

    /// Gives the error and the packet that it quotes the address that the quoted packet's sender has, and the port that
    /// it was sent to.
    #[inline(always)]
    fn translate_towards(
        &self,
        skb: &Skb,
        line: u32,
        nat: &Nat,
        port: Option<u16>,
    ) -> Result<(), DropReason> {
        translate(skb, &self.packet, line, 0)?;
        self.replace_quoted(skb, F::SOURCE, F::from_halves(nat.internal))?;
        self.replace_answer_port(skb, port)
    }

    #[inline(always)]
    fn replace_answer_port(&self, skb: &Skb, port: Option<u16>) -> Result<(), DropReason> {
        match port {
            Some(port) => rewrite::quoted_port(skb, &self.packet, &self.quoted, Port::Destination, port),
            None => Ok(()),
        }
    }

    /// Writes an address of the quoted packet.
    #[inline(always)]
    fn replace_quoted(&self, skb: &Skb, field: usize, new: F::Address) -> Result<(), DropReason> {
        let quoted = self.quoted_header();
        F::replace(skb, quoted + field, quoted, new, F::body_checksum(&self.packet))
    }

    /// Translates an error of a workload about what it told itself by way of an external address: it hears of it from
    /// where it sent that to. `nat`, at `line`, is the address that the quoted packet came from.
    #[inline(always)]
    fn to_itself(&self, skb: &Skb, sender: &Sender<'_>, line: u32, nat: &Nat) -> Result<(), DropReason> {
        let internal = F::from_halves(nat.internal);
        let (flow, place) = Self::flow(&Packet {
            source: internal,
            ..self.quoted
        })
        .ok_or(DropReason::IcmpUnrelated)?;
        // What it opened is heard from its lowest address, what answers from the one that was asked.
        let (is_from, other) = if place.original {
            (nat.flags & NAT_LOWEST != 0, flow.nat)
        } else {
            (flow.nat == nat.tag, 0)
        };
        let own = place.source_slot == sender.slot && place.destination_slot == sender.slot;
        let is_quoted = self.quoted.source == self.packet.destination && flow.moved_place().is_none();
        if !is_from || !own || !is_quoted {
            return Err(DropReason::IcmpUnrelated);
        }
        let other = nat::external_line::<F>(sender.endpoint, self.packet.source, other)?;
        let external = tables::nat_at_line(other).ok_or(DropReason::NatUnknown)?;
        translate(skb, &self.packet, line, other)?;
        self.replace_quoted(skb, F::SOURCE, internal)?;
        self.replace_quoted(skb, F::DESTINATION, F::from_halves(external.external))
    }

    /// Sends an error about the metadata service's answer to where the service is.
    #[inline(always)]
    fn lead_to_metadata(&self, skb: &Skb, sender: Slot) -> Result<Action, DropReason> {
        let asked = F::at_metadata(&self.quoted.reversed());
        let (flow, place) = Self::flow(&asked).ok_or(DropReason::IcmpUnrelated)?;
        let is_answer = place.original && is_metadata(&flow) && place.source_slot == sender;
        let is_for_it =
            self.packet.destination == self.quoted.source && self.packet.source == self.quoted.destination;
        if !is_answer || !is_for_it {
            return Err(DropReason::IcmpUnrelated);
        }
        let checksum = rewrite::covering_checksum::<F>(self.packet.transport_offset, self.packet.protocol);
        let place = ETHERNET_BYTES + F::DESTINATION;
        F::replace(skb, place, ETHERNET_BYTES, asked.destination, checksum)?;
        self.replace_quoted(skb, F::SOURCE, asked.destination)?;
        rewrite::quoted_port(
            skb,
            &self.packet,
            &self.quoted,
            Port::Source,
            asked.destination_port,
        )?;
        Ok(forward::to_stack(skb, PassReason::Metadata))
    }

    /// Gives an error about a packet to the metadata service the addresses that its sender knows. Returns whether it
    /// is about one.
    #[inline(always)]
    fn tell_of_metadata(&self, skb: &Skb, receiver: Slot) -> Result<bool, DropReason> {
        let Some((flow, place)) = Self::flow(&self.quoted) else {
            return Ok(false);
        };
        let is_sent = place.original && is_metadata(&flow) && place.source_slot == receiver;
        if !is_sent || self.quoted.source != self.packet.destination {
            return Ok(false);
        }
        let port = nat::METADATA_PORT;
        self.replace_quoted(skb, F::DESTINATION, F::METADATA_ADDRESS)?;
        rewrite::quoted_port(skb, &self.packet, &self.quoted, Port::Destination, port)?;
        if self.packet.source == self.quoted.destination {
            let checksum =
                rewrite::covering_checksum::<F>(self.packet.transport_offset, self.packet.protocol);
            let place = ETHERNET_BYTES + F::SOURCE;
            F::replace(skb, place, ETHERNET_BYTES, F::METADATA_ADDRESS, checksum)?;
        }
        Ok(true)
    }
}

/// Returns whether a translated flow is one to the metadata service.
#[inline(always)]
fn is_metadata(flow: &Flow) -> bool {
    flow.nat == NAT_METADATA && flow.moved_place().is_none()
}
