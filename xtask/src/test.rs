//! `cargo xtask test`: the rings that run on this machine's own kernel.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::build_ebpf::{self, Flavour};
use crate::progress::headline;
use crate::scenarios::Evidence;
use crate::setup::{self, Need};
use crate::test_report::TestReport;
use crate::{command, package, test_fuel_kernel, test_fuel_plugin, test_hostile, test_vm, workspace};

/// Runs the tests
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,

    /// Only tests whose name contains one of these words
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,

    /// Only one ring; all need root but `pure`
    #[arg(long, value_enum)]
    ring: Option<Ring>,
}

#[derive(clap::Subcommand)]
enum Other {
    Vm(test_vm::Arguments),
    FuelKernel(test_fuel_kernel::Arguments),
    FuelPlugin(test_fuel_plugin::Arguments),
    Hostile(test_hostile::Arguments),
}

/// Which tests, by what they touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ring {
    /// Nothing outside the process
    Pure,
    /// Programs and maps in the kernel
    Program,
    /// Network namespaces, taps, the agent
    Host,
}

impl Ring {
    /// Returns the name of the ring's report.
    fn report(self) -> &'static str {
        match self {
            Self::Pure => "tests-pure",
            Self::Program => "tests-program",
            Self::Host => "tests-host",
        }
    }

    /// Returns the test runner's expression for the ring.
    fn expression(self) -> &'static str {
        match self {
            Self::Pure => "not (package(calico-ebpf-tests) and kind(test))",
            Self::Program => "package(calico-ebpf-tests) and binary(/^program/)",
            Self::Host => "package(calico-ebpf-tests) and binary(/^host/)",
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.other {
        Some(Other::Vm(arguments)) => return test_vm::run(arguments),
        Some(Other::FuelKernel(arguments)) => return test_fuel_kernel::run(arguments),
        Some(Other::FuelPlugin(arguments)) => return test_fuel_plugin::run(arguments),
        Some(Other::Hostile(arguments)) => return test_hostile::run(arguments),
        None => {}
    }
    if arguments.ring != Some(Ring::Pure) {
        setup::require_root(
            "the program and host rings load programs into the kernel (`--ring pure` needs no root)",
        )?;
        setup::ensure(&[Need::TestPrograms])?;
    }
    setup::ensure(&[Need::Protobuf, Need::Nextest])?;
    let object = build_ebpf::build_default(Flavour::Agent)?;
    let bench_object = build_ebpf::build_default(Flavour::Bench)?;
    headline("agent");
    // The whole workspace and one binary: the features of dependencies are those of the tests' build.
    command::run(command::cargo().args(["build", "--workspace", "--bin", "calico-ebpf"]))?;
    headline("tests");
    let mut nextest = command::cargo();
    nextest.args(["nextest", "run", "--workspace", "--config", &runner(&object)?]);
    if let Some(ring) = arguments.ring {
        nextest.args(["-E", ring.expression()]);
    }
    nextest.args(&arguments.filters);
    nextest.env(
        "CALICO_EBPF_BIN",
        workspace::target_dir()?.join("debug/calico-ebpf"),
    );
    nextest.env("CALICO_EBPF_BENCH_OBJECT", bench_object);
    if matches!(arguments.ring, None | Some(Ring::Host)) {
        let agent = workspace::target_dir()?.join("debug/calico-ebpf");
        let packages = package::for_tests(&agent)?;
        nextest.env("CALICO_EBPF_DEB", packages.deb);
        nextest.env("CALICO_EBPF_RPM", packages.rpm);
    }
    let evidence = Evidence::start()?;
    let (variable, folder) = evidence.variable();
    nextest.env(variable, folder);
    let mut report = TestReport::start(arguments.ring.map_or("tests", Ring::report));
    let results = workspace::target_dir()?.join("nextest/default/junit.xml");
    if results.exists() {
        fs::remove_file(&results).with_context(|| results.display().to_string())?;
    }
    let ended = command::run(&mut nextest);
    if !results.exists() {
        return ended;
    }
    report.take_junit(&results)?;
    let whole = arguments.filters.is_empty() && arguments.ring.is_none();
    let judged = evidence.judge(&report, whole);
    if arguments.filters.is_empty() {
        report.write()?;
    }
    ended.and(judged)
}

/// Returns cargo's setting that puts `CALICO_EBPF_OBJECT` into the environment of the tests alone: the agent's build
/// reads it, too, and would start anew each time it comes or goes.
fn runner(object: &Path) -> Result<String> {
    let object = object.to_str().context("the target directory is not UTF-8")?;
    let variable = serde_json::to_string(&format!("CALICO_EBPF_OBJECT={object}"))?;
    Ok(format!(
        r#"target."cfg(target_os = \"linux\")".runner = ["env", {variable}]"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_quotes_the_path_of_the_object() {
        let setting = runner(Path::new("/a b/calico-ebpf.o")).expect("UTF-8");
        assert!(setting.ends_with(r#"runner = ["env", "CALICO_EBPF_OBJECT=/a b/calico-ebpf.o"]"#));
    }
}
