//! How many flows an endpoint may have, and whether the programs' count of them is right.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use aya::maps::MapData;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::flow::Flow;
use calico_ebpf_common::maps;
use calico_ebpf_common::quota::{FlowLimits, Kind, Quota, payer};

use super::bpf_syscall::{BatchReader, open_pinned};
use super::pins::Pins;
use crate::config::values::Config;

/// An endpoint may always have so many half-open flows, however many endpoints share the table.
const LEAST_HALF_OPEN: u32 = 64;

/// Returns what one of `endpoints` may have at most. `room` has the entries of one table of half-open flows and of one of
/// confirmed ones.
pub fn limits_of(config: &Config, room: [u32; 2], endpoints: usize) -> FlowLimits {
    let [half_open, confirmed] = room;
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX).max(1);
    FlowLimits {
        half_open: match config.bpf_max_half_open_per_endpoint {
            0 => (half_open / endpoints).max(LEAST_HALF_OPEN),
            limit => limit,
        },
        confirmed: match config.bpf_max_flows_per_endpoint {
            0 => (confirmed / 4).max(1),
            limit => limit,
        },
    }
}

/// Entries read at once.
const SLICE: u32 = 4096;

/// What the programs believe each endpoint to have, by slot.
#[derive(Debug)]
pub struct QuotaTable {
    map: MapData,
}

impl QuotaTable {
    /// Opens the pinned map.
    ///
    /// # Errors
    /// When it is not pinned.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        let map = open_pinned(&pins.map(maps::QUOTAS))
            .with_context(|| format!("cannot open map {}", maps::QUOTAS))?;
        Ok(Self {
            map: MapData::from_fd(map)?,
        })
    }

    /// Returns the slots that have, or had, anything.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn read(&self) -> anyhow::Result<BTreeMap<Slot, Quota>> {
        let mut quotas = BTreeMap::new();
        let mut reader = BatchReader::new(self.map.fd().as_fd(), SLICE);
        while let Some(slice) = reader.next_slice::<u32, Quota>()? {
            let used = slice.into_iter().filter(|(_, quota)| *quota != Quota::default());
            quotas.extend(used.filter_map(|(slot, quota)| Some((Slot::try_from(slot).ok()?, quota))));
        }
        Ok(quotas)
    }
}

/// The flows that a sweep found, by slot and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    flows: BTreeMap<Slot, [i64; 2]>,
    /// Slots of which flows were ended: their quotas moved meanwhile.
    moved: BTreeSet<Slot>,
}

impl Counted {
    /// Counts a flow that stays.
    pub fn add(&mut self, kind: Kind, flow: &Flow) {
        self.flows.entry(payer(flow)).or_default()[kind as usize] += 1;
    }

    /// Notes a flow that is about to be ended.
    pub fn note_ended(&mut self, flow: &Flow) {
        self.moved.insert(payer(flow));
    }

    /// Returns whether a flow was found that a slot pays for, whether it stays or not.
    pub fn has_any(&self, slot: Slot) -> bool {
        self.flows.contains_key(&slot) || self.moved.contains(&slot)
    }

    /// Returns what has to be added to quotas to make them right. `before` and `after` are what they were around the
    /// counting. While flows came or went, what was counted is of no one time: such a quota is left as it is, unless `anew`
    /// says that the programs had nothing right.
    pub fn corrections(
        &self,
        before: &BTreeMap<Slot, Quota>,
        after: &BTreeMap<Slot, Quota>,
        anew: bool,
    ) -> Vec<(Slot, Kind, i64)> {
        let slots: BTreeSet<Slot> = self.flows.keys().chain(after.keys()).copied().collect();
        let mut corrections = Vec::new();
        for slot in slots {
            let counted = self.flows.get(&slot).copied().unwrap_or_default();
            let (before, after) = (numbers(before, slot), numbers(after, slot));
            let is_still = before == after && !self.moved.contains(&slot);
            if !is_still && !anew {
                continue;
            }
            for kind in Kind::ALL {
                let difference = counted[kind as usize] - after[kind as usize];
                if difference != 0 {
                    corrections.push((slot, kind, difference));
                }
            }
        }
        corrections
    }
}

fn numbers(quotas: &BTreeMap<Slot, Quota>, slot: Slot) -> [i64; 2] {
    let quota = quotas.get(&slot).copied().unwrap_or_default();
    [quota.half_open, quota.confirmed]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(slot: Slot) -> Flow {
        Flow {
            slot: [slot, 9],
            ..Flow::default()
        }
    }

    fn quotas(slot: Slot, half_open: i64, confirmed: i64) -> BTreeMap<Slot, Quota> {
        BTreeMap::from([(
            slot,
            Quota {
                half_open,
                confirmed,
                refused: 0,
            },
        )])
    }

    #[test]
    fn half_open_flows_of_all_endpoints_together_fit_their_table() {
        let config = Config::default();
        for endpoints in [0, 1, 3, 200, 1000] {
            let limits = limits_of(&config, [131_072, 512_000], endpoints);
            assert!(u64::from(limits.half_open) * endpoints as u64 <= 131_072);
            assert_eq!(limits.confirmed, 128_000);
        }
        assert_eq!(limits_of(&config, [1024, 1024], 1000).half_open, LEAST_HALF_OPEN);
    }

    #[test]
    fn limits_are_what_the_configuration_says() {
        let config = Config {
            bpf_max_half_open_per_endpoint: 7,
            bpf_max_flows_per_endpoint: 8,
            ..Config::default()
        };
        let expected = FlowLimits {
            half_open: 7,
            confirmed: 8,
        };
        assert_eq!(limits_of(&config, [131_072, 512_000], 200), expected);
    }

    #[test]
    fn a_quota_that_stood_still_becomes_what_was_counted() {
        let mut counted = Counted::default();
        counted.add(Kind::Confirmed, &flow(3));
        counted.add(Kind::Confirmed, &flow(3));
        let stale = quotas(3, 1, 5);
        let corrections = counted.corrections(&stale, &stale, false);
        assert_eq!(corrections, [(3, Kind::HalfOpen, -1), (3, Kind::Confirmed, -3)]);
        assert_eq!(counted.corrections(&quotas(3, 0, 2), &quotas(3, 0, 2), false), []);
    }

    #[test]
    fn a_quota_that_moved_is_left_alone_unless_all_are_counted_anew() {
        let mut counted = Counted::default();
        counted.add(Kind::HalfOpen, &flow(3));
        let (before, after) = (quotas(3, 4, 0), quotas(3, 5, 0));
        assert_eq!(counted.corrections(&before, &after, false), []);
        assert_eq!(
            counted.corrections(&before, &after, true),
            [(3, Kind::HalfOpen, -4)]
        );
        counted.note_ended(&flow(3));
        assert_eq!(counted.corrections(&after, &after, false), []);
    }

    #[test]
    fn flows_that_no_program_counted_are_added() {
        let mut counted = Counted::default();
        counted.add(Kind::Confirmed, &flow(4));
        let none = BTreeMap::new();
        assert_eq!(
            counted.corrections(&none, &none, false),
            [(4, Kind::Confirmed, 1)]
        );
    }
}
