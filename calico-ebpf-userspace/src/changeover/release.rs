//! From us to Felix: hands live connections over and takes our programs away, once Felix's rules judge every tap.

use serde::Serialize;

use super::adopt::Wish;
use super::flows::{self, HandedOver};
use super::iptables::Backend;
use super::reason::{Reason, Refused, weigh};
use super::ruleset::Table;
use super::{coverage, ours, process};
use crate::config::Config;
use crate::dataplane::cleanup::{Removed, detach};
use crate::dataplane::pins::HostLock;
use crate::observe::{is_running, read_report};
use crate::report::AgentReport;

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Released {
    pub dry_run: bool,
    /// Taps that had our programs, and that Felix's rules judge.
    pub taps: Vec<String>,
    /// Flows that the kernel's connection tracking was told of.
    pub connections: HandedOver,
    #[serde(flatten)]
    pub removed: Removed,
    /// What `--force` went on in spite of.
    pub notes: Vec<String>,
}

/// Tells the kernel's connection tracking of our flows, and changes nothing else. Before Felix writes its rules, so that
/// they find established what is.
///
/// # Errors
/// When no dataplane of ours is there, or connection tracking refuses.
pub fn hand_over_flows(config: &Config) -> anyhow::Result<Released> {
    let report = read_report(&config.run_dir)?;
    Ok(Released {
        connections: flows::hand_back(config, &report)?,
        ..Released::default()
    })
}

/// Gives the host to Felix. Routes, neighbours and settings of taps stay, Felix wants the same.
///
/// # Errors
/// When Felix's rules do not judge every tap of ours, or our agent runs: nothing was changed then.
pub async fn release(config: &Config, wish: Wish) -> anyhow::Result<Released> {
    let report = read_report(&config.run_dir)?;
    let mut reasons = Vec::new();
    if is_running(&report) {
        reasons.push(Reason::firm(
            format!("our agent runs (pid {})", report.pid),
            "Stop it, and keep it from starting at boot: systemctl disable --now calico-ebpf. Its policy stays in force.",
        ));
    }
    if process::felix().is_empty() {
        reasons.push(Reason::soft(
            "Felix does not run: its rules would not follow policy",
            "Start it: systemctl enable --now calico-felix",
        ));
    }
    let attached = ours::attached(config).await?;
    let taps: Vec<String> = attached.into_iter().map(|tap| tap.name).collect();
    let judged = endpoints_of(&report, &taps);
    reasons.extend(missing_in_felix(config, &judged)?);
    let notes = weigh(reasons, wish.force)?;
    let mut released = Released {
        dry_run: wish.dry_run,
        taps,
        notes,
        ..Released::default()
    };
    if wish.dry_run {
        return Ok(released);
    }
    let lock = HostLock::take(&config.run_dir)?;
    match flows::hand_back(config, &report) {
        Ok(handed) => released.connections = handed,
        Err(error) if wish.force => released
            .notes
            .push(format!("connections not handed over: {error:#}")),
        // Of a run that was killed the tables may be gone: its connections were handed over before.
        Err(_) if released.taps.is_empty() => {}
        Err(error) => {
            return Err(error.context(
                "connections cannot be handed over, and nothing was changed (--force goes on without them)",
            ));
        }
    }
    // Felix may have lost a rule meanwhile.
    let reasons = missing_in_felix(config, &judged)?;
    if !reasons.is_empty() {
        return Err(Refused(reasons).into());
    }
    released.removed = detach(config, &lock).await?;
    Ok(released)
}

/// Returns the taps that belong to endpoints: what comes from others is dropped by Felix's rules, too.
fn endpoints_of(report: &AgentReport, taps: &[String]) -> Vec<String> {
    let is_endpoint = |tap: &&String| {
        report
            .endpoints
            .iter()
            .any(|endpoint| endpoint.interface == **tap)
    };
    taps.iter().filter(is_endpoint).cloned().collect()
}

fn missing_in_felix(config: &Config, taps: &[String]) -> anyhow::Result<Vec<Reason>> {
    let mut families: [Vec<(Backend, Vec<Table>)>; 2] = [Vec::new(), Vec::new()];
    for backend in Backend::installed() {
        let tables = backend.read()?;
        families[usize::from(backend.is_ipv6())].push((backend, tables));
    }
    let mut reasons = coverage::missing("IPv4", &families[0], taps);
    if config.ipv6_support {
        reasons.extend(coverage::missing("IPv6", &families[1], taps));
    }
    Ok(reasons)
}
