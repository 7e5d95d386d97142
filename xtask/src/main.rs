//! `cargo xtask`: everything a developer does here, one subcommand to a file.

mod bench;
mod build;
mod build_ebpf;
mod command;
mod debian_archive;
mod demo;
mod docs;
mod fuel_plugin;
mod fuzz;
mod kernel_toolchain;
mod lint;
mod package;
mod progress;
mod release;
mod scenarios;
mod setup;
mod stack;
mod test;
mod test_fuel_kernel;
mod test_fuel_plugin;
mod test_hostile;
mod test_report;
mod test_vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, tests and shows calico-ebpf.
///
/// Every subcommand installs what it needs first (Debian 12 or Ubuntu, as root) and does nothing twice.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    subcommand: Task,
}

#[derive(Subcommand)]
enum Task {
    Setup(setup::Arguments),
    BuildEbpf(build_ebpf::Arguments),
    Build(build::Arguments),
    Demo(demo::Arguments),
    Test(test::Arguments),
    Bench(bench::Arguments),
    FuelPlugin(fuel_plugin::Arguments),
    Fuzz(fuzz::Arguments),
    Lint(lint::Arguments),
    Package(package::Arguments),
    Docs(docs::Arguments),
    Scenarios(scenarios::Arguments),
}

fn main() -> ExitCode {
    match run(&Arguments::parse().subcommand) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `Debug`: with RUST_BACKTRACE set it would bury the reason under a stack.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    match task {
        Task::Setup(arguments) => setup::run(arguments),
        Task::BuildEbpf(arguments) => build_ebpf::run(arguments),
        Task::Build(arguments) => build::run(arguments),
        Task::Demo(arguments) => demo::run(arguments),
        Task::Test(arguments) => test::run(arguments),
        Task::Bench(arguments) => bench::run(arguments),
        Task::FuelPlugin(arguments) => fuel_plugin::run(arguments),
        Task::Fuzz(arguments) => fuzz::run(arguments),
        Task::Lint(arguments) => lint::run(arguments),
        Task::Package(arguments) => package::run(arguments),
        Task::Docs(arguments) => docs::run(arguments),
        Task::Scenarios(arguments) => scenarios::run(arguments),
    }
}
