//! Conntrack: finding, opening and keeping flows.

use aya_ebpf::helpers::bpf_jiffies64;
use calico_ebpf_common::branchless::opaque;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::flow::{
    FLOW_ORIGIN_LOW, Flow, ORIGIN, RESPONDER, STATE_ESTABLISHED, STATE_FIN_ORIGIN, STATE_REPLIED,
    STATE_RESET, STATE_RESET_ORIGIN,
};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::quota::{FOUND_CONFIRMED, FOUND_HALF_OPEN, FOUND_NONE};

use crate::family::Family;
use crate::packet::Packet;
use crate::parse::transport::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use crate::scratch;
use crate::settings;
use crate::skb::Skb;
use crate::windows::{Segment, follow, follow_apart, follow_kept, offer_kept};

/// `last_seen` is written when it is older than this many jiffies (0.13 to 1.3 s), so that busy flows do not
/// bounce their cache line between CPUs.
const TOUCH_JIFFIES: u64 = 128;

/// Returns `jiffies64`; the verifier inlines it on 64-bit machines.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_jiffies64() }
}

/// How the sequence window of a flow is followed: not at all, in the calling function, in one of its own.
const NOT_FOLLOWED: u8 = 0;
const FOLLOWED: u8 = 1;
const FOLLOWED_APART: u8 = 2;

/// See [`Seen::keep`].
const KEPT: u32 = 4;

/// A flow as one packet sees it.
pub(crate) struct Seen<F: Family> {
    pub(crate) key: F::Key,
    pub(crate) source_is_low: bool,
    entry: Option<*mut Flow>,
    /// In which table it was found: `FOUND_NONE`, `FOUND_HALF_OPEN` or `FOUND_CONFIRMED`; with [`KEPT`], it is not ended.
    found: u32,
}

/// Looks the packet's flow up, half open or not.
#[inline(always)]
pub(crate) fn look_up<F: Family>(packet: &Packet<F>) -> Seen<F> {
    look_up_unless(packet, false)
}

/// As [`look_up`]; `not_confirmed` says that it is no confirmed one.
#[inline(always)]
pub(crate) fn look_up_unless<F: Family>(packet: &Packet<F>, not_confirmed: bool) -> Seen<F> {
    let (key, source_is_low) = F::flow_key(packet);
    let (entry, found) = in_tables::<F>(&key, not_confirmed);
    Seen {
        key,
        source_is_low,
        entry,
        found,
    }
}

/// As [`look_up`], with a copy of the flow in the [scratch room](scratch): for programs with so many ways that the verifier
/// must not follow each from here on.
#[inline(always)]
pub(crate) fn look_up_forgetting<F: Family>(packet: &Packet<F>) -> (Seen<F>, Option<&'static Flow>) {
    let seen = look_up(packet);
    let flow = seen.flow_aside();
    let word = scratch::forget(seen.found << 1 | u32::from(seen.source_is_low));
    let seen = Seen {
        found: word >> 1 & 3,
        source_is_low: word & 1 != 0,
        ..seen
    };
    (seen, flow)
}

/// As [`look_up_forgetting`], and with nothing that says in which table the flow is: what goes on is written by key.
#[inline(always)]
pub(crate) fn look_up_aside<F: Family>(packet: &Packet<F>) -> (Seen<F>, Option<&'static Flow>) {
    let (seen, flow) = look_up_forgetting(packet);
    (Seen { entry: None, ..seen }, flow)
}

/// Looks the packet's flow up among the confirmed ones: the fast path.
#[inline(always)]
pub(crate) fn look_up_confirmed<F: Family>(packet: &Packet<F>) -> Seen<F> {
    let (key, source_is_low) = F::flow_key(packet);
    let entry = F::confirmed().get_ptr_mut(&key);
    Seen {
        key,
        source_is_low,
        entry,
        found: FOUND_CONFIRMED,
    }
}

/// Returns the flow of a key, half open or not.
#[inline(always)]
pub(crate) fn find<F: Family>(key: &F::Key) -> Option<*mut Flow> {
    in_tables::<F>(key, false).0
}

