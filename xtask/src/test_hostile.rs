//! `cargo xtask test hostile`: what a flood from one guest does to the others.

use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Need};
use crate::test_report::TestReport;
use crate::{build, command, workspace};

/// Floods the host from one guest while two others talk: nothing of theirs may be lost
///
/// One guest sends SYNs, UDP, fragments, ARP, neighbour solicitations and spoofed packets of both families as fast as
/// its tap takes them. Two others hold 1,000 TCP connections, whose bytes are all checked, and open 100 new ones a
/// second. None may be lost or refused, the attacker's own quota of flows must be what fills, and the attacker must keep
/// more than half of the rate that it has on a host that forwards by the kernel alone: who slows it down slows its host
/// down. Twice: with conntrack tables as large as by default, and with small ones that one guest could fill.
///
/// Real taps, the real agent, namespaces of its own; two processors are enough. Takes about two minutes more than the
/// attacks.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each attack lasts
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(3..=3600))]
    seconds: u32,

    /// Only the run of this name
    #[arg(long, value_name = "NAME", value_parser = ["roomy", "small-table"])]
    only: Option<String>,

    /// Prints one JSON document on standard output and nothing else there
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::require_root("the attack needs network namespaces and programs in the kernel")?;
    setup::ensure(&[Need::TestPrograms])?;
    let built = build::build(&["hostile"])?;
    let program = built.others.first().context("no test was built")?;
    let mut test = Command::new(program);
    test.current_dir(workspace::root())
        .arg(format!("--seconds={}", arguments.seconds))
        .env("CALICO_EBPF_BIN", &built.agent);
    if let Some(name) = &arguments.only {
        test.arg(format!("--only={name}"));
    }
    if arguments.json {
        test.arg("--json");
    }
    let mut report = TestReport::start("hostile");
    let passed = report.note("flood", command::run_to_stdout(&mut test));
    report.write()?;
    passed
}
