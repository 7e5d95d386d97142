//! Conntrack: finding, opening and keeping flows.

use aya_ebpf::bindings::{__sk_buff, BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use calico_ebpf_common::branchless::opaque;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::flow::{
    FLOW_ORIGIN_LOW, Flow, FlowKey4, FlowKey6, ORIGIN, RESPONDER, STATE_ESTABLISHED, STATE_FIN_ORIGIN,
    STATE_REPLIED, STATE_RESET, STATE_RESET_ORIGIN,
};
use calico_ebpf_common::maps::{FLOW_ENTRIES, HALF_OPEN_ENTRIES};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::quota::{FOUND_CONFIRMED, FOUND_HALF_OPEN, FOUND_NONE, Kind, payer};
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_common::window;

use crate::family::{Family, V4, V6};
use crate::packet::Packet;
use crate::parse::transport::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use crate::quotas;
use crate::scratch;
use crate::segment;
use crate::settings;
use crate::skb::Skb;

#[map]
static CEBPF_FLOWS4: HashMap<FlowKey4, Flow> = HashMap::with_max_entries(FLOW_ENTRIES, 0);

#[map]
static CEBPF_FLOWS6: HashMap<FlowKey6, Flow> = HashMap::with_max_entries(FLOW_ENTRIES, 0);

#[map]
static CEBPF_HALFOPEN4: HashMap<FlowKey4, Flow> = HashMap::with_max_entries(HALF_OPEN_ENTRIES, 0);

#[map]
static CEBPF_HALFOPEN6: HashMap<FlowKey6, Flow> = HashMap::with_max_entries(HALF_OPEN_ENTRIES, 0);

/// `last_seen` is written when it is older than this many jiffies (0.13 to 1.3 s), so that busy flows do not
/// bounce their cache line between CPUs.
const TOUCH_JIFFIES: u64 = 128;

/// Returns `jiffies64`; the verifier inlines it on 64-bit machines.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_jiffies64() }
}

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
    let (mut entry, mut found) = (None, FOUND_CONFIRMED);
    if !not_confirmed {
        entry = F::confirmed().get_ptr_mut(&key);
    }
    if entry.is_none() {
        (entry, found) = (F::half_open().get_ptr_mut(&key), FOUND_HALF_OPEN);
    }
    if entry.is_none() {
        found = FOUND_NONE;
    }
    Seen {
        key,
        source_is_low,
        entry,
        found,
    }
}

