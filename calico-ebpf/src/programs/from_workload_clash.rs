//! What a workload sends when another flow has its tuple behind the translation: who comes second gets another source
//! port, and its answers the port back (see [`calico_ebpf_common::moved_port`]).

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::flow::Flow;
use calico_ebpf_common::moved_port::{NAT_PORT_ONLY, moved_flags, moved_port};
use calico_ebpf_common::nat::NAT_LOWEST;
use calico_ebpf_common::verdict::DropReason;

use super::drop_silently;
use super::from_workload::{Sender, send};
use super::from_workload_nat::{Translation, answer, carry};
use crate::conntrack::{self, Seen};
use crate::family::{V4, V6};
use crate::forward::{self, Action};
use crate::moved_port;
use crate::nat;
use crate::packet::Packet;
use crate::rewrite::{NewPort, Rewrite, translate_with};
use crate::scratch;
use crate::skb::Skb;
use crate::tables::Tables;

/// Moves the port of what has no tuple of its own.
#[classifier]
pub(crate) fn from_workload_clash4(context: TcContext) -> i32 {
    verdict::<V4>(&context)
}

/// As [`from_workload_clash4`], for IPv6.
#[classifier]
pub(crate) fn from_workload_clash6(context: TcContext) -> i32 {
    verdict::<V6>(&context)
}

#[inline(always)]
fn verdict<F: Rewrite>(context: &TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match try_clash::<F>(&skb) {
        Ok(action) => action,
        Err(reason) => drop_silently(&skb, reason),
    }
}

#[inline(always)]
fn try_clash<F: Rewrite>(skb: &Skb) -> Result<Action, DropReason> {
    let tables = Tables::active()?;
    let sender = Sender::of(&tables, skb)?;
    let packet = F::parse(skb)?.forget_way(skb);
    // The service's ports are what tells its answers.
    if F::is_to_metadata(&packet) || F::is_at_metadata(&packet) {
        return Err(DropReason::NatClash);
    }
    let entry = F::address_entry(&tables, packet.destination)?;
    let nat = tables.nat(entry.slot);
    let (internal, tag, line) = match nat {
        Some(nat) => (
            F::from_halves(nat.internal),
            nat.tag,
            tables.line_of_nat(entry.slot),
        ),
        None => (packet.destination, NAT_PORT_ONLY, 0),
    };
    let mut packet = packet.translated_to(internal);
    let to_itself = line != 0 && packet.source == packet.destination;
    let is_lowest = nat.is_some_and(|nat| nat.flags & NAT_LOWEST != 0);
    let (mut seen, mut flow) = conntrack::look_up_aside(&packet);
    let translation;
    let port;
    match flow {
        Some(found) if !seen.place(found).original => {
            let place = found.moved_place().ok_or(DropReason::NatClash)?;
            if conntrack::is_syn(&packet) || line != 0 && !(to_itself && is_lowest) {
                return Err(DropReason::NatClash);
            }
            translation = Translation {
                moved: moved_flags(place),
                destination: line,
                ..answer_by(&sender, &packet, &seen, found)?
            };
            packet.destination_port = moved_port(packet.destination_port, place);
            port = NewPort::destination(packet.destination_port);
        }
        _ => {
            let found = moved_port::find(&packet, tag);
            let place = found.taken().or(found.free()).ok_or(DropReason::NatClash)?;
            let moved = packet.moved_to(place);
            (seen, flow) = conntrack::look_up_aside(&moved);
            translation = Translation {
                tag,
                moved: moved_flags(place),
                source: if to_itself {
                    nat::external_line::<F>(sender.endpoint, packet.source, 0)?
                } else {
                    0
                },
                destination: line,
                continues: true,
            };
            port = NewPort::source(moved.source_port);
        }
    }
    // The stack is too small to keep them while policy is asked.
    scratch::keep_translation(translation.source, port.bits());
    // By which of the two ways the packet came here is forgotten: see `Packet::forget_way`.
    let translation = Translation {
        tag: skb.forget::<1>(u32::from(translation.tag)) as u16,
        moved: skb.forget::<2>(u32::from(translation.moved)) as u8,
        destination: skb.forget::<3>(translation.destination),
        ..translation
    };
    let end = carry(skb, &tables, &sender, &packet, &translation, &mut seen, flow)?;
    if let Some(target) = end.endpoint
        && let Some(reason) = forward::is_for_stack(skb, &packet, target)
    {
        return Ok(forward::to_stack(skb, reason));
    }
    let (source, port) = scratch::kept_translation().ok_or(DropReason::Rewrite)?;
    translate_with(
        skb,
        &packet,
        translation.destination,
        source,
        NewPort::of_bits(port),
    )?;
    send(skb, &packet, end)
}

/// Returns how an answer is translated, its port apart.
#[inline(always)]
fn answer_by<F: Rewrite>(
    sender: &Sender<'_>,
    packet: &Packet<F>,
    seen: &Seen<F>,
    flow: &Flow,
) -> Result<Translation, DropReason> {
    if flow.nat == NAT_PORT_ONLY {
        return Ok(Translation {
            tag: NAT_PORT_ONLY,
            moved: 0,
            source: 0,
            destination: 0,
            continues: true,
        });
    }
    answer(sender, packet, seen, flow)
}