/// Returns a flow's entry, and in which table it is. `not_confirmed` says that it is no confirmed one.
#[inline(always)]
fn in_tables<F: Family>(key: &F::Key, not_confirmed: bool) -> (Option<*mut Flow>, u32) {
    let (mut entry, mut found) = (None, FOUND_CONFIRMED);
    if !not_confirmed {
        entry = F::confirmed().get_ptr_mut(key);
    }
    if entry.is_none() {
        (entry, found) = (F::half_open().get_ptr_mut(key), FOUND_HALF_OPEN);
    }
    if entry.is_none() {
        found = FOUND_NONE;
    }
    (entry, found)
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

    /// Notes a packet that goes on with the flow: its time, and how far its connection has come. Returns whether that is all
    /// there is to note: a change of state is written by key, off the fast path. A TCP segment outside of its window changes
    /// nothing.
    #[inline(always)]
    pub(crate) fn touch(&self, skb: &Skb, flow: &Flow, packet: &Packet<F>, original: bool) -> bool {
        self.touch_as::<FOLLOWED_APART>(skb, flow, packet, original)
    }

    /// As [`Self::touch`], faster by a call, for the program with the fewest ways.
    #[inline(always)]
    pub(crate) fn touch_at_once(&self, skb: &Skb, flow: &Flow, packet: &Packet<F>, original: bool) -> bool {
        self.touch_as::<FOLLOWED>(skb, flow, packet, original)
    }

    #[inline(always)]
    fn touch_as<const WINDOW: u8>(&self, skb: &Skb, flow: &Flow, packet: &Packet<F>, original: bool) -> bool {
        let Some(entry) = self.entry else { return true };
        let is_changed = next_state(flow.state, packet, original) != flow.state;
        if WINDOW != NOT_FOLLOWED && packet.protocol == protocol::TCP {
            let segment = Segment::of(packet, original, u32::from(is_changed));
            let follow = if WINDOW == FOLLOWED { follow } else { follow_apart };
            if follow(skb.raw(), entry, segment) == 0 {
                return true;
            }
        }
        if is_changed {
            return false;
        }
        let now = now();
        if !settings::dry_run() && now.wrapping_sub(flow.last_seen) > TOUCH_JIFFIES {
            // SAFETY: as in `flow`; a time written into an entry that was re-used does no harm.
            unsafe { core::ptr::addr_of_mut!((*entry).last_seen).write_volatile(now) };
        }
        true
    }

    /// Returns whether the flow is half open, after [`look_up_confirmed`] found none.
    #[inline(always)]
    pub(crate) fn is_half_open(&self) -> bool {
        F::half_open().get_ptr(&self.key).is_some()
    }

    /// Notes a packet that goes on with a translated flow as it was judged, whatever table it is in. Windows of translated flows
    /// are not followed: Linux 6.1 does not look at programs that long to their end.
    #[inline(always)]
    pub(crate) fn carry_on(&self, skb: &Skb, flow: &Flow, packet: &Packet<F>, original: bool) {
        let is_noted = self.entry.is_some()
            && self.found == FOUND_CONFIRMED
            && self.touch_as::<NOT_FOLLOWED>(skb, flow, packet, original);
        if !is_noted {
            self.open_as::<false>(skb, packet, &gone_on(flow, packet, original));
        }
    }

    /// Writes a flow that goes on as it was judged, in another state or another table. Returns whether there was room.
    #[inline(always)]
    pub(crate) fn go_on(&self, skb: &Skb, packet: &Packet<F>, flow: &Flow, original: bool) -> bool {
        self.open(skb, packet, &gone_on(flow, packet, original))
    }

    /// Writes a flow that was judged anew. Returns whether there was room.
    #[inline(always)]
    pub(crate) fn open(&self, skb: &Skb, packet: &Packet<F>, flow: &Flow) -> bool {
        self.open_as::<true>(skb, packet, flow)
    }

    /// As [`Self::open`], for a translated flow: see [`Self::carry_on`].
    #[inline(always)]
    pub(crate) fn open_translated(&self, skb: &Skb, packet: &Packet<F>, flow: &Flow) -> bool {
        self.open_as::<false>(skb, packet, flow)
    }

    #[inline(always)]
    fn open_as<const WINDOW: bool>(&self, skb: &Skb, packet: &Packet<F>, flow: &Flow) -> bool {
        if settings::dry_run() {
            return true;
        }
        let Some(room) = scratch::room() else { return false };
        // SAFETY: the room is ours until the program ends.
        unsafe {
            F::write_key(core::ptr::addr_of_mut!((*room).key), &self.key);
            core::ptr::addr_of_mut!((*room).flow).write(*flow);
        }
        if WINDOW && packet.protocol == protocol::TCP {
            let original = (flow.flags & FLOW_ORIGIN_LOW != 0) == self.source_is_low;
            let goes_on = F::recall_kept(self.found & !KEPT);
            let segment = Segment::of(packet, original, u32::from(goes_on));
            follow_kept(skb.raw(), segment.0);
            if packet.tcp_flags & TCP_SYN != 0 {
                offer_kept(skb.raw(), segment.0);
            }
        }
        F::open_kept(self.found & !KEPT)
    }

    /// Ends TCP in `flow`, as a reset of the other end would: it stays known for as long as a reset one does.
    #[inline(always)]
    pub(crate) fn reset(&self, skb: &Skb, packet: &Packet<F>, flow: &Flow) {
        let ended = Flow {
            state: flow.state | STATE_RESET,
            last_seen: now(),
            ..*flow
        };
        self.open_as::<false>(skb, packet, &ended);
    }

    /// Looks at the flow with the same tuple of the other kind: translated or not. The key is what it was afterwards.
    #[inline(always)]
    pub(crate) fn of_other_kind<T>(&mut self, look: impl FnOnce(&Self) -> T) -> T {
        F::flip_translation(&mut self.key);
        let (own, own_found) = (self.entry, self.found);
        (self.entry, self.found) = in_tables::<F>(&self.key, false);
        let answer = look(self);
        (self.entry, self.found) = (own, own_found);
        F::flip_translation(&mut self.key);
        answer
    }

    /// Has [`Self::close`] leave the flow as it is.
    #[inline(always)]
    pub(crate) fn keep(&mut self) {
        self.found |= KEPT;
    }

    /// Ends the flow.
    #[inline(always)]
    pub(crate) fn close(&self) {
        if settings::dry_run() || self.found == FOUND_NONE || self.found & KEPT != 0 {
            return;
        }
        if let Some(room) = scratch::room() {
            // SAFETY: the room is ours until the program ends.
            unsafe { F::write_key(core::ptr::addr_of_mut!((*room).key), &self.key) };
            F::close_kept(self.found);
        }
    }
}