/// As [`look_up`], with a copy of the flow in the [scratch room](scratch), and nothing that says in which table it is: for
/// programs with so many ways that the verifier must not follow each from here on. What goes on is written by key.
#[inline(always)]
pub(crate) fn look_up_aside<F: Family>(packet: &Packet<F>) -> (Seen<F>, Option<&'static Flow>) {
    let seen = look_up(packet);
    let flow = seen.flow_aside();
    let seen = Seen {
        entry: None,
        found: scratch::forget(seen.found),
        ..seen
    };
    (seen, flow)
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
    match F::confirmed().get_ptr_mut(key) {
        None => F::half_open().get_ptr_mut(key),
        found => found,
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

    /// Notes a packet that goes on with the flow: its time, and how far its connection has come. Returns whether that is all
    /// there is to note: a change of state is written by key, off the fast path. A TCP segment outside of its window changes
    /// nothing.
    #[inline(always)]
    pub(crate) fn touch(&self, skb: &Skb, flow: &Flow, packet: &Packet<F>, original: bool) -> bool {
        let Some(entry) = self.entry else { return true };
        let is_changed = next_state(flow.state, packet, original) != flow.state;
        if packet.protocol == protocol::TCP {
            let segment = Segment::of(packet, original, u32::from(is_changed));
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

    /// Notes a packet that goes on with the flow as it was judged, whatever table it is in.
    #[inline(always)]
    pub(crate) fn carry_on(&self, skb: &Skb, flow: &Flow, packet: &Packet<F>, original: bool) {
        let is_noted =
            self.entry.is_some() && self.found == FOUND_CONFIRMED && self.touch(skb, flow, packet, original);
        if !is_noted {
            self.go_on(skb, packet, flow, original);
        }
    }

    /// Writes a flow that goes on as it was judged, in another state or another table. Returns whether there was room.
    #[inline(always)]
    pub(crate) fn go_on(&self, skb: &Skb, packet: &Packet<F>, flow: &Flow, original: bool) -> bool {
        let flow = Flow {
            state: next_state(flow.state, packet, original),
            last_seen: now(),
            ..*flow
        };
        self.open(skb, packet, &flow)
    }

    /// Writes a flow that was judged anew. Returns whether there was room.
    #[inline(always)]
    pub(crate) fn open(&self, skb: &Skb, packet: &Packet<F>, flow: &Flow) -> bool {
        if settings::dry_run() {
            return true;
        }
        let Some(room) = scratch::room() else { return false };
        // SAFETY: the room is ours until the program ends.
        unsafe {
            F::write_key(core::ptr::addr_of_mut!((*room).key), &self.key);
            core::ptr::addr_of_mut!((*room).flow).write(*flow);
        }
        if packet.protocol == protocol::TCP {
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
        self.open(skb, packet, &ended);
    }

    /// Looks at the flow with the same tuple of the other kind: translated or not. The key is what it was afterwards.
    #[inline(always)]
    pub(crate) fn of_other_kind<T>(&mut self, look: impl FnOnce(&Self) -> T) -> T {
        F::flip_translation(&mut self.key);
        let (own, own_found) = (self.entry, self.found);
        (self.entry, self.found) = match F::confirmed().get_ptr_mut(&self.key) {
            None => (F::half_open().get_ptr_mut(&self.key), FOUND_HALF_OPEN),
            found => (found, FOUND_CONFIRMED),
        };
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

/// Where a TCP segment is in its packet, which way it goes, and a word for whom it is handed to, packed.
#[derive(Clone, Copy)]
pub(crate) struct Segment(u64);

impl Segment {
    #[inline(always)]
    fn of<F: Family>(packet: &Packet<F>, original: bool, word: u32) -> Self {
        let rest = word << 17 | u32::from(original) << 16 | packet.transport_offset as u32 & 0xffff;
        Self((packet.transport_bytes as u64) << 32 | u64::from(rest))
    }

    /// Returns where the TCP header is.
    #[inline(always)]
    fn offset(self) -> usize {
        // Keeps the bound visible, as in `rewrite`.
        (self.0 & 0x7ff) as usize
    }

    #[inline(always)]
    fn is_original(self) -> bool {
        self.0 >> 16 & 1 != 0
    }

    #[inline(always)]
    fn word(self) -> u32 {
        (self.0 >> 17 & 3) as u32
    }

    #[inline(always)]
    fn read(self, skb: &Skb) -> Result<window::Segment, DropReason> {
        segment::read(skb, self.offset(), (self.0 >> 32) as u32)
    }
}

/// Opens the IPv4 flow in the [scratch room](scratch) and returns 1, or 0 without room. `found` says where its entry was
/// found.
///
/// This and the functions below are global, as the look-ups in `tables` are.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn open_flow4(found: u32) -> u32 {
    u32::from(open_kept::<V4>(found))
}

/// As [`open_flow4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn open_flow6(found: u32) -> u32 {
    u32::from(open_kept::<V6>(found))
}

/// A flow that is half open stays in a table of its own: who opens many fills that, and only its own share. TCP is open
/// when its handshake is complete; the second packet of a protocol without a handshake completes it.
#[inline(always)]
fn open_kept<F: Family>(found: u32) -> bool {
    let Some(room) = scratch::room() else { return false };
    // SAFETY: the room is ours until the program ends.
    let (key, flow) = unsafe { (F::read_key(core::ptr::addr_of!((*room).key)), &(*room).flow) };
    let slot = payer(flow);
    // A flow that ended since it was found is a new one.
    if found == FOUND_CONFIRMED && write_over::<F>(F::confirmed(), Kind::Confirmed, key, flow) {
        return true;
    }
    let is_confirmed = flow.state & STATE_ESTABLISHED != 0 && !flow.is_closed();
    if found == FOUND_HALF_OPEN && (is_confirmed || F::protocol_of(key) != protocol::TCP) {
        if add::<F>(F::confirmed(), Kind::Confirmed, key, flow) {
            if F::half_open().remove(key).is_ok() {
                quotas::add(slot, Kind::HalfOpen, -1);
            }
            return true;
        }
        // It goes on where it is, off the fast path.
        quotas::refuse(slot);
    }
    if found == FOUND_HALF_OPEN && write_over::<F>(F::half_open(), Kind::HalfOpen, key, flow) {
        return true;
    }
    if add::<F>(F::half_open(), Kind::HalfOpen, key, flow) {
        return true;
    }
    quotas::refuse(slot);
    false
}

/// Lets the window of a flow follow a segment, if its word is 0. Returns 0 for a segment outside of its window.
///
/// Not inlined: most programs have no room for it on their stack.
#[inline(never)]
fn follow(skb: *mut __sk_buff, entry: *mut Flow, segment: Segment) -> u32 {
    let (original, is_noted) = (segment.is_original(), segment.word() == 0 && !settings::dry_run());
    let Ok(segment) = segment.read(&Skb::new(skb)) else {
        return 0;
    };
    // SAFETY: points to a map value. If it was re-used for another flow, that one has a window that fits it badly, and its
    // segments mean nothing until it ends.
    let window = unsafe { &mut (*entry).window };
    u32::from(window.follow(&segment, original, is_noted))
}

/// Takes the window of the IPv4 flow in the [scratch room](scratch) over from its entry, if it goes on. `found` says where that
/// was found. Returns 1 if it goes on.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn recall_flow4(found: u32) -> u32 {
    u32::from(recall_kept::<V4>(found))
}

/// As [`recall_flow4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn recall_flow6(found: u32) -> u32 {
    u32::from(recall_kept::<V6>(found))
}

#[inline(always)]
fn recall_kept<F: Family>(found: u32) -> bool {
    let Some(room) = scratch::room() else { return false };
    // SAFETY: the room is ours until the program ends.
    let key = unsafe { F::read_key(core::ptr::addr_of!((*room).key)) };
    let entry = match found {
        FOUND_CONFIRMED => F::confirmed().get_ptr(key),
        FOUND_HALF_OPEN => F::half_open().get_ptr(key),
        _ => None,
    };
    let Some(entry) = entry else { return false };
    // SAFETY: the entry is a map value, the room is ours.
    let (old, flow, found) = unsafe { (&*entry, &mut (*room).flow, &mut (*room).found) };
    if old.created != flow.created {
        return false;
    }
    flow.window = old.window.copied();
    (found.state, found.last_seen) = (old.state, old.last_seen);
    true
}

/// Lets the window of the flow in the [scratch room](scratch) follow the segment that opens it, or writes it over. The segment's
/// word says whether it goes on: then a segment outside of its window leaves its state and time as they were. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn follow_kept(skb: *mut __sk_buff, segment: u64) -> u32 {
    let Some(room) = scratch::room() else { return 0 };
    let (skb, place) = (Skb::new(skb), Segment(segment));
    let Ok(segment) = place.read(&skb) else { return 0 };
    // SAFETY: the room is ours until the program ends.
    let (flow, found) = unsafe { (&mut (*room).flow, &(*room).found) };
    if place.word() != 0 && !flow.window.takes(&segment, place.is_original()) {
        (flow.state, flow.last_seen) = (found.state, found.last_seen);
        return 0;
    }
    flow.window.note(&segment, place.is_original());
    0
}

/// Notes the window scale that a SYN offers in the flow in the [scratch room](scratch). Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn offer_kept(skb: *mut __sk_buff, segment: u64) -> u32 {
    let place = Segment(segment);
    if let Some(scale) = segment::scale(&Skb::new(skb), place.offset())
        && let Some(room) = scratch::room()
    {
        // SAFETY: the room is ours until the program ends.
        unsafe { (*room).flow.window.offer(place.is_original(), scale) };
    }
    0
}

