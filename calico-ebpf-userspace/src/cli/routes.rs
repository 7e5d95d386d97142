//! `routes`: the kernel's routes and what endpoints need.

use std::collections::BTreeSet;
use std::net::IpAddr;

use clap::Args;
use futures::TryStreamExt as _;
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use serde::Serialize;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure};
use super::output::{OutputArguments, Page, Tone, plain};
use crate::config::Config;
use crate::observe::read_report;
use crate::report::EndpointReport;

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf routes
  calico-ebpf routes -o json | jq '.[] | select(.state != \"ours\")'

Every address of an endpoint that is up has a route of its own to its tap, in the main table, from which BIRD exports
it. STATE: ours (as it should be), missing (needed but not there), foreign (on a workload's interface, made by somebody
else), stale (ours, but no endpoint needs it).";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// A route to a workload's interface in the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KernelRoute {
    destination: IpNet,
    ifindex: u32,
    protocol: u8,
    metric: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    destination: IpNet,
    interface: String,
    protocol: Option<u8>,
    metric: Option<u32>,
    /// `ours`, `missing`, `foreign`, `stale`.
    state: &'static str,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    let report = read_report(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let kernel = runtime.block_on(read_routes())?;
    let names = workload_interfaces(&config)?;
    let rows = compare(&config, &report.endpoints, &kernel, &names);
    arguments.output.show(&rows, |page| put_on(page, &rows))?;
    Ok(Ending::Good)
}

/// Returns names and numbers of the interfaces that are workloads' by their prefix.
fn workload_interfaces(config: &Config) -> anyhow::Result<Vec<(String, u32)>> {
    let names: BTreeSet<String> = nix::ifaddrs::getifaddrs()?
        .map(|address| address.interface_name)
        .collect();
    let is_workload = |name: &String| {
        config
            .interface_prefixes
            .iter()
            .any(|prefix| name.starts_with(prefix.as_str()))
            && !config.interface_exclude.contains(name)
    };
    let numbered = |name: String| if_nametoindex(name.as_str()).ok().map(|number| (name, number));
    Ok(names
        .into_iter()
        .filter(is_workload)
        .filter_map(numbered)
        .collect())
}

async fn read_routes() -> anyhow::Result<Vec<KernelRoute>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let mut routes = Vec::new();
    for message in [
        rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        rtnetlink::RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let mut dump = handle.route().get(message).execute();
        while let Some(route) = dump.try_next().await? {
            routes.extend(kernel_route(&route));
        }
    }
    task.abort();
    Ok(routes)
}

/// Number of the main routing table.
const MAIN_TABLE: u32 = 254;

fn kernel_route(message: &RouteMessage) -> Option<KernelRoute> {
    let mut table = u32::from(message.header.table);
    let (mut destination, mut ifindex, mut metric) = (None, None, 0);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            destination = ip_address(address);
        } else if let RouteAttribute::Oif(number) = attribute {
            ifindex = Some(*number);
        } else if let RouteAttribute::Priority(priority) = attribute {
            metric = *priority;
        } else if let RouteAttribute::Table(number) = attribute {
            table = *number;
        }
    }
    if table != MAIN_TABLE {
        return None;
    }
    let destination = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    Some(KernelRoute {
        destination,
        ifindex: ifindex?,
        protocol: message.header.protocol.into(),
        metric,
    })
}

fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        return Some(IpAddr::V4(*address));
    }
    if let RouteAddress::Inet6(address) = address {
        Some(IpAddr::V6(*address))
    } else {
        None
    }
}

