//! Removes everything that is ours, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;
use nix::mount::umount;
use serde::Serialize;

use super::interfaces::{self, Interfaces, WorkloadNames};
use super::pins::{HostLock, WATCH_LOCK_FILE, is_on_bpffs};
use super::state_file::{STATE_FILE, StateFile};
use super::sysctls::Sysctls;
use super::{filters, grace_periods, neighbors, netlink, routes};
use crate::config::values::Config;
use crate::report::REPORT_FILE;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    pub routes: usize,
    pub neighbors: usize,
    /// tcx links.
    pub links: usize,
    /// Taps with clsact filters of ours.
    pub filters: usize,
    pub qdiscs: usize,
    /// Maps and programs.
    pub pins: usize,
    /// Whether settings were written back.
    pub settings: bool,
    /// Whether the bpffs that the agent had mounted was unmounted.
    pub unmounted: bool,
    /// What could not be removed, and why. The next cleanup tries again.
    pub left: Vec<String>,
}

/// Removes programs, links, maps, routes, neighbours, settings and files of the agent. Does nothing the second time.
///
/// # Errors
/// When an agent runs, or the kernel does not answer; single things that resist are told in the result.
pub async fn cleanup(config: &Config) -> anyhow::Result<Removed> {
    let had_run_dir = config.run_dir.exists();
    let lock = HostLock::take(&config.run_dir)?;
    let mut removed = Removed::default();
    let had_state = config.run_dir.join(STATE_FILE).exists();
    if had_state || config.bpf_pin_dir.exists() {
        let mut state = StateFile::read(&config.run_dir).context("cannot read the state of the last run")?;
        remove_from_kernel(config, &mut state, &mut removed).await?;
    }
    if removed.left.is_empty() {
        remove_files(config, &mut removed);
        if had_state || !had_run_dir {
            remove_empty(&config.run_dir);
        }
    }
    drop(lock);
    Ok(removed)
}

/// As [`cleanup`], for a host that Felix takes over: routes, neighbours and the settings of taps stay.
///
/// # Errors
/// When the kernel does not answer; single things that resist are told in the result.
pub async fn detach(config: &Config, _lock: &HostLock) -> anyhow::Result<Removed> {
    let mut removed = Removed::default();
    let mut state = StateFile::read(&config.run_dir).context("cannot read the state of the last run")?;
    let netlink = netlink::open()?;
    let names = WorkloadNames::new(&config.interface_prefixes, &config.interface_exclude);
    let interfaces = interfaces::read_back(&netlink).await?;
    removed.settings = !state.state.sysctls.host.is_empty();
    removed
        .left
        .extend(Sysctls::default().restore_defaults(&interfaces, &names, &state));
    remove_filters(&netlink, &interfaces, &mut state, &mut removed).await?;
    remove_pins(&config.bpf_pin_dir, &mut removed);
    remove_mount(&mut state, &mut removed);
    for directory in state.state.made_directories.iter().rev() {
        remove_empty(directory);
    }
    if removed.left.is_empty() {
        remove_files(config, &mut removed);
        remove_empty(&config.run_dir);
    }
    Ok(removed)
}

fn remove_files(config: &Config, removed: &mut Removed) {
    let mut files = [STATE_FILE, REPORT_FILE, WATCH_LOCK_FILE]
        .map(|name| config.run_dir.join(name))
        .to_vec();
    files.extend(HostLock::files(&config.run_dir));
    for file in files {
        remove_if_there(&file, &mut removed.left);
    }
}

async fn remove_from_kernel(
    config: &Config,
    state: &mut StateFile,
    removed: &mut Removed,
) -> anyhow::Result<()> {
    let netlink = netlink::open()?;
    let names = WorkloadNames::new(&config.interface_prefixes, &config.interface_exclude);
    let interfaces = interfaces::read_back(&netlink).await?;
    let taps: BTreeSet<u32> = interfaces
        .values()
        .filter(|interface| names.matches(&interface.name))
        .map(|interface| interface.ifindex)
        .collect();
    remove_routes(&netlink, config, &taps, removed).await?;
    grace_periods::restore(state);
    let failed = Sysctls::default().restore(&interfaces, state);
    removed.settings = !state.state.sysctls.host.is_empty();
    removed.left.extend(failed);
    remove_filters(&netlink, &interfaces, state, removed).await?;
    remove_pins(&config.bpf_pin_dir, removed);
    remove_mount(state, removed);
    for directory in state.state.made_directories.iter().rev() {
        remove_empty(directory);
    }
    Ok(())
}

