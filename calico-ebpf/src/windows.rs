//! How flows follow the sequence windows of their connections.

use aya_ebpf::bindings::__sk_buff;
use calico_ebpf_common::flow::Flow;
use calico_ebpf_common::quota::{FOUND_CONFIRMED, FOUND_HALF_OPEN};
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_common::window;

use crate::family::{Family, V4, V6};
use crate::packet::Packet;
use crate::scratch;
use crate::segment;
use crate::settings;
use crate::skb::Skb;

/// Where a TCP segment is in its packet, which way it goes, and a word for whom it is handed to, packed.
#[derive(Clone, Copy)]
pub(crate) struct Segment(pub(crate) u64);

impl Segment {
    #[inline(always)]
    pub(crate) fn of<F: Family>(packet: &Packet<F>, original: bool, word: u32) -> Self {
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

/// Lets the window of a flow follow a segment, if its word is 0. Returns 0 for a segment outside of its window.
#[inline(always)]
pub(crate) fn follow(skb: *mut __sk_buff, entry: *mut Flow, segment: Segment) -> u32 {
    let (original, is_noted) = (segment.is_original(), segment.word() == 0 && !settings::dry_run());
    let Ok(segment) = segment.read(&Skb::new(skb)) else {
        return 0;
    };
    // SAFETY: points to a map value. If it was re-used for another flow, that one has a window that fits it badly, and its
    // segments mean nothing until it ends.
    let window = unsafe { &mut (*entry).window };
    u32::from(window.follow(&segment, original, is_noted))
}

/// As [`follow`], apart: most programs have no room for it on their stack.
#[inline(never)]
pub(crate) fn follow_apart(skb: *mut __sk_buff, entry: *mut Flow, segment: Segment) -> u32 {
    follow(skb, entry, segment)
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
