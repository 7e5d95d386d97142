//! Source ports of translated flows whose own tuple another flow has (contract 3.5).
//!
//! Behind the translation of the destination two flows of a client may be one tuple: to a floating and to the fixed
//! address of a VM, from one port. Who comes second gets another source port, at one of [`PLACES`] distances from its
//! own. A distance is its own inverse, so that an entry's place is all that has to be remembered.

use crate::flow::Flow;
use crate::port::protocol;

/// Ports that are tried before the flow is refused.
pub const PLACES: u8 = 4;

/// The source port is moved; its place is in the bits from [`PLACE_SHIFT`] on.
pub const FLOW_MOVED: u8 = 8;
/// Lowest bit of the place in [`Flow::flags`].
pub const PLACE_SHIFT: u8 = 4;
/// All bits of [`Flow::flags`] that tell of a moved port.
pub const FLOW_MOVED_BITS: u8 = FLOW_MOVED | (PLACES - 1) << PLACE_SHIFT;

/// [`Flow::nat`] of a flow with a moved port whose destination is what the client knows.
pub const NAT_PORT_ONLY: u16 = 0;

/// Returns the port at `place` for `port`, or the other way. It stays in the same 512: privileged ports stay privileged.
#[inline(always)]
pub const fn moved_port(port: u16, place: u8) -> u16 {
    port ^ (((place as u16 + 1) * 0x1b5) & 0x1ff)
}

/// Returns whether ports of a protocol can be moved: SCTP's checksum cannot be carried along.
#[inline(always)]
pub const fn is_movable(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP)
}

/// Returns the `FLOW_*` bits of a flow whose port is at `place`.
#[inline(always)]
pub const fn moved_flags(place: u8) -> u8 {
    FLOW_MOVED | place << PLACE_SHIFT
}

impl Flow {
    /// Returns the place of the originator's port, if it was moved.
    #[inline(always)]
    pub const fn moved_place(&self) -> Option<u8> {
        if self.flags & FLOW_MOVED == 0 {
            None
        } else {
            Some((self.flags >> PLACE_SHIFT) & (PLACES - 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_another_port_of_the_same_512_and_leads_back() {
        for port in [1, 0x1b5, 511, 512, 1023, 1024, 4000, u16::MAX] {
            let moved: [u16; PLACES as usize] = core::array::from_fn(|place| moved_port(port, place as u8));
            for (place, at) in moved.iter().enumerate() {
                assert_ne!(*at, port);
                assert_eq!(*at >> 9, port >> 9);
                assert_eq!(moved_port(*at, place as u8), port);
                assert!(!moved[..place].contains(at));
            }
        }
    }

    #[test]
    fn a_place_is_read_back_from_the_flags() {
        assert_eq!(Flow::NONE.moved_place(), None);
        for place in 0..PLACES {
            let flow = Flow {
                flags: moved_flags(place) | crate::flow::FLOW_ORIGIN_LOW,
                ..Flow::NONE
            };
            assert_eq!(flow.moved_place(), Some(place));
            assert_eq!(flow.flags & FLOW_MOVED_BITS, moved_flags(place));
        }
    }
}
