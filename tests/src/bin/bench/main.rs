//! `cargo xtask bench`: what a packet costs, as ratios to baselines measured in the same run.
//!
//! The machine may be shared and noisy, so absolute times mean little: rounds of program and baseline alternate, and
//! the figure is the ratio of their medians.

mod bed;
mod control;
mod felix;
mod path;
mod prog;
mod report;
mod rules;

use std::io::{IsTerminal, Write};

use clap::Parser;

use report::{Bench, Report};

/// Measures the programs and the path from tap to tap
#[derive(Parser)]
struct Arguments {
    /// Benchmarks whose name begins with one of these; all but `control` when none is given. `control` stands alone:
    /// the control plane in a large cloud, with a real etcd
    names: Vec<String>,
    /// Prints one JSON document with every round and nothing else
    #[arg(long)]
    json: bool,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 21)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let wanted = |name: &str| {
        arguments.names.is_empty()
            || arguments
                .names
                .iter()
                .any(|prefix| name.starts_with(prefix.as_str()))
    };
    let mut benches = Vec::new();
    let progress = |name: &str| {
        if std::io::stderr().is_terminal() || !arguments.json {
            let _ = writeln!(std::io::stderr(), "bench: {name}");
        }
    };
    if arguments.names == ["control"] {
        return control::run(arguments.json, &progress);
    }
    prog::run(arguments.rounds, &wanted, &progress, &mut benches)?;
    path::run(arguments.rounds, &wanted, &progress, &mut benches)?;
    anyhow::ensure!(
        !benches.is_empty(),
        "no benchmark is called {:?}: see `cargo xtask bench`",
        arguments.names
    );
    finish(&Report::new(benches), arguments.json)
}

fn finish(report: &Report, json: bool) -> anyhow::Result<()> {
    let mut output = anstream::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut output, report)?;
        writeln!(output)?;
    } else {
        report.write_table(&mut output)?;
    }
    Ok(())
}

/// Where benchmarks are collected.
type Benches = Vec<Bench>;
