//! Whether our dataplane judges everything that Felix's rules judge, by its report and by the kernel.

use std::collections::BTreeSet;
use std::path::Path;

use ipnet::IpNet;

use super::reason::Reason;
use crate::config::Config;
use crate::dataplane::interfaces::{self, Interface, WorkloadNames};
use crate::dataplane::links::{self, AttachMode};
use crate::dataplane::pins::Pins;
use crate::dataplane::{netlink, routes};
use crate::report::{AgentReport, EndpointReport};

/// Things of one kind that are told one by one; the rest is counted.
const TOLD: usize = 10;

/// Returns what the agent's report lacks for a change-over.
pub fn missing_in_report(report: &AgentReport, is_running: bool) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if !is_running {
        reasons.push(Reason::firm(
            "our agent does not run",
            "Start it, and keep Felix stopped: systemctl start calico-ebpf",
        ));
    }
    let datastore = &report.datastore;
    if datastore.state != "in-sync" {
        reasons.push(Reason::firm(
            format!(
                "the datastore {} is not in sync: {} {}",
                datastore.location, datastore.state, datastore.reason
            ),
            "`calico-ebpf status` tells more; try again when it is.",
        ));
    }
    if report.epoch == 0 {
        reasons.push(Reason::firm(
            "no policy is in force",
            "The agent has not finished its first read: `calico-ebpf status`, and its log.",
        ));
    }
    for dirty in report.dirty.iter().take(TOLD) {
        reasons.push(Reason::firm(
            format!("not in the kernel yet: {dirty}"),
            "The agent tries again by itself; its log tells why it fails.",
        ));
    }
    let down: Vec<&EndpointReport> = report
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.state != "up")
        .collect();
    for endpoint in down.iter().take(TOLD) {
        reasons.push(Reason::soft(
            format!(
                "{} on {} is {}: {}",
                endpoint.name, endpoint.interface, endpoint.state, endpoint.reason
            ),
            "Wait until its VM has started, or go on without it by --force: it is judged as soon as its tap is there.",
        ));
    }
    for ignored in report.not_enforced.iter().take(TOLD) {
        reasons.push(Reason::soft(
            format!("read but not enforced by us: {ignored}"),
            "Felix may enforce it. Take it away, or go on without it by --force.",
        ));
    }
    let told = TOLD.min(report.dirty.len()) + TOLD.min(down.len()) + TOLD.min(report.not_enforced.len());
    let all = report.dirty.len() + down.len() + report.not_enforced.len();
    if all > told {
        reasons.push(Reason::soft(
            format!("and {} more of these", all - told),
            "`calico-ebpf status --all` and `calico-ebpf endpoints` list them.",
        ));
    }
    reasons
}

/// The taps of this host.
///
/// # Errors
/// When the kernel does not answer.
pub async fn taps(handle: &rtnetlink::Handle, config: &Config) -> anyhow::Result<Vec<Interface>> {
    let names = WorkloadNames::new(&config.interface_prefixes, &config.interface_exclude);
    let interfaces = interfaces::read_back(handle).await?;
    Ok(interfaces
        .into_values()
        .filter(|interface| names.matches(&interface.name))
        .collect())
}

/// Returns the taps that have both our programs first.
///
/// # Errors
/// When the kernel does not answer.
pub async fn attached(config: &Config) -> anyhow::Result<Vec<Interface>> {
    let handle = netlink::open()?;
    let mut attached = Vec::new();
    for tap in taps(&handle, config).await? {
        if is_attached(&handle, &config.bpf_pin_dir, &tap).await? {
            attached.push(tap);
        }
    }
    Ok(attached)
}

/// Returns what the kernel lacks: our programs on every tap, the policy table, and every route of an endpoint.
///
/// # Errors
/// When the kernel does not answer.
pub async fn missing_in_kernel(config: &Config, report: &AgentReport) -> anyhow::Result<Vec<Reason>> {
    let handle = netlink::open()?;
    let taps = taps(&handle, config).await?;
    let mut reasons = Vec::new();
    for tap in &taps {
        if !is_attached(&handle, &config.bpf_pin_dir, tap).await? {
            reasons.push(Reason::firm(
                format!("{}: our programs are not first on this tap", tap.name),
                "The agent puts them there by itself; its log tells why it fails.",
            ));
        }
    }
    let numbers: BTreeSet<u32> = taps.iter().map(|tap| tap.ifindex).collect();
    let kernel: BTreeSet<IpNet> = routes::read_back(&handle, &numbers)
        .await?
        .into_iter()
        .filter(|(_, body)| body.protocol == config.device_route_protocol)
        .map(|(key, _)| key.prefix)
        .collect();
    for endpoint in report.endpoints.iter().filter(|endpoint| endpoint.state == "up") {
        if !taps.iter().any(|tap| tap.name == endpoint.interface) {
            reasons.push(Reason::firm(
                format!("{}: told to be up, and not there", endpoint.interface),
                "It has just gone: try again.",
            ));
            continue;
        }
        // A migration's destination has none yet; of two owners of an address one has the route.
        if !endpoint.migration.is_empty() {
            continue;
        }
        for address in endpoint
            .addresses
            .iter()
            .filter_map(|text| text.parse::<IpNet>().ok())
        {
            if !kernel.contains(&address.trunc()) && (config.ipv6_support || address.addr().is_ipv4()) {
                reasons.push(Reason::firm(
                    format!("no route to {address} over {}", endpoint.interface),
                    "The agent makes it by itself: try again; `calico-ebpf routes` tells.",
                ));
            }
        }
    }
    Ok(reasons)
}

async fn is_attached(handle: &rtnetlink::Handle, pin_dir: &Path, tap: &Interface) -> anyhow::Result<bool> {
    links::are_in_place(handle, AttachMode::of_this_kernel(), &Pins::below(pin_dir), tap).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::DatastoreReport;

    fn report() -> AgentReport {
        AgentReport {
            epoch: 3,
            datastore: DatastoreReport {
                state: "in-sync".to_owned(),
                ..DatastoreReport::default()
            },
            endpoints: vec![EndpointReport {
                interface: "tap1".to_owned(),
                state: "up".to_owned(),
                ..EndpointReport::default()
            }],
            ..AgentReport::default()
        }
    }

    #[test]
    fn a_running_agent_in_sync_with_all_endpoints_up_lacks_nothing() {
        assert_eq!(missing_in_report(&report(), true), []);
        assert_eq!(missing_in_report(&report(), false).len(), 1);
    }

    #[test]
    fn each_thing_that_lacks_is_told_and_only_ports_and_features_can_be_forced() {
        let mut report = report();
        report.datastore.state = "unreachable".to_owned();
        report.epoch = 0;
        report.dirty = vec!["route 10.0.0.1/32".to_owned()];
        report.endpoints[0].state = "waiting".to_owned();
        let reasons = missing_in_report(&report, true);
        let forced: Vec<bool> = reasons.iter().map(|reason| reason.can_be_forced).collect();
        assert_eq!(forced, [false, false, false, true]);
        report.endpoints = vec![report.endpoints[0].clone(); 40];
        assert_eq!(missing_in_report(&report, true).len(), 3 + 10 + 1);
    }
}
