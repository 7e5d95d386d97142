//! `cargo xtask fuzz parse`: made-up frames; the plain reading, the parser built for the host and the programs in the
//! kernel must understand them alike.

#[path = "../fuzz_policy/edges.rs"]
mod edges;
mod told;
mod workers;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use calico_ebpf_tests::parsing::{Bed, Chance, Coverage, Mistake, shrink};
use clap::Parser;

use workers::{Found, Order, TAP_EVERY};

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

fn parse_case(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(seed_of_the_day);
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

fn seed_of_the_day() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros() & 0xffff_ffff).unwrap_or(0)
}

fn fuzz(seed: u64, time: Duration) -> bool {
    let ended = workers::run(Order {
        seed,
        time,
        mistake: None,
        tells_progress: true,
    });
    told::coverage(&ended.coverage, ended.took);
    let outcome = if ended.found.is_some() {
        "something"
    } else {
        "nothing"
    };
    ended.found.iter().for_each(told::failure);
    told::line(&format!("seed {seed}: {outcome} was found"));
    ended.found.is_none()
}

fn mutants(seed: u64, time: Duration) -> bool {
    let mut unfound = Vec::new();
    for mistake in Mistake::ALL {
        let ended = workers::run(Order {
            seed,
            time,
            mistake: Some(mistake),
            tells_progress: false,
        });
        let seconds = ended.took.as_secs_f64();
        let cases = ended.coverage.cases;
        if let Some(found) = ended.found {
            let first = found.difference.0.lines().next().unwrap_or_default();
            told::line(&format!(
                "{mistake:?}: found after {cases} cases, {seconds:.1} s ({first})"
            ));
        } else {
            told::line(&format!(
                "{mistake:?}: NOT FOUND in {cases} cases, {seconds:.1} s"
            ));
            unfound.push(mistake);
        }
    }
    told::line(&format!(
        "seed {seed}: {} of {} mistakes were found",
        Mistake::ALL.len() - unfound.len(),
        Mistake::ALL.len()
    ));
    unfound.is_empty()
}

/// Runs one case with everything.
fn again(case: u64) -> bool {
    let thread = std::thread::spawn(move || {
        let mut bed = Bed::new(true);
        let input = bed.input(&mut Chance::new(case), TAP_EVERY);
        let difference = bed.check(&input, &mut Coverage::default()).err()?;
        let (input, difference) = shrink(&mut bed, &input, difference);
        Some(Found {
            case,
            input,
            difference,
        })
    });
    match thread.join() {
        Ok(None) => {
            told::line(&format!("case {case:#x}: nothing was found"));
            true
        }
        Ok(Some(found)) => {
            told::failure(&found);
            false
        }
        Err(_) => {
            told::line("the programs could not be loaded: is this root, are both objects built?");
            false
        }
    }
}
