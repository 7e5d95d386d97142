//! Reading flows in the kernel.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use aya::maps::MapData;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use bytemuck::Pod;
use calico_ebpf_common::expire::Clock;
use calico_ebpf_common::flow::{Flow, FlowKey4, FlowKey6};
use calico_ebpf_common::maps;
use calico_ebpf_common::quota::Kind;
use nix::time::{ClockId, clock_getres};

use super::bpf_syscall::{BatchReader, open_pinned};
use super::pins::Pins;

/// Entries read at once.
const SLICE: u32 = 4096;
/// Bytes of a packet that BPF_PROG_TEST_RUN takes whatever the program.
const CLOCK_PACKET: usize = 64;

/// Key of a flow of either family.
pub trait FlowKey: Pod + aya::Pod {
    /// Names of the maps: of half-open flows, of confirmed ones.
    const MAPS: [&'static str; 2];
    /// 4 or 6.
    const FAMILY: u32;

    /// Returns the IP protocol.
    fn protocol(&self) -> u8;
}

impl FlowKey for FlowKey4 {
    const MAPS: [&'static str; 2] = [maps::HALF_OPEN4, maps::FLOWS4];
    const FAMILY: u32 = 4;

    fn protocol(&self) -> u8 {
        self.protocol
    }
}

impl FlowKey for FlowKey6 {
    const MAPS: [&'static str; 2] = [maps::HALF_OPEN6, maps::FLOWS6];
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
    pub fn open<K: FlowKey>(pins: &Pins, kind: Kind) -> anyhow::Result<Self> {
        let table = Self::open_if_alike::<K>(pins, kind)?;
        table.with_context(|| format!("map {} has another layout", K::MAPS[kind as usize]))
    }

    /// As [`Self::open`]; `None` for a map with another layout.
    fn open_if_alike<K: FlowKey>(pins: &Pins, kind: Kind) -> anyhow::Result<Option<Self>> {
        let name = K::MAPS[kind as usize];
        let map = open_pinned(&pins.map(name)).with_context(|| format!("cannot open map {name}"))?;
        let map = MapData::from_fd(map)?;
        let info = map.info()?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        Ok((sizes == (size_of::<K>(), size_of::<Flow>())).then_some(Self { map }))
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

/// Returns the highest generation that a flow of the last run names: new ones must be above it.
///
/// # Errors
/// When a map is pinned but cannot be read.
pub fn highest_generation(pins: &Pins) -> anyhow::Result<u32> {
    Ok(highest_in::<FlowKey4>(pins)?.max(highest_in::<FlowKey6>(pins)?))
}

fn highest_in<K: FlowKey>(pins: &Pins) -> anyhow::Result<u32> {
    let mut highest = 0;
    for kind in Kind::ALL {
        if !pins.map(K::MAPS[kind as usize]).exists() {
            continue;
        }
        // One of another layout begins anew: none of its flows is taken over.
        let Some(table) = FlowTable::open_if_alike::<K>(pins, kind)? else {
            continue;
        };
        table.for_each_slice::<K>(|slice| {
            let generations = slice.iter().flat_map(|(_, flow)| flow.generation);
            highest = generations.fold(highest, u32::max);
            Ok(())
        })?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_ticks_are_one_of_the_frequencies_that_linux_has() {
        assert!([100, 250, 300, 1000].contains(&ticks_per_second().unwrap()));
    }
}
