//! Endpoints of this host that are gone: when their TCP connections are reset, and for how long.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use calico_ebpf_common::endpoint::Slot;
use ipnet::IpNet;

use crate::model::name::ResourceKey;

/// An endpoint that is deleted may live on: a live migration deletes it here before it is written for the other host, and a
/// reset in between would end its connections. Neutron writes both in one go; this leaves room for a slow datastore.
pub const WAITS_FOR: Duration = Duration::from_secs(3);
/// How long after its deletion connections to an endpoint are reset: whoever waits for an answer sends again meanwhile.
pub const STANDS_FOR: Duration = Duration::from_mins(1);

/// How far a tombstone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The endpoint may turn up elsewhere.
    Waits {
        until: Instant,
    },
    Resets,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Grave {
    of: ResourceKey,
    addresses: BTreeSet<IpAddr>,
    stage: Stage,
    falls_at: Instant,
}

/// The tombstones of this host, by slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tombstones {
    graves: BTreeMap<Slot, Grave>,
    /// Slots whose tombstones have gone, and which flows of who had them are still known by and charged to.
    unswept: BTreeMap<Slot, ResourceKey>,
}

impl Tombstones {
    /// Begins a tombstone for an endpoint that is gone from now on.
    pub fn raise(&mut self, slot: Slot, of: ResourceKey, addresses: BTreeSet<IpAddr>, now: Instant) {
        let grave = Grave {
            of,
            addresses,
            stage: Stage::Waits {
                until: now + WAITS_FOR,
            },
            falls_at: now + STANDS_FOR,
        };
        self.unswept.remove(&slot);
        self.graves.insert(slot, grave);
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.graves.is_empty()
    }

    /// Returns the slots that better go to nobody yet.
    pub fn slots(&self) -> BTreeSet<Slot> {
        self.graves.keys().chain(self.unswept.keys()).copied().collect()
    }

    /// Returns the slots without owner and tombstone whose flows are to be swept out. Not of those that are here again: with
    /// another slot they go on with their flows.
    pub fn unswept(&self, is_here: impl Fn(&ResourceKey) -> bool) -> BTreeSet<Slot> {
        let unswept = self.unswept.iter();
        unswept
            .filter(|(_, of)| !is_here(of))
            .map(|(slot, _)| *slot)
            .collect()
    }

    /// Notes slots that a sweep has found no flow of any more, or that have an owner again.
    pub fn note_swept(&mut self, slots: &BTreeSet<Slot>) {
        self.unswept.retain(|slot, _| !slots.contains(slot));
    }

    /// Returns the endpoint whose tombstone stands at a slot.
    pub fn owner(&self, slot: Slot) -> Option<&ResourceKey> {
        self.graves.get(&slot).map(|grave| &grave.of)
    }

    /// Forgets the tombstone at a slot.
    pub fn clear(&mut self, slot: Slot) {
        if let Some(grave) = self.graves.remove(&slot) {
            self.unswept.insert(slot, grave.of);
        }
    }

    /// Returns the slots of those that had one of these addresses.
    pub fn of_addresses(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<Slot> {
        let graves = self.graves.iter();
        graves
            .filter(|(_, grave)| !grave.addresses.is_disjoint(addresses))
            .map(|(slot, _)| *slot)
            .collect()
    }

    /// Returns all addresses that an endpoint with a tombstone had.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let graves = self.graves.values();
        graves.flat_map(|grave| &grave.addresses).copied().collect()
    }

    /// Returns when the next one has waited for long enough, or falls.
    pub fn next_change(&self) -> Option<Instant> {
        let changes = self.graves.values().map(|grave| match grave.stage {
            Stage::Waits { until } => until,
            Stage::Resets => grave.falls_at,
        });
        changes.min()
    }

    /// Goes on to `now`: forgets what has fallen, and returns those that have waited for long enough and reset from now on.
    pub fn go_on(&mut self, now: Instant) -> BTreeSet<Slot> {
        let fallen = self.graves.extract_if(.., |_, grave| grave.falls_at <= now);
        self.unswept.extend(fallen.map(|(slot, grave)| (slot, grave.of)));
        let mut begun = BTreeSet::new();
        for (slot, grave) in &mut self.graves {
            if matches!(grave.stage, Stage::Waits { until } if until <= now) {
                grave.stage = Stage::Resets;
                begun.insert(*slot);
            }
        }
        begun
    }
}

