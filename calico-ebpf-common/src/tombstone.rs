//! What is left of an endpoint that is gone: by it, TCP flows that it had are known for a while.

use bytemuck::{Pod, Zeroable};

/// Entries of [`crate::maps::TOMBSTONES`], one to a slot.
pub const TOMBSTONE_ENTRIES: u32 = crate::endpoint::MAX_ENDPOINTS + 1;

/// Who had a slot until lately. All zero is nobody.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Tombstone {
    /// First and last generation under which the slot was that endpoint's with the addresses that it had in the end.
    pub first: u32,
    pub last: u32,
    /// Until which `jiffies64` it stands.
    pub until: u64,
    /// [`WAITS`] or [`RESETS`].
    pub effect: u32,
    pub reserved: u32,
}
crate::shared_type!(Tombstone, 24);

/// The flow is of no tombstone.
pub const NO_TOMBSTONE: u32 = 0;
/// The endpoint may live on elsewhere: its flows are judged by policy, and stay known as its own.
pub const WAITS: u32 = 1;
/// The endpoint is gone: TCP in its flows is answered with a reset.
pub const RESETS: u32 = 2;

impl Tombstone {
    /// Returns what becomes at `now` of a flow with an end at this slot that was judged under `generation`.
    #[inline(always)]
    pub fn effect_on(&self, generation: u32, now: u64) -> u32 {
        let is_its_own = self.first != 0 && self.first <= generation && generation <= self.last;
        if is_its_own && now < self.until {
            self.effect
        } else {
            NO_TOMBSTONE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flows_of_its_own_generations_are_meant_and_only_until_it_falls() {
        let tombstone = Tombstone {
            first: 5,
            last: 7,
            until: 100,
            effect: RESETS,
            reserved: 0,
        };
        let effects = |now| [0, 4, 5, 7, 8].map(|generation| tombstone.effect_on(generation, now));
        assert_eq!(
            effects(99),
            [NO_TOMBSTONE, NO_TOMBSTONE, RESETS, RESETS, NO_TOMBSTONE]
        );
        assert_eq!(effects(100), [NO_TOMBSTONE; 5]);
        assert_eq!(Tombstone::default().effect_on(0, 0), NO_TOMBSTONE);
    }
}