/// Writes over an entry. Returns whether it is still there.
#[inline(always)]
fn write_over<F: Family>(table: &HashMap<F::Key, Flow>, kind: Kind, key: &F::Key, flow: &Flow) -> bool {
    let Some(entry) = table.get_ptr(key) else {
        return false;
    };
    // SAFETY: points to a map value.
    let (before, now) = (unsafe { payer(&*entry) }, payer(flow));
    if table.insert(key, flow, u64::from(BPF_EXIST)).is_err() {
        return false;
    }
    if before != now {
        quotas::add(before, kind, -1);
        quotas::add(now, kind, 1);
    }
    true
}

/// Adds an entry, if its endpoint may have one more. Returns whether there is one now: another processor may have been
/// faster.
#[inline(always)]
fn add<F: Family>(table: &HashMap<F::Key, Flow>, kind: Kind, key: &F::Key, flow: &Flow) -> bool {
    const EXISTS: i32 = -17;
    let slot = payer(flow);
    if !quotas::has_room(slot, kind) {
        return false;
    }
    match table.insert(key, flow, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            quotas::add(slot, kind, 1);
            true
        }
        Err(error) => error == EXISTS,
    }
}

/// Ends the IPv4 flow whose key is in the [scratch room](scratch). Returns 1 if there was one.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn close_flow4(found: u32) -> u32 {
    u32::from(close_kept::<V4>(found))
}

