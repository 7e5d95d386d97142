//! What the programs tell whoever watches.

use aya::maps::{Array, RingBuf};
use calico_ebpf_common::event::{Budget, Event};
use calico_ebpf_common::maps;

use super::Dataplane;

impl Dataplane {
    /// Watches from now on; events of before are forgotten.
    pub fn watch(&mut self) {
        self.watch_until(u64::MAX);
        self.events();
    }

    /// Watches until then, by the monotonic clock; 0 is not at all.
    pub fn watch_until(&mut self, nanoseconds: u64) {
        self.loaded_mut().watch_until(nanoseconds);
    }

    /// Returns the events since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        let events = self.loaded_mut().object.map_mut(maps::EVENTS).expect("a map");
        let mut events = RingBuf::try_from(events).expect("a ring buffer");
        let mut told = Vec::new();
        while let Some(bytes) = events.next() {
            told.push(bytemuck::pod_read_unaligned(&bytes));
        }
        told
    }

    /// Returns what is left to a workload to tell; without a name, of taps without an endpoint.
    pub fn budget(&self, name: Option<&str>) -> Budget {
        let slot = name.map_or(0, |name| self.slot(name));
        let budgets = self.loaded().object.map(maps::BUDGETS).expect("a map");
        let budgets = Array::<_, Budget>::try_from(budgets).expect("an array");
        budgets.get(&u32::from(slot), 0).expect("an entry")
    }
}
