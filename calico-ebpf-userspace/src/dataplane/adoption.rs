//! Which maps of the last run this run takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use anyhow::{Context, anyhow};
use aya::maps::MapData;
use calico_ebpf_common::maps;

use super::pins::Pins;

/// Maps that are taken over from the last run: flows, counts and what workloads announced while no agent ran must not
/// be lost, and who watches goes on watching. Rule counters begin anew, because their numbers belong to one run.
const ADOPTED_MAPS: [&str; 11] = [
    maps::FLOWS4,
    maps::FLOWS6,
    maps::HALF_OPEN4,
    maps::HALF_OPEN6,
    maps::QUOTAS,
    maps::COUNTERS,
    maps::ANNOUNCED,
    maps::DATAGRAMS,
    maps::EVENTS,
    maps::WATCHED,
    maps::BUDGETS,
];

/// What must be equal for a map to be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl Layout {
    /// Returns the same layout with another number of entries.
    fn but_for_size(self, max_entries: u32) -> Self {
        Self { max_entries, ..self }
    }
}

/// Returns the maps of the last run that this run takes over. A conntrack table keeps its size, in `sizes`, too: one of
/// another size would begin without the flows that are in it.
pub(super) fn adoptable(
    object: &[u8],
    sizes: &mut BTreeMap<&'static str, u32>,
    pins: &Pins,
) -> anyhow::Result<BTreeSet<&'static str>> {
    let object = aya_obj::Object::parse(object).context("cannot parse the eBPF object")?;
    let mut adopted = BTreeSet::new();
    for name in ADOPTED_MAPS {
        let map = object
            .maps
            .get(name)
            .ok_or_else(|| anyhow!("the eBPF object has no map {name}"))?;
        let wanted = Layout {
            map_type: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: sizes.get(name).copied().unwrap_or(map.max_entries()),
            flags: map.map_flags(),
        };
        match pinned_layout(&pins.map(name))? {
            Some(found) if found == wanted => {
                adopted.insert(name);
            }
            Some(found) if sizes.contains_key(name) && found.but_for_size(wanted.max_entries) == wanted => {
                tracing::warn!(
                    map = name,
                    entries = found.max_entries,
                    wanted = wanted.max_entries,
                    "the conntrack table keeps its size and its flows; BPFMapSizeConntrack and BPFMapSizeHalfOpen count \
                     after `calico-ebpf cleanup` or a reboot"
                );
                sizes.insert(name, found.max_entries);
                adopted.insert(name);
            }
            Some(found) => {
                tracing::warn!(
                    map = name,
                    ?found,
                    ?wanted,
                    "map of the last run has another layout, begins anew"
                );
            }
            None => {}
        }
    }
    Ok(adopted)
}

fn pinned_layout(path: &Path) -> anyhow::Result<Option<Layout>> {
    let info = match super::bpf_syscall::open_pinned(path) {
        Ok(map) => MapData::from_fd(map)?.info()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    Ok(Some(Layout {
        map_type: info.map_type()? as u32,
        key_size: info.key_size(),
        value_size: info.value_size(),
        max_entries: info.max_entries(),
        flags: info.map_flags(),
    }))
}
