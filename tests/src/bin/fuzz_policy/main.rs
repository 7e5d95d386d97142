//! `cargo xtask fuzz policy`: random policies, packets and changes; the reference evaluator, the compiled tables and
//! the programs in the kernel must agree after each change.

mod cloud;
mod coverage;
mod follow;
mod history;
mod iptables;
mod kernel;
mod mutants;
mod panics;
mod probe;
mod shrink;
mod told;
mod workers;
mod world;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use calico_ebpf_tests::fuzzing::cases::{parse_case, seed_of_now};
use calico_ebpf_tests::fuzzing::told::line;
use calico_ebpf_tests::fuzzing::workers::Order;
use clap::Parser;

use coverage::Coverage;

/// Looks for packets about which reference, tables and kernel disagree
#[derive(Parser)]
struct Arguments {
    /// How long it runs; of each mutant, how long it may stay unfound
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Equal seeds make equal cases; another one every time when none is given
    #[arg(long)]
    seed: Option<u64>,
    /// Makes known mistakes in the compiler, one after the other: each must be found
    #[arg(long)]
    mutants: bool,
    /// Sends real packets through the same policies as iptables rules and ipsets
    #[arg(long)]
    iptables: bool,
    /// Runs this one case again
    #[arg(long, value_parser = parse_case)]
    case: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(seed_of_now);
    let time = Duration::from_secs(arguments.seconds);
    if !arguments.iptables {
        panics::keep();
    }
    let all_well = if let Some(case) = arguments.case {
        again(case)
    } else if arguments.mutants {
        mutants::run(seed, time)
    } else if arguments.iptables {
        iptables::run(seed, time)
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
    let ended = workers::run(order, true);
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

/// Runs one case with everything.
fn again(case: u64) -> bool {
    let thread = std::thread::spawn(move || {
        let mut hooks = workers::hooks();
        let mut coverage = Coverage::default();
        let ran = history::run(case, &BTreeSet::new(), Some(&mut hooks), &mut coverage);
        ran.err()
            .map(|failure| shrink::shrink(case, failure, Some(&mut hooks)))
    });
    match thread.join() {
        Ok(None) => {
            line(&format!("case {case:#x}: nothing was found"));
            true
        }
        Ok(Some(reproduction)) => {
            told::failure(&reproduction);
            false
        }
        Err(_) => {
            line("the programs could not be loaded: is this root, is the object built?");
            false
        }
    }
}
