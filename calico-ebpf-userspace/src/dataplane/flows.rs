//! Flows in the kernel: reading them, and sweeping out those that are expired.
//!
//! The sweep reads in slices and asks a program to delete the candidates: it looks again, so that a flow which a
//! packet has just touched lives on.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, ensure};
use aya::maps::MapData;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use bytemuck::{Pod, bytes_of};
use calico_ebpf_common::expire::{Clock, ExpireEntry, ExpireHeader, HEADER_BYTES, MAX_ENTRIES};
use calico_ebpf_common::flow::{
    Flow, FlowKey4, FlowKey6, STATE_ESTABLISHED, STATE_FIN_ORIGIN, STATE_FIN_RESPONDER, STATE_REPLIED,
    STATE_RESET,
};
use calico_ebpf_common::maps;
use calico_ebpf_common::port::protocol;
use nix::time::{ClockId, clock_getres};

use super::bpf_syscall::{BatchReader, open_pinned};
use super::datagrams::sweep_datagrams;
use super::pins::Pins;
use super::programs::pinned_program;
use crate::config::values::ConntrackTimeouts;

/// Entries read at once.
const SLICE: u32 = 4096;
/// Bytes of a packet that BPF_PROG_TEST_RUN takes whatever the program.
const CLOCK_PACKET: usize = 64;

/// Key of a flow of either family.
pub trait FlowKey: Pod {
    /// Name of the map.
    const MAP: &'static str;
    /// 4 or 6.
    const FAMILY: u32;

    /// Returns the IP protocol.
    fn protocol(&self) -> u8;
}

impl FlowKey for FlowKey4 {
    const MAP: &'static str = maps::FLOWS4;
    const FAMILY: u32 = 4;

    fn protocol(&self) -> u8 {
        self.protocol
    }
}

impl FlowKey for FlowKey6 {
    const MAP: &'static str = maps::FLOWS6;
    const FAMILY: u32 = 6;

    fn protocol(&self) -> u8 {
        self.protocol
    }
}

/// A conntrack map.
#[derive(Debug)]
pub struct FlowTable {
    map: MapData,
}

impl FlowTable {
    /// Opens the pinned conntrack map for keys `K`.
    ///
    /// # Errors
    /// When it is not pinned or has another layout.
    pub fn open<K: FlowKey>(pins: &Pins) -> anyhow::Result<Self> {
        let map = open_pinned(&pins.map(K::MAP)).with_context(|| format!("cannot open map {}", K::MAP))?;
        let map = MapData::from_fd(map)?;
        let info = map.info()?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        ensure!(
            sizes == (size_of::<K>(), size_of::<Flow>()),
            "map {} has another layout: {sizes:?}",
            K::MAP
        );
        Ok(Self { map })
    }

