//! Conntrack with a million entries: flows that come and expire, and a flood of SYNs on a full table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use aya::Ebpf;
use aya::programs::{TestRun, TestRunOptions};
use calico_ebpf_common::bench::Vary;
use calico_ebpf_common::maps::{self, settings};
use calico_ebpf_tests::host::PIN_DIR;
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_userspace::config::values::ConntrackTimeouts;
use calico_ebpf_userspace::dataplane::pins::Pins;
use calico_ebpf_userspace::dataplane::sk_buff::{self, SkBuff};
use calico_ebpf_userspace::dataplane::sweep::{FlowSweeper, Swept};
use etherparse::{PacketBuilder, TcpHeader};

use super::Run;
use super::figures::{Figure, Goal};
use crate::bed::{self, Bed, HOST_MAC, run_program};
use crate::cpu_time::cpu_nanoseconds;
use crate::prog::REDIRECT;
use crate::road::{Road, Surface};
use crate::rules::{MACS, PORT, Policy, address};

/// Where new flows lead: addresses of nobody, from this one on, and so many ports before the next.
const FIRST_DESTINATION: u32 = 0x0b00_0000;
const PORTS: u32 = 60_000;
/// First source port of flows that are established before the flood.
const FIRST_PORT: u16 = 1024;

/// Measures the rows of this file.
pub(super) fn measure(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if run.wants("ct_churn") {
        figures.extend(churn(run)?);
    }
    if run.wants("ct_flood") {
        figures.extend(flood(run)?);
    }
    Ok(figures)
}

/// A flow to the next destination and port, from the `count`th on.
fn next_flows(count: u64) -> Vary {
    Vary {
        count,
        ports: PORTS,
        first_port: 1,
        destinations: 1 << 16,
        first_destination: FIRST_DESTINATION,
        step: 1,
        ..Vary::default()
    }
}

fn churn(run: &Run<'_>) -> anyhow::Result<[Figure; 4]> {
    run.say("ct_churn: tables");
    let table = run.sizes.table;
    let flows = table - table / 20;
    let bed = Bed {
        flows: table,
        sizes: vec![("BENCH_FLOWS", table)],
        ..Bed::new(Policy::default())
    };
    let mut tracking = bed.load()?;
    let mut judging = Bed {
        settings: vec![(settings::DRY_RUN, 1)],
        sizes: Vec::new(),
        ..bed
    }
    .load()?;
    let namespace = Netns::host();
    let rounds = namespace.run(|| -> anyhow::Result<_> {
        let sweeper = sweeper(&mut tracking)?;
        let mut rounds = Vec::new();
        for round in 0..run.sizes.rounds {
            run.say(&format!("ct_churn: round {}", round + 1));
            let opened = repeat(&mut tracking, "bench_from_workload", flows)?;
            let judged = repeat(&mut judging, "bench_from_workload", flows)?;
            let kept = keep(&sweeper, flows)?;
            let expired = expire(&sweeper, flows)?;
            let inserted = repeat(&mut tracking, "bench_insert", flows)?;
            let deleted = repeat(&mut tracking, "bench_delete", flows)?;
            let empty = repeat(&mut tracking, "bench_empty", flows)?;
            let interval = ConntrackTimeouts::default().sweep_interval.as_secs_f64() * 1e9;
            rounds.push([
                [opened - judged, inserted - empty],
                [expired, deleted - empty],
                [kept, interval],
            ]);
        }
        Ok(rounds)
    })?;
    let pairs = |figures: fn(&[[f64; 2]; 3]) -> [f64; 2]| rounds.iter().map(figures).collect();
    let kind = format!("a table of {table}");
    Ok([
        Figure::new(
            "ct_churn",
            &format!("{flows} flows are opened and expire in {kind}: a flow, without its verdict"),
            "insert and delete of as many keys in a hash map of that size, by a program",
            pairs(|[opened, expired, _]| [opened[0] + expired[0], opened[1] + expired[1]]),
        )
        .goal(Goal::RatioAtMost(1.2)),
        Figure::new(
            "ct_churn/opened",
            &format!("of this being opened in {kind}"),
            "insert",
            pairs(|[opened, ..]| *opened),
        ),
        Figure::new(
            "ct_churn/expired",
            &format!("of this the agent's sweep of {kind}, reading and deleting"),
            "delete",
            pairs(|[_, expired, _]| *expired),
        ),
        Figure::new(
            "ct_churn/sweep",
            &format!("the agent's sweep of {kind} in which {flows} live on"),
            "one processor for the time from one sweep to the next",
            pairs(|[.., kept]| *kept),
        )
        .goal(Goal::RatioAtMost(0.05)),
    ])
}

