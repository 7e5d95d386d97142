//! What calculation yields: everything this host must enforce, with selectors resolved to sets.
//!
//! What has not changed from one state to the next is the same memory: a reader finds the rest by comparing pointers,
//! down to the single member of a set.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

pub use super::set_members::{MemberChanges, SetMembers};
pub use super::shared::Shared;
use crate::model::labels::Labels;
use crate::model::name::ResourceKey;
use crate::model::resource::{IpNat, MacAddress};
use crate::model::rule::{Action, IcmpMatch, IpVersion, Protocol};

/// Name of a set: canonical text of what selects its members.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SetId(pub Arc<str>);

/// Everything this host must enforce. To copy it costs next to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectiveState {
    /// Local endpoints that are in force, by their key in the datastore.
    pub endpoints: Shared<BTreeMap<ResourceKey, Arc<EffectiveEndpoint>>>,
    /// Every set that a rule of a local endpoint uses.
    pub sets: Shared<BTreeMap<SetId, SetMembers>>,
    /// Endpoints of this host that are not in force, and why (shadowed interface name, no addresses ...).
    pub inactive: Shared<BTreeMap<ResourceKey, String>>,
    /// What is in the datastore, concerns this host, and is not enforced: object and what.
    pub not_enforced: Shared<Vec<(ResourceKey, String)>>,
    /// Endpoints of this host that take part in a live migration (contract 1.4).
    pub migrations: Shared<BTreeMap<ResourceKey, MigrationRole>>,
}

/// What an endpoint of this host is in a live migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrationRole {
    /// The workload leaves this host.
    Source,
    /// The workload comes to this host.
    Target,
}

/// One local endpoint in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveEndpoint {
    pub interface_name: String,
    pub mac: Option<MacAddress>,
    /// The endpoint's own addresses and prefixes: fixed addresses first, then pairs.
    pub ip_networks: Vec<IpNet>,
    /// Those of `ip_networks` that may come from any unicast MAC.
    pub allowed_ips: Vec<IpNet>,
    pub allow_spoofed_source_prefixes: Vec<IpNet>,
    pub ip_nats: Vec<IpNat>,
    pub policy: Arc<EffectivePolicy>,
    /// Labels after inheritance, for people.
    pub labels: Arc<Labels>,
}

/// The ordered list that judges an endpoint. Endpoints with equal lists share a policy set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EffectivePolicy {
    /// Judges packets from the workload.
    pub egress: DirectionPolicy,
    /// Judges packets to the workload.
    pub ingress: DirectionPolicy,
}

/// One direction: tiers in order, then profiles in order, then deny.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DirectionPolicy {
    /// Only tiers with at least one policy that governs this direction.
    pub tiers: Vec<EffectiveTier>,
    /// Profiles in order; one that is missing in the datastore denies.
    pub profiles: Vec<EffectiveProfile>,
}

/// A tier with the policies that apply to the endpoint in this direction; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EffectiveTier {
    pub name: Arc<str>,
    pub policies: Vec<EffectivePolicyRules>,
    /// Whether the end of the tier passes instead of denying.
    pub default_pass: bool,
}

/// The rules of one policy in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EffectivePolicyRules {
    pub key: ResourceKey,
    pub rules: Vec<EffectiveRule>,
}

/// The rules of one profile in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EffectiveProfile {
    pub name: Arc<str>,
    /// `None`: the profile is missing. It denies.
    pub rules: Option<Vec<EffectiveRule>>,
}

/// A rule with its selectors resolved to sets. All parts given must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EffectiveRule {
    pub action: Action,
    pub ip_version: Option<IpVersion>,
    pub protocol: Option<Protocol>,
    pub not_protocol: Option<Protocol>,
    pub icmp: Option<IcmpMatch>,
    pub not_icmp: Option<IcmpMatch>,
    pub source: EffectiveEntity,
    pub destination: EffectiveEntity,
    /// Position in the policy as written, counted from 0.
    pub index: u32,
}

/// Source or destination of a resolved rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EffectiveEntity {
    /// `None`: not given. `Some(vec![])` never matches. Nets of the packet's other IP version never match.
    pub nets: Option<Vec<IpNet>>,
    pub not_nets: Vec<IpNet>,
    /// The address must be in every one of these.
    pub sets: Vec<SetId>,
    /// The address must be in none of these.
    pub not_sets: Vec<SetId>,
    /// `None`: not given. Otherwise one of these must hold; an empty list never matches.
    pub ports: Option<Vec<EffectivePort>>,
    /// None of these may hold.
    pub not_ports: Vec<EffectivePort>,
}

/// One entry of a list of ports. Holds for protocols with ports only (TCP, UDP, SCTP, UDPLite, DCCP).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EffectivePort {
    /// First and last, both included.
    Range(u16, u16),
    /// A named port: holds when the address is in the set, the protocol is the given one and the port is the given one.
    /// A name that stands for several (protocol, port) pairs becomes several entries.
    Member {
        set: SetId,
        protocol: Protocol,
        port: u16,
    },
}

/// One packet as policy sees it, seen at its first hook. Reference evaluator and compiled tables are asked with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketFacts {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// 0 for protocols without ports.
    pub source_port: u16,
    /// 0 for protocols without ports.
    pub destination_port: u16,
    /// Type and code, for ICMP (protocol 1) and ICMPv6 (58).
    pub icmp: Option<(u8, u8)>,
}
