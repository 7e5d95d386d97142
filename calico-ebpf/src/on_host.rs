//! The parser outside of the kernel: the same source, over memory that the caller lays out.
//!
//! A context holds addresses as 32-bit numbers, as in the kernel's own structure, so the memory lies below 4 GiB.

use aya_ebpf::bindings::__sk_buff;
use calico_ebpf_common::parsed::{Parsed, reader};

use crate::parse::tell::tell;
use crate::skb::{LINEAR_BYTES, Skb};

/// Bytes that [`Frame::pulled`] has to hold, of a frame that is that long.
pub const PULLED_BYTES: u32 = LINEAR_BYTES;

/// Where a frame lies: addresses of its first byte and of the one behind its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub begin: u32,
    pub end: u32,
}

/// A frame as the kernel would hand it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its length.
    pub bytes: u32,
    /// What can be read at first: as many of its bytes as the driver put there.
    pub linear: Range,
    /// The first [`PULLED_BYTES`] of it, or all: what can be read when the program has asked for more.
    pub pulled: Range,
    /// Whether it had a VLAN tag, which the kernel took out of it.
    pub has_vlan_tag: bool,
}

/// The context that programs are called with, and what the helper finds behind it.
#[repr(C)]
struct Context {
    seen: __sk_buff,
    pulled: Range,
}

/// Reads a frame as the programs do.
///
/// # Safety
/// Both ranges of the frame can be read.
///
/// # Panics
/// When arithmetic of the parser overflows, in a build that checks it, and when `way` is no reader.
pub unsafe fn read(frame: &Frame, way: u32) -> Parsed {
    // SAFETY: all zeros is a valid context: it holds numbers, and pointers that may be null.
    let seen: __sk_buff = unsafe { core::mem::zeroed() };
    let mut context = Context {
        seen: __sk_buff {
            len: frame.bytes,
            vlan_present: frame.has_vlan_tag.into(),
            data: frame.linear.begin,
            data_end: frame.linear.end,
            ..seen
        },
        pulled: frame.pulled,
    };
    let skb = Skb::new((&raw mut context).cast());
    let mut parsed = Parsed::default();
    match way {
        reader::WHOLE => tell::<{ reader::WHOLE }>(&skb, &mut parsed),
        reader::WITH_PORTS => tell::<{ reader::WITH_PORTS }>(&skb, &mut parsed),
        reader::FRAGMENT => tell::<{ reader::FRAGMENT }>(&skb, &mut parsed),
        reader::QUOTED => tell::<{ reader::QUOTED }>(&skb, &mut parsed),
        reader::ARP => tell::<{ reader::ARP }>(&skb, &mut parsed),
        other => panic!("{other} is no reader"),
    }
    parsed
}

/// What the kernel's helper does: the first `wanted` bytes become linear, somewhere else.
///
/// # Safety
/// `raw` is the context that [`read`] made.
pub(crate) unsafe fn bpf_skb_pull_data(raw: *mut __sk_buff, wanted: u32) -> i64 {
    // SAFETY: `read` is the only one that makes contexts in this build; the pointer is to all of one.
    let context = unsafe { &mut *raw.cast::<Context>() };
    let Range { begin, end } = context.pulled;
    assert_eq!(end - begin, wanted, "other bytes are pulled than were laid out");
    (context.seen.data, context.seen.data_end) = (begin, end);
    0
}