/// Returns the single addresses among these. Pairs count: who shares one with an endpoint that is gone may have taken over
/// its connections, as with VRRP. Flows of whole prefixes are never reset (`calico-ebpf/src/tombstones.rs`).
pub(super) fn single_addresses(networks: &[IpNet]) -> impl Iterator<Item = IpAddr> {
    let single = networks
        .iter()
        .filter(|net| net.prefix_len() == net.max_prefix_len());
    single.map(IpNet::addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Kind;

    fn key(name: &str) -> ResourceKey {
        ResourceKey {
            kind: Kind::WorkloadEndpoint,
            namespace: "openstack".to_owned(),
            name: name.to_owned(),
        }
    }

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn raised(now: Instant) -> Tombstones {
        let mut tombstones = Tombstones::default();
        tombstones.raise(3, key("a"), addresses(&["10.0.0.3", "fd00::3"]), now);
        tombstones
    }

    #[test]
    fn resets_begin_once_after_the_wait_and_end_a_minute_after_the_deletion() {
        let now = Instant::now();
        let mut tombstones = raised(now);
        assert_eq!(tombstones.next_change(), Some(now + WAITS_FOR));
        let early = now + WAITS_FOR.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(tombstones.go_on(early), BTreeSet::new());
        assert_eq!(tombstones.go_on(now + WAITS_FOR), BTreeSet::from([3]));
        assert_eq!(tombstones.go_on(now + WAITS_FOR), BTreeSet::new());
        assert_eq!(tombstones.next_change(), Some(now + STANDS_FOR));
        assert_eq!(tombstones.slots(), BTreeSet::from([3]));
        tombstones.go_on(now + STANDS_FOR);
        assert_eq!((tombstones.is_empty(), tombstones.next_change()), (true, None));
    }

    #[test]
    fn a_slot_rests_until_its_flows_are_swept_out_or_it_has_an_owner() {
        let now = Instant::now();
        let slot = BTreeSet::from([3]);
        let mut tombstones = raised(now);
        let nobody = |_: &ResourceKey| false;
        assert_eq!(tombstones.unswept(nobody), BTreeSet::new());
        tombstones.go_on(now + STANDS_FOR);
        assert_eq!(
            (tombstones.unswept(nobody), tombstones.slots()),
            (slot.clone(), slot.clone())
        );
        assert_eq!(tombstones.unswept(|of| *of == key("b")), slot);
        assert_eq!(tombstones.unswept(|of| *of == key("a")), BTreeSet::new());
        tombstones.note_swept(&BTreeSet::from([4]));
        assert_eq!(tombstones.slots(), slot);
        tombstones.note_swept(&slot);
        assert_eq!(tombstones, Tombstones::default());

        let mut tombstones = raised(now);
        tombstones.clear(3);
        assert_eq!(
            (tombstones.unswept(nobody), tombstones.slots()),
            (slot.clone(), slot.clone())
        );
        tombstones.note_swept(&slot);
        assert_eq!(tombstones, Tombstones::default());
        tombstones.clear(3);
        assert_eq!(tombstones, Tombstones::default());
    }

    #[test]
    fn a_wait_that_was_held_up_for_a_minute_never_resets() {
        let now = Instant::now();
        let mut tombstones = raised(now);
        assert_eq!(tombstones.go_on(now + STANDS_FOR), BTreeSet::new());
        assert!(tombstones.is_empty());
    }

    #[test]
    fn a_tombstone_is_found_by_any_of_its_addresses() {
        let tombstones = raised(Instant::now());
        assert_eq!(
            tombstones.of_addresses(&addresses(&["fd00::3"])),
            BTreeSet::from([3])
        );
        assert_eq!(tombstones.of_addresses(&addresses(&["fd00::4"])), BTreeSet::new());
        assert_eq!(tombstones.addresses(), addresses(&["10.0.0.3", "fd00::3"]));
        assert_eq!(tombstones.owner(3), Some(&key("a")));
    }
}
