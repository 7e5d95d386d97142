//! TCP sequence windows: which segments belong to a connection as its ends see it (RFC 9293 section 3.4).
//!
//! What a side may send ends where the other side's acknowledgements and window say, and begins a window before the end of
//! what it has sent. Numbers are noted only when they have moved by [`LAG`], so that busy flows do not bounce their cache
//! line between processors; what is compared with them has [`SLACK`].

use bytemuck::{Pod, Zeroable};

use crate::branchless::in_turn;
use crate::flow::{ORIGIN, RESPONDER};

/// Sequence numbers may be ahead of what is noted by this many bytes.
pub const LAG: u32 = 1 << 15;
/// What is further outside of the window than this is not in it.
pub const SLACK: u32 = 1 << 16;
/// No side acknowledges so much more than what the other was seen to send: who says so would move the end of the other's window
/// more than half the sequence space ahead, where nothing is in it any more.
const MOST_AHEAD: u32 = 1 << 29;
/// The widest scale (RFC 7323 section 2.3), for connections whose handshake was not seen.
const MAX_SCALE: u8 = 14;

/// [`Window::known`]: the end of what the originator has sent. The responder's bit is the next one.
const END: u8 = 1;
/// What the originator may send up to. The responder's bit is the next one.
const REACH: u8 = 4;
/// The originator's first segment offered a scale. The responder's bit is the next one.
const SCALED: u8 = 16;
/// The originator's handshake was seen. The responder's bit is the next one.
const OPENED: u8 = 64;

/// What is known of both directions of a connection: originator's first, then responder's.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Window {
    /// Sequence number behind the last byte that was sent.
    pub end: [u32; 2],
    /// Sequence number up to which the other side takes bytes.
    pub reach: [u32; 2],
    /// Widest window that was advertised, not scaled.
    pub widest: [u16; 2],
    /// Scale of the originator in the low half, of the responder in the high half.
    pub scales: u8,
    /// Bits that say which of these are known.
    pub known: u8,
    pub reserved: u16,
}
crate::shared_type!(Window, 24);

/// A TCP segment, numbers in the host's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub sequence: u32,
    /// Sequence number behind its last byte; SYN and FIN take one each.
    pub end: u32,
    pub acknowledged: u32,
    pub window: u16,
    pub is_syn: bool,
    pub is_ack: bool,
    pub is_reset: bool,
}

