//! `cargo xtask build`: the agent as one file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::build_ebpf::{self, Flavour};
use crate::progress::headline;
use crate::setup::{self, Need};
use crate::{command, release, workspace};

/// Builds the agent: one static binary with the kernel object inside
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Runs the subcommand.
pub(crate) fn run(_arguments: &Arguments) -> Result<()> {
    let agent = build(&[])?.agent;
    let size = fs::metadata(&agent)
        .with_context(|| agent.display().to_string())?
        .len();
    let linked = require_static(&agent)?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", agent.display())?;
    writeln!(
        output,
        "  {}.{} MB, {linked}",
        size / 1_000_000,
        size % 1_000_000 / 100_000
    )?;
    Ok(())
}

/// What a release build left.
pub(crate) struct Built {
    /// The agent.
    pub(crate) agent: PathBuf,
    /// The other binaries that were asked for, in the same order.
    pub(crate) others: Vec<PathBuf>,
}

/// Builds the kernel object, the agent and `others`, and puts the agent where people look for it.
///
/// # Errors
/// Something that the build needs is missing and cannot be installed, or the build fails.
pub(crate) fn build(others: &[&str]) -> Result<Built> {
    setup::ensure(&[Need::Protobuf])?;
    build_ebpf::build_default(Flavour::Agent)?;
    headline("agent (release, static)");
    let names: Vec<&str> = std::iter::once("calico-ebpf")
        .chain(others.iter().copied())
        .collect();
    let mut paths = release::binaries(&names)?.into_iter();
    let built = paths.next().context("no binary was built")?;
    ensure!(
        !has_mutants(&built)?,
        "{} was built with the feature `mutants`, which makes mistakes on purpose",
        built.display()
    );
    let agent = workspace::target_dir()?.join("release/calico-ebpf");
    if let Some(directory) = agent.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    // A running agent keeps its file: it is replaced, not written to.
    let temporary = agent.with_extension("new");
    fs::copy(&built, &temporary).with_context(|| built.display().to_string())?;
    fs::rename(&temporary, &agent).with_context(|| agent.display().to_string())?;
    Ok(Built {
        agent,
        others: paths.collect(),
    })
}

/// Stands in every binary that was built with mutants (`compile::mutants`).
const MUTANTS_MARK: &[u8] = b"calico-ebpf: built with known mistakes";

/// Returns whether a binary was built with mutants.
pub(crate) fn has_mutants(binary: &Path) -> Result<bool> {
    let bytes = fs::read(binary).with_context(|| binary.display().to_string())?;
    Ok(bytes
        .windows(MUTANTS_MARK.len())
        .any(|window| window == MUTANTS_MARK))
}

/// Returns the loader's words about a binary that needs no loader.
fn require_static(binary: &PathBuf) -> Result<String> {
    let output = Command::new("ldd").arg(binary).output().context("ldd")?;
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8_lossy(&words).trim().to_owned();
    if !["statically linked", "not a dynamic executable"].contains(&words.as_str()) {
        bail!(
            "{} is not static: `{}` says\n{words}",
            binary.display(),
            command::display(Command::new("ldd").arg(binary))
        );
    }
    Ok(words)
}