/// Returns a flow as it is after a packet that goes on with it.
#[inline(always)]
fn gone_on<F: Family>(flow: &Flow, packet: &Packet<F>, original: bool) -> Flow {
    Flow {
        state: next_state(flow.state, packet, original),
        last_seen: now(),
        ..*flow
    }
}

/// Returns the state after a packet. Without branches: the verifier would follow all that comes after once for each way.
#[inline(always)]
pub(crate) fn next_state<F: Family>(state: u8, packet: &Packet<F>, original: bool) -> u8 {
    let (state, flags) = (u64::from(state), u64::from(packet.tcp_flags));
    let is_reply = opaque(u64::from(!original));
    let next = state | (is_reply * u64::from(STATE_REPLIED));
    if packet.protocol != protocol::TCP {
        return next as u8;
    }
    let is_tcp_reply = opaque(is_reply);
    let is_set = |flag: u8| flags >> flag.trailing_zeros() & 1;
    let was_answered = state >> STATE_REPLIED.trailing_zeros() & 1;
    let is_established = was_answered & is_set(TCP_ACK) & (1 ^ is_tcp_reply);
    // The responder's bit is the next one.
    let fin = is_set(TCP_FIN) << STATE_FIN_ORIGIN.trailing_zeros() << is_tcp_reply;
    let next = next | (is_established * u64::from(STATE_ESTABLISHED)) | fin;
    let reset = u64::from(STATE_RESET_ORIGIN) << is_tcp_reply;
    // Who goes on has not reset: the reset was somebody else's, or of a segment that came late.
    (next & !reset | (is_set(TCP_RST) * reset)) as u8
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
