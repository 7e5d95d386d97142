//! The policy that is measured: endpoints whose rules all miss the traffic but the last, which allows it. Rivals get the
//! same rules ([`crate::felix`], [`crate::road`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_ebpf_userspace::calc::effective::{
    DirectionPolicy, EffectiveEndpoint, EffectiveEntity, EffectivePolicy, EffectivePolicyRules,
    EffectivePort, EffectiveRule, EffectiveState, EffectiveTier, SetId, SetMembers,
};
use calico_ebpf_userspace::model::name::{Kind, ResourceKey};
use calico_ebpf_userspace::model::resource::MacAddress;
use calico_ebpf_userspace::model::rule::{Action, Protocol};
use ipnet::{IpNet, Ipv4Net};

/// MAC addresses of sender and receiver.
pub(crate) const MACS: [[u8; 6]; 2] = [mac(0), mac(1)];
/// Port that the last rule allows.
pub(crate) const PORT: u16 = 443;
/// Ports of the other rules.
const PORTS: usize = 200;
const FIRST_PORT: u16 = 1000;
/// Members of sets: the first one, and from each to the next.
pub(crate) const FIRST_MEMBER: u32 = 0x2000_0000;
pub(crate) const STEP: u32 = 4097;
/// As [`FIRST_MEMBER`] and [`STEP`], of IPv6: high half, and step in the low half.
pub(crate) const MEMBERS6: u64 = 0xfd00_0000_0000_0001;
pub(crate) const STEP6: u64 = 0x1_0000_1001;

/// How the policy is shaped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) rules: usize,
    pub(crate) sets: usize,
    /// Of all sets together; they share none.
    pub(crate) members: u32,
    pub(crate) mix: Mix,
    pub(crate) last: Last,
    /// Members are IPv6 addresses.
    pub(crate) v6: bool,
    pub(crate) protocol: u8,
}

/// What rules name as the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Prefixes and sets in turn.
    NetsAndSets,
    Sets,
}

/// Whom the last rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    Anyone,
    /// A set of all members and endpoints, so that as many addresses are known with one rule as with many.
    Everybody,
}

/// The peer of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Net(Ipv4Net),
    Set(usize),
    Everybody,
    Anyone,
}

impl Default for Policy {
    /// 100 rules and 10 sets of 1,000 members.
    fn default() -> Self {
        Self {
            rules: 100,
            sets: 10,
            members: 10_000,
            mix: Mix::NetsAndSets,
            last: Last::Anyone,
            v6: false,
            protocol: 17,
        }
    }
}

impl Policy {
    /// The default with another number of rules.
    pub(crate) fn of(rules: usize) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// Returns peer and port of a rule.
    pub(crate) fn rule(&self, index: usize) -> (Peer, u16) {
        if index + 1 == self.rules {
            return match self.last {
                Last::Anyone => (Peer::Anyone, PORT),
                Last::Everybody => (Peer::Everybody, PORT),
            };
        }
        let turn = index / 2;
        let peer = match self.mix {
            Mix::NetsAndSets if index.is_multiple_of(2) => {
                // Nets of 16 addresses out of 172.16.0.0/12.
                let first = 0xac10_0000 | (as_u32(turn) << 4 & 0x000f_ffff);
                Peer::Net(Ipv4Net::new_assert(Ipv4Addr::from(first), 28))
            }
            Mix::NetsAndSets => Peer::Set(turn % self.sets),
            Mix::Sets => Peer::Set(index % self.sets),
        };
        // No common divisor with the numbers of sets: each set comes to have several ports.
        let port = FIRST_PORT + u16::try_from(index * 7 % (PORTS - 1)).unwrap_or(0);
        (peer, port)
    }

    /// Returns the addresses of a set.
    pub(crate) fn members(&self, set: usize) -> impl Iterator<Item = IpAddr> {
        let each = self.members / as_u32(self.sets);
        let first = each * as_u32(set);
        let v6 = self.v6;
        (first..first + each).map(move |number| member(v6, number))
    }

    /// Returns the addresses of all members, and of `endpoints`.
    pub(crate) fn everybody(&self, endpoints: usize) -> impl Iterator<Item = IpAddr> {
        let sets = (0..self.sets).flat_map(|set| self.members(set));
        sets.chain((0..endpoints).flat_map(|index| [address(false, index), address(true, index)]))
    }

    /// Returns whether a rule names the set of everybody.
    pub(crate) fn names_everybody(&self) -> bool {
        self.last == Last::Everybody
    }