    /// Calls `visit` with slices of all flows.
    ///
    /// # Errors
    /// When the kernel refuses, or what `visit` says.
    pub fn for_each_slice<K: FlowKey>(
        &self,
        mut visit: impl FnMut(Vec<(K, Flow)>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut reader = BatchReader::new(self.map.fd().as_fd(), SLICE);
        while let Some(slice) = reader.next_slice::<K, Flow>()? {
            visit(slice)?;
        }
        Ok(())
    }
}

/// Returns all flows of one family.
///
/// # Errors
/// When the map is not pinned or cannot be read.
pub fn read_flows<K: FlowKey>(pins: &Pins) -> anyhow::Result<Vec<(K, Flow)>> {
    let mut flows = Vec::new();
    FlowTable::open::<K>(pins)?.for_each_slice(|slice| {
        flows.extend(slice);
        Ok(())
    })?;
    Ok(flows)
}

/// Returns the highest generation that a flow of the last run names: new ones must be above it.
///
/// # Errors
/// When a map is pinned but cannot be read.
pub fn highest_generation(pins: &Pins) -> anyhow::Result<u32> {
    Ok(highest_in::<FlowKey4>(pins)?.max(highest_in::<FlowKey6>(pins)?))
}

fn highest_in<K: FlowKey>(pins: &Pins) -> anyhow::Result<u32> {
    if !pins.map(K::MAP).exists() {
        return Ok(0);
    }
    let mut highest = 0;
    FlowTable::open::<K>(pins)?.for_each_slice::<K>(|slice| {
        let generations = slice.iter().flat_map(|(_, flow)| flow.generation);
        highest = generations.fold(highest, u32::max);
        Ok(())
    })?;
    Ok(highest)
}

/// Reads the kernel's clocks.
///
/// # Errors
/// When the program cannot be run.
pub fn read_clock(program: &SchedClassifier) -> anyhow::Result<Clock> {
    let packet = [0_u8; CLOCK_PACKET];
    let mut answer = [0_u8; CLOCK_PACKET];
    program.test_run(TestRunOptions {
        data_in: Some(&packet),
        data_out: Some(&mut answer),
        ..TestRunOptions::default()
    })?;
    Ok(bytemuck::pod_read_unaligned(&answer[..size_of::<Clock>()]))
}

/// Returns the kernel's timer frequency: the coarse clock advances by one tick.
///
/// # Errors
/// When the kernel has no coarse clock.
pub fn ticks_per_second() -> anyhow::Result<u64> {
    let tick = Duration::from(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?);
    let nanoseconds = u64::try_from(tick.as_nanos())?.max(1);
    Ok((1_000_000_000 + nanoseconds / 2) / nanoseconds)
}

/// Timeouts in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry<'a> {
    pub timeouts: &'a ConntrackTimeouts,
    pub ticks_per_second: u64,
    /// `jiffies64`.
    pub now: u64,
}

impl Expiry<'_> {
    /// Returns whether a flow of this protocol has been without a packet for too long.
    pub fn is_expired(&self, protocol: u8, flow: &Flow) -> bool {
        let milliseconds = u64::try_from(self.timeout(protocol, flow.state).as_millis()).unwrap_or(u64::MAX);
        let ticks = milliseconds.saturating_mul(self.ticks_per_second) / 1000;
        self.now.saturating_sub(flow.last_seen) > ticks
    }

    fn timeout(&self, protocol: u8, state: u8) -> Duration {
        match protocol {
            protocol::TCP if state & STATE_RESET != 0 => self.timeouts.tcp_reset,
            protocol::TCP if state & (STATE_FIN_ORIGIN | STATE_FIN_RESPONDER) != 0 => self.timeouts.tcp_fin,
            protocol::TCP if state & STATE_ESTABLISHED != 0 => self.timeouts.tcp_established,
            protocol::TCP => self.timeouts.tcp_unreplied,
            protocol::UDP if state & STATE_REPLIED != 0 => self.timeouts.udp_replied,
            protocol::UDP => self.timeouts.udp,
            protocol::ICMP | protocol::ICMPV6 => self.timeouts.icmp,
            _ => self.timeouts.generic,
        }
    }
}

/// What one sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows before the sweep, by family.
    pub flows4: u64,
    pub flows6: u64,
    pub deleted: u64,
}

