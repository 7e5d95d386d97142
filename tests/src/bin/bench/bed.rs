//! The object with its table filled, ready to run.

use std::collections::BTreeMap;

use anyhow::Context;
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use calico_ebpf_common::bench::Vary;
use calico_ebpf_common::flow::{Flow, FlowKey4};
use calico_ebpf_common::line::Line;
use calico_ebpf_common::maps;
use calico_ebpf_common::quota::FlowLimits;
use calico_ebpf_userspace::compile::input::{HostFacts, HostInterface, Limits, TableInput};
use calico_ebpf_userspace::compile::rule_ids::RuleIds;
use calico_ebpf_userspace::compile::table;
use calico_ebpf_userspace::model::resource::MacAddress;
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

use crate::cpu_time::cpu_nanoseconds;
use crate::rules::{self, MACS, PORT, Policy};
use crate::tcp;

/// MAC address of the taps, as the host side of both.
pub(crate) const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// Lines of the policy table.
const LINES: u32 = 262_144;
/// Source port of the measured packets.
pub(crate) const SOURCE_PORT: u16 = 40_000;
/// Entries of a map that nothing is put into.
const UNUSED: u32 = 1024;

/// What an object is loaded with.
#[derive(Clone, Debug)]
pub(crate) struct Bed {
    /// Packets are IPv6.
    pub(crate) v6: bool,
    /// Packets are TCP.
    pub(crate) tcp: bool,
    /// `None`: no table; the object only generates.
    pub(crate) policy: Option<Policy>,
    pub(crate) names: [&'static str; 2],
    pub(crate) ifindexes: [u32; 2],
    /// Entries of the conntrack map of the packets' family.
    pub(crate) flows: u32,
    pub(crate) settings: Vec<(&'static str, u32)>,
    /// Entries of maps that are not for everybody.
    pub(crate) sizes: Vec<(&'static str, u32)>,
}

impl Bed {
    /// Packets from the interface 1 to one that is never sent to.
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            v6: false,
            tcp: false,
            policy: Some(policy),
            names: ["tapA", "tapB"],
            ifindexes: [1, 100],
            flows: 65_536,
            settings: Vec::new(),
            sizes: Vec::new(),
        }
    }

    /// Loads the object, and what the attached programs leave to.
    pub(crate) fn load(&self) -> anyhow::Result<Ebpf> {
        let path = std::env::var_os("CALICO_EBPF_BENCH_OBJECT")
            .context("CALICO_EBPF_BENCH_OBJECT is not set: run `cargo xtask bench`")?;
        let bytes = std::fs::read(&path).with_context(|| path.to_string_lossy().into_owned())?;
        let frame = self.frame();
        let word = |at: usize| u32::from_ne_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
        let half = |at: usize| u32::from(u16::from_ne_bytes([frame[at], frame[at + 1]]));
        let header = [
            ("BENCH_DESTINATION_FIRST", word(0)),
            ("BENCH_DESTINATION_LAST", half(4)),
            ("BENCH_SOURCE_FIRST", word(6)),
            ("BENCH_SOURCE_LAST", half(10)),
            ("BENCH_CHECKSUM", half(24)),
            ("BENCH_HOP_LIMIT_OFFSET", if self.v6 { 21 } else { 22 }),
        ];
        let (flows4, flows6) = if self.v6 {
            (UNUSED, self.flows)
        } else {
            (self.flows, UNUSED)
        };
        let lines = if self.policy.is_some() { LINES } else { UNUSED };
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries(maps::POLICY, lines)
            .map_max_entries(maps::FLOWS4, flows4)
            .map_max_entries(maps::FLOWS6, flows6)
            .map_max_entries(maps::HALF_OPEN4, flows4)
            .map_max_entries(maps::HALF_OPEN6, flows6);
        for (name, entries) in &self.sizes {
            loader.map_max_entries(name, *entries);
        }
        for (name, value) in header.iter().chain(&self.settings) {
            loader.override_global(name, value, true);
        }
        let mut object = loader.load(&bytes)?;
        set_no_limits(&mut object)?;
        if let Some(policy) = &self.policy {
            self.fill_table(&mut object, policy)?;
            fill_unsettled(&mut object)?;
        }
        fill_lookup(&mut object)?;
        Ok(object)
    }

    /// Returns the measured packet.
    pub(crate) fn frame(&self) -> Vec<u8> {
        if self.tcp {
            tcp::data(self.v6, 0)
        } else {
            frame(self.v6)
        }
    }

    fn fill_table(&self, object: &mut Ebpf, policy: &Policy) -> anyhow::Result<()> {
        let state = policy.state(&self.names, 1);
        let interfaces = self.names.iter().zip(self.ifindexes);
        let interfaces = interfaces.map(|(name, ifindex)| {
            let fact = HostInterface {
                ifindex,
                mac: MacAddress(HOST_MAC),
                mtu: 1500,
                loose_until: 0,
            };
            ((*name).to_owned(), fact)
        });
        let host = HostFacts {
            interfaces: interfaces.collect(),
            ..HostFacts::default()
        };
        let generations = BTreeMap::from([(rules::key(0), 7), (rules::key(1), 8)]);
        let slots = BTreeMap::from([(rules::key(0), 1), (rules::key(1), 2)]);
        let input = TableInput {
            state: &state,
            host: &host,
            generations: &generations,
            slots: &slots,
            epoch: 1,
            base_line: 1,
            max_lines: LINES - 1,
            born: &generations,
            limits: Limits::default(),
        };
        let built = table::build(&input, &mut RuleIds::new())?;
        anyhow::ensure!(
            built.over_budget.is_empty(),
            "the measured policy is too large to be compiled: {:?}",
            built.over_budget
        );
        let mut lines: Array<_, Line> =
            Array::try_from(object.map_mut(maps::POLICY).context("no policy map")?)?;
        for (index, line) in (1..).zip(&built.lines) {
            lines.set(index, line, 0)?;
        }
        let mut active: Array<_, u64> =
            Array::try_from(object.map_mut(maps::ACTIVE).context("no active map")?)?;
        active.set(0, 1, 0)?;
        Ok(())
    }
}

/// Lets the table's size alone limit how many flows there are.
fn set_no_limits(object: &mut Ebpf) -> anyhow::Result<()> {
    let map = object.map_mut(maps::LIMITS).context("no limits of flows")?;
    let mut limits: Array<_, FlowLimits> = Array::try_from(map)?;
    let most = FlowLimits {
        half_open: u32::MAX,
        confirmed: u32::MAX,
    };
    Ok(limits.set(0, most, 0)?)
}

/// Returns the number of IPv4 flows, half open or confirmed.
pub(crate) fn count_flows(object: &Ebpf) -> anyhow::Result<usize> {
    let mut count = 0;
    for name in [maps::FLOWS4, maps::HALF_OPEN4] {
        let map = object.map(name).context("no conntrack map")?;
        let flows: HashMap<_, FlowKey4, Flow> = HashMap::try_from(map)?;
        count += flows.keys().count();
    }
    Ok(count)
}

fn fill_lookup(object: &mut Ebpf) -> anyhow::Result<()> {
    let mut lookup: HashMap<_, FlowKey4, Flow> =
        HashMap::try_from(object.map_mut("BENCH_LOOKUP").context("no map BENCH_LOOKUP")?)?;
    let key = FlowKey4 {
        low_port: [0, 1],
        high_port: [0, 2],
        protocol: 17,
        ..FlowKey4::default()
    };
    Ok(lookup.insert(key, Flow::default(), 0)?)
}

fn fill_unsettled(object: &mut Ebpf) -> anyhow::Result<()> {
    let mut loaded = Vec::new();
    for name in maps::UNSETTLED_PROGRAMS {
        loaded.push(program(object, name)?.fd()?.try_clone()?);
    }
    let mut array = ProgramArray::try_from(object.map_mut(maps::UNSETTLED).context("no program array")?)?;
    for (entry, program) in (0..).zip(&loaded) {
        array.set(entry, program, 0)?;
    }
    Ok(())
}

/// Returns the loaded program called `name`.
pub(crate) fn program<'a>(object: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program: &mut SchedClassifier = object
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    Ok(program)
}

