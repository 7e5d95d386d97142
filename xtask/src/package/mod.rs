//! `cargo xtask package`: what a compute node installs.

mod agent;
mod check;
pub(crate) mod deb;
pub(crate) mod epoch;
pub(crate) mod kernel;
mod rpm;
mod third_party;
pub(crate) mod tree;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Need};
use crate::{command, workspace};
use agent::Agent;
use tree::Compression;

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
    /// The agent for distributions with RPM and systemd: `target/package/calico-ebpf-<version>-1.x86_64.rpm`
    Rpm,
    /// Packs both twice and looks for what a node would stumble over
    Check,
    Kernel(kernel::Arguments),
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::Packaging])?;
    match &arguments.what {
        What::Deb => tell(&deb::pack(&Agent::build()?, &directory()?, Compression::Small)?),
        What::Rpm => tell(&rpm::pack(&Agent::build()?, &directory()?, Compression::Small)?),
        What::Check => check::run(&Agent::build()?),
        What::Kernel(arguments) => kernel::run(arguments),
    }
}

/// Returns where packages are left.
///
/// # Errors
/// `CARGO_TARGET_DIR` makes no sense.
pub(crate) fn directory() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("package"))
}

/// Packages of one binary.
pub(crate) struct Packed {
    pub(crate) deb: PathBuf,
    pub(crate) rpm: PathBuf,
}

/// Packs a binary that was built for tests.
///
/// # Errors
/// As for the packages of a release.
pub(crate) fn for_tests(binary: &Path) -> Result<Packed> {
    setup::ensure(&[Need::Packaging])?;
    let directory = directory()?.join("test");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let stripped = directory.join("calico-ebpf");
    command::run(Command::new("strip").arg("-o").arg(&stripped).arg(binary))?;
    let agent = Agent::of(stripped)?;
    Ok(Packed {
        deb: deb::pack(&agent, &directory, Compression::Fast)?,
        rpm: rpm::pack(&agent, &directory, Compression::Fast)?,
    })
}

fn tell(package: &Path) -> Result<()> {
    let size = fs::metadata(package)
        .with_context(|| package.display().to_string())?
        .len();
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", package.display())?;
    writeln!(output, "  {}.{} MB", size / 1_000_000, size % 1_000_000 / 100_000)?;
    Ok(())
}
