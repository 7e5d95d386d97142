//! Random policies and packets for tests: small, dense in corner cases, equal for an equal seed.

mod changes;
pub use changes::MOST_ENDPOINTS;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::input::{HostFacts, HostInterface, Limits, TableInput};
use crate::calc::effective::{
    DirectionPolicy, EffectiveEndpoint, EffectiveEntity, EffectivePolicy, EffectivePolicyRules,
    EffectivePort, EffectiveProfile, EffectiveRule, EffectiveState, EffectiveTier, PacketFacts, SetId,
};
use crate::model::name::{Kind, ResourceKey};
use crate::model::resource::MacAddress;
use crate::model::rule::{Action, IcmpMatch, IpVersion, Protocol};

/// A source of random numbers (`SplitMix64`), equal for an equal seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % bound
    }

    /// Returns true in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Returns one of the items, of which there is at least one.
    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// Returns what `make` makes in `percent` of 100 cases.
    pub fn some<T>(&mut self, percent: usize, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance(percent) {
            Some(make(self))
        } else {
            None
        }
    }

    /// Returns at most `most` things.
    pub fn list<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.below(most + 1);
        (0..count).map(|_| make(self)).collect()
    }
}

/// Protocols of packets and rules: all with tables, and some without.
pub const PROTOCOLS: [u8; 12] = [1, 6, 6, 17, 17, 33, 47, 58, 112, 132, 136, 255];
/// Ports of packets and borders of ranges.
pub const PORTS: [u16; 11] = [0, 1, 79, 80, 81, 443, 1023, 1024, 8080, 65534, 65535];
/// ICMP types.
pub const ICMP_TYPES: [u8; 6] = [0, 3, 8, 128, 129, 255];
/// ICMP codes.
pub const ICMP_CODES: [u8; 4] = [0, 1, 4, 255];

/// Prefixes in rules and sets.
pub const NETS: [&str; 22] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.2/31",
    "10.0.0.4/30",
    "10.0.0.1/32",
    "10.0.0.3/32",
    "192.0.2.0/24",
    "192.0.2.1/32",
    "255.255.255.254/31",
    "255.255.255.255/32",
    "0.0.0.0/32",
    "::/0",
    "::/1",
    "8000::/1",
    "fd00::/8",
    "fd00::2/127",
    "fd00::1/128",
    "2001:db8::/64",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127",
];

/// A host with endpoints and policies.
#[derive(Clone, Debug)]
pub struct Case {
    pub state: EffectiveState,
    pub host: HostFacts,
    pub generations: BTreeMap<ResourceKey, u32>,
    pub slots: BTreeMap<ResourceKey, u16>,
    /// Addresses next to every border of the case.
    pub addresses: Vec<IpAddr>,
}

impl Case {
    /// Returns the input of the table builder, without a limit in size.
    pub fn input(&self, base_line: u32) -> TableInput<'_> {
        TableInput {
            state: &self.state,
            host: &self.host,
            generations: &self.generations,
            born: &self.generations,
            slots: &self.slots,
            epoch: 1,
            base_line,
            max_lines: u32::MAX,
            limits: Limits::default(),
        }
    }

    /// Makes a packet. An end that is given sends or gets it under one of its addresses; the other is anything.
    /// Returns `None` if an end has no address of the other's family.
    pub fn packet(
        &self,
        random: &mut Random,
        source: Option<&ResourceKey>,
        target: Option<&ResourceKey>,
    ) -> Option<PacketFacts> {
        let is_v4 = random.chance(60);
        let mut end = |key: Option<&ResourceKey>| {
            let addresses: Vec<IpAddr> = match key {
                Some(key) => self
                    .state
                    .endpoints
                    .get(key)?
                    .ip_networks
                    .iter()
                    .map(IpNet::addr)
                    .collect(),
                None => self.addresses.clone(),
            };
            let addresses: Vec<IpAddr> = addresses
                .into_iter()
                .filter(|address| address.is_ipv4() == is_v4)
                .collect();
            if addresses.is_empty() {
                None
            } else {
                Some(random.pick(&addresses))
            }
        };
        let (source, destination) = (end(source)?, end(target)?);
        let protocol = match random.below(4) {
            0 if is_v4 => 1,
            0 => 58,
            _ => random.pick(&PROTOCOLS),
        };
        let has_ports = matches!(protocol, 6 | 17 | 33 | 132 | 136);
        let is_icmp = matches!(protocol, 1 | 58);
        let mut port = || if has_ports { random.pick(&PORTS) } else { 0 };
        let (source_port, destination_port) = (port(), port());
        let icmp = is_icmp.then(|| (random.pick(&ICMP_TYPES), random.pick(&ICMP_CODES)));
        Some(PacketFacts {
            source,
            destination,
            protocol,
            source_port,
            destination_port,
            icmp,
        })
    }

    /// Adds endpoint `number`, its tap included.
    fn add_endpoint(&mut self, random: &mut Random, number: u16, policy: Arc<EffectivePolicy>) {
        let key = endpoint_key(number);
        let [_, low] = number.to_be_bytes();
        let endpoint = EffectiveEndpoint {
            interface_name: format!("tap{number}"),
            mac: Some(MacAddress([0xfa, 0x16, 0x3e, 0, 0, low])),
            ip_networks: endpoint_networks(random, number),
            allowed_ips: Vec::new(),
            allow_spoofed_source_prefixes: Vec::new(),
            ip_nats: Vec::new(),
            policy,
            labels: Arc::default(),
        };
        self.host
            .interfaces
            .insert(endpoint.interface_name.clone(), host_interface(number));
        self.generations.insert(key.clone(), u32::from(number));
        self.slots.insert(key.clone(), number);
        self.state.endpoints.insert(key, Arc::new(endpoint));
    }

    /// Returns one of the endpoints.
    pub fn endpoint(&self, random: &mut Random) -> Option<&ResourceKey> {
        let count = self.state.endpoints.len();
        if count == 0 {
            None
        } else {
            self.state.endpoints.keys().nth(random.below(count))
        }
    }
}

