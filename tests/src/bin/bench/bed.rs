//! The object with its table filled, ready to run.

use std::collections::BTreeMap;

use anyhow::Context;
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use calico_ebpf_common::flow::{Flow, FlowKey4};
use calico_ebpf_common::line::Line;
use calico_ebpf_common::maps;
use calico_ebpf_userspace::compile::input::{HostFacts, HostInterface, Limits, TableInput};
use calico_ebpf_userspace::compile::rule_ids::RuleIds;
use calico_ebpf_userspace::compile::table;
use calico_ebpf_userspace::model::resource::MacAddress;
use etherparse::PacketBuilder;

use crate::rules::{self, MACS, PORT};

/// MAC address of the taps, as the host side of both.
pub(crate) const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// Lines of the policy table.
const LINES: u32 = 131_072;

/// Loads the object for packets of one family, with `count` rules and the taps' interface numbers.
pub(crate) fn load(
    v6: bool,
    count: usize,
    names: [&str; 2],
    ifindexes: [u32; 2],
    settings: &[(&'static str, u32)],
) -> anyhow::Result<Ebpf> {
    let path = std::env::var_os("CALICO_EBPF_BENCH_OBJECT")
        .context("CALICO_EBPF_BENCH_OBJECT is not set: run `cargo xtask bench`")?;
    let bytes = std::fs::read(&path).with_context(|| path.to_string_lossy().into_owned())?;
    let frame = frame(v6);
    let word = |at: usize| u32::from_ne_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let half = |at: usize| u32::from(u16::from_ne_bytes([frame[at], frame[at + 1]]));
    let header = [
        ("BENCH_DESTINATION_FIRST", word(0)),
        ("BENCH_DESTINATION_LAST", half(4)),
        ("BENCH_SOURCE_FIRST", word(6)),
        ("BENCH_SOURCE_LAST", half(10)),
        ("BENCH_CHECKSUM", half(24)),
        ("BENCH_HOP_LIMIT_OFFSET", if v6 { 21 } else { 22 }),
    ];
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries(maps::POLICY, LINES)
        .map_max_entries(maps::FLOWS4, 65_536)
        .map_max_entries(maps::FLOWS6, 65_536);
    for (name, value) in header.iter().chain(settings) {
        loader.override_global(name, value, true);
    }
    let mut object = loader.load(&bytes)?;
    fill_table(&mut object, count, names, ifindexes)?;
    fill_unsettled(&mut object)?;
    let mut lookup: HashMap<_, FlowKey4, Flow> =
        HashMap::try_from(object.map_mut("BENCH_LOOKUP").context("no map BENCH_LOOKUP")?)?;
    let key = FlowKey4 {
        low_port: [0, 1],
        high_port: [0, 2],
        protocol: 17,
        ..FlowKey4::default()
    };
    lookup.insert(key, Flow::default(), 0)?;
    Ok(object)
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

fn fill_table(object: &mut Ebpf, count: usize, names: [&str; 2], ifindexes: [u32; 2]) -> anyhow::Result<()> {
    let state = rules::state(count, names);
    let interfaces = names
        .iter()
        .zip(ifindexes)
        .map(|(name, ifindex)| {
            (
                (*name).to_owned(),
                HostInterface {
                    ifindex,
                    mac: MacAddress(HOST_MAC),
                    mtu: 1500,
                    loose_until: 0,
                },
            )
        })
        .collect();
    let host = HostFacts {
        interfaces,
        ..HostFacts::default()
    };
    let generations = BTreeMap::from([(rules::key(0), 7), (rules::key(1), 8)]);
    let slots = BTreeMap::from([(rules::key(0), 1), (rules::key(1), 2)]);
    let input = TableInput {
        state: &state,
        host: &host,
        generations: &generations,
        born: &generations,
        slots: &slots,
        epoch: 1,
        base_line: 1,
        max_lines: LINES - 1,
        limits: Limits::default(),
    };
    let built = table::build(&input, &mut RuleIds::new())?;
    let mut policy: Array<_, Line> = Array::try_from(object.map_mut(maps::POLICY).context("no policy map")?)?;
    for (index, line) in (1..).zip(&built.lines) {
        policy.set(index, line, 0)?;
    }
    let mut active: Array<_, u64> = Array::try_from(object.map_mut(maps::ACTIVE).context("no active map")?)?;
    active.set(0, 1, 0)?;
    Ok(())
}

/// Returns a UDP frame of 60 bytes (80 for IPv6) from sender to receiver.
pub(crate) fn frame(v6: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(MACS[0], HOST_MAC);
    let payload = [0_u8; 18];
    let (source, destination) = (rules::address(v6, 0), rules::address(v6, 1));
    let step = match (source, destination) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), 64)
        }
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => unreachable!("both addresses are of one family"),
    };
    let builder = step.udp(40_000, PORT);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut frame, &payload)
        .expect("a vector takes any length");
    frame
}