/// Says how packets differ from one to the next, from now on.
pub(crate) fn vary(object: &mut Ebpf, vary: Vary) -> anyhow::Result<()> {
    let map = object.map_mut("BENCH_VARY").context("no map BENCH_VARY")?;
    let mut array: Array<_, Vary> = Array::try_from(map)?;
    Ok(array.set(0, vary, 0)?)
}

/// Runs a program and returns nanoseconds of this thread's processor time a run, and the last run's TC action.
pub(crate) fn run_program(
    program: &SchedClassifier,
    frame: &[u8],
    repeats: u32,
) -> anyhow::Result<(f64, u32)> {
    let mut action = 0;
    let nanoseconds = cpu_nanoseconds(|| {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: repeats,
            ..TestRunOptions::new()
        };
        action = program.test_run(options)?.return_value;
        Ok(())
    })?;
    Ok((nanoseconds / f64::from(repeats), action))
}

/// Returns a UDP frame of 60 bytes (80 for IPv6) from sender to receiver.
pub(crate) fn frame(v6: bool) -> Vec<u8> {
    let payload = [0_u8; 18];
    let builder = headers(v6).udp(SOURCE_PORT, PORT);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut frame, &payload)
        .expect("a vector takes any length");
    if !v6 {
        // No checksum: ports change from packet to packet.
        frame[40..42].fill(0);
    }
    frame
}

/// Returns what stands before the transport header, from sender to receiver.
pub(crate) fn headers(v6: bool) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(MACS[0], HOST_MAC);
    let (source, destination) = (rules::address(v6, 0), rules::address(v6, 1));
    match (source, destination) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), 64)
        }
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => unreachable!("both addresses are of one family"),
    }
}
