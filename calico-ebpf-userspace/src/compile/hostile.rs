//! Policies that are written to break a compiler, for tests: equal for an equal seed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::generate::{Case, Random};
use super::input::{HostFacts, HostInterface};
use crate::calc::effective::{
    DirectionPolicy, EffectiveEndpoint, EffectiveEntity, EffectivePolicy, EffectivePolicyRules,
    EffectivePort, EffectiveRule, EffectiveState, EffectiveTier, PacketFacts, SetId, SetMembers,
};
use crate::model::name::{Kind, ResourceKey};
use crate::model::resource::MacAddress;
use crate::model::rule::{Action, Protocol};

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// 20 sets with random members; every rule asks for another combination.
    Memberships,
    /// Every port of TCP, UDP and SCTP is told from every other.
    PortBoundaries,
    /// 1,000 prefixes, in each other and apart, in each of a few rules.
    Prefixes,
    /// Not in these sets, not in those nets, each of which cuts the other.
    Negations,
    /// 10,000 rules that only log.
    Logs,
    /// 1,000 tiers that pass.
    Passes,
}

impl Attack {
    /// Every attack.
    pub const ALL: [Self; 6] = [
        Self::Memberships,
        Self::PortBoundaries,
        Self::Prefixes,
        Self::Negations,
        Self::Logs,
        Self::Passes,
    ];
}

/// Name of the interface under attack, and of its neighbour, whose policy is a plain one.
pub const HOSTILE_TAP: &str = "tap1";
pub const PLAIN_TAP: &str = "tap2";

/// Addresses that the plain policy knows.
const FRIENDS: usize = 200;

/// Makes a host with two endpoints: slot 1 has the hostile policy, slot 2 a plain one. `members` is how many addresses the
/// sets are drawn from.
pub fn hostile(attack: Attack, random: &mut Random, members: usize) -> Case {
    let mut sets: BTreeMap<SetId, SetMembers> = BTreeMap::new();
    let tiers = match attack {
        Attack::Memberships => one_tier(memberships(random, members, &mut sets)),
        Attack::PortBoundaries => one_tier(port_boundaries()),
        Attack::Prefixes => one_tier(prefixes(random)),
        Attack::Negations => one_tier(negations(random, members, &mut sets)),
        Attack::Logs => one_tier(logs(random)),
        Attack::Passes => passes(random),
    };
    let friends = SetId(Arc::from("friends"));
    let friendly = (0..FRIENDS).map(|number| IpNet::from(address(number * 7)));
    sets.insert(friends.clone(), friendly.collect());
    let plain = EffectiveRule {
        protocol: Some(Protocol(6)),
        destination: EffectiveEntity {
            ports: Some(vec![EffectivePort::Range(80, 81)]),
            ..EffectiveEntity::default()
        },
        source: EffectiveEntity {
            sets: vec![friends.clone()],
            ..EffectiveEntity::default()
        },
        ..rule(0, Action::Allow)
    };
    let mirrored = EffectiveRule {
        source: EffectiveEntity::default(),
        destination: EffectiveEntity {
            sets: vec![friends],
            ..plain.destination.clone()
        },
        ..plain.clone()
    };
    let plain = EffectivePolicy {
        egress: direction(one_tier(vec![mirrored])),
        ingress: direction(one_tier(vec![plain])),
    };
    let egress = mirror(&tiers);
    let hostile = EffectivePolicy {
        egress: direction(egress),
        ingress: direction(tiers),
    };
    host(sets, [hostile, plain])
}

/// Makes a packet between an endpoint (1 or 2) and an address that the policy may know. It is one that the programs ask
/// policy about: TCP, UDP or SCTP.
pub fn packet(random: &mut Random, endpoint: u16, outgoing: bool, members: usize) -> PacketFacts {
    let (own, other) = if random.chance(70) {
        let other = if random.chance(30) {
            address(random.below(FRIENDS) * 7)
        } else if random.chance(70) {
            address(random.below(members))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(
                0x0b00_0000 + u32::try_from(random.below(1 << 26)).unwrap_or(0),
            ))
        };
        (
            IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + u32::from(endpoint))),
            other,
        )
    } else {
        let low = u128::try_from(random.below(70_000)).unwrap_or(0);
        let other = Ipv6Addr::from_bits(0x2001_0db8 << 96 | low);
        (
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, endpoint)),
            IpAddr::V6(other),
        )
    };
    let any_port = u16::try_from(random.below(1 << 16)).unwrap_or(0);
    let destination_port = random.pick(&[any_port, any_port, 80, 80, 81, 443]);
    let (source, destination) = if outgoing { (own, other) } else { (other, own) };
    PacketFacts {
        source,
        destination,
        protocol: random.pick(&[6, 6, 6, 17, 132]),
        source_port: u16::try_from(random.below(1 << 16)).unwrap_or(0),
        destination_port,
        icmp: None,
    }
}

/// The addresses that sets are drawn from: 172.16.0.0 and on, every second one.
fn address(number: usize) -> IpAddr {
    let number = u32::try_from(number).unwrap_or(0);
    IpAddr::V4(Ipv4Addr::from_bits(0xac10_0000 + number * 2))
}