    /// Returns the state of a host with an endpoint on each of the interfaces `names`, which share `policy_sets` lists
    /// of rules by turns. The lists differ in the ports of their rules only.
    pub(crate) fn state(&self, names: &[impl AsRef<str>], policy_sets: usize) -> EffectiveState {
        let set = |addresses: &mut dyn Iterator<Item = IpAddr>| -> SetMembers {
            addresses.map(IpNet::from).collect()
        };
        let used: BTreeSet<usize> = (0..self.rules)
            .filter_map(|index| match self.rule(index).0 {
                Peer::Set(set) => Some(set),
                Peer::Net(_) | Peer::Everybody | Peer::Anyone => None,
            })
            .collect();
        let mut sets: BTreeMap<SetId, SetMembers> = used
            .into_iter()
            .map(|index| (set_id(index), set(&mut self.members(index))))
            .collect();
        if self.names_everybody() {
            sets.insert(everybody_id(), set(&mut self.everybody(names.len())));
        }
        let lists: Vec<Arc<EffectivePolicy>> = (0..policy_sets)
            .map(|list| {
                Arc::new(EffectivePolicy {
                    egress: self.direction(false, list),
                    ingress: self.direction(true, list),
                })
            })
            .collect();
        let endpoints = names.iter().enumerate().map(|(index, name)| {
            let policy = Arc::clone(&lists[index % policy_sets]);
            (key(index), Arc::new(endpoint(index, name.as_ref(), policy)))
        });
        EffectiveState {
            endpoints: endpoints.collect(),
            sets: sets.into(),
            ..EffectiveState::default()
        }
    }

    fn direction(&self, remote_is_source: bool, list: usize) -> DirectionPolicy {
        let rules = (0..self.rules).map(|index| {
            let (peer, port) = self.rule(index);
            let shift = if port == PORT {
                0
            } else {
                u16::try_from(list).unwrap_or(0)
            };
            self.effective_rule(index, peer, port + shift, remote_is_source)
        });
        DirectionPolicy {
            tiers: vec![EffectiveTier {
                name: "default".into(),
                policies: vec![EffectivePolicyRules {
                    key: ResourceKey {
                        kind: Kind::GlobalNetworkPolicy,
                        namespace: String::new(),
                        name: format!("measured-{list}"),
                    },
                    rules: rules.collect(),
                }],
                default_pass: false,
            }],
            profiles: Vec::new(),
        }
    }

    fn effective_rule(&self, index: usize, peer: Peer, port: u16, remote_is_source: bool) -> EffectiveRule {
        let mut remote = EffectiveEntity::default();
        match peer {
            Peer::Net(net) => remote.nets = Some(vec![IpNet::V4(net)]),
            Peer::Set(set) => remote.sets = vec![set_id(set)],
            Peer::Everybody => remote.sets = vec![everybody_id()],
            Peer::Anyone => {}
        }
        let ports = Some(vec![EffectivePort::Range(port, port)]);
        let (source, destination) = if remote_is_source {
            let local = EffectiveEntity {
                ports,
                ..EffectiveEntity::default()
            };
            (remote, local)
        } else {
            (EffectiveEntity::default(), EffectiveEntity { ports, ..remote })
        };
        EffectiveRule {
            action: Action::Allow,
            ip_version: None,
            protocol: Some(Protocol(self.protocol)),
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source,
            destination,
            index: as_u32(index),
        }
    }
}

fn endpoint(index: usize, name: &str, policy: Arc<EffectivePolicy>) -> EffectiveEndpoint {
    EffectiveEndpoint {
        interface_name: name.to_owned(),
        mac: Some(MacAddress(mac(u16::try_from(index).unwrap_or(u16::MAX)))),
        ip_networks: vec![
            IpNet::from(address(false, index)),
            IpNet::from(address(true, index)),
        ],
        allowed_ips: Vec::new(),
        allow_spoofed_source_prefixes: Vec::new(),
        ip_nats: Vec::new(),
        policy,
        labels: Arc::default(),
    }
}

/// Returns the address of an endpoint: the sender is 0, the receiver 1.
pub(crate) fn address(v6: bool, index: usize) -> IpAddr {
    let number = as_u32(index) + 10;
    if v6 {
        IpAddr::V6(Ipv6Addr::from_bits(0xfd00_u128 << 112 | u128::from(number)))
    } else {
        IpAddr::V4(Ipv4Addr::from(0x0a41_0000 + number))
    }
}

/// Returns the address of a member by its number.
pub(crate) fn member(v6: bool, number: u32) -> IpAddr {
    if v6 {
        let low = u64::from(number).wrapping_mul(STEP6);
        IpAddr::V6(Ipv6Addr::from_bits(u128::from(MEMBERS6) << 64 | u128::from(low)))
    } else {
        IpAddr::V4(Ipv4Addr::from(
            FIRST_MEMBER.wrapping_add(number.wrapping_mul(STEP)),
        ))
    }
}

/// Returns the MAC address of an endpoint.
pub(crate) const fn mac(index: u16) -> [u8; 6] {
    let [high, low] = index.to_be_bytes();
    [0x02, 0, 0, 1, high, low]
}

/// Returns the key of an endpoint.
pub(crate) fn key(index: usize) -> ResourceKey {
    ResourceKey {
        kind: Kind::WorkloadEndpoint,
        namespace: "openstack".to_owned(),
        name: format!("endpoint-{index:04}"),
    }
}

/// Returns the name of a set.
pub(crate) fn set_id(index: usize) -> SetId {
    SetId(format!("set-{index}").into())
}

/// Returns the name of the set of everybody.
pub(crate) fn everybody_id() -> SetId {
    SetId("everybody".into())
}

fn as_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
