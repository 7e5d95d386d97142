//! Datagrams whose first fragment was seen: by which flow their later fragments go.

use bytemuck::{Pod, Zeroable};

use crate::endpoint::Slot;

/// Datagrams that one endpoint may have under way, in each direction. A newer one takes the place of an older one of the
/// same endpoint and direction only, so that nobody's fragments push out another's.
pub const PLACES: u8 = 32;

/// The workload sends.
pub const FROM_WORKLOAD: u8 = 0;
/// The workload receives.
pub const TO_WORKLOAD: u8 = 1;

/// Key of the datagram map: a place of an endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct DatagramKey {
    pub slot: Slot,
    /// [`FROM_WORKLOAD`] or [`TO_WORKLOAD`].
    pub direction: u8,
    /// Below [`PLACES`].
    pub place: u8,
}
crate::shared_type!(DatagramKey, 4);

/// A datagram whose first fragment was seen. Addresses are two numbers, high half first; those of IPv4 stand in the last
/// 32 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Datagram {
    pub source: [u64; 2],
    pub destination: [u64; 2],
    /// Identification: 16 bits of IPv4, 32 of IPv6.
    pub id: u32,
    /// 4 or 6.
    pub family: u8,
    /// Protocol of an IPv4 datagram, which is part of its identity (RFC 791); 0 for IPv6.
    pub protocol: u8,
    /// Protocol of the flow.
    pub flow_protocol: u8,
    pub reserved: u8,
    /// Ports of the flow in the host's byte order, as in its key.
    pub source_port: u16,
    pub destination_port: u16,
    /// Bytes of the datagram seen so far: the next fragment must not begin before.
    pub end: u32,
    /// `jiffies64` after which the datagram is forgotten.
    pub until: u64,
}
crate::shared_type!(Datagram, 56);

impl Datagram {
    /// Returns whether a fragment is of the same datagram.
    #[inline(always)]
    pub fn is_same(&self, other: &Self) -> bool {
        self.source[0] == other.source[0]
            && self.source[1] == other.source[1]
            && self.destination[0] == other.destination[0]
            && self.destination[1] == other.destination[1]
            && self.id == other.id
            && self.family == other.family
            && self.protocol == other.protocol
    }

    /// Returns the datagram's place among those of its endpoint.
    #[inline(always)]
    pub fn place(&self) -> u8 {
        let mixed = (u64::from(self.id) ^ self.source[1] ^ self.destination[1].rotate_left(21))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as u8 % PLACES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_that_follow_each_other_have_places_of_their_own() {
        let place = |id| {
            Datagram {
                id,
                ..Datagram::default()
            }
            .place()
        };
        let used: u64 = (0..u32::from(PLACES)).fold(0, |used, id| used | 1 << place(id));
        assert!(used.count_ones() > 16, "{used:#x}");
        assert!((0..1000).all(|id| place(id) < PLACES));
    }
}