/// Runs a program with packets of `count` flows, and returns nanoseconds a packet.
fn repeat(object: &mut Ebpf, name: &str, count: u32) -> anyhow::Result<f64> {
    bed::vary(object, next_flows(0))?;
    let (nanoseconds, action) = run_program(bed::program(object, name)?, &bed::frame(false), count)?;
    let expected = match name {
        "bench_insert" | "bench_delete" => 0,
        "bench_from_workload" => u32::MAX,
        _ => action,
    };
    ensure!(
        action == expected,
        "{name}: TC action {action}, expected {expected}"
    );
    Ok(nanoseconds)
}

/// Pins what the agent's sweep needs, where it looks for it.
fn sweeper(object: &mut Ebpf) -> anyhow::Result<FlowSweeper> {
    let pins = Pins::below(std::path::Path::new(PIN_DIR));
    for name in [
        maps::FLOWS4,
        maps::FLOWS6,
        maps::HALF_OPEN4,
        maps::HALF_OPEN6,
        maps::QUOTAS,
        maps::DATAGRAMS,
    ] {
        let path = pins.map(name);
        std::fs::create_dir_all(path.parent().context("a directory")?)?;
        object
            .map(name)
            .context("a map of flows or datagrams")?
            .pin(&path)?;
    }
    for name in [
        maps::PROGRAM_EXPIRE_FLOWS,
        maps::PROGRAM_READ_CLOCK,
        maps::PROGRAM_CORRECT_QUOTA,
    ] {
        let path = pins.program(name);
        std::fs::create_dir_all(path.parent().context("a directory")?)?;
        bed::program(object, name)?.pin(&path)?;
    }
    FlowSweeper::open(&pins)
}

/// Sweeps while no flow has expired, and returns nanoseconds.
fn keep(sweeper: &FlowSweeper, flows: u32) -> anyhow::Result<f64> {
    let mut swept = Swept::default();
    let nanoseconds = cpu_nanoseconds(|| {
        swept = sweeper.sweep(&ConntrackTimeouts::default(), &BTreeSet::new(), false)?;
        Ok(())
    })?;
    ensure!(
        (swept.flows4, swept.deleted) == (u64::from(flows), 0),
        "{flows} flows were opened, the sweep found {swept:?}"
    );
    Ok(nanoseconds)
}

/// Sweeps until all flows have expired, and returns nanoseconds a flow.
fn expire(sweeper: &FlowSweeper, flows: u32) -> anyhow::Result<f64> {
    let timeouts = ConntrackTimeouts {
        udp: Duration::ZERO,
        ..ConntrackTimeouts::default()
    };
    let mut deleted = 0;
    let nanoseconds = cpu_nanoseconds(|| {
        // Those of the last tick need another sweep.
        for _ in 0..1000 {
            deleted += sweeper.sweep(&timeouts, &BTreeSet::new(), false)?.deleted;
            if deleted >= u64::from(flows) {
                break;
            }
        }
        Ok(())
    })?;
    ensure!(
        deleted == u64::from(flows),
        "{deleted} flows expired, {flows} were opened"
    );
    Ok(nanoseconds / f64::from(flows))
}

/// A flood from the first tap, towards addresses of nobody.
struct Flood {
    road: Road,
    syn: Vec<u8>,
    /// A packet of an established flow, and how many there are.
    data: Vec<u8>,
    established: u32,
    /// SYNs so far.
    sent: u64,
}

fn flood(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    run.say("ct_flood: established flows");
    let policy = Policy {
        protocol: 6,
        ..Policy::default()
    };
    let table = run.sizes.table;
    let mut flood = Flood {
        road: Road::new(Surface::Ours, &policy, table)?,
        syn: segment(0, 0, "S")?,
        data: segment(0, 0, "A")?,
        established: run.sizes.established,
        sent: 0,
    };
    flood.establish()?;
    run.say("ct_flood: SYNs");
    let rounds = run.sizes.rounds;
    // The rounds with room fill a twentieth of the table, so that its filling is no part of what they say.
    let share = table / 20 / u32::try_from(rounds)?.max(1);
    let calm: Vec<[f64; 2]> = (0..rounds)
        .map(|_| Ok([flood.packets()?, flood.syns(share)?]))
        .collect::<anyhow::Result<_>>()?;
    flood.syns(table)?;
    let stormy: Vec<[f64; 2]> = (0..rounds)
        .map(|_| {
            let syns = flood.syns(share)?;
            Ok([flood.packets()?, syns])
        })
        .collect::<anyhow::Result<_>>()?;
    let kept = flood.kept()?;
    let flows = flood.flows()?;
    let pairs = |which: usize| -> Vec<[f64; 2]> {
        let both = stormy.iter().zip(&calm);
        both.map(|(stormy, calm)| [stormy[which], calm[which]]).collect()
    };
    let established = run.sizes.established;
    let kept = (
        format!("{kept} of {established} established flows kept"),
        kept == established,
    );
    let full = format!("table of {table} with {flows} flows");
    Ok(vec![
        Figure::new(
            "ct_flood/syn",
            &format!("a SYN of a flood, {full}"),
            "the same while the table has room",
            pairs(1),
        )
        .goal(Goal::RatioAtMost(2.0))
        .check(kept.0.clone(), kept.1),
        Figure::new(
            "ct_flood/established",
            &format!("a packet of one of {established} established flows during the flood, {full}"),
            "the same before the flood",
            pairs(0),
        )
        .goal(Goal::RatioAtMost(2.0))
        .check(kept.0, kept.1),
    ])
}