fn rule(index: usize, action: Action) -> EffectiveRule {
    EffectiveRule {
        action,
        ip_version: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: EffectiveEntity::default(),
        destination: EffectiveEntity::default(),
        index: u32::try_from(index).unwrap_or(0),
    }
}

fn decision(random: &mut Random) -> Action {
    random.pick(&[Action::Allow, Action::Allow, Action::Deny, Action::Log])
}

fn random_sets(
    random: &mut Random,
    count: usize,
    members: usize,
    sets: &mut BTreeMap<SetId, SetMembers>,
) -> Vec<SetId> {
    let ids: Vec<SetId> = (0..count)
        .map(|number| SetId(Arc::from(format!("set {number}"))))
        .collect();
    for id in &ids {
        let chosen = (0..members)
            .filter(|_| random.chance(50))
            .map(|number| IpNet::from(address(number)));
        sets.insert(id.clone(), chosen.collect());
    }
    ids
}

fn memberships(
    random: &mut Random,
    members: usize,
    sets: &mut BTreeMap<SetId, SetMembers>,
) -> Vec<EffectiveRule> {
    let ids = random_sets(random, 20, members, sets);
    let rules = (0..150).map(|index| {
        let mut pick = |count: usize| (0..count).map(|_| random.pick(&ids)).collect::<Vec<_>>();
        let source = EffectiveEntity {
            sets: pick(3),
            not_sets: pick(2),
            ..EffectiveEntity::default()
        };
        EffectiveRule {
            source,
            ..rule(index, decision(random))
        }
    });
    rules.collect()
}

/// A rule for each bit of the port's number: it holds where that is set.
fn port_boundaries() -> Vec<EffectiveRule> {
    let mut rules = Vec::new();
    for (protocol, allowed) in [(6, 5), (17, 3), (132, 11)] {
        for bit in 0..16_u32 {
            let step = 1_u32 << bit;
            let ranges = (0..1_u32 << 16).step_by(2 * step as usize).map(|first| {
                let port = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
                EffectivePort::Range(port(first + step), port(first + 2 * step - 1))
            });
            let action = match bit {
                0 => Action::Log,
                bit if bit % allowed == 0 => Action::Allow,
                _ => Action::Deny,
            };
            rules.push(EffectiveRule {
                protocol: Some(Protocol(protocol)),
                destination: EffectiveEntity {
                    ports: Some(ranges.collect()),
                    ..EffectiveEntity::default()
                },
                ..rule(rules.len(), action)
            });
        }
    }
    rules
}

fn random_net(random: &mut Random) -> IpNet {
    if random.chance(50) {
        let bits = 0xac10_0000 + u32::try_from(random.below(1 << 14)).unwrap_or(0);
        let length = u8::try_from(24 + random.below(9)).unwrap_or(32);
        IpNet::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), length).unwrap_or_default()
    } else {
        let bits = 0x2001_0db8 << 96 | u128::try_from(random.below(1 << 16)).unwrap_or(0);
        let length = u8::try_from(120 + random.below(9)).unwrap_or(128);
        IpNet::new(IpAddr::V6(Ipv6Addr::from_bits(bits)), length).unwrap_or_default()
    }
}

fn nets(random: &mut Random, count: usize) -> Vec<IpNet> {
    (0..count).map(|_| random_net(random).trunc()).collect()
}

fn prefixes(random: &mut Random) -> Vec<EffectiveRule> {
    let rules = (0..8).map(|index| EffectiveRule {
        source: EffectiveEntity {
            nets: Some(nets(random, 1_000)),
            ..EffectiveEntity::default()
        },
        destination: EffectiveEntity {
            ports: Some(vec![
                EffectivePort::Range(0, 1 << index),
                EffectivePort::Range(443, 443),
            ]),
            ..EffectiveEntity::default()
        },
        ..rule(index, decision(random))
    });
    rules.collect()
}

fn negations(
    random: &mut Random,
    members: usize,
    sets: &mut BTreeMap<SetId, SetMembers>,
) -> Vec<EffectiveRule> {
    let ids = random_sets(random, 12, members, sets);
    for members in sets.values_mut() {
        members.extend(nets(random, 10));
    }
    let rules = (0..80).map(|index| {
        let source = EffectiveEntity {
            not_nets: nets(random, 20),
            not_sets: vec![random.pick(&ids), random.pick(&ids)],
            ..EffectiveEntity::default()
        };
        let named = |random: &mut Random| EffectivePort::Member {
            set: random.pick(&ids),
            protocol: Protocol(6),
            port: random.pick(&[80, 81, 443]),
        };
        let source = EffectiveEntity {
            not_ports: if index % 4 == 0 {
                vec![named(random), named(random)]
            } else {
                Vec::new()
            },
            ..source
        };
        let destination = EffectiveEntity {
            ports: (index % 3 == 0).then(|| {
                let last = u16::try_from(random.below(1 << 16)).unwrap_or(0);
                vec![EffectivePort::Range(0, last), named(random)]
            }),
            ..EffectiveEntity::default()
        };
        EffectiveRule {
            source,
            destination,
            ..rule(index, decision(random))
        }
    });
    rules.collect()
}

