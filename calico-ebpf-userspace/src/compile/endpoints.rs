//! Endpoint, source and interface lines.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use calico_ebpf_common::endpoint::{
    Endpoint, FLAG_ANY_SOURCE, InterfaceBucket, MAX_ENDPOINTS, MAX_SOURCE_LINES, SLOT_HOST, SLOT_NONE,
    SOURCE_ANY_MAC, SOURCE_VALID, Slot, Source4, Source6, Sources4, Sources6,
};
use calico_ebpf_common::line::Line;
use ipnet::IpNet;

use super::exact::words;
use super::input::{HostInterface, TableInput};
use super::nats::WrittenNats;
use super::writer::{LineWriter, line_of};
use crate::calc::effective::EffectiveEndpoint;
use crate::model::name::ResourceKey;

/// Interface buckets beyond which endpoints are left out instead.
const MAX_INTERFACE_BUCKETS: u32 = 1 << 16;

/// An endpoint with its place.
pub(super) struct Placed<'a> {
    pub(super) key: &'a ResourceKey,
    pub(super) endpoint: &'a EffectiveEndpoint,
    pub(super) slot: Slot,
    pub(super) generation: u32,
    pub(super) born: u32,
    /// 0 while the endpoint gets no packets.
    pub(super) ifindex: u32,
    interface: Option<HostInterface>,
}

/// What is wrong with endpoints, and what it means.
pub(super) type EndpointProblems = Vec<(ResourceKey, String)>;

/// Returns the endpoints that have a slot, in order of their keys.
pub(super) fn place_endpoints<'a>(
    input: &TableInput<'a>,
    problems: &mut EndpointProblems,
) -> Vec<Placed<'a>> {
    let mut placed: Vec<Placed<'a>> = Vec::new();
    let mut by_slot: HashMap<Slot, &ResourceKey> = HashMap::new();
    let mut by_interface: HashMap<u32, &ResourceKey> = HashMap::new();
    for (key, endpoint) in &input.state.endpoints {
        let mut problem = |text: String| problems.push((key.clone(), text));
        let slot = input.slots.get(key).copied().unwrap_or(SLOT_NONE);
        let generation = input.generations.get(key).copied().unwrap_or(0);
        // Unknown, only flows of now are its own.
        let born = input.born.get(key).copied().unwrap_or(generation);
        if slot == SLOT_NONE || u32::from(slot) > MAX_ENDPOINTS || generation == 0 {
            problem("has no place in the endpoint table: gets no packets".to_owned());
            continue;
        }
        if let Some(other) = by_slot.insert(slot, key) {
            problem(format!("has the slot of {other}: gets no packets"));
            by_slot.insert(slot, other);
            continue;
        }
        if endpoint.mac.is_none_or(|mac| mac.0 == [0; 6]) {
            problem("has no MAC address: its packets are dropped".to_owned());
        }
        let interface = input.host.interfaces.get(&endpoint.interface_name).copied();
        let mut ifindex = interface.map_or(0, |interface| interface.ifindex);
        if ifindex != 0
            && let Some(other) = by_interface.insert(ifindex, key)
        {
            problem(format!("has the interface number of {other}: gets no packets"));
            by_interface.insert(ifindex, other);
            ifindex = 0;
        }
        placed.push(Placed {
            key,
            endpoint,
            slot,
            generation,
            born,
            ifindex,
            interface,
        });
    }
    placed
}

