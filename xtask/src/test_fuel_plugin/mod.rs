//! `cargo xtask test fuel-plugin`: the plugin's Puppet module, by its specs and on nodes that install real packages.

mod cases;
mod cgroup;
mod environment;
mod felix;
mod image;
mod node;
mod switch;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::{headline, quietly};
use crate::setup::{self, Need};
use crate::test_report::TestReport;
use crate::{command, workspace};
use cases::Cloud;
use image::Image;

/// Tests the Fuel plugin's Puppet module: specs, then real nodes
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the specs; needs no root
    #[arg(long)]
    specs_only: bool,

    /// The agent's package to install, instead of the one that `cargo xtask package deb` makes
    #[arg(long, value_name = "PATH")]
    deb: Option<PathBuf>,
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::Puppet])?;
    let mut report = TestReport::start("fuel-plugin");
    report.skipped(
        "a node with Ubuntu 14.04, upstart and Puppet 3",
        "Debian's archive has none of them: nodes are Debian 12 with systemd and Puppet 7; upstart's jobs are only looked at by specs",
    );
    report.skipped("a deployment by a Fuel master", "no Fuel master can be had here");
    report.skipped(
        "Neutron, Nova and calico-dhcp-agent on nodes",
        "the packages of Mirantis cannot be had here: their classes and scripts are tested by specs",
    );
    let ended = run_all(arguments, &mut report);
    report.write()?;
    ended
}

fn run_all(arguments: &Arguments, report: &mut TestReport) -> Result<()> {
    let puppet = command::output(command::command("puppet").arg("--version"))?;
    report.version("puppet", puppet.trim());
    report.note("specs of every class and function", specs())?;
    if arguments.specs_only {
        return Ok(());
    }
    setup::require_root(
        "nodes are namespaces with a root folder of their own (`--specs-only` needs no root)",
    )?;
    setup::ensure(&[Need::Nodes])?;
    let deb = match &arguments.deb {
        Some(path) => path.clone(),
        None => package()?,
    };
    let image = Image::build(&deb)?;
    let cloud = Cloud::start(&image)?;
    cases::run(&cloud, report)
}

/// Returns the folder with `manifests` and `modules`.
fn puppet_folder() -> PathBuf {
    workspace::root().join("fuel-plugin/common/deployment_scripts/puppet")
}

fn specs() -> Result<()> {
    headline("specs of the module calico");
    let mut rspec = command::command("rspec");
    command::run(
        rspec
            .arg("spec")
            .current_dir(puppet_folder().join("modules/calico")),
    )
}

/// Packs the agent and returns its package.
fn package() -> Result<PathBuf> {
    quietly(
        "the agent's package",
        command::cargo().args(["xtask", "package", "deb"]),
    )?;
    let folder = workspace::target_dir()?.join("package");
    let found: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_agent(path))
        .collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => bail!(
            "{} packages calico-ebpf_*_amd64.deb in {}, expected one",
            found.len(),
            folder.display()
        ),
    }
}

fn is_agent(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.starts_with("calico-ebpf_") && name.ends_with("_amd64.deb")
}
