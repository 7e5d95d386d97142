//! Rules as combinations of numbered predicates.

use super::classes::{AddressPredicates, PredicateId};
use super::ports::{GroupMask, PORT_GROUPS, PortPredicateId, PortPredicates, group_mask, icmp_protocol};
use super::reference::{Direction, RuleOwner, RuleRef};
use crate::calc::effective::{DirectionPolicy, EffectiveEntity, EffectivePort, EffectiveRule};
use crate::model::rule::{Action, IpVersion};

/// Every predicate in use on this host.
#[derive(Clone, Debug, Default)]
pub struct Predicates {
    pub addresses: AddressPredicates,
    pub ports: PortPredicates,
}

/// One direction of one policy: its tiers in order, the profiles being the last one.
#[derive(Clone, Debug)]
pub struct LoweredDirection {
    pub direction: Direction,
    /// Whether the end of each tier passes.
    pub default_pass: Vec<bool>,
    /// Rules that can match, in order.
    pub rules: Vec<LoweredRule>,
}

impl LoweredDirection {
    /// Returns the direction with nothing to judge.
    pub(super) fn without_rules(&self) -> Self {
        Self {
            direction: self.direction,
            default_pass: Vec::new(),
            rules: Vec::new(),
        }
    }
}

/// One rule: holds where all of its parts do.
#[derive(Clone, Debug)]
pub struct LoweredRule {
    /// Index in [`LoweredDirection::default_pass`].
    pub tier: usize,
    pub action: Action,
    /// Number of the rule's counter.
    pub number: u32,
    /// Tests of the peer's address.
    pub remote: Tests,
    /// Tests of the endpoint's own address.
    pub local: Tests,
    /// Tests of protocol, destination port, and ICMP type and code, for packets of IPv4 and of IPv6; `None` matches
    /// nothing.
    pub ports: [Option<Tests>; 2],
    pub destination: Option<PortTests>,
    pub source: Option<PortTests>,
}

/// Predicates that must hold, and predicates that must not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tests {
    pub all: Vec<u32>,
    pub none: Vec<u32>,
}

/// What a rule says about the ports of one side.
#[derive(Clone, Debug)]
pub struct PortTests {
    /// One of these must hold; `None` asks nothing.
    pub any: Option<PortList>,
    pub none: PortList,
}

/// A list of ports.
#[derive(Clone, Debug, Default)]
pub struct PortList {
    /// Predicate of all ranges together.
    pub ranges: Option<PortPredicateId>,
    pub members: Vec<PortMember>,
}

/// A named port of the members of a set.
#[derive(Clone, Copy, Debug)]
pub struct PortMember {
    /// Address predicate of the port's own side.
    pub set: PredicateId,
    /// Predicate of the protocol.
    pub protocol: PortPredicateId,
    /// Predicate of the port; a source predicate in a source list.
    pub port: PortPredicateId,
}

/// Numbers the predicates of one direction and turns its rules into tests of them. `number` gives the counter of each
/// rule that decides.
pub fn lower_direction(
    direction: Direction,
    policy: &DirectionPolicy,
    predicates: &mut Predicates,
    mut number: impl FnMut(RuleRef, Action) -> u32,
) -> LoweredDirection {
    let mut lowered = LoweredDirection {
        direction,
        default_pass: Vec::new(),
        rules: Vec::new(),
    };
    let mut add = |tier: usize, owner: &dyn Fn() -> RuleOwner, rules: &[EffectiveRule], out: &mut Vec<_>| {
        for rule in rules {
            let counter = match rule.action {
                Action::Allow | Action::Deny => number(
                    RuleRef {
                        direction,
                        owner: owner(),
                        index: rule.index,
                    },
                    rule.action,
                ),
                Action::Log | Action::Pass => 0,
            };
            out.extend(lower_rule(direction, rule, tier, counter, predicates));
        }
    };
    for tier in &policy.tiers {
        for rules in &tier.policies {
            let owner = || RuleOwner::Policy {
                tier: tier.name.clone(),
                key: rules.key.clone(),
            };
            add(
                lowered.default_pass.len(),
                &owner,
                &rules.rules,
                &mut lowered.rules,
            );
        }
        lowered.default_pass.push(tier.default_pass);
    }
    for profile in policy
        .profiles
        .iter()
        .take(mutated!(FirstProfileOnly, usize::MAX, 1))
    {
        // A missing profile denies what reaches it: nothing behind it counts.
        let missing = mutated!(MissingProfileSkipped, None, Some(const { &Vec::new() }));
        let Some(rules) = profile.rules.as_ref().or(missing) else {
            break;
        };
        let owner = || RuleOwner::Profile(profile.name.clone());
        add(lowered.default_pass.len(), &owner, rules, &mut lowered.rules);
    }
    lowered.default_pass.push(false);
    lowered
}

