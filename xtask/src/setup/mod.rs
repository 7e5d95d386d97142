//! `cargo xtask setup`: finds or installs what the other subcommands need.

mod debian;
mod requirement;
mod tool;

use std::io::Write;

use anyhow::{Result, bail};

use crate::kernel_toolchain::{self, Choice, Toolchain};
use crate::progress::headline;
use requirement::Requirement;
pub(crate) use tool::{CARGO_DENY, CachedTool};

/// Finds what is missing and installs it
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only prints what is missing, as commands for this machine
    #[arg(long)]
    print: bool,
}

/// What a subcommand needs beyond cargo and the stable compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compiler and linker of the kernel side.
    KernelToolchain(Choice),
    /// The protocol buffer compiler, for the etcd client.
    Protobuf,
    /// Programs that tests, demo and benchmarks run.
    TestPrograms,
    /// The test runner.
    Nextest,
    /// The machine emulator and what fills a machine.
    Machine,
    /// What makes the disk of a node.
    FuelKernel,
    /// The licence and source checker and the shell checker.
    Lint,
    /// The compiler of libFuzzer.
    Fuzz,
    /// What makes packages.
    Packaging,
    /// What looks at packages.
    PackageCheck,
    /// What the documentation's tools run in.
    Docs,
    /// Puppet and its test runner.
    Puppet,
    /// What makes and boots nodes to deploy.
    Nodes,
    /// What builds the Fuel plugin and looks it over.
    FuelPlugin,
}

/// Something that is not there, and how to get it.
enum Missing {
    /// A distribution's package.
    Package(&'static str),
    /// A crate's program, built from source into a folder of the cache or cargo's own.
    Tool(CachedTool),
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let everything = [
        Need::KernelToolchain(Choice::Auto),
        Need::Protobuf,
        Need::TestPrograms,
        Need::Nextest,
        Need::Machine,
        Need::FuelKernel,
        Need::Lint,
        Need::Fuzz,
        Need::Packaging,
        Need::PackageCheck,
        Need::Docs,
        Need::Puppet,
        Need::Nodes,
        Need::FuelPlugin,
    ];
    if arguments.print {
        let missing = find_missing(&everything);
        if missing.is_empty() {
            headline("nothing is missing");
        }
        writeln!(std::io::stdout().lock(), "{}", instructions(&missing))?;
        return Ok(());
    }
    ensure(&everything)?;
    headline("everything is installed");
    Ok(())
}

/// Fails when this process is not root's.
///
/// # Errors
/// It is not; the message gives `reason`.
pub(crate) fn require_root(reason: &str) -> Result<()> {
    if !debian::is_root() {
        bail!("this needs root: {reason}");
    }
    Ok(())
}

/// Installs what is missing of `needs`; does nothing when all is there.
///
/// # Errors
/// Something is missing and this is not Debian or Ubuntu, or not root; the message is the exact list. An installation
/// fails.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = find_missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let packages = packages_of(&missing);
    if !packages.is_empty() {
        if let Err(reason) = debian::can_install(&packages) {
            bail!("{reason}\nMissing here:\n\n{}", instructions(&missing));
        }
        debian::install(&packages)?;
    }
    for tool in tools_of(&missing) {
        tool.install()?;
    }
    let still_missing = find_missing(needs);
    if !still_missing.is_empty() {
        bail!(
            "still missing after the installation:\n\n{}",
            instructions(&still_missing)
        );
    }
    Ok(())
}

fn find_missing(needs: &[Need]) -> Vec<Missing> {
    let mut missing = Vec::new();
    for need in needs {
        match need {
            Need::KernelToolchain(choice) => missing.extend(missing_of_kernel_toolchain(*choice)),
            Need::Protobuf => missing.extend(absent(requirement::PROTOBUF)),
            Need::TestPrograms => missing.extend(absent(requirement::TEST_PROGRAMS)),
            Need::Nextest => missing.extend(tool::NEXTEST.if_absent()),
            Need::Machine => missing.extend(absent(requirement::MACHINE)),
            Need::FuelKernel => missing.extend(absent(requirement::FUEL_KERNEL)),
            Need::Fuzz => missing.extend(absent(requirement::FUZZ)),
            Need::Packaging => missing.extend(absent(requirement::PACKAGING)),
            Need::PackageCheck => missing.extend(absent(requirement::PACKAGE_CHECK)),
            Need::Docs => missing.extend(absent(requirement::DOCS)),
            Need::Puppet => missing.extend(absent(requirement::PUPPET)),
            Need::Nodes => missing.extend(absent(requirement::NODES)),
            Need::FuelPlugin => missing.extend(absent(requirement::FUEL_PLUGIN)),
            Need::Lint => {
                missing.extend(absent(requirement::LINT));
                if Toolchain::find(Choice::Auto) != Some(Toolchain::Rustup) {
                    missing.extend(absent(requirement::DEBIAN_CLIPPY));
                }
                missing.extend(tool::CARGO_DENY.if_absent());
            }
        }
    }
    missing
}

fn missing_of_kernel_toolchain(choice: Choice) -> Vec<Missing> {
    let mut missing = Vec::new();
    if Toolchain::find(choice).is_none() {
        missing.extend(requirement::DEBIAN_COMPILER.iter().copied().map(Missing::Package));
    }
    if kernel_toolchain::linker().is_none() {
        missing.extend(absent(requirement::LINKER_BUILD));
        missing.push(Missing::Tool(tool::BPF_LINKER));
    }
    missing
}

fn absent(requirements: &[Requirement]) -> impl Iterator<Item = Missing> {
    requirements
        .iter()
        .filter(|requirement| !requirement.is_met())
        .map(|requirement| Missing::Package(requirement.package))
}

fn packages_of(missing: &[Missing]) -> Vec<&'static str> {
    missing
        .iter()
        .filter_map(|item| match item {
            Missing::Package(name) => Some(*name),
            Missing::Tool(_) => None,
        })
        .collect()
}

fn tools_of(missing: &[Missing]) -> impl Iterator<Item = &CachedTool> {
    missing.iter().filter_map(|item| match item {
        Missing::Tool(tool) => Some(tool),
        Missing::Package(_) => None,
    })
}

/// Returns the commands that install `missing`, for a person to run.
fn instructions(missing: &[Missing]) -> String {
    let mut lines = Vec::new();
    let packages = packages_of(missing);
    if !packages.is_empty() {
        lines.push(format!(
            "apt-get install -y --no-install-recommends {}",
            packages.join(" ")
        ));
    }
    lines.extend(tools_of(missing).map(CachedTool::command_line));
    if packages
        .iter()
        .any(|package| requirement::DEBIAN_COMPILER.contains(package))
    {
        lines.push(format!(
            "# where {} do not exist: rustup toolchain install nightly --component rust-src",
            requirement::DEBIAN_COMPILER.join(" and ")
        ));
    }
    lines.join("\n")
}
