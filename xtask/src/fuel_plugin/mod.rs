//! `cargo xtask fuel-plugin`: the plugin for Fuel, two packages from one tree.

mod build;
mod builder;
mod check;
mod elf;
mod generation;
mod node_packages;
mod rpm;
mod sources;
mod stage;

use anyhow::Result;

/// Checks the Fuel plugin, or builds its two packages
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Everything that can be judged without a Fuel master; builds no package
    ///
    /// YAML, shell, Ruby, ERB and Puppet files, also for what Puppet 3 and Ruby 1.9.3 on the nodes would not read; the
    /// settings' expressions against lists of good and bad texts, with Python and JavaScript; the order of the tasks
    /// among Fuel's own; and what fuel-plugin-builder says to both packages.
    Check,
    Build(build::Arguments),
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Check => check::run(),
        What::Build(arguments) => build::run(arguments),
    }
}
