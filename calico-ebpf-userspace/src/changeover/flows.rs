//! Hands live connections over: from the kernel's connection tracking to our flows, and back.
//!
//! Without it only TCP would live on whose client happens to speak first: a server that speaks first would be judged as
//! if it opened the connection. What is handed over is still judged by policy with its next packet, in the direction in
//! which it was opened: its generations are those of no policy.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context;
use calico_ebpf_common::flow::{
    FLOW_ORIGIN_LOW, Flow, FlowKey4, FlowKey6, NAT_METADATA, NOT_TRANSLATED, STATE_ESTABLISHED,
    STATE_REPLIED, TRANSLATED,
};
use calico_ebpf_common::nat::{halves, tag_of};
use ipnet::IpNet;
use serde::Serialize;

use super::conntrack::{Connection, Conntrack, Tuple};
use crate::config::Config;
use crate::observe::clock::Clock;
use crate::observe::flows::FlowKey;
use crate::observe::pinned::PinnedMaps;
use crate::observe::translations::Translations;
use crate::report::AgentReport;

/// Where workloads find the metadata service (contract 3.5).
const METADATA: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254));
/// For this long the kernel keeps a connection of which it has seen nothing.
const KEPT_TCP: u32 = 24 * 3600;
const KEPT_UDP: u32 = 120;

/// Connections that were handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HandedOver {
    /// Those that were not known on the other side.
    pub flows: usize,
    /// Those for which there was no room, or which the kernel refused.
    pub failed: usize,
}

/// What was taken over from connection tracking.
#[derive(Clone, Debug, Default)]
pub struct TakenOver {
    pub handed: HandedOver,
    /// Connections that Felix translated: ours do it from now on.
    translated: Vec<Connection>,
}

/// Addresses of this host's endpoints.
struct Addresses {
    whole: BTreeSet<IpAddr>,
    prefixes: Vec<IpNet>,
    external: BTreeSet<IpAddr>,
}

