//! Which address of the host answers for it when policy denies a packet.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::host_addresses::is_routable;
use crate::config::values::Config;

/// The host's address in ICMP errors about denied packets, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerSources {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl AnswerSources {
    /// Chooses: the preferred source of routes to workloads, from which the kernel's own errors come, else the host's lowest
    /// address that can be routed to.
    pub fn of(config: &Config, host_addresses: &BTreeSet<IpAddr>) -> Self {
        let mut lowest = Self::default();
        let usable = host_addresses
            .iter()
            .filter(|address| is_routable(address) && !address.is_loopback());
        // From the highest to the lowest.
        for address in usable.rev() {
            match address {
                IpAddr::V4(address) => lowest.v4 = Some(*address),
                IpAddr::V6(address) => lowest.v6 = Some(*address),
            }
        }
        Self {
            v4: config.device_route_source_address.or(lowest.v4),
            v6: config.device_route_source_address_ipv6.or(lowest.v6),
        }
    }

    /// Returns both as the programs have them: two numbers, high half first; 0 is none.
    pub fn halves(self) -> [[u64; 2]; 2] {
        let v4 = self.v4.map_or(0, |address| u64::from(address.to_bits()));
        let halves = self.v6.map_or([0; 16], |address| address.octets());
        let v6 = [0, 8].map(|at| {
            let bytes = halves[at..at + 8].try_into().unwrap_or_default();
            u64::from_be_bytes(bytes)
        });
        [[0, v4], v6]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_routable_address_answers_unless_routes_have_a_source() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let host = addresses(&[
            "127.0.0.1",
            "169.254.1.1",
            "192.0.2.7",
            "192.0.2.3",
            "::1",
            "fe80::1",
            "2001:db8::7",
            "2001:db8::3",
        ]);
        let mut config = Config::default();
        let sources = AnswerSources::of(&config, &host);
        assert_eq!(sources.v4, Some("192.0.2.3".parse().unwrap()));
        assert_eq!(sources.v6, Some("2001:db8::3".parse().unwrap()));
        config.device_route_source_address = Some("192.0.2.7".parse().unwrap());
        let sources = AnswerSources::of(&config, &host);
        assert_eq!(sources.v4, Some("192.0.2.7".parse().unwrap()));
        let none = AnswerSources::of(&Config::default(), &addresses(&["127.0.0.1", "fe80::1"]));
        assert_eq!(none, AnswerSources::default());
    }
}