fn logs(random: &mut Random) -> Vec<EffectiveRule> {
    let pool = nets(random, 200);
    let mut rules: Vec<EffectiveRule> = (0..10_000)
        .map(|index| EffectiveRule {
            protocol: Some(Protocol(6)),
            source: EffectiveEntity {
                nets: Some(vec![random.pick(&pool)]),
                ..EffectiveEntity::default()
            },
            destination: EffectiveEntity {
                ports: Some(vec![EffectivePort::Range(
                    u16::try_from(index * 3).unwrap_or(0),
                    u16::try_from(index * 3 + 400).unwrap_or(0),
                )]),
                ..EffectiveEntity::default()
            },
            ..rule(index, Action::Log)
        })
        .collect();
    rules.push(EffectiveRule {
        protocol: Some(Protocol(6)),
        ..rule(10_000, Action::Allow)
    });
    rules
}

fn passes(random: &mut Random) -> Vec<EffectiveTier> {
    let pool = nets(random, 300);
    let mut tiers: Vec<EffectiveTier> = (0..1_000)
        .map(|number| {
            let of = |action, random: &mut Random| EffectiveRule {
                source: EffectiveEntity {
                    not_nets: vec![random.pick(&pool)],
                    ..EffectiveEntity::default()
                },
                ..rule(0, action)
            };
            let action = if number % 200 == 7 {
                Action::Deny
            } else {
                Action::Pass
            };
            tier(
                number,
                vec![of(action, random), of(Action::Log, random)],
                number % 3 != 0,
            )
        })
        .collect();
    tiers.push(tier(1_000, vec![rule(0, Action::Allow)], false));
    tiers
}

fn tier(number: usize, rules: Vec<EffectiveRule>, default_pass: bool) -> EffectiveTier {
    let key = ResourceKey {
        kind: Kind::GlobalNetworkPolicy,
        namespace: String::new(),
        name: format!("policy{number}"),
    };
    EffectiveTier {
        name: Arc::from(format!("tier{number}")),
        policies: vec![EffectivePolicyRules { key, rules }],
        default_pass,
    }
}

fn one_tier(rules: Vec<EffectiveRule>) -> Vec<EffectiveTier> {
    vec![tier(0, rules, false)]
}

fn direction(tiers: Vec<EffectiveTier>) -> DirectionPolicy {
    DirectionPolicy {
        tiers,
        profiles: Vec::new(),
    }
}

/// Returns the tiers with the peers of their rules on the other side; ports stay the destination's.
fn mirror(tiers: &[EffectiveTier]) -> Vec<EffectiveTier> {
    let mut tiers = tiers.to_vec();
    let policies = tiers.iter_mut().flat_map(|tier| &mut tier.policies);
    for rule in policies.flat_map(|policy| &mut policy.rules) {
        let EffectiveRule {
            source, destination, ..
        } = rule;
        std::mem::swap(&mut source.nets, &mut destination.nets);
        std::mem::swap(&mut source.not_nets, &mut destination.not_nets);
        std::mem::swap(&mut source.sets, &mut destination.sets);
        std::mem::swap(&mut source.not_sets, &mut destination.not_sets);
    }
    tiers
}

fn host(sets: BTreeMap<SetId, SetMembers>, policies: [EffectivePolicy; 2]) -> Case {
    let mut case = Case {
        state: EffectiveState {
            sets: sets.into(),
            ..EffectiveState::default()
        },
        host: HostFacts::default(),
        generations: BTreeMap::new(),
        slots: BTreeMap::new(),
        addresses: Vec::new(),
    };
    for ((policy, number), tap) in policies.into_iter().zip(1_u16..).zip([HOSTILE_TAP, PLAIN_TAP]) {
        let key = ResourceKey {
            kind: Kind::WorkloadEndpoint,
            namespace: "openstack".to_owned(),
            name: format!("vm{number}"),
        };
        let [_, low] = number.to_be_bytes();
        let own = [
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, low)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number)),
        ];
        let endpoint = EffectiveEndpoint {
            interface_name: tap.to_owned(),
            mac: Some(MacAddress([0xfa, 0x16, 0x3e, 0, 0, low])),
            ip_networks: own.map(IpNet::from).to_vec(),
            allowed_ips: Vec::new(),
            allow_spoofed_source_prefixes: Vec::new(),
            ip_nats: Vec::new(),
            policy: Arc::new(policy),
            labels: Arc::default(),
        };
        let interface = HostInterface {
            ifindex: 100 + u32::from(number),
            mac: MacAddress([0xfe, 0x16, 0x3e, 0, 0, low]),
            mtu: 1500,
            loose_until: 0,
        };
        case.host.interfaces.insert(tap.to_owned(), interface);
        case.generations.insert(key.clone(), number.into());
        case.slots.insert(key.clone(), number);
        case.state.endpoints.insert(key, Arc::new(endpoint));
    }
    case
}