impl Addresses {
    fn of(report: &AgentReport) -> Self {
        let nets = report.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let nets = nets.filter_map(|text| text.parse::<IpNet>().ok());
        let (whole, prefixes): (Vec<IpNet>, Vec<IpNet>) =
            nets.partition(|net| net.prefix_len() == net.max_prefix_len());
        let floating = report.endpoints.iter().flat_map(|endpoint| &endpoint.floating);
        Self {
            whole: whole.into_iter().map(|net| net.addr()).collect(),
            prefixes,
            external: floating.map(|nat| nat.external).collect(),
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.whole.contains(&address) || self.prefixes.iter().any(|net| net.contains(&address))
    }
}

/// Puts established connections of this host's endpoints into our tables, beside the flows that are there.
///
/// # Errors
/// When connection tracking or our tables cannot be read.
pub fn take_over(config: &Config, report: &AgentReport) -> anyhow::Result<TakenOver> {
    let connections = Conntrack::open().and_then(|mut conntrack| conntrack.read());
    let connections =
        connections.context("cannot read nf_conntrack (is the module nf_conntrack_netlink there?)")?;
    let clock = Clock::read().context("cannot read the kernel's clock in /proc/timer_list")?;
    let mut tables = PinnedMaps::under(&config.bpf_pin_dir).flow_tables()?;
    let addresses = Addresses::of(report);
    let mut taken = TakenOver::default();
    let handed = &mut taken.handed;
    for connection in connections.iter().filter(|connection| connection.established) {
        let Some((key, flow)) = flow_of(connection, &addresses, clock.jiffies) else {
            continue;
        };
        if key.is_translated() {
            // While both translate, ours has seen the answers as a flow of their own.
            drop(tables.remove(&plain(key)));
            taken.translated.push(*connection);
        }
        match tables.add(&key, flow) {
            Ok(added) => handed.flows += usize::from(added),
            Err(_) => handed.failed += 1,
        }
    }
    Ok(taken)
}

/// Ends the translations of what was taken over, once Felix's rules are gone: where something else keeps connection
/// tracking at work, it would go on to translate what ours translate. Returns what could not be ended.
pub fn end_translations(taken: &TakenOver) -> Option<String> {
    if taken.translated.is_empty() {
        return None;
    }
    let mut conntrack = match Conntrack::open() {
        Ok(conntrack) => conntrack,
        Err(error) => return Some(format!("nf_conntrack: {error}")),
    };
    let results = taken
        .translated
        .iter()
        .map(|connection| conntrack.forget(connection));
    let failed: Vec<String> = results
        .filter_map(|result| Some(result.err()?.to_string()))
        .collect();
    let first = failed.first()?;
    Some(format!(
        "{} translated connections in nf_conntrack: {first}",
        failed.len()
    ))
}

/// Returns the entry of a connection, if an end of it is one of this host's endpoints and the translation is one of ours.
fn flow_of(connection: &Connection, addresses: &Addresses, now: u64) -> Option<(FlowKey, Flow)> {
    let Connection {
        protocol,
        original,
        reply,
        ..
    } = connection;
    let (origin, responder) = (original.source, reply.source);
    // Nobody's source is translated but that of a workload that speaks to itself.
    if reply.destination != origin || !addresses.contains(origin.0) && !addresses.contains(responder.0) {
        return None;
    }
    let (translation, nat) = if responder == original.destination {
        (NOT_TRANSLATED, 0)
    } else if original.destination.0 == METADATA {
        (TRANSLATED, NAT_METADATA)
    } else if addresses.external.contains(&original.destination.0) && responder.1 == original.destination.1 {
        (TRANSLATED, tag_of(halves(original.destination.0)))
    } else {
        return None;
    };
    let (key, origin_is_low) = key_of(*protocol, translation, origin, responder)?;
    let flow = Flow {
        last_seen: now,
        created: now,
        flags: if origin_is_low { FLOW_ORIGIN_LOW } else { 0 },
        state: STATE_REPLIED | STATE_ESTABLISHED,
        nat,
        ..Flow::NONE
    };
    Some((key, flow))
}

fn key_of(
    protocol: u8,
    translation: u8,
    one: (IpAddr, u16),
    other: (IpAddr, u16),
) -> Option<(FlowKey, bool)> {
    let one_is_low = one <= other;
    let (low, high) = if one_is_low { (one, other) } else { (other, one) };
    let (low_port, high_port) = (low.1.to_be_bytes(), high.1.to_be_bytes());
    let reserved = [0; 2];
    let key = match (low.0, high.0) {
        (IpAddr::V4(low), IpAddr::V4(high)) => FlowKey::V4(FlowKey4 {
            low_address: low.octets(),
            high_address: high.octets(),
            low_port,
            high_port,
            protocol,
            translation,
            reserved,
        }),
        (IpAddr::V6(low), IpAddr::V6(high)) => FlowKey::V6(FlowKey6 {
            low_address: low.octets(),
            high_address: high.octets(),
            low_port,
            high_port,
            protocol,
            translation,
            reserved,
        }),
        _ => return None,
    };
    Some((key, one_is_low))
}

fn plain(mut key: FlowKey) -> FlowKey {
    match &mut key {
        FlowKey::V4(key) => key.translation = NOT_TRANSLATED,
        FlowKey::V6(key) => key.translation = NOT_TRANSLATED,
    }
    key
}

/// Tells the kernel's connection tracking of every flow of ours that is established.
///
/// # Errors
/// When our tables or connection tracking cannot be opened.
pub fn hand_back(config: &Config, report: &AgentReport) -> anyhow::Result<HandedOver> {
    let translations = Translations::of(report);
    let is_wanted = |key: &FlowKey, flow: &Flow| {
        let protocol = i32::from(key.protocol());
        (protocol == libc::IPPROTO_TCP || protocol == libc::IPPROTO_UDP)
            && flow.state & STATE_REPLIED != 0
            && !flow.is_closed()
    };
    let flows = PinnedMaps::under(&config.bpf_pin_dir).flows(usize::MAX, is_wanted)?;
    let mut conntrack = Conntrack::open().context("cannot open nf_conntrack")?;
    let mut handed = HandedOver::default();
    for (key, flow) in &flows {
        let [origin, responder] = key.sides(flow);
        if key.is_translated() && flow.moved_place().is_some() {
            // Two translations in one entry; told, because the connection will have to be opened again.
            handed.failed += 1;
            continue;
        }
        let opened_to = if key.is_translated() {
            let Some(external) = translations.opened_to(flow, responder) else {
                continue;
            };
            external
        } else {
            responder
        };
        let connection = Connection {
            protocol: key.protocol(),
            original: Tuple {
                source: origin,
                destination: opened_to,
            },
            reply: Tuple {
                source: responder,
                destination: origin,
            },
            established: true,
        };
        let kept = if i32::from(key.protocol()) == libc::IPPROTO_TCP {
            KEPT_TCP
        } else {
            KEPT_UDP
        };
        match conntrack.keep(&connection, kept) {
            Ok(()) => handed.flows += 1,
            Err(error) => {
                tracing::debug!(?connection, %error, "not handed back");
                handed.failed += 1;
            }
        }
    }
    Ok(handed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{EndpointReport, FloatingReport};

    fn addresses() -> Addresses {
        Addresses::of(&AgentReport {
            endpoints: vec![EndpointReport {
                addresses: vec!["10.65.0.2/32".to_owned(), "10.99.0.0/28".to_owned()],
                floating: vec![FloatingReport {
                    external: "203.0.113.7".parse().unwrap(),
                    internal: "10.65.0.2".parse().unwrap(),
                }],
                ..EndpointReport::default()
            }],
            ..AgentReport::default()
        })
    }

    fn connection(source: (&str, u16), destination: (&str, u16), answers: (&str, u16)) -> Connection {
        let side = |(address, port): (&str, u16)| (address.parse().unwrap(), port);
        Connection {
            protocol: 6,
            original: Tuple {
                source: side(source),
                destination: side(destination),
            },
            reply: Tuple {
                source: side(answers),
                destination: side(source),
            },
            established: true,
        }
    }

    #[test]
    fn a_connection_of_an_endpoint_becomes_a_flow_that_was_opened_by_the_same_side() {
        let outside = ("192.0.2.9", 40000);
        for (from, to, low) in [
            (outside, ("10.65.0.2", 80), false),
            (("10.65.0.2", 50000), outside, true),
            (("10.99.0.3", 1), outside, true),
        ] {
            let (key, flow) = flow_of(&connection(from, to, to), &addresses(), 9).unwrap();
            assert_eq!(flow.flags == FLOW_ORIGIN_LOW, low, "{from:?}");
            assert_eq!(key.sides(&flow)[0].1, from.1);
            assert_eq!(
                (flow.generation, flow.nat, key.is_translated()),
                ([0; 2], 0, false)
            );
        }
    }

    #[test]
    fn connections_of_others_and_translations_that_are_not_ours_are_left() {
        let outside = ("192.0.2.9", 40000);
        let others = connection(outside, ("192.0.2.1", 22), ("192.0.2.1", 22));
        let forwarded = connection(outside, ("192.0.2.1", 8080), ("10.65.0.2", 80));
        for connection in [others, forwarded] {
            assert_eq!(flow_of(&connection, &addresses(), 9), None);
        }
    }

    #[test]
    fn a_floating_address_and_the_metadata_service_become_translated_flows() {
        let floating = connection(("192.0.2.9", 40000), ("203.0.113.7", 80), ("10.65.0.2", 80));
        let (key, flow) = flow_of(&floating, &addresses(), 9).unwrap();
        assert!(key.is_translated());
        assert_eq!(flow.nat, tag_of(halves("203.0.113.7".parse().unwrap())));
        let metadata = connection(("10.65.0.2", 40000), ("169.254.169.254", 80), ("127.0.0.1", 8775));
        let (key, flow) = flow_of(&metadata, &addresses(), 9).unwrap();
        assert_eq!((key.is_translated(), flow.nat), (true, NAT_METADATA));
    }
}
