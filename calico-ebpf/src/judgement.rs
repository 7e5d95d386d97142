//! Who is at each end of a flow, and what their policies say of its first packet.

use calico_ebpf_common::address::AddressEntry;
use calico_ebpf_common::endpoint::{Endpoint, SLOT_HOST, SLOT_NONE, Slot};
use calico_ebpf_common::flow::{FLOW_ORIGIN_ANY_MAC, FLOW_ORIGIN_LOW, FLOW_RESPONDER_ANY_MAC, Flow};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_common::window::Window;

use crate::conntrack::{self, Place, Seen};
use crate::family::Family;
use crate::host;
use crate::packet::{Packet, PacketKind};
use crate::parse::transport::{TCP_ACK, TCP_RST};
use crate::policy::Classes;
use crate::scratch;
use crate::settings;
use crate::skb::Skb;
use crate::tables::{self, Tables};

/// One end of a flow.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) slot: Slot,
    /// The local endpoint, if the end is one.
    pub(crate) endpoint: Option<&'a Endpoint>,
}

impl<'a> End<'a> {
    /// Returns the end that an address belongs to, an external one too.
    #[inline(always)]
    pub(crate) fn of_address(tables: &'a Tables, entry: AddressEntry) -> Self {
        let slot = match tables.nat(entry.slot) {
            Some(nat) => nat.slot,
            None => entry.slot,
        };
        let endpoint = tables.endpoint(slot);
        match endpoint {
            Some(_) => Self { slot, endpoint },
            None if slot == SLOT_HOST => Self {
                slot: SLOT_HOST,
                endpoint: None,
            },
            None => Self {
                slot: SLOT_NONE,
                endpoint: None,
            },
        }
    }

    #[inline(always)]
    pub(crate) fn of_endpoint(slot: Slot, endpoint: &'a Endpoint) -> Self {
        Self {
            slot,
            endpoint: Some(endpoint),
        }
    }

    #[inline(always)]
    fn generation(&self) -> u32 {
        match self.endpoint {
            Some(endpoint) => endpoint.generation,
            None => 0,
        }
    }

    #[inline(always)]
    fn takes_up_mid_stream(&self, now: u64) -> bool {
        match self.endpoint {
            Some(endpoint) => now < endpoint.loose_until,
            None => false,
        }
    }
}

/// The ends of a flow, originator first, and the rules that decided.
pub(crate) struct Judged<'a> {
    pub(crate) originator: End<'a>,
    pub(crate) responder: End<'a>,
    rule: [u32; 2],
}

/// Judges the first packet of a flow: egress policy of the originator, then ingress policy of the responder, or what
/// applies to the host in its place. What the host itself opens is allowed. `kept` says that no rule has to allow it.
#[inline(always)]
pub(crate) fn judge<'a, F: Family>(
    skb: &Skb,
    packet: &Packet<F>,
    reversed: bool,
    classes: &Classes,
    originator: End<'a>,
    responder: End<'a>,
    kept: bool,
) -> Result<Judged<'a>, DropReason> {
    if originator.slot == SLOT_HOST {
        return Ok(Judged {
            originator,
            responder,
            rule: [0; 2],
        });
    }
    if originator.endpoint.is_some() {
        host::check_encapsulation(packet.protocol, packet.first_ports(reversed).1)?;
    }
    let rule = classes.judge(
        skb,
        packet,
        reversed,
        originator.endpoint,
        responder.endpoint,
        kept,
    )?;
    if responder.slot == SLOT_HOST {
        host::endpoint_to_host_action()?;
    }
    Ok(Judged {
        originator,
        responder,
        rule,
    })
}

/// Notes between whom its flow, in which it has this place, goes on although policy has changed
/// (`EstablishedFlows` is `Keep`). Both must be who they were when it was judged, not another endpoint that has the slot by
/// now, or the same one with other addresses. It is noted aside because the stack has no room.
#[inline(always)]
pub(crate) fn note_kept(tables: &Tables, place: &Place) {
    if settings::keep_flows() {
        let slots = u32::from(place.source_slot) << 16 | u32::from(place.destination_slot);
        let (source, destination) = (place.source_generation, place.destination_generation);
        scratch::leave_slots(tables::standing(tables.root_line(), slots, source, destination));
    }
}

/// Notes that the packet has no flow that goes on whatever policy says: another packet's note may still be there.
#[inline(always)]
pub(crate) fn note_not_kept() {
    if settings::keep_flows() {
        scratch::leave_slots(u32::MAX);
    }
}

/// Returns whether it was noted that the packet's flow goes on between these two: the addresses may have come to others.
#[inline(always)]
pub(crate) fn is_kept(source: Slot, destination: Slot) -> bool {
    settings::keep_flows() && scratch::left_slots() == u32::from(source) << 16 | u32::from(destination)
}

/// Refuses answers to no query, and TCP in mid-stream without a flow, except for a short time after an end appeared on this host.
#[inline(always)]
pub(crate) fn check_opens<F: Family>(
    packet: &Packet<F>,
    source: End<'_>,
    destination: End<'_>,
) -> Result<(), DropReason> {
    if packet.kind == PacketKind::IcmpReply {
        return Err(DropReason::NoFlow);
    }
    if packet.protocol != protocol::TCP || conntrack::opens(packet) {
        return Ok(());
    }
    let now = conntrack::now();
    let taken_up = source.takes_up_mid_stream(now) || destination.takes_up_mid_stream(now);
    if taken_up && packet.tcp_flags & (TCP_ACK | TCP_RST) == TCP_ACK {
        return Ok(());
    }
    Err(DropReason::NoFlow)
}

impl<'a> Judged<'a> {
    /// A flow that the host opens to `responder`: allowed by no rule.
    #[inline(always)]
    pub(crate) fn by_host(responder: End<'a>) -> Self {
        Self {
            originator: End {
                slot: SLOT_HOST,
                endpoint: None,
            },
            responder,
            rule: [0; 2],
        }
    }

    /// A flow that is allowed whatever policy says.
    #[inline(always)]
    pub(crate) fn always(originator: End<'a>, responder: End<'a>) -> Self {
        Self {
            originator,
            responder,
            rule: [0; 2],
        }
    }

    /// Returns the flow's entry. `seen` is the packet that was judged, `old` the entry that it continues, if it does,
    /// and whether it goes from originator to responder.
    #[inline(always)]
    pub(crate) fn flow<F: Family>(
        &self,
        packet: &Packet<F>,
        seen: &Seen<F>,
        old: Option<&Flow>,
        original: bool,
        source_any_mac: bool,
    ) -> Flow {
        let now = conntrack::now();
        let origin_low = seen.source_is_low == original;
        let (mine, other) = if original {
            (FLOW_ORIGIN_ANY_MAC, FLOW_RESPONDER_ANY_MAC)
        } else {
            (FLOW_RESPONDER_ANY_MAC, FLOW_ORIGIN_ANY_MAC)
        };
        let (created, old_flags, state) = match old {
            Some(old) => (
                old.created,
                old.flags & other,
                conntrack::next_state(old.state, packet, original),
            ),
            None => (now, 0, 0),
        };
        let mut flags = old_flags;
        if origin_low {
            flags |= FLOW_ORIGIN_LOW;
        }
        if source_any_mac {
            flags |= mine;
        }
        Flow {
            last_seen: now,
            created,
            generation: [self.originator.generation(), self.responder.generation()],
            rule: self.rule,
            slot: [self.originator.slot, self.responder.slot],
            flags,
            state,
            nat: 0,
            window: Window::UNKNOWN,
        }
    }
}
