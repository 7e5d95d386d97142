//! What the programs left in their maps, and the programs that maintain them.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{TestRun, TestRunOptions};
use calico_ebpf_common::expire::{Clock, ExpireEntry, ExpireHeader};
use calico_ebpf_common::flow::{Flow, FlowKey4, FlowKey6, NOT_TRANSLATED};
use calico_ebpf_common::fragment::{Datagram, DatagramKey};
use calico_ebpf_common::maps::{self, Counter};
use calico_ebpf_common::quota::{Kind, Quota};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_userspace::dataplane::flows::FlowKey;

use super::{Counted, Dataplane};
use crate::packets::Path;

impl Dataplane {
    /// Returns packets and bytes of every reason that was counted.
    pub fn counters(&self) -> BTreeMap<Counted, Counter> {
        let map = self.loaded().object.map(maps::COUNTERS).expect("a map");
        let map = PerCpuArray::<_, Counter>::try_from(map).expect("a per-CPU array");
        let drops = DropReason::ALL
            .iter()
            .map(|reason| (Counted::Drop(*reason), *reason as u32));
        let passes = PassReason::ALL
            .iter()
            .map(|reason| (Counted::Pass(*reason), maps::PASS_COUNTERS + *reason as u32));
        drops
            .chain(passes)
            .map(|(reason, index)| (reason, sum(&map, index)))
            .filter(|(_, counter)| *counter != Counter::default())
            .collect()
    }

    /// Returns what was counted since [`Self::counters`] returned `before`.
    pub fn counted_since(&self, before: &BTreeMap<Counted, Counter>) -> Vec<(Counted, Counter)> {
        difference(before, &self.counters())
    }

    /// Returns the counter of a rule by its number.
    pub fn rule_counter(&self, number: u32) -> Counter {
        let map = self.loaded().object.map(maps::RULES).expect("a map");
        sum(
            &PerCpuArray::<_, Counter>::try_from(map).expect("a per-CPU array"),
            number,
        )
    }

    /// Returns whether a workload has announced that it runs on this host.
    pub fn has_announced(&self, name: &str) -> bool {
        let slot = self.slot(name);
        let map = self.loaded().object.map(maps::ANNOUNCED).expect("a map");
        let map = Array::<_, u64>::try_from(map).expect("an array");
        map.get(&u32::from(slot), 0).expect("an entry") != 0
    }

    /// Returns the slot of a workload.
    pub fn slot(&self, name: &str) -> u16 {
        let (key, _) = self
            .state()
            .endpoints
            .iter()
            .find(|(_, endpoint)| endpoint.interface_name == super::tap(name))
            .expect("the workload");
        self.assignments().slots[key]
    }

    /// Returns all IPv4 flows.
    pub fn flows4(&self) -> BTreeMap<FlowKey4, Flow> {
        self.entries()
    }

    /// Returns all IPv6 flows.
    pub fn flows6(&self) -> BTreeMap<FlowKey6, Flow> {
        self.entries()
    }

    /// Returns the flows of one family that are half open or confirmed.
    pub fn flows_of<K: FlowKey + Ord>(&self, kind: Kind) -> BTreeMap<K, Flow> {
        let map = self.flow_map::<K>(K::MAPS[kind as usize]);
        map.iter().map(|entry| entry.expect("a readable entry")).collect()
    }

    fn entries<K: FlowKey + Ord>(&self) -> BTreeMap<K, Flow> {
        Kind::ALL
            .into_iter()
            .flat_map(|kind| self.flows_of(kind))
            .collect()
    }

    fn entry<K: FlowKey>(&self, key: &K) -> Option<Flow> {
        K::MAPS
            .into_iter()
            .find_map(|name| self.flow_map(name).get(key, 0).ok())
    }

    /// Returns how many flows the programs believe a workload to have.
    pub fn quota(&self, name: &str) -> Quota {
        let map = self.loaded().object.map(maps::QUOTAS).expect("a map");
        let map: Array<_, Quota> = Array::try_from(map).expect("an array");
        map.get(&u32::from(self.slot(name)), 0).expect("in the array")
    }

    fn flow_map<K: Pod>(&self, name: &str) -> HashMap<&MapData, K, Flow> {
        HashMap::try_from(self.loaded().object.map(name).expect("a map")).expect("a hash map")
    }