fn compare(
    config: &Config,
    endpoints: &[EndpointReport],
    kernel: &[KernelRoute],
    names: &[(String, u32)],
) -> Vec<Row> {
    let mut needed: BTreeSet<(IpNet, String)> = BTreeSet::new();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.state == "up") {
        let nets = endpoint.addresses.iter().filter_map(|text| parse_net(text));
        needed.extend(nets.map(|net| (net, endpoint.interface.clone())));
    }
    let mut rows = Vec::new();
    for (name, number) in names {
        for route in kernel.iter().filter(|route| route.ifindex == *number) {
            let is_ours = route.protocol == config.device_route_protocol;
            let is_needed = needed.remove(&(route.destination, name.clone()));
            // The kernel's own link-local and multicast routes belong to every interface.
            if !is_ours && !is_needed && is_kernels_own(route) {
                continue;
            }
            rows.push(Row {
                destination: route.destination,
                interface: name.clone(),
                protocol: Some(route.protocol),
                metric: Some(route.metric),
                state: match (is_ours, is_needed) {
                    (true, true) => "ours",
                    (true, false) => "stale",
                    (false, _) => "foreign",
                },
            });
        }
    }
    let missing = |(destination, interface)| Row {
        destination,
        interface,
        protocol: None,
        metric: None,
        state: "missing",
    };
    rows.extend(needed.into_iter().map(missing));
    rows.sort_by(|one, other| (&one.interface, one.destination).cmp(&(&other.interface, other.destination)));
    rows
}

fn is_kernels_own(route: &KernelRoute) -> bool {
    /// `RTPROT_KERNEL`, rtnetlink(7).
    const KERNEL: u8 = 2;
    route.protocol == KERNEL
}

fn parse_net(text: &str) -> Option<IpNet> {
    let net: Option<IpNet> = text.parse().ok();
    net.map(|net| net.trunc())
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn put_on(page: &mut Page, rows: &[Row]) {
    if rows.is_empty() {
        page.toned(
            Tone::Quiet,
            "no endpoint is up, and there is no route to a workload",
        );
        return;
    }
    let row = |row: &Row| {
        let tone = match row.state {
            "ours" => Tone::Good,
            "missing" => Tone::Bad,
            _ => Tone::Attention,
        };
        let number =
            |number: Option<u32>| plain(number.map_or_else(|| "-".to_owned(), |number| number.to_string()));
        vec![
            plain(row.destination.to_string()),
            plain(&row.interface),
            number(row.protocol.map(u32::from)),
            number(row.metric),
            (tone, row.state.to_owned()),
        ]
    };
    page.table(
        &["DESTINATION", "INTERFACE", "PROTOCOL", "METRIC", "STATE"],
        rows.iter().map(row).collect(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, ifindex: u32, protocol: u8) -> KernelRoute {
        KernelRoute {
            destination: destination.parse().unwrap(),
            ifindex,
            protocol,
            metric: 1024,
        }
    }

    #[test]
    fn routes_are_ours_stale_foreign_or_missing() {
        let endpoint = |interface: &str, address: &str| EndpointReport {
            interface: interface.to_owned(),
            addresses: vec![address.to_owned()],
            state: "up".to_owned(),
            ..EndpointReport::default()
        };
        let endpoints = [endpoint("tap1", "10.0.0.1/32"), endpoint("tap2", "10.0.0.2/32")];
        let kernel = [
            route("10.0.0.1/32", 5, 3),
            route("10.0.0.9/32", 5, 3),
            route("10.0.0.8/32", 5, 4),
            route("fe80::/64", 5, 2),
            route("10.0.0.2/32", 7, 3),
        ];
        let names = [("tap1".to_owned(), 5), ("tap2".to_owned(), 6)];
        let rows = compare(&Config::default(), &endpoints, &kernel, &names);
        let states: Vec<(String, &str)> = rows
            .iter()
            .map(|row| (row.destination.to_string(), row.state))
            .collect();
        let expected = [
            ("10.0.0.1/32", "ours"),
            ("10.0.0.8/32", "foreign"),
            ("10.0.0.9/32", "stale"),
            ("10.0.0.2/32", "missing"),
        ];
        assert_eq!(
            states,
            expected.map(|(destination, state)| (destination.to_owned(), state))
        );
    }

    #[test]
    fn the_main_table_of_this_namespace_can_be_read() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(read_routes()).unwrap();
    }
}