/// Returns who owns each address that belongs to this host: the host itself, else the endpoint on the newest tap.
/// An endpoint whose workload is expected owns none.
pub(super) fn address_owners(input: &TableInput<'_>, placed: &[Placed<'_>]) -> BTreeMap<IpAddr, Slot> {
    let mut newest: BTreeMap<IpAddr, (u32, Slot)> = BTreeMap::new();
    for place in placed
        .iter()
        .filter(|place| !input.host.expected.contains(place.key))
    {
        let whole = place
            .endpoint
            .ip_networks
            .iter()
            .filter(|net| net.prefix_len() == net.max_prefix_len());
        for net in whole {
            let owner = newest.entry(net.addr()).or_insert((place.ifindex, place.slot));
            if place.ifindex > owner.0 {
                *owner = (place.ifindex, place.slot);
            }
        }
    }
    let mut owners: BTreeMap<IpAddr, Slot> = newest
        .into_iter()
        .map(|(address, (_, slot))| (address, slot))
        .collect();
    owners.extend(
        input
            .host
            .host_addresses
            .iter()
            .map(|address| (*address, SLOT_HOST)),
    );
    owners
}

/// Writes the endpoint table; `sets` gives the egress and ingress [`calico_ebpf_common::policy::PolicySet`] line of
/// each endpoint. Returns its first line and its number of lines.
pub(super) fn write_endpoints(
    writer: &mut LineWriter,
    placed: &[Placed<'_>],
    sets: &[[u32; 2]],
    nats: &WrittenNats,
    problems: &mut EndpointProblems,
) -> (u32, u32) {
    let count = placed
        .iter()
        .map(|place| u32::from(place.slot))
        .max()
        .map_or(1, |highest| highest + 1);
    let mut table = vec![Endpoint::default(); count as usize];
    for (place, [egress_set, ingress_set]) in placed.iter().zip(sets) {
        let sources = Sources::of(place.endpoint);
        if sources.left_out > 0 {
            let text = format!(
                "has {} allowed source addresses too many: these are dropped",
                sources.left_out
            );
            problems.push((place.key.clone(), text));
        }
        let (first_nat, nat_count) = nats.lines_of(place.slot);
        table[usize::from(place.slot)] = Endpoint {
            ifindex: place.ifindex,
            generation: place.generation,
            born: place.born,
            mac: place.endpoint.mac.map_or([0; 6], |mac| mac.0),
            flags: if sources.is_any { FLAG_ANY_SOURCE } else { 0 },
            host_mac: place.interface.map_or([0; 6], |interface| interface.mac.0),
            mtu: place
                .interface
                .map_or(0, |interface| u16::try_from(interface.mtu).unwrap_or(u16::MAX)),
            egress_set: *egress_set,
            ingress_set: *ingress_set,
            sources4: if sources.v4.is_empty() {
                0
            } else {
                writer.push(&sources.v4)
            },
            sources4_lines: line_count(&sources.v4),
            sources6: if sources.v6.is_empty() {
                0
            } else {
                writer.push(&sources.v6)
            },
            sources6_lines: line_count(&sources.v6),
            loose_until: place.interface.map_or(0, |interface| interface.loose_until),
            nats: first_nat,
            nat_count,
        };
    }
    let lines: Vec<Line> = table.iter().map(line_of).collect();
    (writer.push(&lines), count)
}

fn line_count(lines: &[Line]) -> u16 {
    u16::try_from(lines.len()).unwrap_or(u16::MAX)
}

/// The sources that an endpoint may use.
struct Sources {
    v4: Vec<Line>,
    v6: Vec<Line>,
    /// Neither family is checked.
    is_any: bool,
    /// Entries beyond [`MAX_SOURCE_LINES`].
    left_out: usize,
}

impl Sources {
    /// Fixed addresses and floating ones first, with the endpoint's MAC; then those that any MAC may use.
    fn of(endpoint: &EffectiveEndpoint) -> Self {
        let pairs: Vec<IpNet> = endpoint.allowed_ips.iter().map(IpNet::trunc).collect();
        let networks: Vec<IpNet> = endpoint.ip_networks.iter().map(IpNet::trunc).collect();
        // An address listed twice is a fixed one that is a pair, too.
        let is_pair =
            |net: &&IpNet| pairs.contains(net) && networks.iter().filter(|other| other == net).count() == 1;
        let fixed = networks.iter().filter(|net| !is_pair(net)).copied();
        let floating = endpoint.ip_nats.iter().map(|nat| IpNet::from(nat.external));
        let spoofed = endpoint.allow_spoofed_source_prefixes.iter().map(IpNet::trunc);
        let any_mac = networks.iter().filter(is_pair).copied().chain(spoofed);
        let entries: Vec<(IpNet, u32)> = fixed
            .chain(floating)
            .map(|net| (net, SOURCE_VALID))
            .chain(any_mac.map(|net| (net, SOURCE_VALID | SOURCE_ANY_MAC)))
            .collect();

        let mut v4: Vec<Source4> = Vec::new();
        let mut v6: Vec<Source6> = Vec::new();
        for (net, flags) in entries {
            match net {
                IpNet::V4(net) => {
                    let (prefix, mask) = (net.addr().to_bits(), net.netmask().to_bits());
                    v4.push(Source4 { prefix, mask, flags });
                }
                IpNet::V6(net) => {
                    let prefix = words(net.addr().to_bits());
                    v6.push(Source6 {
                        prefix,
                        prefix_length: u32::from(net.prefix_len()),
                        flags,
                    });
                }
            }
        }
        let most = MAX_SOURCE_LINES as usize;
        let left_out = v4.len().saturating_sub(most * 5) + v6.len().saturating_sub(most * 2);
        v4.truncate(most * 5);
        v6.truncate(most * 2);
        let is_all = |net: &IpNet| net.prefix_len() == 0;
        let spoofed = &endpoint.allow_spoofed_source_prefixes;
        let is_any = spoofed.iter().any(|net| is_all(net) && net.addr().is_ipv4())
            && spoofed.iter().any(|net| is_all(net) && net.addr().is_ipv6());
        Self {
            v4: lines4(&v4),
            v6: lines6(&v6),
            is_any,
            left_out,
        }
    }
}

fn lines4(entries: &[Source4]) -> Vec<Line> {
    let line = |chunk: &[Source4]| {
        let mut line = Sources4::default();
        line.entries[..chunk.len()].copy_from_slice(chunk);
        line_of(&line)
    };
    entries.chunks(5).map(line).collect()
}

fn lines6(entries: &[Source6]) -> Vec<Line> {
    let line = |chunk: &[Source6]| {
        let mut line = Sources6::default();
        line.entries[..chunk.len()].copy_from_slice(chunk);
        line_of(&line)
    };
    entries.chunks(2).map(line).collect()
}

/// Writes the interface table; returns its first line and its mask.
pub(super) fn write_interfaces(
    writer: &mut LineWriter,
    placed: &[Placed<'_>],
    problems: &mut EndpointProblems,
) -> (u32, u32) {
    let attached: Vec<&Placed<'_>> = placed.iter().filter(|place| place.ifindex != 0).collect();
    let mut count = u32::try_from(attached.len().div_ceil(4))
        .unwrap_or(1)
        .next_power_of_two();
    loop {
        let mut buckets = vec![Vec::new(); count as usize];
        for place in &attached {
            buckets[(place.ifindex & (count - 1)) as usize].push(*place);
        }
        if count < MAX_INTERFACE_BUCKETS && buckets.iter().any(|bucket| bucket.len() > 8) {
            count *= 2;
            continue;
        }
        let lines: Vec<Line> = buckets
            .iter()
            .map(|bucket| interface_line(bucket, problems))
            .collect();
        return (writer.push(&lines), count - 1);
    }
}

fn interface_line(bucket: &[&Placed<'_>], problems: &mut EndpointProblems) -> Line {
    let mut line = InterfaceBucket::default();
    for (pair, place) in line.pairs.iter_mut().zip(bucket) {
        *pair = [place.ifindex, u32::from(place.slot)];
    }
    for place in bucket.iter().skip(line.pairs.len()) {
        problems.push((
            place.key.clone(),
            "has no place in the interface table: its packets are dropped".to_owned(),
        ));
    }
    line_of(&line)
}
