//! What the programs know of workloads that are gone.

use aya::maps::Array;
use calico_ebpf_common::maps;
use calico_ebpf_common::tombstone::Tombstone;

use super::Dataplane;

/// Ticks that a tombstone stands: longer than any test takes, whatever the kernel's frequency.
const LONG: u64 = 1_000_000;

impl Dataplane {
    /// Returns the slot of a workload and its tombstone, as the agent writes it when the workload goes now.
    pub fn tombstone_of(&self, name: &str, effect: u32) -> (u16, Tombstone) {
        let endpoints = &self.state().endpoints;
        let (key, _) = endpoints
            .iter()
            .find(|(_, endpoint)| endpoint.interface_name == super::tap(name))
            .expect("the workload");
        let assignments = self.assignments();
        let tombstone = Tombstone {
            first: assignments.born[key].generation,
            last: assignments.generations[key],
            until: self.read_clock().jiffies + LONG,
            effect,
            reserved: 0,
        };
        (assignments.slots[key], tombstone)
    }

    /// Writes a tombstone for the programs.
    pub fn set_tombstone(&mut self, (slot, tombstone): (u16, Tombstone)) {
        let map = self.loaded_mut().object.map_mut(maps::TOMBSTONES).expect("a map");
        let mut map = Array::<_, Tombstone>::try_from(map).expect("an array");
        map.set(u32::from(slot), tombstone, 0).expect("write a tombstone");
    }
}
