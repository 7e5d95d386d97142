//! `cargo xtask fuzz parse`: made-up frames.

use std::process::Command;

use anyhow::Result;

use super::instrumented::Fuzzer;
use crate::build_ebpf::{self, Flavour};
use crate::progress::headline;
use crate::setup::{self, Need};
use crate::{command, workspace};

const FUZZER: Fuzzer = Fuzzer {
    name: "fuzz_parse",
    features: &["parse"],
    looked_at: "calico_ebpf_on_host",
    optimized: &["calico-ebpf-common", "calico-ebpf-on-host", "calico-ebpf-tests"],
};

/// Looks for frames that the programs in the kernel, their parser on the host and a plain reading understand differently
///
/// Frames are random: right ones of every protocol, then made wrong. What lies outside of a packet must change nothing. A
/// failure is made small and names its case, which `--case` runs again.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long it runs; of each mutant, how long it may stay unfound
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,

    /// As `--minutes`
    #[arg(long, value_name = "SECONDS", conflicts_with = "minutes",
        value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,

    /// Equal seeds make equal cases; another one every time when none is given
    #[arg(long)]
    seed: Option<u64>,

    /// Makes known mistakes in the plain reading, one after the other: each must be found
    #[arg(long)]
    mutants: bool,

    /// Runs one case again, as a failure has named it
    #[arg(long, conflicts_with = "mutants")]
    case: Option<String>,
}

/// Runs the subcommand.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    setup::require_root("frames are read in the kernel")?;
    setup::ensure(&[Need::Protobuf, Need::TestPrograms])?;
    let object = build_ebpf::build_default(Flavour::Agent)?;
    let bench_object = build_ebpf::build_default(Flavour::Bench)?;
    headline("parse fuzzer");
    let seconds = arguments.seconds.unwrap_or(arguments.minutes.saturating_mul(60));
    let mut fuzzer = Command::new(FUZZER.build()?);
    fuzzer
        .current_dir(workspace::root())
        .env("CALICO_EBPF_OBJECT", object)
        .env("CALICO_EBPF_BENCH_OBJECT", bench_object)
        .arg(format!("--seconds={seconds}"));
    if let Some(seed) = arguments.seed {
        fuzzer.arg(format!("--seed={seed}"));
    }
    if let Some(case) = &arguments.case {
        fuzzer.arg(format!("--case={case}"));
    }
    if arguments.mutants {
        fuzzer.arg("--mutants");
    }
    command::run_to_stdout(&mut fuzzer)
}