/// Returns the rule as tests, or `None` if it can never match.
fn lower_rule(
    direction: Direction,
    rule: &EffectiveRule,
    tier: usize,
    number: u32,
    predicates: &mut Predicates,
) -> Option<LoweredRule> {
    let asks_ports = asks_ports(&rule.source) || asks_ports(&rule.destination);
    let mut groups = match rule.protocol {
        Some(protocol) => group_mask(protocol.0) & PORT_GROUPS,
        None => PORT_GROUPS,
    };
    if let Some(protocol) = rule.not_protocol {
        groups &= !group_mask(protocol.0);
    }
    if asks_ports && groups == 0 {
        return None;
    }
    let versions = [IpVersion::V4, IpVersion::V6];
    let ports = versions.map(|version| lower_protocol(rule, version, asks_ports, &mut predicates.ports));
    if ports.iter().all(Option::is_none) {
        return None;
    }
    let source = lower_addresses(&rule.source, &mut predicates.addresses)?;
    let destination = lower_addresses(&rule.destination, &mut predicates.addresses)?;
    let source_ports = lower_ports(&rule.source, predicates, groups, PortPredicates::source_ports)?;
    let destination_ports = lower_ports(
        &rule.destination,
        predicates,
        groups,
        PortPredicates::destination_ports,
    )?;
    let (remote, local) = match direction {
        Direction::Egress => mutated!(SidesSwapped, (destination, source), (source, destination)),
        Direction::Ingress => (source, destination),
    };
    Some(LoweredRule {
        tier,
        action: mutated!(PassAllows, rule.action, pass_allows(rule.action)),
        number,
        remote,
        local,
        ports,
        destination: destination_ports,
        source: source_ports,
    })
}

#[cfg(feature = "mutants")]
fn pass_allows(action: Action) -> Action {
    if action == Action::Pass {
        Action::Allow
    } else {
        action
    }
}

fn asks_ports(entity: &EffectiveEntity) -> bool {
    entity.ports.is_some() || !entity.not_ports.is_empty()
}

/// Returns the tests of the protocol for packets of one family, or `None` if the rule never matches these.
fn lower_protocol(
    rule: &EffectiveRule,
    version: IpVersion,
    asks_ports: bool,
    predicates: &mut PortPredicates,
) -> Option<Tests> {
    if mutated!(VersionIgnored, rule.ip_version, None).is_some_and(|wanted| wanted != version) {
        return None;
    }
    let mut tests = Tests::default();
    if rule.icmp.is_some() || rule.not_icmp.is_some() {
        let icmp = icmp_protocol(version);
        if asks_ports || rule.protocol.is_some_and(|wanted| wanted != icmp) || rule.not_protocol == Some(icmp)
        {
            return None;
        }
        tests.all.push(predicates.protocol(icmp));
    }
    tests
        .all
        .extend(rule.protocol.map(|protocol| predicates.protocol(protocol)));
    tests
        .none
        .extend(rule.not_protocol.map(|protocol| predicates.protocol(protocol)));
    tests
        .all
        .extend(rule.icmp.map(|icmp| predicates.icmp(version, icmp)));
    tests
        .none
        .extend(rule.not_icmp.map(|icmp| predicates.icmp(version, icmp)));
    if asks_ports {
        tests.all.push(predicates.has_ports());
    }
    Some(tests)
}

/// Returns the tests of an address, or `None` if no address passes.
fn lower_addresses(entity: &EffectiveEntity, predicates: &mut AddressPredicates) -> Option<Tests> {
    let mut tests = Tests::default();
    if let Some(nets) = &entity.nets {
        if nets.is_empty() {
            return None;
        }
        tests.all.push(predicates.nets(nets));
    }
    if !entity.not_nets.is_empty() {
        tests.none.push(predicates.nets(&entity.not_nets));
    }
    tests
        .all
        .extend(entity.sets.iter().map(|set| predicates.set(set)));
    tests
        .none
        .extend(entity.not_sets.iter().map(|set| predicates.set(set)));
    mutated!(NegationLost, {}, tests.none.clear());
    Some(tests)
}

type InternPorts = fn(&mut PortPredicates, GroupMask, &[(u16, u16)]) -> PortPredicateId;

/// Returns the tests of one side's ports, `Some(None)` if it asks nothing, `None` if no port passes.
#[expect(
    clippy::option_option,
    reason = "never matching and asking nothing are different answers"
)]
fn lower_ports(
    entity: &EffectiveEntity,
    predicates: &mut Predicates,
    groups: GroupMask,
    intern: InternPorts,
) -> Option<Option<PortTests>> {
    if !asks_ports(entity) {
        return Some(None);
    }
    let any = match &entity.ports {
        Some(ports) if ports.is_empty() => return None,
        Some(ports) => Some(lower_list(ports, predicates, groups, intern)),
        None => None,
    };
    let none = lower_list(&entity.not_ports, predicates, groups, intern);
    Some(Some(PortTests { any, none }))
}

fn lower_list(
    ports: &[EffectivePort],
    predicates: &mut Predicates,
    groups: GroupMask,
    intern: InternPorts,
) -> PortList {
    let mut lowered = PortList::default();
    let mut ranges = Vec::new();
    for port in ports {
        match port {
            EffectivePort::Range(first, last) => ranges.push((*first, *last)),
            EffectivePort::Member {
                set,
                protocol,
                port: number,
            } => {
                let own = mutated!(NamedPortProtocol, group_mask(protocol.0), GroupMask::MAX) & groups;
                if own == 0 {
                    continue;
                }
                lowered.members.push(PortMember {
                    set: predicates.addresses.set(set),
                    protocol: predicates.ports.protocol(*protocol),
                    port: intern(&mut predicates.ports, own, &[(*number, *number)]),
                });
            }
        }
    }
    if !ranges.is_empty() {
        lowered.ranges = Some(intern(&mut predicates.ports, groups, &ranges));
    }
    lowered
}