/// Sweeps both conntrack maps and the map of datagrams.
#[derive(Debug)]
pub struct FlowSweeper {
    flows4: FlowTable,
    flows6: FlowTable,
    expire: SchedClassifier,
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
            flows4: FlowTable::open::<FlowKey4>(pins)?,
            flows6: FlowTable::open::<FlowKey6>(pins)?,
            expire: pinned_program(pins, maps::PROGRAM_EXPIRE_FLOWS)?,
            clock: pinned_program(pins, maps::PROGRAM_READ_CLOCK)?,
            ticks_per_second: ticks_per_second()?,
            pins: pins.clone(),
        })
    }

    /// Deletes every expired flow, and datagrams whose fragments never came to an end. Blocks for about a millisecond per 4096 flows.
    ///
    /// # Errors
    /// When a map cannot be read or the program cannot be run.
    pub fn sweep(&self, timeouts: &ConntrackTimeouts) -> anyhow::Result<Swept> {
        let now = read_clock(&self.clock)?.jiffies;
        let expiry = Expiry {
            timeouts,
            ticks_per_second: self.ticks_per_second,
            now,
        };
        let (flows4, deleted4) = self.sweep_family::<FlowKey4>(&self.flows4, expiry)?;
        let (flows6, deleted6) = self.sweep_family::<FlowKey6>(&self.flows6, expiry)?;
        sweep_datagrams(&self.pins, now)?;
        Ok(Swept {
            flows4,
            flows6,
            deleted: deleted4 + deleted6,
        })
    }

    fn sweep_family<K: FlowKey>(&self, table: &FlowTable, expiry: Expiry<'_>) -> anyhow::Result<(u64, u64)> {
        let (mut flows, mut deleted) = (0, 0);
        table.for_each_slice::<K>(|slice| {
            flows += slice.len() as u64;
            let expired: Vec<_> = slice
                .iter()
                .filter(|(key, flow)| expiry.is_expired(key.protocol(), flow))
                .map(|(key, flow)| entry_of(key, flow))
                .collect();
            for entries in expired.chunks(MAX_ENTRIES) {
                deleted += u64::from(self.delete(K::FAMILY, entries)?);
            }
            Ok(())
        })?;
        Ok((flows, deleted))
    }

    fn delete(&self, family: u32, entries: &[ExpireEntry]) -> anyhow::Result<u32> {
        let request = request_of(family, entries)?;
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

fn request_of(family: u32, entries: &[ExpireEntry]) -> anyhow::Result<Vec<u8>> {
    let header = ExpireHeader {
        count: u32::try_from(entries.len())?,
        family,
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

    const NOW: u64 = 10_000_000;

    fn is_expired(protocol: u8, state: u8, idle_seconds: u64) -> bool {
        let timeouts = ConntrackTimeouts::default();
        let expiry = Expiry {
            timeouts: &timeouts,
            ticks_per_second: 250,
            now: NOW,
        };
        expiry.is_expired(
            protocol,
            &Flow {
                last_seen: NOW - idle_seconds * 250,
                state,
                ..Flow::default()
            },
        )
    }

    #[test]
    fn idle_udp_expires_at_its_timeout_and_answered_udp_later() {
        assert!(!is_expired(protocol::UDP, 0, 30));
        assert!(is_expired(protocol::UDP, 0, 31));
        assert!(!is_expired(protocol::UDP, STATE_REPLIED, 31));
        assert!(is_expired(protocol::UDP, STATE_REPLIED, 121));
    }

    #[test]
    fn tcp_expires_by_its_state() {
        let established = STATE_REPLIED | STATE_ESTABLISHED;
        assert!(!is_expired(protocol::TCP, established, 3600));
        assert!(is_expired(protocol::TCP, 0, 121));
        assert!(is_expired(protocol::TCP, established | STATE_FIN_ORIGIN, 121));
        assert!(!is_expired(protocol::TCP, established | STATE_RESET, 10));
        assert!(is_expired(protocol::TCP, established | STATE_RESET, 11));
    }

    #[test]
    fn other_protocols_have_the_generic_timeout() {
        assert!(!is_expired(47, STATE_REPLIED, 600));
        assert!(is_expired(47, STATE_REPLIED, 601));
        assert!(is_expired(protocol::ICMPV6, 0, 31));
    }

    #[test]
    fn flow_touched_after_the_clock_was_read_is_alive() {
        let timeouts = ConntrackTimeouts::default();
        let expiry = Expiry {
            timeouts: &timeouts,
            ticks_per_second: 1000,
            now: NOW,
        };
        assert!(!expiry.is_expired(
            protocol::UDP,
            &Flow {
                last_seen: NOW + 1,
                ..Flow::default()
            }
        ));
    }

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
        let request = request_of(4, &[entry]).unwrap();
        assert_eq!(request.len(), HEADER_BYTES + 48);
        assert_eq!(request[0], 1);
        assert_eq!(request[4], 4);
        assert_eq!(&request[HEADER_BYTES..HEADER_BYTES + 16], bytes_of(&key));
        assert!(
            request[HEADER_BYTES + 16..HEADER_BYTES + 40]
                .iter()
                .all(|byte| *byte == 0)
        );
    }

    #[test]
    fn kernel_ticks_are_one_of_the_frequencies_that_linux_has() {
        assert!([100, 250, 300, 1000].contains(&ticks_per_second().unwrap()));
    }
}