/// Makes a host with one to four endpoints.
pub fn case(random: &mut Random) -> Case {
    let sets: Vec<SetId> = ["a", "b", "c", "d"]
        .iter()
        .map(|name| SetId(Arc::from(*name)))
        .collect();
    let mut state = EffectiveState::default();
    for set in &sets {
        let members = random.list(5, net).into_iter().collect();
        state.sets.insert(set.clone(), members);
    }
    let pool = Pool::new(random, &sets);
    let policies: Vec<Arc<EffectivePolicy>> = (0..=random.below(2))
        .map(|_| Arc::new(pool.policy(random)))
        .collect();
    let mut case = Case {
        state,
        host: HostFacts::default(),
        generations: BTreeMap::new(),
        slots: BTreeMap::new(),
        addresses: Vec::new(),
    };
    for number in 1..=u16::try_from(random.below(4)).unwrap_or(0) + 1 {
        let policy = random.pick(&policies);
        case.add_endpoint(random, number, policy);
    }
    case.host.host_addresses.extend([
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(Ipv6Addr::from_bits(1)),
    ]);
    case.addresses = border_addresses(&case.state);
    case
}

fn endpoint_key(number: u16) -> ResourceKey {
    ResourceKey {
        kind: Kind::WorkloadEndpoint,
        namespace: "openstack".to_owned(),
        name: format!("vm{number}"),
    }
}

/// Returns the tap of endpoint `number`.
pub fn host_interface(number: u16) -> HostInterface {
    let [_, low] = number.to_be_bytes();
    HostInterface {
        ifindex: 100 + u32::from(number),
        mac: MacAddress([0xfe, 0x16, 0x3e, 0, 0, low]),
        mtu: 1500,
        loose_until: 0,
    }
}

/// `10.0.0.n` and `fd00::n`, and sometimes one more.
pub fn endpoint_networks(random: &mut Random, number: u16) -> Vec<IpNet> {
    let [_, low] = number.to_be_bytes();
    let v4 = |low| IpNet::from(IpAddr::V4(Ipv4Addr::new(10, 0, 0, low)));
    let v6 = |low| IpNet::from(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, low)));
    let mut networks = vec![v4(low), v6(number)];
    networks.extend(random.some(30, |_| v4(low + 16)));
    networks.extend(random.some(30, |_| v6(number + 16)));
    networks
}

/// Returns one of [`NETS`].
pub fn net(random: &mut Random) -> IpNet {
    random.pick(&NETS).parse().unwrap_or_default()
}

/// Returns first and last address of every net in use, and their neighbours.
pub fn border_addresses(state: &EffectiveState) -> Vec<IpAddr> {
    let nets = NETS.iter().filter_map(|text| text.parse().ok());
    let own = state
        .endpoints
        .values()
        .flat_map(|endpoint| endpoint.ip_networks.iter().copied());
    let members = state.sets.values().flat_map(|members| members.iter().copied());
    let mut addresses = BTreeSet::new();
    for net in nets.chain(own).chain(members) {
        match net {
            IpNet::V4(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                let near = [
                    first.wrapping_sub(1),
                    first,
                    first.wrapping_add(1),
                    last.wrapping_sub(1),
                    last,
                    last.wrapping_add(1),
                ];
                addresses.extend(near.map(|bits| IpAddr::V4(bits.into())));
            }
            IpNet::V6(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                let near = [
                    first.wrapping_sub(1),
                    first,
                    first.wrapping_add(1),
                    last.wrapping_sub(1),
                    last,
                    last.wrapping_add(1),
                ];
                addresses.extend(near.map(|bits| IpAddr::V6(bits.into())));
            }
        }
    }
    addresses.into_iter().collect()
}

