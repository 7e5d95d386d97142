//! Room for what neither the stack (512 bytes, shared with every function that is called) nor the packet's control block (five
//! words, used by judging) has room for.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use calico_ebpf_common::flow::Flow;

/// What a program keeps here until it ends, or for the program that it calls.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Room {
    /// Key of a flow to be opened or closed; that of IPv4 is shorter.
    pub(crate) key: [u64; 5],
    /// The flow to be opened.
    pub(crate) flow: Flow,
    /// A flow that was found.
    pub(crate) found: Flow,
    /// Slots of both ends of a flow that goes on whatever policy says.
    slots: u32,
    /// How a packet is translated: line of its new source, and its new port.
    source: u32,
    port: u32,
    /// See [`forget`].
    forgotten: u32,
}

#[map]
static CEBPF_SCRATCH: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

/// Returns this processor's room. No other program of ours runs here meanwhile: TC and BPF_PROG_TEST_RUN both run with
/// bottom halves off.
#[inline(always)]
pub(crate) fn room() -> Option<*mut Room> {
    CEBPF_SCRATCH.get_ptr_mut(0)
}

/// Returns `word`, of which the verifier knows nothing any more: see `Packet::forget_way`.
#[inline(always)]
pub(crate) fn forget(word: u32) -> u32 {
    let Some(room) = room() else { return word };
    // SAFETY: see `room`.
    unsafe {
        let forgotten = core::ptr::addr_of_mut!((*room).forgotten);
        forgotten.write_volatile(word);
        forgotten.read_volatile()
    }
}

/// Keeps a copy of a flow that was found. There is room for one.
#[inline(always)]
pub(crate) fn keep_found(flow: Option<*mut Flow>) -> Option<&'static Flow> {
    let (flow, room) = (flow?, room()?);
    // SAFETY: both point to map values, which stay mapped while the program runs; see `room`.
    unsafe {
        let found = core::ptr::addr_of_mut!((*room).found);
        *found = *flow;
        Some(&*found)
    }
}

/// Leaves the slots of both ends for the program that this one calls, or for a later part of this one.
#[inline(always)]
pub(crate) fn leave_slots(slots: u32) {
    if let Some(room) = room() {
        // SAFETY: see `room`.
        unsafe { (*room).slots = slots };
    }
}

/// Returns what [`leave_slots`] left; without a room, what no flow has.
#[inline(always)]
pub(crate) fn left_slots() -> u32 {
    // SAFETY: see `room`.
    room().map_or(u32::MAX, |room| unsafe { (*room).slots })
}

/// Keeps the line of a packet's new source, and its new port, while policy is asked.
#[inline(always)]
pub(crate) fn keep_translation(source: u32, port: u32) {
    if let Some(room) = room() {
        // SAFETY: see `room`.
        unsafe { ((*room).source, (*room).port) = (source, port) };
    }
}

/// Returns what [`keep_translation`] kept.
#[inline(always)]
pub(crate) fn kept_translation() -> Option<(u32, u32)> {
    // SAFETY: see `room`.
    room().map(|room| unsafe { ((*room).source, (*room).port) })
}
