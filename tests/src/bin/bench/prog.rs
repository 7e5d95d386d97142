//! The programs by themselves: BPF_PROG_TEST_RUN with many repeats, less the empty program.

use anyhow::{Context, ensure};
use aya::Ebpf;
use calico_ebpf_common::maps::settings;

use crate::Benches;
use crate::bed::{self, Bed, run_program};
use crate::report::Bench;
use crate::rules::Policy;
use crate::tcp;

/// Repeats of one round: some tens of milliseconds.
const REPEATS: u32 = 400_000;
/// `TC_ACT_REDIRECT`: what the measured packet must get.
pub(crate) const REDIRECT: u32 = 7;

/// Runs the benchmarks of this file.
pub(crate) fn run(
    rounds: usize,
    wanted: &dyn Fn(&str) -> bool,
    progress: &dyn Fn(&str),
    benches: &mut Benches,
) -> anyhow::Result<()> {
    for (name, v6, tcp) in [
        ("prog_established_v4", false, false),
        ("prog_established_v6", true, false),
        ("prog_established_tcp4", false, true),
        ("prog_established_tcp6", true, true),
    ] {
        if wanted(name) {
            progress(name);
            let (mut object, frame) = established(name, v6, tcp)?;
            benches.push(measure(name, 2.0, rounds, &mut object, &frame)?);
        }
    }
    let cases: [(&str, bool, usize, f64); 4] = [
        ("prog_new_verdict_v4_1_rule", false, 1, 3.0),
        ("prog_new_verdict_v4_1000_rules", false, 1000, 3.0),
        ("prog_new_verdict_v6_1_rule", true, 1, 3.0),
        ("prog_new_verdict_v6_1000_rules", true, 1000, 3.0),
    ];
    for (name, v6, count, goal) in cases {
        if !wanted(name) {
            continue;
        }
        progress(name);
        let bed = Bed {
            v6,
            settings: vec![(settings::DRY_RUN, 1)],
            ..Bed::new(Policy::of(count))
        };
        benches.push(measure(name, goal, rounds, &mut bed.load()?, &bed.frame())?);
    }
    Ok(())
}

/// Loads programs and opens the flow of a packet, which is returned too.
pub(crate) fn established(name: &str, v6: bool, tcp: bool) -> anyhow::Result<(Ebpf, Vec<u8>)> {
    let bed = Bed {
        v6,
        tcp,
        ..Bed::new(Policy {
            protocol: if tcp { 6 } else { 17 },
            ..Policy::default()
        })
    };
    let (mut object, frame) = (bed.load()?, bed.frame());
    if tcp {
        tcp::establish(&mut object, v6).with_context(|| name.to_owned())?;
    }
    expect_redirect(name, &mut object, &frame)?;
    Ok((object, frame))
}

fn measure(name: &str, goal: f64, rounds: usize, object: &mut Ebpf, frame: &[u8]) -> anyhow::Result<Bench> {
    expect_redirect(name, object, frame)?;
    let measured = (0..rounds)
        .map(|_| in_look_ups(object, frame, REPEATS))
        .collect::<anyhow::Result<_>>()?;
    Ok(Bench::at_most(name, "one 16-byte hash look-up", goal, measured))
}

/// Opens the flow where flows are written, and shows that the packet takes the measured way.
pub(crate) fn expect_redirect(name: &str, object: &mut Ebpf, frame: &[u8]) -> anyhow::Result<()> {
    let (_, action) = run_program(bed::program(object, "bench_from_workload")?, frame, 1)?;
    ensure!(
        action == REDIRECT,
        "{name}: the measured packet got TC action {action}, expected {REDIRECT} (redirect)"
    );
    Ok(())
}

/// Returns nanoseconds of the program and of one hash look-up, both without the empty program.
pub(crate) fn in_look_ups(object: &mut Ebpf, frame: &[u8], repeats: u32) -> anyhow::Result<[f64; 2]> {
    let empty = run_program(bed::program(object, "bench_empty")?, frame, repeats)?.0;
    let lookup = run_program(bed::program(object, "bench_lookup")?, frame, repeats)?.0;
    let program = run_program(bed::program(object, "bench_from_workload")?, frame, repeats)?.0;
    Ok([program - empty, lookup - empty])
}
