//! The plain ordered evaluator: walks tiers, policies, rules and profiles as they are written.
//!
//! It is the judge of the compiled tables, so it shares no code with them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::calc::effective::{
    DirectionPolicy, EffectiveEndpoint, EffectiveEntity, EffectivePort, EffectiveRule, EffectiveState,
    PacketFacts, SetId,
};
use crate::model::name::ResourceKey;
use crate::model::rule::{Action, IcmpMatch, IpVersion};

/// Which half of an endpoint's policy judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Packets from the workload.
    Egress,
    /// Packets to the workload.
    Ingress,
}

impl Direction {
    /// Returns the name as in manifests, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// What a rule belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleOwner {
    Policy { tier: Arc<str>, key: ResourceKey },
    Profile(Arc<str>),
}

/// Names one rule of the datastore.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    pub direction: Direction,
    pub owner: RuleOwner,
    /// Position in the list as written, counted from 0.
    pub index: u32,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = self.direction.as_str();
        match &self.owner {
            RuleOwner::Policy { tier, key } => write!(formatter, "{tier}/{key} {direction}[{}]", self.index),
            RuleOwner::Profile(name) => write!(formatter, "Profile({name}) {direction}[{}]", self.index),
        }
    }
}

/// What one direction of one policy says about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub allow: bool,
    /// Whether a `Log` rule matched on the way.
    pub log: bool,
    /// The rule that decided; `None` for the end of a tier, a missing profile, or no rule at all.
    pub decided_by: Option<RuleRef>,
}

/// What both ends say about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketJudgement {
    pub allow: bool,
    /// The source's egress policy; `None` without a local source.
    pub egress: Option<Judgement>,
    /// The target's ingress policy; `None` without a local target or when egress denied.
    pub ingress: Option<Judgement>,
}

/// Judges a whole packet: egress policy of the source, then ingress policy of the target. An end that is not a local
/// endpoint has no say.
pub fn judge_packet(
    state: &EffectiveState,
    source: Option<&EffectiveEndpoint>,
    target: Option<&EffectiveEndpoint>,
    facts: &PacketFacts,
) -> PacketJudgement {
    let egress = source.map(|endpoint| judge(state, &endpoint.policy.egress, Direction::Egress, facts));
    if egress.as_ref().is_some_and(|judgement| !judgement.allow) {
        return PacketJudgement {
            allow: false,
            egress,
            ingress: None,
        };
    }
    let ingress = target.map(|endpoint| judge(state, &endpoint.policy.ingress, Direction::Ingress, facts));
    let allow = ingress.as_ref().is_none_or(|judgement| judgement.allow);
    PacketJudgement {
        allow,
        egress,
        ingress,
    }
}

/// How a list of rules ended.
enum Outcome {
    Decided { allow: bool, index: u32 },
    Passed,
    NoMatch,
}

/// Judges a packet by one direction of one policy: tiers in order, then profiles in order, then deny.
pub fn judge(
    state: &EffectiveState,
    policy: &DirectionPolicy,
    direction: Direction,
    facts: &PacketFacts,
) -> Judgement {
    let decided = |allow, log, owner, index| Judgement {
        allow,
        log,
        decided_by: Some(RuleRef {
            direction,
            owner,
            index,
        }),
    };
    let denied = |log| Judgement {
        allow: false,
        log,
        decided_by: None,
    };
    let mut log = false;
    'tiers: for tier in &policy.tiers {
        for rules in &tier.policies {
            match walk(state, &rules.rules, facts, &mut log) {
                Outcome::Decided { allow, index } => {
                    let (tier, key) = (Arc::clone(&tier.name), rules.key.clone());
                    return decided(allow, log, RuleOwner::Policy { tier, key }, index);
                }
                Outcome::Passed => continue 'tiers,
                Outcome::NoMatch => {}
            }
        }
        if !tier.default_pass {
            return denied(log);
        }
    }
    for profile in &policy.profiles {
        let Some(rules) = &profile.rules else { break };
        match walk(state, rules, facts, &mut log) {
            Outcome::Decided { allow, index } => {
                let owner = RuleOwner::Profile(Arc::clone(&profile.name));
                return decided(allow, log, owner, index);
            }
            // There is no next tier behind the profiles.
            Outcome::Passed => break,
            Outcome::NoMatch => {}
        }
    }
    denied(log)
}

