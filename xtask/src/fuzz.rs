//! `cargo xtask fuzz`: libFuzzer against what reads foreign bytes, random policies against the compiler, and random frames
//! against the programs.

mod instrumented;
mod parse;
mod policy;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::build_ebpf::{self, Flavour};
use crate::progress::headline;
use crate::setup::{self, Need};
use crate::{command, workspace};

/// What cargo-fuzz passes for a build without sanitizers: edge counters and comparisons for libFuzzer. Stable Rust has
/// all of it.
const INSTRUMENTATION: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Longest input that is tried, in bytes: long enough for an object, short enough for many tries.
const MAX_INPUT: usize = 8192;

/// Longest time for one input, in seconds. The machine may have other work.
const SLOWEST_INPUT_SECS: usize = 20;

/// Lines of libFuzzer's output that a finding shows.
const SHOWN_ON_FAILURE: usize = 40;

/// Feeds made-up input to the parsers, made-up policies to the compiler or made-up frames to the programs, and looks for
/// what must not be
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Option<Subject>,

    /// Parsers; all of them when none is named
    #[arg(value_enum, value_name = "TARGET")]
    targets: Vec<Target>,

    /// How long each target runs
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

#[derive(clap::Subcommand)]
enum Subject {
    Policy(policy::Arguments),
    Parse(parse::Arguments),
}

/// What reads the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Target {
    /// Selectors
    Selector,
    /// Values of keys, as JSON
    DecodeObject,
    /// Keys of etcd
    DecodeKey,
    /// Files of the `file` datastore
    Manifest,
    /// felix.cfg and the values in it
    FelixCfg,
}

impl Target {
    /// Returns the name of the target's program and folders.
    fn name(self) -> &'static str {
        match self {
            Self::Selector => "selector",
            Self::DecodeObject => "decode_object",
            Self::DecodeKey => "decode_key",
            Self::Manifest => "manifest",
            Self::FelixCfg => "felix_cfg",
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.subject {
        Some(Subject::Policy(arguments)) => return policy::run(arguments),
        Some(Subject::Parse(arguments)) => return parse::run(arguments),
        None => {}
    }
    setup::ensure(&[Need::Protobuf, Need::Fuzz])?;
    let targets = if arguments.targets.is_empty() {
        Target::value_variants()
    } else {
        &arguments.targets
    };
    let programs = build()?;
    let mut findings = Vec::new();
    for target in targets {
        if let Err(error) = fuzz(*target, &programs, arguments.seconds) {
            eprintln!("{error:#}");
            findings.push(target.name());
        }
    }
    if !findings.is_empty() {
        bail!("fuzz: {}", findings.join("; "));
    }
    headline("fuzz: nothing found");
    Ok(())
}

/// Builds every target and returns the folder of the programs.
fn build() -> Result<PathBuf> {
    build_ebpf::build_default(Flavour::Agent)?;
    headline("fuzz targets");
    let source = workspace::root().join("tests/fuzz");
    let output = workspace::target_dir()?.join("fuzz");
    // The versions that everything else is tested with.
    fs::copy(workspace::root().join("Cargo.lock"), source.join("Cargo.lock")).context("Cargo.lock")?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--release", "--bins", "--manifest-path"]);
    cargo
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&output);
    // With a target, flags are not for build scripts and procedural macros.
    cargo.args(["--target", "host-tuple"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f"));
    command::run(&mut cargo)?;
    let mut programs = output;
    programs.push(host()?);
    programs.push("release");
    Ok(programs)
}

/// Returns the compiler's name for this machine.
fn host() -> Result<String> {
    let version = command::output(command::command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` names no host")
}

/// Runs one target over its seeds and what earlier runs found worth keeping.
fn fuzz(target: Target, programs: &Path, seconds: u32) -> Result<()> {
    let name = target.name();
    headline(&format!("fuzz {name}, {seconds} s"));
    let work = workspace::target_dir()?.join("fuzz");
    let corpus = work.join("corpus").join(name);
    let findings = work.join("findings").join(name);
    for folder in [&corpus, &findings] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut fuzzer = Command::new(programs.join(name));
    fuzzer
        .current_dir(workspace::root())
        .arg(&corpus)
        .arg(workspace::root().join("tests/fuzz/seeds").join(name))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_INPUT}"))
        .arg(format!("-timeout={SLOWEST_INPUT_SECS}"))
        .arg("-rss_limit_mb=2048")
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", findings.display()))
        // The input says more than a stack, which would push the panic's message out of sight.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    let output = fuzzer.output().with_context(|| command::display(&fuzzer))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(SHOWN_ON_FAILURE)..].join("\n");
        bail!(
            "{tail}\n{name}: found something ({}); the input is in {}, and belongs into tests/fuzz/seeds/{name} \
             with the fix",
            output.status,
            findings.display()
        );
    }
    let executions = statistic(&log, "stat::number_of_executed_units:").context("no count of executions")?;
    let kept = statistic(&log, "stat::new_units_added:").unwrap_or_default();
    headline(&format!(
        "fuzz {name}: {executions} executions, {kept} new paths, nothing found"
    ));
    Ok(())
}

/// Returns a number of libFuzzer's last lines.
fn statistic(log: &str, name: &str) -> Option<u64> {
    let line = log.lines().rev().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn names_in(folder: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(workspace::root().join("tests/fuzz").join(folder)).expect("a folder");
        let path = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").path();
        let stem = |path: PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
        entries.filter_map(|entry| stem(path(entry))).collect()
    }

    #[test]
    fn every_target_has_a_program_and_seeds() {
        let names: BTreeSet<_> = Target::value_variants()
            .iter()
            .map(|target| target.name().to_owned())
            .collect();
        assert_eq!(names_in("targets"), names);
        assert_eq!(names_in("seeds"), names);
        for target in Target::value_variants() {
            assert_eq!(
                target.to_possible_value().expect("a value").get_name(),
                target.name()
            );
        }
    }

    #[test]
    fn parsers_policy_and_frames_are_told_apart() {
        let read = |words: &[&str]| {
            let command = Arguments::augment_args(clap::Command::new("fuzz"));
            let matches = command.try_get_matches_from(words).expect("good arguments");
            Arguments::from_arg_matches(&matches).expect("good arguments")
        };
        let parsers = read(&["fuzz", "selector", "manifest", "--seconds", "3"]);
        assert_eq!(parsers.targets, [Target::Selector, Target::Manifest]);
        assert_eq!((parsers.seconds, parsers.subject.is_some()), (3, false));
        let policy = read(&["fuzz", "policy", "--minutes", "10", "--seed", "7"]);
        assert!(matches!(policy.subject, Some(Subject::Policy(_))) && policy.targets.is_empty());
        let parse = read(&["fuzz", "parse", "--minutes", "10", "--seed", "7"]);
        assert!(matches!(parse.subject, Some(Subject::Parse(_))) && parse.targets.is_empty());
    }

    #[test]
    fn counts_are_read_from_the_end_of_the_log() {
        let log = "INFO: x\nstat::number_of_executed_units: 949776\nstat::new_units_added:          1909\n";
        assert_eq!(statistic(log, "stat::number_of_executed_units:"), Some(949_776));
        assert_eq!(statistic(log, "stat::new_units_added:"), Some(1909));
        assert_eq!(statistic(log, "stat::peak_rss_mb:"), None);
    }
}
