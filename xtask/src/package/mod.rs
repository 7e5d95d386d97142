//! `cargo xtask package`: what a compute node installs.

use anyhow::{Result, bail};

/// Packs the agent, or a kernel for it, for compute nodes
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The agent for Debian and Ubuntu: `target/package/calico-ebpf_<version>_amd64.deb`
    Deb,
    /// The agent for RPM-based distributions: `target/package/calico-ebpf-<version>-1.x86_64.rpm`
    Rpm,
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Deb | What::Rpm => bail!("not packed yet"),
    }
}
