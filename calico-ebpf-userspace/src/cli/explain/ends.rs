//! Who the two ends of the packet are.

use std::net::IpAddr;

use calico_ebpf_common::port::protocol;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};

use super::Arguments;
use crate::cli::failure::{Failure, USAGE};
use crate::observe::decisions::{Policies, full_name, networks};
use crate::observe::explain::Sender;
use crate::report::EndpointReport;

/// Both ends.
#[derive(Debug)]
pub(super) struct Ends<'a> {
    pub(super) sender: Sender<'a>,
    pub(super) receiver: Option<&'a EndpointReport>,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) source_mac: [u8; 6],
    pub(super) destination_mac: [u8; 6],
}

/// One end as it was named.
#[derive(Clone, Copy, Debug)]
struct Named<'a> {
    endpoint: Option<&'a EndpointReport>,
    /// If it was named by address.
    address: Option<IpAddr>,
}

const ENDPOINTS: &str = "`calico-ebpf endpoints` lists those of this host, with their taps and addresses.";

impl<'a> Ends<'a> {
    /// Finds both ends of the question among the endpoints of this host.
    ///
    /// # Errors
    /// Fails with what is wrong with the question.
    pub(super) fn find(arguments: &Arguments, number: u8, policies: &'a Policies) -> Result<Self, Failure> {
        let interfaces: Vec<InterfaceAddress> = getifaddrs().map_err(anyhow::Error::from)?.collect();
        let from = Named::find("--from", &arguments.from, policies)?;
        let to = Named::find("--to", &arguments.to, policies)?;
        let wants_v6 = wants_v6(arguments, number, from, to);
        let source = match arguments.source_address {
            Some(address) => address,
            None => from.address_of_family("--from", wants_v6)?,
        };
        let destination = to.address_of_family("--to", wants_v6)?;
        if source.is_ipv4() != destination.is_ipv4() {
            let error = anyhow::anyhow!("{source} and {destination} are of two families");
            return Err(Failure::new(
                error,
                USAGE,
                "Both ends of a packet are IPv4, or both are IPv6.",
            ));
        }
        let sender = match from.endpoint {
            Some(endpoint) => Sender::Workload(up("--from", endpoint)?),
            None if is_of_host(source, &interfaces) => Sender::Host,
            None => Sender::Outside,
        };
        let receiver = to.endpoint.map(|endpoint| up("--to", endpoint)).transpose()?;
        let tap = match (sender, receiver) {
            (Sender::Workload(endpoint), _) | (_, Some(endpoint)) => endpoint,
            (Sender::Host | Sender::Outside, None) => {
                let error = anyhow::anyhow!(
                    "neither {} nor {} belongs to an endpoint of this host",
                    arguments.from,
                    arguments.to
                );
                return Err(Failure::new(error, USAGE, ENDPOINTS));
            }
        };
        let tap_mac = mac_of_interface(&tap.interface, &interfaces).unwrap_or_default();
        let workload_mac = tap.mac.as_deref().and_then(parse_mac).unwrap_or_default();
        let given = match &arguments.source_mac {
            None => None,
            Some(text) => Some(parse_mac(text).ok_or_else(|| {
                let error = anyhow::anyhow!("--source-mac {text}: no MAC address");
                Failure::new(error, USAGE, "Example: --source-mac fa:16:3e:00:00:01")
            })?),
        };
        let (source_mac, destination_mac) = match sender {
            Sender::Workload(_) => (workload_mac, tap_mac),
            Sender::Host | Sender::Outside => (tap_mac, workload_mac),
        };
        Ok(Self {
            sender,
            receiver,
            source,
            destination,
            source_mac: given.unwrap_or(source_mac),
            destination_mac,
        })
    }

    /// Returns the address behind the destination, if it is a floating one, or the destination itself.
    pub(super) fn internal(&self) -> IpAddr {
        let mut floating = self.receiver.iter().flat_map(|endpoint| &endpoint.floating);
        let found = floating.find(|nat| nat.external == self.destination);
        found.map_or(self.destination, |nat| nat.internal)
    }
}

impl<'a> Named<'a> {
    fn find(flag: &str, text: &str, policies: &'a Policies) -> Result<Self, Failure> {
        if let Ok(address) = text.parse() {
            return Ok(Self {
                endpoint: policies.at_address(address),
                address: Some(address),
            });
        }
        let Some(endpoint) = policies.named(text) else {
            let error = anyhow::anyhow!("{flag} {text}: no endpoint of this host has this tap or name");
            return Err(Failure::new(error, USAGE, ENDPOINTS));
        };
        Ok(Self {
            endpoint: Some(endpoint),
            address: None,
        })
    }

    fn has_family(self, v6: bool) -> bool {
        self.address_in(v6).is_some()
    }

    fn address_in(self, v6: bool) -> Option<IpAddr> {
        match (self.address, self.endpoint) {
            (Some(address), _) => Some(address).filter(|address| address.is_ipv6() == v6),
            (None, Some(endpoint)) => networks(endpoint)
                .map(|network| network.addr())
                .find(|address| address.is_ipv6() == v6),
            (None, None) => None,
        }
    }