impl Window {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        end: [0; 2],
        reach: [0; 2],
        widest: [0; 2],
        scales: 0,
        known: 0,
        reserved: 0,
    };

    /// Returns a copy, word by word: a copy between map values becomes a call otherwise.
    #[must_use]
    #[inline(always)]
    pub fn copied(&self) -> Self {
        let [first, second, third]: [u64; 3] = bytemuck::cast(*self);
        bytemuck::cast([in_turn(first), in_turn(second), in_turn(third)])
    }

    /// Returns whether a segment of one side is in its window. What is not known lets everything in.
    #[inline(always)]
    pub fn takes(&self, segment: &Segment, original: bool) -> bool {
        // No index that varies: an array would have to be on the stack.
        if original {
            self.takes_from::<ORIGIN, RESPONDER>(segment)
        } else {
            self.takes_from::<RESPONDER, ORIGIN>(segment)
        }
    }

    #[inline(always)]
    fn takes_from<const SIDE: usize, const OTHER: usize>(&self, segment: &Segment) -> bool {
        let needed = (END | REACH) << SIDE as u8;
        if self.known & needed != needed {
            return true;
        }
        if !is_at_most(segment.end, self.reach[SIDE].wrapping_add(SLACK)) {
            return false;
        }
        let width = u32::from(self.widest[OTHER]) << self.scale::<OTHER>();
        is_at_most(
            self.end[SIDE].wrapping_sub(width).wrapping_sub(SLACK),
            segment.sequence,
        )
    }

    /// Notes a segment if it is in its window, and returns whether it is.
    #[inline(always)]
    pub fn follow(&mut self, segment: &Segment, original: bool, is_noted: bool) -> bool {
        if original {
            self.follow_from::<ORIGIN, RESPONDER>(segment, is_noted)
        } else {
            self.follow_from::<RESPONDER, ORIGIN>(segment, is_noted)
        }
    }

    #[inline(always)]
    fn follow_from<const SIDE: usize, const OTHER: usize>(
        &mut self,
        segment: &Segment,
        is_noted: bool,
    ) -> bool {
        let is_taken = self.takes_from::<SIDE, OTHER>(segment);
        if is_taken && is_noted && !segment.is_reset {
            self.note_from::<SIDE, OTHER>(segment);
        }
        is_taken
    }

    /// Notes a segment that is in its window.
    #[inline(always)]
    pub fn note(&mut self, segment: &Segment, original: bool) {
        if segment.is_reset {
            return;
        }
        if original {
            self.note_from::<ORIGIN, RESPONDER>(segment);
        } else {
            self.note_from::<RESPONDER, ORIGIN>(segment);
        }
    }

    /// Notes that a SYN of one side offers a scale.
    #[inline(always)]
    pub fn offer(&mut self, original: bool, scale: u8) {
        let side = if original { ORIGIN as u8 } else { RESPONDER as u8 };
        let scale = if scale > MAX_SCALE { MAX_SCALE } else { scale };
        self.known |= SCALED << side;
        self.scales |= scale << (4 * side);
    }

    #[inline(always)]
    fn note_from<const SIDE: usize, const OTHER: usize>(&mut self, segment: &Segment) {
        let (end, reach) = (END << SIDE as u8, REACH << OTHER as u8);
        if segment.is_syn {
            self.known |= OPENED << SIDE as u8;
        } else if segment.window > self.widest[SIDE] {
            self.widest[SIDE] = segment.window;
        }
        if self.known & end == 0 || is_ahead(segment.end, self.end[SIDE], LAG) {
            self.end[SIDE] = segment.end;
            self.known |= end;
        }
        let other_end = END << OTHER as u8;
        let is_believed = self.known & other_end == 0
            || is_at_most(segment.acknowledged, self.end[OTHER].wrapping_add(MOST_AHEAD));
        if segment.is_ack && is_believed {
            let scale = if segment.is_syn { 0 } else { self.scale::<SIDE>() };
            let limit = segment
                .acknowledged
                .wrapping_add(u32::from(segment.window) << scale);
            if self.known & reach == 0 || is_ahead(limit, self.reach[OTHER], LAG) {
                self.reach[OTHER] = limit;
                self.known |= reach;
            }
        }
    }

    /// Returns the scale of one side's windows.
    #[inline(always)]
    fn scale<const SIDE: usize>(&self) -> u8 {
        let (opened, scaled) = (OPENED | OPENED << 1, SCALED | SCALED << 1);
        if self.known & opened != opened {
            MAX_SCALE
        } else if self.known & scaled == scaled {
            self.scales >> (4 * SIDE as u8) & 15
        } else {
            0
        }
    }
}

/// Compares sequence numbers, which wrap (RFC 9293 section 3.4).
#[inline(always)]
fn is_at_most(left: u32, right: u32) -> bool {
    right.wrapping_sub(left).cast_signed() >= 0
}

