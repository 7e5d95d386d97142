//! `cargo xtask lint`: everything that can be judged without running the code.

mod arrows;
mod length;
mod paths;
mod sources;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build_ebpf::{self, Flavour};
use crate::kernel_toolchain::{self, Choice, Toolchain};
use crate::progress::headline;
use crate::setup::{self, CARGO_DENY, Need};
use crate::{command, scenarios, workspace};

/// Checks format, lints, directions, file lengths, licences and scripts
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Something that a rule of this project forbids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// From the workspace's root.
    file: String,
    /// Counted from 1.
    line: usize,
    rule: String,
}

/// A check and its name.
type Check = (&'static str, fn() -> Result<()>);

/// Cheapest first.
const CHECKS: &[Check] = &[
    ("arrows", check_arrows),
    ("file length", check_length),
    ("scenarios", scenarios::check_source),
    ("rustfmt", check_format),
    ("shellcheck", check_scripts),
    ("licences, bans, sources", check_dependencies),
    ("clippy, host crates", check_host_crates),
    ("clippy, kernel crate", check_kernel_crate),
];

/// Runs the subcommand.
pub(crate) fn run(_arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::Protobuf, Need::KernelToolchain(Choice::Auto), Need::Lint])?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        headline(name);
        if let Err(error) = check() {
            eprintln!("{error:#}");
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!("lint: {}", failed.join("; "));
    }
    headline("lint: nothing found");
    Ok(())
}

fn check_arrows() -> Result<()> {
    let root = workspace::root();
    let mut findings = Vec::new();
    for source in sources::with_extensions(root, &["rs"])? {
        if let Some(inside) = source.strip_prefix("calico-ebpf-userspace/src/") {
            findings.extend(arrows::check(&source, inside, &sources::read(root, &source)?));
        }
    }
    report(findings)
}

fn check_length() -> Result<()> {
    let root = workspace::root();
    let mut findings = Vec::new();
    for source in sources::with_extensions(root, &["rs", "py", "sh", "pp"])? {
        findings.extend(length::check(&source, &sources::read(root, &source)?));
    }
    report(findings)
}

fn report(mut findings: Vec<Finding>) -> Result<()> {
    findings.sort();
    findings.dedup();
    for Finding { file, line, rule } in &findings {
        eprintln!("{file}:{line}: {rule}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("1 finding"),
        count => bail!("{count} findings"),
    }
}

fn check_format() -> Result<()> {
    command::run(command::cargo().args(["fmt", "--all", "--check"]))?;
    command::run(command::cargo().args(["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"]))
}

fn check_scripts() -> Result<()> {
    let scripts = sources::shell_scripts(workspace::root())?;
    if scripts.is_empty() {
        return Ok(());
    }
    command::run(command::command("shellcheck").args(scripts))
}

fn check_dependencies() -> Result<()> {
    let deny = CARGO_DENY
        .cached()
        .context("cargo-deny is not installed: run `cargo xtask setup`")?;
    // It reads the licence of every crate of the lock file, also of those that no build here needs.
    command::run(command::cargo().args(["fetch", "--locked"]))?;
    let mut deny = Command::new(deny);
    deny.current_dir(workspace::root());
    // Advisories are left out: their database is on the network and would change a verdict without a change here.
    deny.args([
        "--workspace",
        "--offline",
        "--log-level",
        "warn",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    command::run(&mut deny)
}

fn check_host_crates() -> Result<()> {
    build_ebpf::build_default(Flavour::Agent)?;
    command::run(command::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // What only the fuzzer of policies has.
    let fuzzer = [
        "clippy",
        "--package=calico-ebpf-tests",
        "--bin=fuzz_policy",
        "--features=fuzz,parse",
    ];
    command::run(command::cargo().args(fuzzer).args(["--", "-D", "warnings"]))
}

fn check_kernel_crate() -> Result<()> {
    let toolchain = kernel_toolchain::require(Choice::Auto)?;
    let mut clippy = match toolchain {
        Toolchain::Rustup => {
            let mut cargo = toolchain.cargo()?;
            cargo.arg("clippy");
            cargo
        }
        Toolchain::Debian => {
            // The lints that belong to Debian's compiler; they run the cargo that runs this.
            let mut clippy = command::command("/usr/bin/cargo-clippy");
            for (name, value) in toolchain.cargo()?.get_envs() {
                match value {
                    Some(value) => clippy.env(name, value),
                    None => clippy.env_remove(name),
                };
            }
            clippy.arg("clippy");
            clippy
        }
    };
    clippy
        .args(["--package", "calico-ebpf", "--features", "bench"])
        .args(toolchain.target_arguments());
    command::run(clippy.args(["--", "-D", "warnings"]))
}

/// Returns a path with `/` between its parts.
fn slashes(path: &Path) -> String {
    path.iter()
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}
