//! The programs by themselves: BPF_PROG_TEST_RUN with many repeats, less the empty program.

use std::time::Instant;

use anyhow::ensure;
use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use calico_ebpf_common::maps::settings;

use crate::Benches;
use crate::bed;
use crate::report::Bench;

/// Repeats of one round: some tens of milliseconds.
const REPEATS: u32 = 400_000;
/// `TC_ACT_REDIRECT`: what the measured packet must get.
const REDIRECT: u32 = 7;

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
        let dry_run = [(settings::DRY_RUN, u32::from(new))];
        let mut object = bed::load(v6, count, ["tapA", "tapB"], [1, 100], &dry_run)?;
        benches.push(measure(name, goal, rounds, &mut object, &bed::frame(v6))?);
    }
    Ok(())
}

fn measure(name: &str, goal: f64, rounds: usize, object: &mut Ebpf, frame: &[u8]) -> anyhow::Result<Bench> {
    // Opens the flow where flows are written, and shows that the packet takes the measured way.
    let (_, action) = run_program(bed::program(object, "bench_from_workload")?, frame, 1)?;
    ensure!(
        action == REDIRECT,
        "{name}: the measured packet got TC action {action}, expected {REDIRECT} (redirect)"
    );
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let empty = run_program(bed::program(object, "bench_empty")?, frame, REPEATS)?.0;
        let lookup = run_program(bed::program(object, "bench_lookup")?, frame, REPEATS)?.0;
        let program = run_program(bed::program(object, "bench_from_workload")?, frame, REPEATS)?.0;
        measured.push([program - empty, lookup - empty]);
    }
    Ok(Bench::at_most(name, "one 16-byte hash look-up", goal, measured))
}

/// Returns nanoseconds a run and the TC action.
fn run_program(program: &SchedClassifier, frame: &[u8], repeats: u32) -> anyhow::Result<(f64, u32)> {
    let start = Instant::now();
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat: repeats,
        ..TestRunOptions::new()
    };
    let result = program.test_run(options)?;
    let nanoseconds = start.elapsed().as_secs_f64() * 1e9 / f64::from(repeats);
    Ok((nanoseconds, result.return_value))
}