#[inline(always)]
fn is_ahead(number: u32, of: u32, by: u32) -> bool {
    number.wrapping_sub(of).cast_signed() > by.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Window {
        fn after(mut self, segment: &Segment, original: bool, scale: Option<u8>) -> Self {
            self.note(segment, original);
            if let Some(scale) = scale {
                self.offer(original, scale);
            }
            self
        }
    }

    const SYN: Segment = Segment {
        sequence: 1000,
        end: 1001,
        acknowledged: 0,
        window: 64_000,
        is_syn: true,
        is_ack: false,
        is_reset: false,
    };

    fn data(sequence: u32, bytes: u32, acknowledged: u32, window: u16) -> Segment {
        Segment {
            sequence,
            end: sequence.wrapping_add(bytes),
            acknowledged,
            window,
            is_syn: false,
            is_ack: true,
            is_reset: false,
        }
    }

    fn reset(sequence: u32) -> Segment {
        Segment {
            is_reset: true,
            ..data(sequence, 0, 0, 0)
        }
    }

    /// A connection from 1000 to 90000, both with windows of `window << scale`.
    fn open(scale: Option<u8>, window: u16) -> Window {
        open_at(1000, 90_000, scale, window)
    }

    fn open_at(origin: u32, responder: u32, scale: Option<u8>, window: u16) -> Window {
        let (origin_next, responder_next) = (origin.wrapping_add(1), responder.wrapping_add(1));
        let syn = Segment {
            sequence: origin,
            end: origin_next,
            ..SYN
        };
        let syn_ack = Segment {
            sequence: responder,
            end: responder_next,
            acknowledged: origin_next,
            is_ack: true,
            ..SYN
        };
        let mut known = Window::UNKNOWN;
        for (segment, original, scale) in [
            (syn, true, scale),
            (syn_ack, false, scale),
            (data(origin_next, 0, responder_next, window), true, None),
            (data(responder_next, 0, origin_next, window), false, None),
        ] {
            assert!(known.takes(&segment, original));
            known = known.after(&segment, original, scale);
        }
        known
    }

    #[test]
    fn what_is_not_known_lets_everything_in() {
        assert!(Window::UNKNOWN.takes(&reset(0xdead_beef), true));
        let after_syn = Window::UNKNOWN.after(&SYN, true, Some(7));
        assert!(after_syn.takes(&reset(0xdead_beef), true));
        assert!(after_syn.takes(&reset(0), false), "refused: sequence number 0");
    }

    #[test]
    fn what_is_far_outside_is_not_in_the_window() {
        for original in [true, false] {
            let known = open(Some(0), 1000);
            let next = if original { 1001 } else { 90_001 };
            for offset in [0, 900, SLACK] {
                assert!(known.takes(&reset(next + offset), original), "{offset}");
            }
            for offset in [SLACK + 64_001, 1 << 20, 1 << 30, 1 << 31] {
                assert!(
                    !known.takes(&reset(next.wrapping_add(offset)), original),
                    "{offset}"
                );
                assert!(
                    !known.takes(&data(next.wrapping_add(offset), 100, 0, 0), original),
                    "{offset}"
                );
            }
            for offset in [SLACK + 1100, 1 << 20, 1 << 30] {
                assert!(
                    !known.takes(&reset(next.wrapping_sub(offset)), original),
                    "{offset}"
                );
            }
        }
    }

    #[test]
    fn windows_are_scaled_only_when_both_sides_offered_it() {
        let scaled = open(Some(7), 1000);
        assert!(scaled.takes(&data(1001 + (1000 << 7), 0, 0, 0), true));
        let plain = open(None, 1000);
        assert!(!plain.takes(&data(1001 + (1000 << 7) + SLACK, 0, 0, 0), true));
        let mut one_sided = Window::UNKNOWN.after(&SYN, true, Some(7));
        let answer = Segment {
            sequence: 90_000,
            end: 90_001,
            acknowledged: 1001,
            is_ack: true,
            ..SYN
        };
        one_sided = one_sided.after(&answer, false, None);
        assert_eq!(one_sided.scale::<ORIGIN>(), 0);
    }

    #[test]
    fn without_the_handshake_windows_are_taken_for_the_widest() {
        let known = Window::UNKNOWN
            .after(&data(5000, 100, 7000, 100), true, None)
            .after(&data(7000, 100, 5100, 100), false, None);
        assert!(known.takes(&data(5100 + (100 << 14), 0, 0, 0), true));
        assert!(!known.takes(&data(5100 + (1 << 30), 0, 0, 0), true));
    }

    #[test]
    fn small_steps_are_not_noted_and_large_ones_are() {
        let known = open(Some(7), 1000);
        let next = known.after(&data(1001, LAG, 90_001, 1000), true, None);
        assert_eq!(next, known);
        let next = known.after(&data(1001, LAG + 1, 90_001, 1000), true, None);
        assert_eq!(next.end[ORIGIN], 1001 + LAG + 1);
        let next = known.after(&data(90_001, 0, 1001 + LAG + 1, 1000), false, None);
        assert_eq!(next.reach[ORIGIN], 1001 + LAG + 1 + (1000 << 7));
    }

    #[test]
    fn a_reset_moves_no_window() {
        let known = open(Some(7), 1000);
        assert_eq!(known.after(&reset(1001 + 100_000), true, None), known);
    }

    proptest::proptest! {
        /// Two ends that keep to what the other allows are never outside, wherever their numbers begin and wrap.
        #[test]
        fn a_transfer_that_keeps_to_its_windows_is_always_inside(
            origin: u32,
            responder: u32,
            scale in 0_u8..=14,
            window in 1_u16..,
            steps in proptest::collection::vec((1_u32..200_000, proptest::bool::ANY), 1..200),
        ) {
            let mut known = open_at(origin, responder, Some(scale), window);
            let (mut sent, mut taken) = (origin.wrapping_add(1), origin.wrapping_add(1));
            let back = responder.wrapping_add(1);
            let width = u32::from(window) << scale;
            for (bytes, acknowledges) in steps {
                let room = taken.wrapping_add(width).wrapping_sub(sent);
                let segment = data(sent, bytes.min(room).min(65_000), back, window);
                proptest::prop_assert!(known.takes(&segment, true));
                known = known.after(&segment, true, None);
                sent = segment.end;
                if acknowledges {
                    taken = sent;
                }
                let answer = data(back, 0, taken, window);
                proptest::prop_assert!(known.takes(&answer, false));
                known = known.after(&answer, false, None);
                // Sent again from the last byte that was acknowledged.
                proptest::prop_assert!(known.takes(&data(taken, 1, back, window), true));
                proptest::prop_assert!(known.takes(&reset(sent), true));
            }
        }
    }
}