    fn address_of_family(self, flag: &str, v6: bool) -> Result<IpAddr, Failure> {
        self.address_in(v6).ok_or_else(|| {
            let family = if v6 { "IPv6" } else { "IPv4" };
            let error = match (self.address, self.endpoint) {
                (Some(address), _) => {
                    anyhow::anyhow!("{flag} {address} is no {family} address, as the other end is")
                }
                (None, endpoint) => {
                    let name = endpoint.map(full_name).unwrap_or_default();
                    anyhow::anyhow!("{flag} {name} has no {family} address")
                }
            };
            Failure::new(error, USAGE, ENDPOINTS)
        })
    }
}

/// Returns whether the packet is IPv6: as addresses that were given, as ICMPv6, or as asked; else as both ends can.
fn wants_v6(arguments: &Arguments, number: u8, from: Named<'_>, to: Named<'_>) -> bool {
    let given = arguments.source_address.or(from.address).or(to.address);
    if let Some(address) = given {
        return address.is_ipv6();
    }
    arguments.ipv6 || number == protocol::ICMPV6 || !(from.has_family(false) && to.has_family(false))
}

/// Refuses an endpoint whose tap is not there: every packet of it is dropped, and no program can be asked.
fn up<'a>(flag: &str, endpoint: &'a EndpointReport) -> Result<&'a EndpointReport, Failure> {
    if endpoint.state == "up" && endpoint.ifindex != 0 {
        return Ok(endpoint);
    }
    let error = anyhow::anyhow!(
        "{flag}: the endpoint {} is {}: {}",
        full_name(endpoint),
        endpoint.state,
        endpoint.reason
    );
    Err(Failure::new(
        error,
        1,
        "Nothing reaches it or leaves it until it is up: `calico-ebpf endpoints`.",
    ))
}

fn is_of_host(address: IpAddr, interfaces: &[InterfaceAddress]) -> bool {
    interfaces
        .iter()
        .filter_map(|interface| interface.address.as_ref())
        .any(|own| {
            let v4 = own.as_sockaddr_in().map(|own| IpAddr::from(own.ip()));
            let v6 = own.as_sockaddr_in6().map(|own| IpAddr::from(own.ip()));
            v4.or(v6) == Some(address)
        })
}

fn mac_of_interface(name: &str, interfaces: &[InterfaceAddress]) -> Option<[u8; 6]> {
    let mut found = interfaces
        .iter()
        .filter(|interface| interface.interface_name == name);
    found.find_map(|interface| interface.address.as_ref()?.as_link_addr()?.addr())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::AgentReport;

    fn policies() -> Policies {
        let endpoint = |name: &str, addresses: &[&str], state: &str| EndpointReport {
            namespace: "openstack".to_owned(),
            name: name.to_owned(),
            interface: format!("tap{name}"),
            ifindex: 7,
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
            state: state.to_owned(),
            reason: "there is no interface".to_owned(),
            ..EndpointReport::default()
        };
        Policies::of(AgentReport {
            endpoints: vec![
                endpoint("both", &["10.0.0.1/32", "fd00::1/128"], "up"),
                endpoint("six", &["fd00::2/128"], "up"),
                endpoint("gone", &["10.0.0.3/32"], "waiting"),
            ],
            ..AgentReport::default()
        })
    }

    fn ask(line: &str) -> Result<(IpAddr, IpAddr), Failure> {
        use clap::Parser as _;

        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            arguments: Arguments,
        }
        let words = ["explain", "-p", "tcp"]
            .into_iter()
            .chain(line.split_whitespace());
        let arguments = Line::try_parse_from(words).unwrap().arguments;
        let policies = policies();
        Ends::find(&arguments, 6, &policies).map(|ends| (ends.source, ends.destination))
    }

    fn complaint(line: &str) -> String {
        ask(line).unwrap_err().to_string()
    }

    #[test]
    fn ends_are_taps_names_and_addresses_of_one_family() {
        let pair = |line: &str| {
            let (source, destination) = ask(line).unwrap();
            format!("{source} {destination}")
        };
        assert_eq!(pair("--from tapboth --to 10.0.0.9"), "10.0.0.1 10.0.0.9");
        assert_eq!(pair("--from tapboth --to openstack/six"), "fd00::1 fd00::2");
        assert_eq!(pair("--from 2001:db8::9 --to both"), "2001:db8::9 fd00::1");
        assert_eq!(
            pair("--from both --to 10.0.0.9 --source-address 10.0.0.8"),
            "10.0.0.8 10.0.0.9"
        );
    }

    #[test]
    fn what_is_wrong_with_an_end_is_said() {
        assert!(complaint("--from tapnone --to 10.0.0.1").contains("--from tapnone: no endpoint"));
        assert!(complaint("--from 192.0.2.1 --to 192.0.2.2").contains("neither 192.0.2.1 nor 192.0.2.2"));
        assert!(complaint("--from six --to 10.0.0.1").contains("has no IPv4 address"));
        assert!(complaint("--from gone --to 10.0.0.1").contains("is waiting: there is no interface"));
        assert!(complaint("--from both --to 10.0.0.9 --source-mac xx").contains("no MAC address"));
    }
}
