//! `cargo xtask`: everything a developer does here, one subcommand to a file.

mod build_ebpf;
mod command;
mod kernel_toolchain;
mod progress;
mod setup;
mod workspace;

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
}

fn main() -> Result<()> {
    match Arguments::parse().subcommand {
        Task::Setup(arguments) => setup::run(&arguments),
        Task::BuildEbpf(arguments) => build_ebpf::run(&arguments),
    }
}