fn walk(state: &EffectiveState, rules: &[EffectiveRule], facts: &PacketFacts, log: &mut bool) -> Outcome {
    for rule in rules {
        if !rule_matches(state, rule, facts) {
            continue;
        }
        match rule.action {
            Action::Allow | Action::Deny => {
                let (allow, index) = (rule.action == Action::Allow, rule.index);
                return Outcome::Decided { allow, index };
            }
            Action::Log => *log = true,
            Action::Pass => return Outcome::Passed,
        }
    }
    Outcome::NoMatch
}

/// Returns whether every part of the rule holds for the packet.
fn rule_matches(state: &EffectiveState, rule: &EffectiveRule, facts: &PacketFacts) -> bool {
    let version = match facts.source {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    };
    rule.ip_version.is_none_or(|wanted| wanted == version)
        && rule.protocol.is_none_or(|wanted| wanted.0 == facts.protocol)
        && rule
            .not_protocol
            .is_none_or(|unwanted| unwanted.0 != facts.protocol)
        && rule
            .icmp
            .is_none_or(|wanted| icmp_of(version, facts).is_some_and(|icmp| icmp_matches(wanted, icmp)))
        && rule
            .not_icmp
            .is_none_or(|wanted| icmp_of(version, facts).is_some_and(|icmp| !icmp_matches(wanted, icmp)))
        && entity_matches(
            state,
            &rule.source,
            facts.source,
            facts.protocol,
            facts.source_port,
        )
        && entity_matches(
            state,
            &rule.destination,
            facts.destination,
            facts.protocol,
            facts.destination_port,
        )
}

/// Returns ICMP type and code if the packet is its family's ICMP.
fn icmp_of(version: IpVersion, facts: &PacketFacts) -> Option<(u8, u8)> {
    let protocol = match version {
        IpVersion::V4 => 1,
        IpVersion::V6 => 58,
    };
    if facts.protocol == protocol {
        facts.icmp
    } else {
        None
    }
}

fn icmp_matches(wanted: IcmpMatch, (kind, code): (u8, u8)) -> bool {
    wanted.kind == kind && wanted.code.is_none_or(|wanted| wanted == code)
}

fn entity_matches(
    state: &EffectiveState,
    entity: &EffectiveEntity,
    address: IpAddr,
    protocol: u8,
    port: u16,
) -> bool {
    let ports_hold = if entity.ports.is_none() && entity.not_ports.is_empty() {
        true
    } else {
        // A rule that speaks of ports is about protocols with ports, also when it only excludes some.
        let holds = |entry: &EffectivePort| port_holds(state, entry, address, protocol, port);
        has_ports(protocol)
            && entity.ports.as_ref().is_none_or(|ports| ports.iter().any(holds))
            && !entity.not_ports.iter().any(holds)
    };
    ports_hold
        && entity.nets.as_ref().is_none_or(|nets| in_nets(nets, address))
        && !in_nets(&entity.not_nets, address)
        && entity.sets.iter().all(|set| in_set(state, set, address))
        && !entity.not_sets.iter().any(|set| in_set(state, set, address))
}

fn port_holds(
    state: &EffectiveState,
    entry: &EffectivePort,
    address: IpAddr,
    protocol: u8,
    port: u16,
) -> bool {
    match entry {
        EffectivePort::Range(first, last) => (*first..=*last).contains(&port),
        EffectivePort::Member {
            set,
            protocol: wanted,
            port: named,
        } => wanted.0 == protocol && *named == port && in_set(state, set, address),
    }
}

/// TCP, UDP, DCCP, SCTP and UDPLite.
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// `IpNet::contains` is false across IP versions.
fn in_nets(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// A set that does not exist has no members.
fn in_set(state: &EffectiveState, set: &SetId, address: IpAddr) -> bool {
    state
        .sets
        .get(set)
        .is_some_and(|members| members.iter().any(|net| net.contains(&address)))
}

#[cfg(test)]
mod tests;
