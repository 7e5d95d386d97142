//! `cargo xtask bench`: what a packet costs, as ratios to baselines measured in the same run.
//!
//! The machine may be shared and noisy, so absolute times mean little: rounds of program and baseline alternate, and
//! the figure is the ratio of their medians.

mod bed;
mod control;
mod cpu_time;
mod felix;
mod path;
mod policy;
mod prog;
mod report;
mod road;
mod rules;
mod tcp;

use std::io::Write;

use clap::Parser;

use report::{Bench, Report};

/// Measures the programs and the path from tap to tap
#[derive(Parser)]
struct Arguments {
    /// Benchmarks whose name begins with one of these; all but the following when none is given. `control` stands
    /// alone: the control plane in a large cloud, with a real etcd. So does `policy`: what policy costs at any size,
    /// beside iptables
    names: Vec<String>,
    /// Prints one JSON document with every round and nothing else
    #[arg(long)]
    json: bool,
    /// Rounds of each measurement [default: 21, of `policy` 9]
    #[arg(long)]
    rounds: Option<usize>,
    /// `policy`: only rows whose name begins with this; may be repeated
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// `policy`: each row once and with small sizes; shows that all can be measured
    #[arg(long)]
    quick: bool,
    /// `policy`: writes figures and plot into the documentation
    #[arg(long)]
    write_docs: bool,
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
        let _ = writeln!(std::io::stderr(), "bench: {name}");
    };
    if arguments.names == ["control"] {
        return control::run(arguments.json, &progress);
    }
    if arguments.names == ["policy"] {
        let request = policy::Request {
            json: arguments.json,
            quick: arguments.quick,
            rounds: arguments.rounds,
            only: arguments.only,
            write_docs: arguments.write_docs,
        };
        return policy::run(&request, &progress);
    }
    anyhow::ensure!(
        arguments.only.is_empty() && !arguments.quick && !arguments.write_docs,
        "--only, --quick and --write-docs belong to `policy`"
    );
    let rounds = arguments.rounds.unwrap_or(21);
    prog::run(rounds, &wanted, &progress, &mut benches)?;
    path::run(rounds, &wanted, &progress, &mut benches)?;
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
