//! `cargo xtask fuzz policy`: random policies, packets and changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build::has_mutants;
use crate::build_ebpf::{self, Flavour};
use crate::progress::headline;
use crate::setup::{self, Need};
use crate::{command, workspace};

/// A flag for each edge of the compiler's code, and where the edge is. Stable Rust has all of it.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
    -Cllvm-args=-sanitizer-coverage-inline-bool-flag -Cllvm-args=-sanitizer-coverage-pc-table";

/// Crates that are optimized: with all checks of a debug build, and without building every dependency again.
const OPTIMIZED: [&str; 3] = ["calico-ebpf-common", "calico-ebpf-userspace", "calico-ebpf-tests"];

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
    let program = build()?;
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

/// Builds the program, with mutants and with flags in the compiler.
fn build() -> Result<PathBuf> {
    build_ebpf::build_default(Flavour::Agent)?;
    headline("policy fuzzer");
    let wrapper = wrapper()?;
    let mut cargo = command::cargo();
    cargo.args([
        "build",
        "--package=calico-ebpf-tests",
        "--bin=fuzz_policy",
        "--features=fuzz",
    ]);
    for name in OPTIMIZED {
        cargo.arg(format!("--config=profile.dev.package.{name}.opt-level=2"));
    }
    cargo.env("RUSTC_WORKSPACE_WRAPPER", wrapper);
    command::run(&mut cargo)?;
    Ok(workspace::target_dir()?.join("debug/fuzz_policy"))
}

/// Writes what stands between cargo and the compiler: flags for the one crate that is looked at.
fn wrapper() -> Result<PathBuf> {
    let folder = workspace::target_dir()?.join("fuzz");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let path = folder.join("policy-rustc");
    let script = format!(
        "#!/bin/sh\nrustc=$1\nshift\ncase \" $* \" in\n*\" --crate-name calico_ebpf_userspace \"*) \
         set -- \"$@\" {INSTRUMENTATION} ;;\nesac\nexec \"$rustc\" \"$@\"\n"
    );
    // Written anew it would have another time, and everything would be built again.
    if fs::read_to_string(&path).ok().as_deref() != Some(&*script) {
        fs::write(&path, script).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| path.display().to_string())?;
    }
    Ok(path)
}
