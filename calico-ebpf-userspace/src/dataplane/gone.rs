//! Writes tombstones: what the programs know of endpoints of this host that are gone.
//!
//! A tombstone that cannot be written costs a reset: connections to the endpoint end by their own timeouts. Nothing is held
//! up by it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Context;
use aya::maps::Array;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::maps::{self, PROGRAM_READ_CLOCK};
use calico_ebpf_common::tombstone::{RESETS, Tombstone, WAITS};

use super::apply::Dataplane;
use super::assignments::Assignments;
use super::flows::read_clock;
use super::tombstones::{STANDS_FOR, single_addresses};
use crate::model::name::ResourceKey;
use crate::model::resource::{Resource, Snapshot};

impl Dataplane {
    /// Raises tombstones for the endpoints that are not in `next`, and clears those whose slots it gives out. Before the
    /// table without them is in force: no packet is judged by it that does not find the tombstone.
    pub(super) fn follow_departures(&mut self, next: &Assignments) {
        let given = next.slots.values().copied().collect();
        self.clear_tombstones(&given, "its slot was given out");
        self.tombstones.note_swept(&given);
        let slots = &self.assignments.slots;
        let gone: Vec<_> = slots
            .iter()
            .filter(|(key, _)| !next.slots.contains_key(*key))
            .map(|(key, slot)| (key.clone(), *slot))
            .filter(|(_, slot)| !given.contains(slot))
            .collect();
        for (key, slot) in gone {
            if let Err(error) = self.raise_tombstone(&key, slot) {
                tracing::error!(endpoint = %key, error = format!("{error:#}"), "tombstone not written");
            }
        }
    }

    fn raise_tombstone(&mut self, key: &ResourceKey, slot: Slot) -> anyhow::Result<()> {
        let endpoint = self.in_force.as_ref().map(|in_force| &in_force.state.endpoints);
        let endpoint = endpoint.and_then(|endpoints| endpoints.get(key));
        let (Some(endpoint), Some(born), Some(last)) = (
            endpoint,
            self.assignments.born.get(key),
            self.assignments.generations.get(key),
        ) else {
            return Ok(());
        };
        let (first, last) = (born.generation, *last);
        let addresses = single_addresses(&endpoint.ip_networks).collect();
        let now = read_clock(self.programs.program(PROGRAM_READ_CLOCK)?)?.jiffies;
        let tombstone = Tombstone {
            first,
            last,
            until: now + STANDS_FOR.as_secs() * self.ticks_per_second,
            effect: WAITS,
            reserved: 0,
        };
        self.tombstones_in_kernel()?.set(u32::from(slot), tombstone, 0)?;
        self.tombstones
            .raise(slot, key.clone(), addresses, Instant::now());
        Ok(())
    }

    /// Clears the tombstones of those whose addresses `changed` endpoints have, of whatever host.
    pub fn clear_tombstones_of<'a>(&mut self, changed: impl IntoIterator<Item = &'a Resource>) {
        if self.tombstones.is_empty() {
            return;
        }
        let slots = self.tombstones.of_addresses(&held(changed));
        self.clear_tombstones(&slots, "its addresses are there again");
    }

    /// Returns the slots without owner and tombstone whose flows a sweep has to end. They go to nobody meanwhile, while there
    /// are others.
    pub fn slots_to_sweep(&self) -> BTreeSet<Slot> {
        let here = &self.assignments.slots;
        self.tombstones.unswept(|key| here.contains_key(key))
    }

    /// Notes slots of [`Self::slots_to_sweep`] that a sweep has found no flow of any more.
    pub fn note_swept(&mut self, slots: &BTreeSet<Slot>) {
        self.tombstones.note_swept(slots);
    }

    /// Returns when [`Self::go_on_with_tombstones`] has something to do.
    pub fn tombstones_change_at(&self) -> Option<Instant> {
        self.tombstones.next_change()
    }

    /// Has TCP to those answered with a reset that have been gone for long enough, and whose addresses nobody in the
    /// datastore has, and forgets those that fell.
    pub fn go_on_with_tombstones(&mut self, snapshot: &Snapshot) {
        let wanted = self.tombstones.addresses();
        let mut held = held(snapshot.values().map(|resource| &**resource));
        held.retain(|address| wanted.contains(address));
        let slots = self.tombstones.of_addresses(&held);
        self.clear_tombstones(&slots, "its addresses are somebody's");
        for slot in self.tombstones.go_on(Instant::now()) {
            if let Err(error) = self.begin_reset(slot) {
                tracing::error!(slot, error = format!("{error:#}"), "tombstone not written");
            }
        }
    }

    fn begin_reset(&mut self, slot: Slot) -> anyhow::Result<()> {
        let mut written = self.tombstones_in_kernel()?;
        let tombstone = written.get(&u32::from(slot), 0)?;
        let tombstone = Tombstone {
            effect: RESETS,
            ..tombstone
        };
        written.set(u32::from(slot), tombstone, 0)?;
        if let Some(key) = self.tombstones.owner(slot) {
            tracing::info!(endpoint = %key, "gone: its TCP connections are reset");
        }
        Ok(())
    }

    fn clear_tombstones(&mut self, slots: &BTreeSet<Slot>, why: &str) {
        for slot in slots {
            let Some(key) = self.tombstones.owner(*slot).cloned() else {
                continue;
            };
            let cleared = self
                .tombstones_in_kernel()
                .and_then(|mut written| Ok(written.set(u32::from(*slot), Tombstone::default(), 0)?));
            match cleared {
                Ok(()) => tracing::info!(endpoint = %key, why, "tombstone cleared"),
                Err(error) => {
                    tracing::error!(endpoint = %key, error = format!("{error:#}"), "tombstone not cleared");
                }
            }
            self.tombstones.clear(*slot);
        }
    }

    fn tombstones_in_kernel(&mut self) -> anyhow::Result<Array<&mut aya::maps::MapData, Tombstone>> {
        let map = self.programs.object_mut().map_mut(maps::TOMBSTONES);
        Ok(map.context("the eBPF object has no tombstones")?.try_into()?)
    }
}

/// Returns the addresses of the endpoints among these objects.
fn held<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> BTreeSet<IpAddr> {
    let networks = resources.into_iter().filter_map(|resource| {
        let Resource::WorkloadEndpoint(endpoint) = resource else {
            return None;
        };
        Some(&endpoint.ip_networks)
    });
    networks.flat_map(|networks| single_addresses(networks)).collect()
}
