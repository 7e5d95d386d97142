//! `cargo xtask fuzz parse`: made-up frames; the plain reading, the parser built for the host and the programs in the
//! kernel must understand them alike.

mod told;
mod workers;

use std::process::ExitCode;
use std::time::Duration;

use calico_ebpf_tests::fuzzing::cases::{parse_case, seed_of_now};
use calico_ebpf_tests::fuzzing::told::line;
use calico_ebpf_tests::fuzzing::workers::{Case, Order, Worker as _};
use calico_ebpf_tests::parsing::{Coverage, Mistake};
use clap::Parser;

use workers::Readers;

/// Looks for frames that are not understood alike
#[derive(Parser)]
struct Arguments {
    /// How long it runs; of each mistake, how long it may stay unfound
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Equal seeds make equal cases; another one every time when none is given
    #[arg(long)]
    seed: Option<u64>,
    /// Has the plain reading make known mistakes, one after the other: each must be found
    #[arg(long)]
    mutants: bool,
    /// Runs this one case again
    #[arg(long, value_parser = parse_case)]
    case: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(seed_of_now);
    let time = Duration::from_secs(arguments.seconds);
    let all_well = if let Some(case) = arguments.case {
        again(case)
    } else if arguments.mutants {
        mutants(seed, time)
    } else {
        fuzz(seed, time)
    };
    if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn fuzz(seed: u64, time: Duration) -> bool {
    let order = Order {
        seed,
        time,
        tells_progress: true,
    };
    let ended = workers::run(order, None);
    told::coverage(&ended.coverage, ended.took);
    let outcome = if ended.found.is_some() {
        "something"
    } else {
        "nothing"
    };
    ended.found.iter().for_each(told::failure);
    line(&format!("seed {seed}: {outcome} was found"));
    ended.found.is_none()
}

fn mutants(seed: u64, time: Duration) -> bool {
    let order = Order {
        seed,
        time,
        tells_progress: false,
    };
    let mut unfound = Vec::new();
    for mistake in Mistake::ALL {
        let ended = workers::run(order, Some(mistake));
        let seconds = ended.took.as_secs_f64();
        let cases = ended.coverage.cases;
        if let Some(found) = ended.found {
            let first = found.difference.0.lines().next().unwrap_or_default();
            line(&format!(
                "{mistake:?}: found after {cases} cases, {seconds:.1} s ({first})"
            ));
        } else {
            line(&format!(
                "{mistake:?}: NOT FOUND in {cases} cases, {seconds:.1} s"
            ));
            unfound.push(mistake);
        }
    }
    line(&format!(
        "seed {seed}: {} of {} mistakes were found",
        Mistake::ALL.len() - unfound.len(),
        Mistake::ALL.len()
    ));
    unfound.is_empty()
}

/// Runs one case with everything.
fn again(case: u64) -> bool {
    let thread = std::thread::spawn(move || {
        let case = Case {
            number: 0,
            seed: case,
        };
        let mut readers = Readers::new(None);
        let failure = readers.run(case, &mut Coverage::default()).err()?;
        Some(readers.shrink(case, failure))
    });
    match thread.join() {
        Ok(None) => {
            line(&format!("case {case:#x}: nothing was found"));
            true
        }
        Ok(Some(found)) => {
            told::failure(&found);
            false
        }
        Err(_) => {
            line("the programs could not be loaded: is this root, are both objects built?");
            false
        }
    }
}
