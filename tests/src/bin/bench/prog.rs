//! The programs by themselves: BPF_PROG_TEST_RUN with many repeats, less the empty program.

use anyhow::ensure;
use aya::Ebpf;
use calico_ebpf_common::maps::settings;

use crate::Benches;
use crate::bed::{self, Bed, run_program};
use crate::report::Bench;
use crate::rules::Policy;

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
    let cases: [(&str, bool, usize, bool, f64); 6] = [
        ("prog_established_v4", false, 1, false, 2.0),
        ("prog_established_v6", true, 1, false, 2.0),
        ("prog_new_verdict_v4_1_rule", false, 1, true, 3.0),
        ("prog_new_verdict_v4_1000_rules", false, 1000, true, 3.0),
        ("prog_new_verdict_v6_1_rule", true, 1, true, 3.0),
        ("prog_new_verdict_v6_1000_rules", true, 1000, true, 3.0),
    ];
    for (name, v6, count, new, goal) in cases {
        if !wanted(name) {
            continue;
        }
        progress(name);
        let bed = Bed {
            v6,
            settings: vec![(settings::DRY_RUN, u32::from(new))],
            ..Bed::new(Policy::of(count))
        };
        benches.push(measure(name, goal, rounds, &mut bed.load()?, &bed::frame(v6))?);
    }
    Ok(())
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