impl Flood {
    /// Opens all flows with a handshake each.
    fn establish(&mut self) -> anyhow::Result<()> {
        for number in 0..self.established {
            for (from, flags) in [(0, "S"), (1, "SA"), (0, "A")] {
                let action = self.judge(from, &segment(from, number, flags)?)?;
                ensure!(
                    action == REDIRECT,
                    "handshake {number}, {flags}: TC action {action}, expected {REDIRECT} (redirect)"
                );
            }
        }
        Ok(())
    }

    /// Returns how many of the flows are still known: without one, a packet in mid-stream is dropped.
    fn kept(&mut self) -> anyhow::Result<u32> {
        let mut kept = 0;
        for number in 0..self.established {
            kept += u32::from(self.judge(0, &segment(0, number, "A")?)? == REDIRECT);
        }
        Ok(kept)
    }

    /// Runs the real program once with a packet from one of the taps.
    fn judge(&mut self, from: usize, frame: &[u8]) -> anyhow::Result<u32> {
        let context = SkBuff::default().with(sk_buff::IFINDEX, self.road.ifindexes[from]);
        let program = bed::program(&mut self.road.object, maps::PROGRAM_FROM_WORKLOAD)?;
        self.road.namespace.run(|| {
            let options = TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(context.bytes()),
                ..TestRunOptions::new()
            };
            Ok(program.test_run(options)?.return_value)
        })
    }

    /// Sends SYNs of flows that were not there before, and returns nanoseconds for each.
    fn syns(&mut self, count: u32) -> anyhow::Result<f64> {
        let vary = next_flows(self.sent);
        self.sent += u64::from(count);
        let frame = self.syn.clone();
        let (nanoseconds, action) = self.repeat(&frame, vary, count)?;
        ensure!(
            action == u32::MAX,
            "a SYN got TC action {action}, expected -1 (pass)"
        );
        Ok(nanoseconds)
    }

    /// Sends packets of all established flows by turns, and returns nanoseconds for each.
    fn packets(&mut self) -> anyhow::Result<f64> {
        let vary = Vary {
            ports: self.established,
            first_port: FIRST_PORT.into(),
            ..Vary::default()
        };
        let frame = self.data.clone();
        let (nanoseconds, action) = self.repeat(&frame, vary, self.established * 4)?;
        ensure!(
            action == REDIRECT,
            "a packet of an established flow got TC action {action}, expected {REDIRECT} (redirect)"
        );
        Ok(nanoseconds)
    }

    fn repeat(&mut self, frame: &[u8], vary: Vary, count: u32) -> anyhow::Result<(f64, u32)> {
        let context = SkBuff::default().with(sk_buff::IFINDEX, self.road.ifindexes[0]);
        let mut nanoseconds = BTreeMap::new();
        let mut action = 0;
        for name in ["bench_empty", "bench_from_workload"] {
            bed::vary(&mut self.road.object, vary)?;
            let program = bed::program(&mut self.road.object, name)?;
            let time = self.road.namespace.run(|| {
                cpu_nanoseconds(|| {
                    let options = TestRunOptions {
                        data_in: Some(frame),
                        ctx_in: Some(context.bytes()),
                        repeat: count,
                        ..TestRunOptions::new()
                    };
                    action = program.test_run(options)?.return_value;
                    Ok(())
                })
            })?;
            nanoseconds.insert(name, time / f64::from(count));
        }
        Ok((
            nanoseconds["bench_from_workload"] - nanoseconds["bench_empty"],
            action,
        ))
    }

    fn flows(&self) -> anyhow::Result<usize> {
        bed::count_flows(&self.road.object)
    }
}

/// Returns a TCP segment of an established flow by its number, from sender (0) or receiver (1).
fn segment(from: usize, number: u32, flags: &str) -> anyhow::Result<Vec<u8>> {
    let (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) =
        (address(false, from), address(false, 1 - from))
    else {
        anyhow::bail!("endpoints have IPv4 addresses");
    };
    let own = FIRST_PORT + u16::try_from(number)?;
    let ports = if from == 0 { [own, PORT] } else { [PORT, own] };
    let mut tcp = TcpHeader::new(ports[0], ports[1], 1, 65_535);
    (tcp.syn, tcp.ack) = (flags.contains('S'), flags.contains('A'));
    let builder = PacketBuilder::ethernet2(MACS[from], HOST_MAC)
        .ipv4(source.octets(), destination.octets(), 64)
        .tcp_header(tcp);
    let mut frame = Vec::with_capacity(builder.size(18));
    builder.write(&mut frame, &[0; 18])?;
    Ok(frame)
}