/// Policies by tier, and profiles, from which lists are put together. A rule is the same wherever it occurs.
struct Pool {
    tiers: Vec<(Arc<str>, bool, Vec<[EffectivePolicyRules; 2]>)>,
    profiles: Vec<[EffectiveProfile; 2]>,
}

impl Pool {
    fn new(random: &mut Random, sets: &[SetId]) -> Self {
        let tiers = ["first", "second", "default"].map(|tier| {
            let policies = (0..=random.below(2)).map(|number| {
                let name = format!("{tier}.{number}");
                let key = ResourceKey {
                    kind: Kind::GlobalNetworkPolicy,
                    namespace: String::new(),
                    name,
                };
                [0, 1].map(|_| EffectivePolicyRules {
                    key: key.clone(),
                    rules: rules(random, sets),
                })
            });
            let policies = policies.collect();
            (Arc::from(tier), random.chance(60), policies)
        });
        let profiles = ["one", "two"].map(|name| {
            let is_missing = random.chance(20);
            [0, 1].map(|_| EffectiveProfile {
                name: Arc::from(name),
                rules: if is_missing {
                    None
                } else {
                    Some(rules(random, sets))
                },
            })
        });
        Self {
            tiers: tiers.into(),
            profiles: profiles.into(),
        }
    }

    fn policy(&self, random: &mut Random) -> EffectivePolicy {
        EffectivePolicy {
            egress: self.direction(random, 0),
            ingress: self.direction(random, 1),
        }
    }

    fn direction(&self, random: &mut Random, side: usize) -> DirectionPolicy {
        let mut direction = DirectionPolicy::default();
        for (name, default_pass, policies) in &self.tiers {
            let chosen: Vec<_> = policies
                .iter()
                .filter(|_| random.chance(50))
                .map(|policy| policy[side].clone())
                .collect();
            if !chosen.is_empty() {
                let tier = EffectiveTier {
                    name: Arc::clone(name),
                    policies: chosen,
                    default_pass: *default_pass,
                };
                direction.tiers.push(tier);
            }
        }
        direction.profiles = self
            .profiles
            .iter()
            .filter(|_| random.chance(50))
            .map(|profile| profile[side].clone())
            .collect();
        direction
    }
}

fn rules(random: &mut Random, sets: &[SetId]) -> Vec<EffectiveRule> {
    let count = u32::try_from(random.below(9)).unwrap_or(0);
    // A skipped rule leaves a gap.
    (0..count).map(|index| rule(random, sets, index * 2)).collect()
}

fn rule(random: &mut Random, sets: &[SetId], index: u32) -> EffectiveRule {
    let actions = [
        Action::Allow,
        Action::Allow,
        Action::Allow,
        Action::Deny,
        Action::Deny,
        Action::Log,
        Action::Pass,
    ];
    let icmp = |random: &mut Random| IcmpMatch {
        kind: random.pick(&ICMP_TYPES),
        code: random.some(50, |random| random.pick(&ICMP_CODES)),
    };
    let is_about_icmp = random.chance(20);
    EffectiveRule {
        action: random.pick(&actions),
        ip_version: random.some(25, |random| random.pick(&[IpVersion::V4, IpVersion::V6])),
        protocol: random.some(30, |random| Protocol(random.pick(&PROTOCOLS))),
        not_protocol: random.some(10, |random| Protocol(random.pick(&PROTOCOLS))),
        icmp: if is_about_icmp {
            random.some(60, icmp)
        } else {
            None
        },
        not_icmp: if is_about_icmp {
            random.some(50, icmp)
        } else {
            None
        },
        source: entity(random, sets, 10),
        destination: entity(random, sets, 30),
        index,
    }
}

fn entity(random: &mut Random, sets: &[SetId], ports_percent: usize) -> EffectiveEntity {
    EffectiveEntity {
        nets: random.some(20, |random| random.list(4, net)),
        not_nets: if random.chance(15) {
            random.list(2, net)
        } else {
            Vec::new()
        },
        sets: if random.chance(25) {
            random.list(2, |random| random.pick(sets))
        } else {
            Vec::new()
        },
        not_sets: if random.chance(15) {
            random.list(2, |random| random.pick(sets))
        } else {
            Vec::new()
        },
        ports: random.some(ports_percent, |random| {
            random.list(4, |random| port(random, sets))
        }),
        not_ports: if random.chance(ports_percent / 2) {
            random.list(2, |random| port(random, sets))
        } else {
            Vec::new()
        },
    }
}

fn port(random: &mut Random, sets: &[SetId]) -> EffectivePort {
    if random.chance(40) {
        let protocol = Protocol(random.pick(&PROTOCOLS));
        return EffectivePort::Member {
            set: random.pick(sets),
            protocol,
            port: random.pick(&PORTS),
        };
    }
    let (first, last) = (random.pick(&PORTS), random.pick(&PORTS));
    EffectivePort::Range(first.min(last), first.max(last))
}
