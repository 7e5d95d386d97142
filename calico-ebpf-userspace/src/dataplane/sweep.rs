//! Sweeping out flows that are expired, and counting what each endpoint has.
//!
//! The sweep reads in slices and asks a program to delete the candidates: it looks again, so that a flow which a
//! packet has just touched lives on.

use std::collections::BTreeSet;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use bytemuck::bytes_of;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::expire::{ExpireEntry, ExpireHeader, HEADER_BYTES, MAX_ENTRIES};
use calico_ebpf_common::flow::{Flow, FlowKey4, FlowKey6};
use calico_ebpf_common::maps;
use calico_ebpf_common::quota::{Correction, Kind};

use super::datagrams::sweep_datagrams;
use super::expiry::Expiry;
use super::flows::{FlowKey, FlowTable, read_clock, ticks_per_second};
use super::pins::Pins;
use super::programs::pinned_program;
use super::quotas::{Counted, QuotaTable};
use crate::config::values::ConntrackTimeouts;

/// Bytes of a packet that BPF_PROG_TEST_RUN takes whatever the program.
const LEAST_PACKET: usize = 64;

/// What one sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows before the sweep, by family.
    pub flows4: u64,
    pub flows6: u64,
    pub deleted: u64,
    /// Quotas that were not what was counted.
    pub corrected: u64,
    /// Slots that are gone, and of which there was no flow.
    pub freed: BTreeSet<Slot>,
}

/// Sweeps the conntrack maps and the map of datagrams.
#[derive(Debug)]
pub struct FlowSweeper {
    quotas: QuotaTable,
    expire: SchedClassifier,
    correct: SchedClassifier,
    clock: SchedClassifier,
    ticks_per_second: u64,
    pins: Pins,
}

impl FlowSweeper {
    /// Opens the pinned maps and programs.
    ///
    /// # Errors
    /// When one is not pinned.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        Ok(Self {
            quotas: QuotaTable::open(pins)?,
            expire: pinned_program(pins, maps::PROGRAM_EXPIRE_FLOWS)?,
            correct: pinned_program(pins, maps::PROGRAM_CORRECT_QUOTA)?,
            clock: pinned_program(pins, maps::PROGRAM_READ_CLOCK)?,
            ticks_per_second: ticks_per_second()?,
            pins: pins.clone(),
        })
    }

    /// Deletes every expired flow, what is left of those who had the slots `gone`, and datagrams whose fragments never came to an end, and corrects the quotas: all of them
    /// with `anew`, which is for flows that were written by others than the programs. Blocks for about a millisecond per
    /// 4096 flows.
    ///
    /// # Errors
    /// When a map cannot be read or the program cannot be run.
    pub fn sweep(
        &self,
        timeouts: &ConntrackTimeouts,
        gone: &BTreeSet<Slot>,
        anew: bool,
    ) -> anyhow::Result<Swept> {
        let now = read_clock(&self.clock)?.jiffies;
        let expiry = Expiry {
            timeouts,
            ticks_per_second: self.ticks_per_second,
            now,
            gone,
        };
        let before = self.quotas.read()?;
        let mut swept = Swept::default();
        let mut counted = Counted::default();
        for kind in Kind::ALL {
            let (flows4, deleted4) = self.sweep_table::<FlowKey4>(kind, expiry, &mut counted)?;
            let (flows6, deleted6) = self.sweep_table::<FlowKey6>(kind, expiry, &mut counted)?;
            swept.flows4 += flows4;
            swept.flows6 += flows6;
            swept.deleted += deleted4 + deleted6;
        }
        swept.freed = gone
            .iter()
            .copied()
            .filter(|slot| !counted.has_any(*slot))
            .collect();
        sweep_datagrams(&self.pins, now)?;
        let after = self.quotas.read()?;
        for (slot, kind, count) in counted.corrections(&before, &after, anew) {
            tracing::debug!(slot, ?kind, count, "quota of flows corrected");
            self.correct(slot, kind, count)?;
            swept.corrected += 1;
        }
        Ok(swept)
    }

    fn sweep_table<K: FlowKey>(
        &self,
        kind: Kind,
        expiry: Expiry<'_>,
        counted: &mut Counted,
    ) -> anyhow::Result<(u64, u64)> {
        let table = FlowTable::open::<K>(&self.pins, kind)?;
        let (mut flows, mut deleted) = (0, 0);
        table.for_each_slice::<K>(|slice| {
            flows += slice.len() as u64;
            let mut expired = Vec::new();
            for (key, flow) in &slice {
                if expiry.is_expired(key.protocol(), flow) {
                    counted.note_ended(flow);
                    expired.push(entry_of(key, flow));
                } else {
                    counted.add(kind, flow);
                }
            }
            for entries in expired.chunks(MAX_ENTRIES) {
                deleted += u64::from(self.delete(K::FAMILY, kind, entries)?);
            }
            Ok(())
        })?;
        Ok((flows, deleted))
    }

    fn correct(&self, slot: Slot, kind: Kind, count: i64) -> anyhow::Result<()> {
        let correction = Correction {
            slot: slot.into(),
            kind: kind as u32,
            count,
        };
        let mut packet = [0; LEAST_PACKET];
        packet[..size_of::<Correction>()].copy_from_slice(bytes_of(&correction));
        self.correct.test_run(TestRunOptions {
            data_in: Some(&packet),
            ..TestRunOptions::default()
        })?;
        Ok(())
    }

    fn delete(&self, family: u32, kind: Kind, entries: &[ExpireEntry]) -> anyhow::Result<u32> {
        let request = request_of(family, kind, entries)?;
        Ok(self
            .expire
            .test_run(TestRunOptions {
                data_in: Some(&request),
                ..TestRunOptions::default()
            })?
            .return_value)
    }
}

fn entry_of<K: FlowKey>(key: &K, flow: &Flow) -> ExpireEntry {
    let mut entry = ExpireEntry {
        key: [0; 40],
        last_seen: flow.last_seen,
    };
    entry.key[..size_of::<K>()].copy_from_slice(bytes_of(key));
    entry
}

fn request_of(family: u32, kind: Kind, entries: &[ExpireEntry]) -> anyhow::Result<Vec<u8>> {
    let header = ExpireHeader {
        count: u32::try_from(entries.len())?,
        family,
        table: kind as u32,
        reserved: 0,
    };
    let mut request = Vec::with_capacity(HEADER_BYTES + size_of_val(entries));
    request.extend_from_slice(bytes_of(&header));
    request.extend_from_slice(bytemuck::cast_slice(entries));
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_holds_header_and_padded_keys() {
        let key = FlowKey4 {
            protocol: 6,
            low_port: [1, 2],
            ..FlowKey4::default()
        };
        let entry = entry_of(
            &key,
            &Flow {
                last_seen: 7,
                ..Flow::default()
            },
        );
        let request = request_of(4, Kind::Confirmed, &[entry]).unwrap();
        assert_eq!(request.len(), HEADER_BYTES + 48);
        assert_eq!(request[0], 1);
        assert_eq!(request[4], 4);
        assert_eq!(request[8], 1);
        assert_eq!(&request[HEADER_BYTES..HEADER_BYTES + 16], bytes_of(&key));
        assert!(
            request[HEADER_BYTES + 16..HEADER_BYTES + 40]
                .iter()
                .all(|byte| *byte == 0)
        );
    }
}
