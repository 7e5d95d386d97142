//! Conntrack: finding, opening and keeping flows.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::flow::{
    FLOW_ORIGIN_LOW, Flow, FlowKey4, FlowKey6, ORIGIN, RESPONDER, STATE_ESTABLISHED, STATE_FIN_ORIGIN,
    STATE_FIN_RESPONDER, STATE_REPLIED, STATE_RESET,
};
use calico_ebpf_common::maps::FLOW_ENTRIES;
use calico_ebpf_common::port::protocol;

use crate::family::Family;
use crate::packet::Packet;
use crate::parse::transport::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use crate::scratch;
use crate::settings;

#[map]
static CEBPF_FLOWS4: HashMap<FlowKey4, Flow> = HashMap::with_max_entries(FLOW_ENTRIES, 0);

#[map]
static CEBPF_FLOWS6: HashMap<FlowKey6, Flow> = HashMap::with_max_entries(FLOW_ENTRIES, 0);

/// `last_seen` is written when it is older than this many jiffies (0.13 to 1.3 s), so that busy flows do not
/// bounce their cache line between CPUs.
const TOUCH_JIFFIES: u64 = 128;

/// Returns `jiffies64`; the verifier inlines it on 64-bit machines.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_jiffies64() }
}

/// A flow as one packet sees it.
pub(crate) struct Seen<F: Family> {
    pub(crate) key: F::Key,
    pub(crate) source_is_low: bool,
    entry: Option<*mut Flow>,
}

/// Looks the packet's flow up.
#[inline(always)]
pub(crate) fn look_up<F: Family>(packet: &Packet<F>) -> Seen<F> {
    look_up_unless(packet, false)
}

/// As [`look_up`]; `no_flow` says that there is none.
#[inline(always)]
pub(crate) fn look_up_unless<F: Family>(packet: &Packet<F>, no_flow: bool) -> Seen<F> {
    let (key, source_is_low) = F::flow_key(packet);
    let entry = if no_flow { None } else { F::find_flow(&key) };
    Seen {
        key,
        source_is_low,
        entry,
    }
}

/// The packet's place in its flow.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Whether the packet goes from originator to responder.
    pub(crate) original: bool,
    pub(crate) source_slot: Slot,
    pub(crate) source_generation: u32,
    pub(crate) destination_slot: Slot,
    pub(crate) destination_generation: u32,
}

impl<F: Family> Seen<F> {
    /// Returns a copy of the entry.
    #[inline(always)]
    pub(crate) fn flow(&self) -> Option<Flow> {
        // SAFETY: points to a map value, which stays mapped while the program runs. It may be re-used for another
        // flow meanwhile: what is decided on a copy is written back by key only.
        self.entry.map(|entry| unsafe { *entry })
    }

    /// As [`Self::flow`], with the copy in the [scratch room](scratch).
    #[inline(always)]
    pub(crate) fn flow_aside(&self) -> Option<&'static Flow> {
        scratch::keep_found(self.entry)
    }

    /// Returns where the packet stands in `flow`.
    #[inline(always)]
    pub(crate) fn place(&self, flow: &Flow) -> Place {
        let original = (flow.flags & FLOW_ORIGIN_LOW != 0) == self.source_is_low;
        if original {
            Place {
                original,
                source_slot: flow.slot[ORIGIN],
                source_generation: flow.generation[ORIGIN],
                destination_slot: flow.slot[RESPONDER],
                destination_generation: flow.generation[RESPONDER],
            }
        } else {
            Place {
                original,
                source_slot: flow.slot[RESPONDER],
                source_generation: flow.generation[RESPONDER],
                destination_slot: flow.slot[ORIGIN],
                destination_generation: flow.generation[ORIGIN],
            }
        }
    }

    /// Notes the time of a packet that goes on with the flow. Returns whether that is all there is to note: a change of
    /// state is written by key, off the fast path.
    #[inline(always)]
    pub(crate) fn touch(&self, flow: &Flow, packet: &Packet<F>, original: bool) -> bool {
        if next_state(flow.state, packet, original) != flow.state {
            return false;
        }
        let Some(entry) = self.entry else { return true };
        let now = now();
        if !settings::dry_run() && now.wrapping_sub(flow.last_seen) > TOUCH_JIFFIES {
            // SAFETY: as in `flow`; a time written into an entry that was re-used does no harm.
            unsafe { core::ptr::addr_of_mut!((*entry).last_seen).write_volatile(now) };
        }
        true
    }

    /// Writes a flow that was judged anew. Returns whether there was room.
    #[inline(always)]
    pub(crate) fn open(&self, flow: &Flow) -> bool {
        if settings::dry_run() {
            return true;
        }
        F::write_flow(&self.key, flow, u64::from(BPF_ANY)).is_ok()
    }

    /// Looks at the flow with the same tuple of the other kind: translated or not. The key is what it was afterwards.
    #[inline(always)]
    pub(crate) fn of_other_kind<T>(&mut self, look: impl FnOnce(&Self) -> T) -> T {
        F::flip_translation(&mut self.key);
        let own = self.entry;
        self.entry = F::find_flow(&self.key);
        let answer = look(self);
        self.entry = own;
        F::flip_translation(&mut self.key);
        answer
    }

    /// Ends the flow.
    #[inline(always)]
    pub(crate) fn close(&self) {
        if !settings::dry_run() && self.entry.is_some() {
            F::delete_flow(&self.key);
        }
    }
}

