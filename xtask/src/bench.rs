//! `cargo xtask bench`: what a packet costs, beside a baseline of the same run.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build_ebpf::{self, Flavour};
use crate::setup::{self, Need};
use crate::{build, command, workspace};

/// Builds everything for speed and runs the benchmarks
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of the benchmarks: names, and `--json` for one document on standard output and nothing else; `policy`
    /// also takes `--only ROW`, `--rounds N`, `--quick` and `--write-docs`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::require_root("benchmarks load programs into the kernel")?;
    setup::ensure(&[Need::TestPrograms])?;
    let object = build_ebpf::build_default(Flavour::Bench)?;
    let built = build::build(&["bench"])?;
    let bench = built.others.first().context("no benchmark was built")?;
    command::run_to_stdout(
        Command::new(bench)
            .current_dir(workspace::root())
            .args(&arguments.arguments)
            .env("CALICO_EBPF_BIN", &built.agent)
            .env("CALICO_EBPF_BENCH_OBJECT", object),
    )
}
