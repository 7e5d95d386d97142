//! The pinned maps.

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray};
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::flow::{Flow, FlowKey4, FlowKey6};
use calico_ebpf_common::maps::{
    COUNTERS, Counter, FLOWS4, LAYOUT_VERSION, LIMITS, PASS_COUNTERS, QUOTAS, RULES,
};
use calico_ebpf_common::quota::{FlowLimits, Quota};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use serde::Serialize;

use super::ObserveError;
use super::flows::FlowKey;
use crate::dataplane::flows::FlowKey as MapKeys;

/// The maps of one dataplane, opened when they are read.
#[derive(Clone, Debug)]
pub struct PinnedMaps {
    directory: PathBuf,
}

/// Packets and bytes that met one fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CounterValue {
    /// Name of the [`DropReason`] or [`PassReason`].
    pub reason: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

/// Everything that the programs count by fate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub dropped: Vec<CounterValue>,
    pub passed: Vec<CounterValue>,
}

impl PinnedMaps {
    /// Returns the maps under `BPFPinDir`.
    pub fn under(pin_dir: &Path) -> Self {
        Self {
            directory: pin_dir.join(format!("v{LAYOUT_VERSION}")).join("maps"),
        }
    }

    /// Returns the directory in which the maps are pinned.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the counters of every reason, summed over the CPUs, in the order of their numbers.
    ///
    /// # Errors
    /// Fails when the map cannot be read.
    pub fn counters(&self) -> Result<Counters, ObserveError> {
        let map: PerCpuArray<MapData, Counter> = self.open(COUNTERS)?;
        let at = |index: u32, reason: &'static str| {
            let Counter { packets, bytes } = self.sum(COUNTERS, &map, index)?;
            Ok(CounterValue {
                reason,
                packets,
                bytes,
            })
        };
        let dropped = DropReason::ALL
            .iter()
            .map(|reason| at(*reason as u32, reason.name()));
        let passed = PassReason::ALL
            .iter()
            .map(|reason| at(PASS_COUNTERS + *reason as u32, reason.name()));
        Ok(Counters {
            dropped: dropped.collect::<Result<_, ObserveError>>()?,
            passed: passed.collect::<Result<_, ObserveError>>()?,
        })
    }

    /// Reads the counters of rules by their numbers, in the order given.
    ///
    /// # Errors
    /// Fails when the map cannot be read.
    pub fn rule_hits(&self, numbers: &[u32]) -> Result<Vec<Counter>, ObserveError> {
        let map: PerCpuArray<MapData, Counter> = self.open(RULES)?;
        numbers
            .iter()
            .map(|number| self.sum(RULES, &map, *number))
            .collect()
    }

    /// Reads the conntrack tables, IPv4 first; stops after `limit` entries that `wanted` takes.
    ///
    /// # Errors
    /// Fails when a map cannot be read.
    pub fn flows(
        &self,
        limit: usize,
        mut wanted: impl FnMut(&FlowKey, &Flow) -> bool,
    ) -> Result<Vec<(FlowKey, Flow)>, ObserveError> {
        let mut found = Vec::new();
        let (flows4, flows6) = (self.tables::<FlowKey4>()?, self.tables::<FlowKey6>()?);
        let entries4 = flows4
            .iter()
            .flat_map(HashMap::iter)
            .map(|entry| entry.map(|(key, flow)| (FlowKey::V4(key), flow)));
        let entries6 = flows6
            .iter()
            .flat_map(HashMap::iter)
            .map(|entry| entry.map(|(key, flow)| (FlowKey::V6(key), flow)));
        for entry in entries4.chain(entries6) {
            if found.len() >= limit {
                break;
            }
            let (key, flow) = match entry {
                Ok(entry) => entry,
                // The entry went away between its key and its value.
                Err(MapError::KeyNotFound) => continue,
                Err(source) => return Err(self.failed(FLOWS4, source)),
            };
            if wanted(&key, &flow) {
                found.push((key, flow));
            }
        }
        Ok(found)
    }

    /// Returns the flow of a key.
    ///
    /// # Errors
    /// Fails when the map cannot be read.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, ObserveError> {
        match key {
            FlowKey::V4(key) => self.find(key),
            FlowKey::V6(key) => self.find(key),
        }
    }

    fn find<K: MapKeys>(&self, key: &K) -> Result<Option<Flow>, ObserveError> {
        for (name, table) in K::MAPS.into_iter().zip(self.tables::<K>()?) {
            match table.get(key, 0) {
                Ok(flow) => return Ok(Some(flow)),
                Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(self.failed(name, source)),
            }
        }
        Ok(None)
    }

    /// Opens the conntrack tables of one family: half-open flows, confirmed ones.
    fn tables<K: MapKeys>(&self) -> Result<[HashMap<MapData, K, Flow>; 2], ObserveError> {
        let [half_open, confirmed] = K::MAPS;
        Ok([self.open(half_open)?, self.open(confirmed)?])
    }

    /// Reads how many flows an endpoint has, by its slot, and how many it may have.
    ///
    /// # Errors
    /// Fails when a map cannot be read.
    pub fn quota(&self, slot: Slot) -> Result<(Quota, FlowLimits), ObserveError> {
        let quotas: Array<MapData, Quota> = self.open(QUOTAS)?;
        let limits: Array<MapData, FlowLimits> = self.open(LIMITS)?;
        let quota = quotas
            .get(&u32::from(slot), 0)
            .map_err(|source| self.failed(QUOTAS, source))?;
        let limits = limits.get(&0, 0).map_err(|source| self.failed(LIMITS, source))?;
        Ok((quota, limits))
    }

    /// Returns how many flows there is room for in each conntrack table: it may be older than its parameter. `None` when
    /// that cannot be seen.
    pub fn flow_room(&self) -> Option<u32> {
        let info = MapInfo::from_pin(self.directory.join(FLOWS4));
        info.ok().map(|info| info.max_entries())
    }

    /// Opens the conntrack tables for flows that are handed over.
    ///
    /// # Errors
    /// Fails when a map cannot be opened.
    pub fn flow_tables(&self) -> Result<FlowTables, ObserveError> {
        Ok(FlowTables {
            flows4: self.tables()?,
            flows6: self.tables()?,
        })
    }

    /// Counts the flows: IPv4, IPv6.
    ///
    /// # Errors
    /// Fails when a map cannot be read.
    pub fn flow_counts(&self) -> Result<(u64, u64), ObserveError> {
        let count4: usize = self
            .tables::<FlowKey4>()?
            .iter()
            .map(|flows| flows.keys().count())
            .sum();
        let count6: usize = self
            .tables::<FlowKey6>()?
            .iter()
            .map(|flows| flows.keys().count())
            .sum();
        Ok((
            u64::try_from(count4).unwrap_or(u64::MAX),
            u64::try_from(count6).unwrap_or(u64::MAX),
        ))
    }

    /// Opens the map called `name`.
    ///
    /// # Errors
    /// Fails when it is not there or not to be opened.
    pub(super) fn open<M: TryFrom<Map, Error = MapError>>(&self, name: &str) -> Result<M, ObserveError> {
        let path = self.directory.join(name);
        // The kernel's answer to a missing pin hides in a chain of errors; the directory says it plainly.
        match std::fs::symlink_metadata(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(ObserveError::NotPermitted { path });
            }
            Err(_) => {
                return Err(ObserveError::NoDataplane {
                    path: self.directory.clone(),
                });
            }
        }
        MapData::from_pin(&path)
            .and_then(Map::from_map_data)
            .and_then(M::try_from)
            .map_err(|source| self.failed(name, source))
    }

    fn sum(
        &self,
        name: &str,
        map: &PerCpuArray<MapData, Counter>,
        index: u32,
    ) -> Result<Counter, ObserveError> {
        let values = map.get(&index, 0).map_err(|source| self.failed(name, source))?;
        Ok(values.iter().fold(Counter::default(), |sum, value| Counter {
            packets: sum.packets.wrapping_add(value.packets),
            bytes: sum.bytes.wrapping_add(value.bytes),
        }))
    }

    fn failed(&self, name: &str, source: MapError) -> ObserveError {
        let path = self.directory.join(name);
        if nix::unistd::geteuid().is_root() {
            ObserveError::Map { path, source }
        } else {
            ObserveError::NotPermitted { path }
        }
    }
}