/// As [`close_flow4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn close_flow6(found: u32) -> u32 {
    u32::from(close_kept::<V6>(found))
}

#[inline(always)]
pub(crate) fn close_kept<F: Family>(found: u32) -> bool {
    let Some(room) = scratch::room() else { return false };
    // SAFETY: the room is ours until the program ends.
    let key = unsafe { F::read_key(core::ptr::addr_of!((*room).key)) };
    let (table, kind) = if found == FOUND_HALF_OPEN {
        (F::half_open(), Kind::HalfOpen)
    } else {
        (F::confirmed(), Kind::Confirmed)
    };
    let Some(entry) = table.get_ptr(key) else {
        return false;
    };
    // SAFETY: points to a map value.
    let slot = unsafe { payer(&*entry) };
    let is_ended = table.remove(key).is_ok();
    if is_ended {
        quotas::add(slot, kind, -1);
    }
    is_ended
}

/// Returns the state after a packet. Without branches: the verifier would follow all that comes after once for each way.
#[inline(always)]
pub(crate) fn next_state<F: Family>(state: u8, packet: &Packet<F>, original: bool) -> u8 {
    let (state, flags) = (u64::from(state), u64::from(packet.tcp_flags));
    let is_reply = opaque(u64::from(!original));
    let next = state | is_reply * u64::from(STATE_REPLIED);
    if packet.protocol != protocol::TCP {
        return next as u8;
    }
    let is_tcp_reply = opaque(is_reply);
    let is_set = |flag: u8| flags >> flag.trailing_zeros() & 1;
    let was_answered = state >> STATE_REPLIED.trailing_zeros() & 1;
    let is_established = was_answered & is_set(TCP_ACK) & (1 ^ is_tcp_reply);
    // The responder's bit is the next one.
    let fin = is_set(TCP_FIN) << STATE_FIN_ORIGIN.trailing_zeros() << is_tcp_reply;
    let next = next | is_established * u64::from(STATE_ESTABLISHED) | fin;
    let reset = u64::from(STATE_RESET_ORIGIN) << is_tcp_reply;
    // Who goes on has not reset: the reset was somebody else's, or of a segment that came late.
    (next & !reset | is_set(TCP_RST) * reset) as u8
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

/// The tables of IPv4.
#[inline(always)]
pub(crate) fn tables4() -> [&'static HashMap<FlowKey4, Flow>; 2] {
    [&CEBPF_FLOWS4, &CEBPF_HALFOPEN4]
}

/// The tables of IPv6.
#[inline(always)]
pub(crate) fn tables6() -> [&'static HashMap<FlowKey6, Flow>; 2] {
    [&CEBPF_FLOWS6, &CEBPF_HALFOPEN6]
}