/// Returns the state after a packet.
#[inline(always)]
pub(crate) fn next_state<F: Family>(state: u8, packet: &Packet<F>, original: bool) -> u8 {
    let mut next = state;
    if !original {
        next |= STATE_REPLIED;
    }
    if packet.protocol == protocol::TCP {
        if original && state & STATE_REPLIED != 0 && packet.tcp_flags & TCP_ACK != 0 {
            next |= STATE_ESTABLISHED;
        }
        if packet.tcp_flags & TCP_FIN != 0 {
            next |= if original {
                STATE_FIN_ORIGIN
            } else {
                STATE_FIN_RESPONDER
            };
        }
        if packet.tcp_flags & TCP_RST != 0 {
            next |= STATE_RESET;
        }
    }
    next
}

/// Returns whether the packet asks for a new TCP connection.
#[inline(always)]
pub(crate) fn is_syn<F: Family>(packet: &Packet<F>) -> bool {
    packet.protocol == protocol::TCP && packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// What a packet means for the flow that was found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Opens a flow, or opens it again: there is none, or it is closed, or its first packet is repeated.
    Opens,
    /// Goes on with the flow.
    Continues,
    /// The responder asks for a connection of its own on a live tuple: judged, but the live flow stays.
    Aside,
}

/// Returns what the packet means for its flow.
#[inline(always)]
pub(crate) fn meaning<F: Family>(packet: &Packet<F>, flow: &Flow, place: &Place) -> Meaning {
    if !is_syn(packet) {
        Meaning::Continues
    } else if place.original || flow.is_closed() {
        Meaning::Opens
    } else {
        Meaning::Aside
    }
}

/// Returns whether a TCP packet can open a flow: SYN alone, nothing with RST or FIN.
#[inline(always)]
pub(crate) fn opens<F: Family>(packet: &Packet<F>) -> bool {
    packet.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN
}

#[inline(always)]
pub(crate) fn find4(key: &FlowKey4) -> Option<*mut Flow> {
    CEBPF_FLOWS4.get_ptr_mut(key)
}

#[inline(always)]
pub(crate) fn find6(key: &FlowKey6) -> Option<*mut Flow> {
    CEBPF_FLOWS6.get_ptr_mut(key)
}

#[inline(always)]
pub(crate) fn write4(key: &FlowKey4, flow: &Flow, flags: u64) -> Result<(), i32> {
    CEBPF_FLOWS4.insert(key, flow, flags)
}

#[inline(always)]
pub(crate) fn write6(key: &FlowKey6, flow: &Flow, flags: u64) -> Result<(), i32> {
    CEBPF_FLOWS6.insert(key, flow, flags)
}

#[inline(always)]
pub(crate) fn delete4(key: &FlowKey4) {
    let _ = CEBPF_FLOWS4.remove(key);
}

#[inline(always)]
pub(crate) fn delete6(key: &FlowKey6) {
    let _ = CEBPF_FLOWS6.remove(key);
}