    /// Returns the number of flows of both families.
    pub fn flow_count(&self) -> usize {
        self.flows4().len() + self.flows6().len()
    }

    /// Returns the number of datagrams that wait for more fragments.
    pub fn datagram_count(&self) -> usize {
        let map = self.loaded().object.map(maps::DATAGRAMS).expect("a map");
        let map: HashMap<_, DatagramKey, Datagram> = HashMap::try_from(map).expect("a hash map");
        map.keys().count()
    }

    /// Returns the flow of a path, whichever way it was opened. Protocols without ports have paths without ports.
    pub fn flow(&self, path: &Path, protocol: u8) -> Option<Flow> {
        let mut ends = [path.source, path.target];
        ends.sort_by_key(|end| (end.ip(), end.port()));
        let ports = ends.map(|end| end.port().to_be_bytes());
        match ends.map(|end| end.ip()) {
            [IpAddr::V4(low), IpAddr::V4(high)] => {
                let key = FlowKey4 {
                    low_address: low.octets(),
                    high_address: high.octets(),
                    low_port: ports[0],
                    high_port: ports[1],
                    protocol,
                    translation: NOT_TRANSLATED,
                    reserved: [0; 2],
                };
                self.entry(&key)
            }
            [IpAddr::V6(low), IpAddr::V6(high)] => {
                let key = FlowKey6 {
                    low_address: low.octets(),
                    high_address: high.octets(),
                    low_port: ports[0],
                    high_port: ports[1],
                    protocol,
                    translation: NOT_TRANSLATED,
                    reserved: [0; 2],
                };
                self.entry(&key)
            }
            _ => panic!("{path:?} is of two families"),
        }
    }

    /// Forgets all flows.
    pub fn clear_flows(&mut self) {
        self.loaded_mut().clear_flows();
    }

    /// Runs `expire_flows` for half-open and confirmed flows; returns how many it deleted. `family` is 4 or 6.
    pub fn expire(&self, family: u32, entries: &[ExpireEntry]) -> u32 {
        let kinds = Kind::ALL.into_iter();
        kinds.map(|kind| self.expire_of(kind, family, entries)).sum()
    }

    fn expire_of(&self, kind: Kind, family: u32, entries: &[ExpireEntry]) -> u32 {
        let header = ExpireHeader {
            count: u32::try_from(entries.len()).expect("few entries"),
            family,
            table: kind as u32,
            reserved: 0,
        };
        let mut packet = bytemuck::bytes_of(&header).to_vec();
        packet.extend(bytemuck::cast_slice::<_, u8>(entries));
        self.program(maps::PROGRAM_EXPIRE_FLOWS)
            .test_run(TestRunOptions {
                data_in: Some(&packet),
                ..TestRunOptions::new()
            })
            .expect("run expire_flows")
            .return_value
    }

    /// Runs `read_clock`.
    pub fn read_clock(&self) -> Clock {
        let mut packet = [0; 64];
        let result = self
            .program(maps::PROGRAM_READ_CLOCK)
            .test_run(TestRunOptions {
                data_in: Some(&[0; 64]),
                data_out: Some(&mut packet),
                ..TestRunOptions::new()
            })
            .expect("run read_clock");
        assert_eq!(result.return_value, 0);
        bytemuck::pod_read_unaligned(&packet[..size_of::<Clock>()])
    }
}

fn sum(map: &PerCpuArray<impl Borrow<MapData>, Counter>, index: u32) -> Counter {
    let values = map.get(&index, 0).expect("in the array");
    values.iter().fold(Counter::default(), |sum, value| Counter {
        packets: sum.packets + value.packets,
        bytes: sum.bytes + value.bytes,
    })
}

pub(super) fn difference(
    before: &BTreeMap<Counted, Counter>,
    after: &BTreeMap<Counted, Counter>,
) -> Vec<(Counted, Counter)> {
    let since = |(reason, now): (&Counted, &Counter)| {
        let old = before.get(reason).copied().unwrap_or_default();
        let counter = Counter {
            packets: now.packets - old.packets,
            bytes: now.bytes - old.bytes,
        };
        (*reason, counter)
    };
    after
        .iter()
        .map(since)
        .filter(|(_, counter)| *counter != Counter::default())
        .collect()
}
