//! `cargo xtask fuel-plugin build`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::builder::Builder;
use super::elf;
use super::generation::{Generation, target};
use super::node_packages::{NodePackages, check_slots, sha256};
use super::{rpm, stage};
use crate::setup::{self, Need};
use crate::test_report::TestReport;

/// Builds both packages into `target/fuel-plugin/` and prints their paths
///
/// Everything for the nodes is inside: the agent and the kernel are built, etcd and BIRD come from Debian, the Neutron driver
/// from PyPI, all by version and SHA-256. What cannot be had freely are slots: `--slots DIR` takes their packages from
/// DIR/v2 (Fuel 6.1, 7.0) and DIR/v4 (8.0 to 9.2), by the checksums in a file SHA256SUMS there. Empty slots are told here and
/// in the file PACKAGES.md inside the packages. The same source gives the same bytes (`SOURCE_DATE_EPOCH`, or the time of
/// the last commit).
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Folder with packages for the slots
    #[arg(long, value_name = "DIR")]
    slots: Option<PathBuf>,

    /// Folder with packages that `cargo xtask package` has made before: what is in it is not made again
    #[arg(long, value_name = "DIR")]
    prebuilt: Option<PathBuf>,

    /// Fails when a slot is empty
    #[arg(long)]
    require_slots: bool,

    /// Builds everything a second time and fails when a byte differs
    #[arg(long)]
    twice: bool,
}

/// Runs the subcommand.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::FuelPlugin])?;
    let mut report = TestReport::start("fuel-plugin-build");
    let result = build_and_check(arguments, &mut report);
    report.skipped("installation on a Fuel master", "none can be had here");
    report.write()?;
    let packages = result?;
    for package in &packages {
        tell(package)?;
    }
    Ok(())
}

fn build_and_check(arguments: &Arguments, report: &mut TestReport) -> Result<Vec<PathBuf>> {
    let builder = Builder::ready()?;
    let built = report.note(
        "both packages are built and are as they have to be",
        both(arguments, &builder),
    );
    let packages = built?;
    if arguments.twice {
        let before = sums(&packages)?;
        let again = both(arguments, &builder).and_then(|packages| {
            let after = sums(&packages)?;
            ensure!(
                before == after,
                "a second build has other bytes: {before:?}, then {after:?}"
            );
            Ok(())
        });
        report.note("a second build has the same bytes", again)?;
    }
    Ok(packages)
}

fn both(arguments: &Arguments, builder: &Builder) -> Result<Vec<PathBuf>> {
    // What can be wrong without anything built comes first.
    for generation in Generation::ALL {
        elf::forbid(stage::stage(generation)?.root())?;
        check_slots(generation, arguments.slots.as_deref(), arguments.require_slots)?;
    }
    let for_nodes = NodePackages::make(builder, arguments.prebuilt.as_deref())?;
    let mut packages = Vec::new();
    for generation in Generation::ALL {
        let tree = stage::stage(generation)?;
        for_nodes.put(&tree, generation, arguments.slots.as_deref())?;
        stage::finish(&tree)?;
        let built = build(generation, builder, tree.root())?;
        rpm::check(&built, generation, &tree)?;
        packages.push(built);
    }
    Ok(packages)
}

fn sums(packages: &[PathBuf]) -> Result<Vec<String>> {
    packages.iter().map(|package| sha256(package)).collect()
}

/// Builds a package of its stage and returns it.
fn build(generation: Generation, builder: &Builder, stage: &Path) -> Result<PathBuf> {
    builder.run("--build", stage)?;
    let name = generation.file_name()?;
    let built = stage.join(&name);
    ensure!(
        built.is_file(),
        "fuel-plugin-builder has left no {}",
        built.display()
    );
    let package = target()?.join(name);
    fs::rename(&built, &package).with_context(|| package.display().to_string())?;
    // What it copied, and the package a second time.
    let rest = stage.join(".build");
    fs::remove_dir_all(&rest).with_context(|| rest.display().to_string())?;
    Ok(package)
}

fn tell(package: &Path) -> Result<()> {
    let size = fs::metadata(package)
        .with_context(|| package.display().to_string())?
        .len();
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", package.display())?;
    writeln!(output, "  {} MB", size / 1_000_000)?;
    Ok(())
}
