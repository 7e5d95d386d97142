//! `endpoints`: this host's endpoints with the state of their taps.

use std::collections::BTreeMap;

use clap::Args;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use serde::Serialize;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure};
use super::output::{OutputArguments, Page, Tone, plain};
use crate::observe::pinned::PinnedMaps;
use crate::observe::read_report;
use crate::report::EndpointReport;

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf endpoints
  calico-ebpf endpoints --iface tap8dfa1418-d5
  calico-ebpf endpoints -o json | jq '.[] | select(.state != \"up\")'

STATE is the agent's: up (its tap and programs are in place), waiting (no tap yet), down (something could not be
written; REASON says what), inactive (another endpoint has its interface or it has no address).
MIGRATION is how far a live migration to this host is: expected (policy is in force, routes wait for the workload's
announcement), arrived (routes beat those of the host it came from), converging (the same for a while after the end).
LINK is what the kernel says about the tap now: up, no-carrier, down, or absent.
FLOWS and HALF-OPEN are how many flows the endpoint has of how many it may have (BPFMaxFlowsPerEndpoint,
BPFMaxHalfOpenPerEndpoint). Flows between two endpoints of this host count for who opened them, others for the endpoint.
REFUSED is how often there was no room for one: such packets are judged one by one, and answers to them by rules alone.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Only the endpoint on this interface
    #[arg(short, long, value_name = "NAME")]
    iface: Option<String>,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    endpoint: EndpointReport,
    /// `up`, `no-carrier`, `down`, `absent`.
    link: &'static str,
    /// `None` when the maps cannot be read, or the endpoint is not in them.
    flows: Option<FlowQuota>,
}

/// Flows of an endpoint, and how many it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct FlowQuota {
    confirmed: u64,
    confirmed_limit: u32,
    half_open: u64,
    half_open_limit: u32,
    /// How often there was no room for one.
    refused: u64,
}

impl FlowQuota {
    fn of(maps: &PinnedMaps, endpoint: &EndpointReport) -> Option<Self> {
        let slot = Some(endpoint.slot).filter(|slot| *slot != 0)?;
        let (quota, limits) = maps.quota(slot).ok()?;
        // Below 0 for a moment, when flows end that were not counted.
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        Some(Self {
            confirmed: number(quota.confirmed),
            confirmed_limit: limits.confirmed,
            half_open: number(quota.half_open),
            half_open_limit: limits.half_open,
            refused: quota.refused,
        })
    }
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    let report = read_report(&config.run_dir)?;
    let links = link_flags()?;
    let maps = PinnedMaps::under(&config.bpf_pin_dir);
    let is_wanted = |endpoint: &EndpointReport| {
        arguments
            .iface
            .as_ref()
            .is_none_or(|name| *name == endpoint.interface)
    };
    let row = |endpoint: EndpointReport| {
        let link = link_state(links.get(&endpoint.interface).copied());
        let flows = FlowQuota::of(&maps, &endpoint);
        Row {
            endpoint,
            link,
            flows,
        }
    };
    let rows: Vec<Row> = report.endpoints.into_iter().filter(is_wanted).map(row).collect();
    arguments.output.show(&rows, |page| put_on(page, &rows))?;
    Ok(Ending::Good)
}

/// Returns the flags of every interface of this namespace.
fn link_flags() -> anyhow::Result<BTreeMap<String, InterfaceFlags>> {
    Ok(getifaddrs()?
        .map(|address| (address.interface_name, address.flags))
        .collect())
}

fn link_state(flags: Option<InterfaceFlags>) -> &'static str {
    match flags {
        None => "absent",
        Some(flags) if !flags.contains(InterfaceFlags::IFF_UP) => "down",
        Some(flags) if !flags.contains(InterfaceFlags::IFF_RUNNING) => "no-carrier",
        Some(_) => "up",
    }
}

fn put_on(page: &mut Page, rows: &[Row]) {
    if rows.is_empty() {
        page.toned(Tone::Quiet, "no endpoint of this host");
        return;
    }
    let row = |row: &Row| {
        let endpoint = &row.endpoint;
        let tone = match endpoint.state.as_str() {
            "up" => Tone::Good,
            "down" => Tone::Bad,
            _ => Tone::Attention,
        };
        vec![
            plain(&endpoint.interface),
            (tone, endpoint.state.clone()),
            (
                if row.link == "up" {
                    Tone::Plain
                } else {
                    Tone::Attention
                },
                row.link.to_owned(),
            ),
            plain(endpoint.addresses.join(" ")),
            plain(endpoint.mac.clone().unwrap_or_else(|| "-".to_owned())),
            plain(if endpoint.migration.is_empty() {
                "-"
            } else {
                &endpoint.migration
            }),
            plain(endpoint.policy_set.to_string()),
            plain(endpoint.generation.to_string()),
            share(row.flows.map(|flows| (flows.confirmed, flows.confirmed_limit))),
            share(row.flows.map(|flows| (flows.half_open, flows.half_open_limit))),
            match row.flows {
                Some(flows) if flows.refused > 0 => (Tone::Attention, flows.refused.to_string()),
                Some(_) => plain("0"),
                None => plain("-"),
            },
            plain(format!("{}/{}", endpoint.namespace, endpoint.name)),
            (tone, endpoint.reason.clone()),
        ]
    };
    let header = [
        "INTERFACE",
        "STATE",
        "LINK",
        "ADDRESSES",
        "MAC",
        "MIGRATION",
        "SET",
        "GENERATION",
        "FLOWS",
        "HALF-OPEN",
        "REFUSED",
        "ENDPOINT",
        "REASON",
    ];
    page.table(&header, rows.iter().map(row).collect());
}

/// Returns a number and its limit, standing out when nothing is left.
fn share(flows: Option<(u64, u32)>) -> (Tone, String) {
    let Some((count, limit)) = flows else {
        return plain("-");
    };
    let tone = if count < u64::from(limit) {
        Tone::Plain
    } else {
        Tone::Attention
    };
    (tone, format!("{count}/{limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_states_are_told_from_the_flags() {
        let up = InterfaceFlags::IFF_UP;
        assert_eq!(link_state(None), "absent");
        assert_eq!(link_state(Some(InterfaceFlags::empty())), "down");
        assert_eq!(link_state(Some(up)), "no-carrier");
        assert_eq!(link_state(Some(up | InterfaceFlags::IFF_RUNNING)), "up");
        assert!(link_flags().unwrap().contains_key("lo"));
    }

    #[test]
    fn endpoints_are_listed_with_their_reasons() {
        let endpoint = EndpointReport {
            namespace: "openstack".to_owned(),
            name: "web".to_owned(),
            interface: "tapweb".to_owned(),
            addresses: vec!["10.65.0.2/32".to_owned()],
            state: "waiting".to_owned(),
            reason: "no tap of this name".to_owned(),
            ..EndpointReport::default()
        };
        let mut page = Page::plain();
        put_on(
            &mut page,
            &[Row {
                endpoint,
                link: "absent",
                flows: Some(FlowQuota {
                    confirmed: 12,
                    confirmed_limit: 1000,
                    half_open: 64,
                    half_open_limit: 64,
                    refused: 3,
                }),
            }],
        );
        assert!(page.text().contains("tapweb"), "{}", page.text());
        assert!(page.text().contains("no tap of this name"), "{}", page.text());
        for told in ["12/1000", "64/64", "3"] {
            assert!(page.text().contains(told), "{}", page.text());
        }
        assert_eq!(share(Some((64, 64))).0, Tone::Attention);
        assert_eq!(share(Some((63, 64))).0, Tone::Plain);
    }
}
