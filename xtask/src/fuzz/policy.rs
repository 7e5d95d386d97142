//! `cargo xtask fuzz policy`: random policies, packets and changes.

use std::process::Command;

use anyhow::{Result, ensure};

use super::instrumented::Fuzzer;
use crate::build::has_mutants;
use crate::build_ebpf::{self, Flavour};
use crate::progress::headline;
use crate::setup::{self, Need};
use crate::{command, workspace};

/// With mutants, and with flags in the compiler.
const FUZZER: Fuzzer = Fuzzer {
    name: "fuzz_policy",
    features: &["fuzz"],
    looked_at: "calico_ebpf_userspace",
    optimized: &["calico-ebpf-common", "calico-ebpf-userspace", "calico-ebpf-tests"],
};

/// Looks for packets about which the reference evaluator, the compiled tables and the kernel disagree
///
/// Policies, packets and changes are random; everything is compared after each change. A failure names its case,
/// which `--case` runs again.
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

    /// Makes known mistakes in the compiler, one after the other: each must be found
    #[arg(long)]
    mutants: bool,

    /// Sends real packets through the same policies as iptables rules and ipsets
    #[arg(long, conflicts_with = "mutants")]
    iptables: bool,

    /// Runs one case again, as a failure has named it
    #[arg(long, conflicts_with_all = ["mutants", "iptables"])]
    case: Option<String>,
}

/// Runs the subcommand.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    setup::require_root("policies are tried in the kernel")?;
    setup::ensure(&[Need::Protobuf, Need::TestPrograms])?;
    build_ebpf::build_default(Flavour::Agent)?;
    headline("policy fuzzer");
    let program = FUZZER.build()?;
    ensure!(
        has_mutants(&program)?,
        "{} has no mutants: the mark that products are searched for is not found in it",
        program.display()
    );
    let seconds = arguments.seconds.unwrap_or(arguments.minutes.saturating_mul(60));
    let mut fuzzer = Command::new(program);
    fuzzer
        .current_dir(workspace::root())
        .arg(format!("--seconds={seconds}"));
    if let Some(seed) = arguments.seed {
        fuzzer.arg(format!("--seed={seed}"));
    }
    if let Some(case) = &arguments.case {
        fuzzer.arg(format!("--case={case}"));
    }
    for (is_wanted, flag) in [
        (arguments.mutants, "--mutants"),
        (arguments.iptables, "--iptables"),
    ] {
        if is_wanted {
            fuzzer.arg(flag);
        }
    }
    command::run_to_stdout(&mut fuzzer)
}