async fn remove_routes(
    netlink: &rtnetlink::Handle,
    config: &Config,
    taps: &BTreeSet<u32>,
    removed: &mut Removed,
) -> anyhow::Result<()> {
    for (key, body) in routes::read_back(netlink, taps).await? {
        if body.protocol != config.device_route_protocol || body.has_gateway || !body.unicast {
            continue;
        }
        match routes::remove(netlink, &key, &body).await {
            Ok(()) => removed.routes += 1,
            Err(error) => removed.left.push(format!("route {}: {error}", key.prefix)),
        }
    }
    for key in neighbors::read_back(netlink, taps).await?.into_keys() {
        match neighbors::remove(netlink, key).await {
            Ok(()) => removed.neighbors += 1,
            Err(error) => removed.left.push(format!("neighbour {}: {error}", key.1)),
        }
    }
    Ok(())
}

async fn remove_filters(
    netlink: &rtnetlink::Handle,
    interfaces: &Interfaces,
    state: &mut StateFile,
    removed: &mut Removed,
) -> anyhow::Result<()> {
    for interface in interfaces.values() {
        if filters::remove(netlink, interface).await? {
            removed.filters += 1;
        }
        let added = state
            .state
            .clsact
            .contains(&(interface.ifindex, interface.name.clone()));
        if added && filters::remove_unused_clsact(netlink, interface).await? {
            removed.qdiscs += 1;
        }
    }
    state.state.clsact.clear();
    Ok(())
}

/// Removes the pin directory, of every layout version.
fn remove_pins(root: &Path, removed: &mut Removed) {
    if !root.exists() {
        return;
    }
    // A directory that is no bpffs holds nothing of ours, whatever the parameter says.
    if !matches!(is_on_bpffs(root), Ok(true)) {
        removed.left.push(format!("{}: not on a bpffs", root.display()));
        return;
    }
    for layout in entries_of(root) {
        for kind in entries_of(&layout) {
            let count = entries_of(&kind).len();
            match kind.file_name().and_then(|name| name.to_str()) {
                Some("links") => removed.links += count,
                _ => removed.pins += count,
            }
        }
    }
    if let Err(error) = fs::remove_dir_all(root) {
        removed.left.push(format!("{}: {error}", root.display()));
    }
}

fn entries_of(directory: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(directory).map_or_else(
        |_| Vec::new(),
        |entries| entries.flatten().map(|entry| entry.path()).collect(),
    )
}

fn remove_mount(state: &mut StateFile, removed: &mut Removed) {
    let Some(target) = &state.state.mounted_bpffs else {
        return;
    };
    let is_used = entries_of(target).iter().any(|entry| !is_of_the_kernel(entry));
    if is_used || !matches!(is_on_bpffs(target), Ok(true)) {
        return;
    }
    match umount(target) {
        Ok(()) => removed.unmounted = true,
        Err(error) => removed.left.push(format!("{}: {error}", target.display())),
    }
}

/// The kernel puts two iterators into every bpffs (`CONFIG_BPF_PRELOAD`).
fn is_of_the_kernel(entry: &Path) -> bool {
    entry
        .file_name()
        .is_some_and(|name| name == "maps.debug" || name == "progs.debug")
}

fn remove_if_there(path: &Path, left: &mut Vec<String>) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            left.push(format!("{}: {error}", path.display()));
        }
        _ => {}
    }
}

/// Removes a directory unless somebody else put something there.
fn remove_empty(directory: &Path) {
    if let Err(error) = fs::remove_dir(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(directory = %directory.display(), %error, "directory stays");
    }
}
