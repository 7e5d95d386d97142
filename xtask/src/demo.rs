//! `cargo xtask demo`: the main job on real packets.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Need};
use crate::{build, command, workspace};

/// Builds the agent and shows three guests, their policy and their packets
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of the demo: `--json` prints one document on standard output and nothing else
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::require_root("the demo makes network namespaces and loads programs into the kernel")?;
    setup::ensure(&[Need::TestPrograms])?;
    let built = build::build(&["demo"])?;
    let demo = built.others.first().context("no demo was built")?;
    command::run_to_stdout(
        Command::new(demo)
            .current_dir(workspace::root())
            .args(&arguments.arguments)
            .env("CALICO_EBPF_BIN", &built.agent),
    )
}