/// The conntrack tables, to write to.
#[derive(Debug)]
pub struct FlowTables {
    /// Half-open flows, confirmed ones.
    flows4: [HashMap<MapData, FlowKey4, Flow>; 2],
    flows6: [HashMap<MapData, FlowKey6, Flow>; 2],
}

impl FlowTables {
    /// Adds a confirmed flow unless there is one. Returns whether there was none.
    ///
    /// # Errors
    /// What the kernel says: no room.
    pub fn add(&mut self, key: &FlowKey, flow: Flow) -> Result<bool, MapError> {
        /// `BPF_NOEXIST` of the kernel.
        const NO_EXIST: u64 = 1;
        let added = match key {
            FlowKey::V4(key) => self.flows4[1].insert(key, flow, NO_EXIST),
            FlowKey::V6(key) => self.flows6[1].insert(key, flow, NO_EXIST),
        };
        match added {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a flow, if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&mut self, key: &FlowKey) -> Result<(), MapError> {
        match key {
            FlowKey::V4(key) => self
                .flows4
                .iter_mut()
                .try_for_each(|flows| removed(flows.remove(key))),
            FlowKey::V6(key) => self
                .flows6
                .iter_mut()
                .try_for_each(|flows| removed(flows.remove(key))),
        }
    }
}

/// Takes what was not there for removed.
fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_pin_directory_there_is_no_dataplane() {
        let directory = tempfile::tempdir().unwrap();
        let maps = PinnedMaps::under(directory.path());
        assert!(matches!(maps.counters(), Err(ObserveError::NoDataplane { .. })));
        assert!(matches!(
            maps.flow_counts(),
            Err(ObserveError::NoDataplane { .. })
        ));
    }

    #[test]
    fn maps_are_looked_for_under_the_version_of_their_layout() {
        let maps = PinnedMaps::under(Path::new("/sys/fs/bpf/x"));
        assert_eq!(
            maps.directory(),
            Path::new(&format!("/sys/fs/bpf/x/v{LAYOUT_VERSION}/maps"))
        );
    }
}
