//! Policy in words, for reports.

use std::fmt::Write;

use super::reference::{Direction, RuleOwner, RuleRef};
use super::rule_ids::{RuleIds, RuleKey};
use crate::calc::effective::{DirectionPolicy, EffectiveEntity, EffectivePort, EffectiveRule};
use crate::model::rule::{Action, IcmpMatch, IpVersion, Protocol};
use crate::report::{PolicyReport, RuleReport, TierReport};

/// Describes one direction: its tiers, then its profiles as a tier named `profiles`.
pub(super) fn describe_direction(
    direction: Direction,
    policy: &DirectionPolicy,
    ids: &RuleIds,
) -> Vec<TierReport> {
    let mut tiers: Vec<TierReport> = Vec::new();
    for tier in &policy.tiers {
        let policies = tier.policies.iter().map(|rules| {
            let owner = RuleOwner::Policy {
                tier: tier.name.clone(),
                key: rules.key.clone(),
            };
            PolicyReport {
                name: rules.key.to_string(),
                rules: describe_rules(direction, &owner, &rules.rules, ids),
            }
        });
        tiers.push(TierReport {
            tier: tier.name.to_string(),
            default_action: if tier.default_pass { "pass" } else { "deny" }.to_owned(),
            policies: policies.collect(),
        });
    }
    let profiles = policy.profiles.iter().map(|profile| match &profile.rules {
        Some(rules) => {
            let owner = RuleOwner::Profile(profile.name.clone());
            PolicyReport {
                name: profile.name.to_string(),
                rules: describe_rules(direction, &owner, rules, ids),
            }
        }
        None => PolicyReport {
            name: format!("{} (missing: denies)", profile.name),
            rules: Vec::new(),
        },
    });
    tiers.push(TierReport {
        tier: "profiles".to_owned(),
        default_action: "deny".to_owned(),
        policies: profiles.collect(),
    });
    tiers
}

fn describe_rules(
    direction: Direction,
    owner: &RuleOwner,
    rules: &[EffectiveRule],
    ids: &RuleIds,
) -> Vec<RuleReport> {
    let describe = |rule: &EffectiveRule| {
        let reference = RuleRef {
            direction,
            owner: owner.clone(),
            index: rule.index,
        };
        RuleReport {
            counter: ids
                .find(&RuleKey {
                    rule: reference,
                    action: rule.action,
                })
                .unwrap_or(RuleIds::UNCOUNTED),
            index: rule.index,
            action: action_name(rule.action).to_owned(),
            text: describe_rule(rule),
        }
    };
    rules.iter().map(describe).collect()
}

/// Returns the action in lower case.
pub fn action_name(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Log => "log",
        Action::Pass => "pass",
    }
}

/// Returns what the rule matches on one line, such as `ipv4 tcp from 10.0.0.0/8 to port 80`.
pub fn describe_rule(rule: &EffectiveRule) -> String {
    let mut parts = Vec::new();
    parts.extend(rule.ip_version.map(|version| match version {
        IpVersion::V4 => "ipv4".to_owned(),
        IpVersion::V6 => "ipv6".to_owned(),
    }));
    parts.extend(rule.protocol.map(protocol_name));
    parts.extend(
        rule.not_protocol
            .map(|protocol| format!("not {}", protocol_name(protocol))),
    );
    parts.extend(rule.icmp.map(icmp_name));
    parts.extend(rule.not_icmp.map(|icmp| format!("not {}", icmp_name(icmp))));
    for (word, entity) in [("from", &rule.source), ("to", &rule.destination)] {
        let entity = describe_entity(entity);
        if !entity.is_empty() {
            parts.push(format!("{word} {entity}"));
        }
    }
    if parts.is_empty() {
        "any packet".to_owned()
    } else {
        parts.join(" ")
    }
}

fn describe_entity(entity: &EffectiveEntity) -> String {
    let mut parts = Vec::new();
    if let Some(nets) = &entity.nets {
        parts.push(if nets.is_empty() {
            "no address".to_owned()
        } else {
            joined(nets)
        });
    }
    if !entity.not_nets.is_empty() {
        parts.push(format!("not {}", joined(&entity.not_nets)));
    }
    parts.extend(entity.sets.iter().map(|set| format!("[{}]", set.0)));
    parts.extend(entity.not_sets.iter().map(|set| format!("not [{}]", set.0)));
    if let Some(ports) = &entity.ports {
        parts.push(if ports.is_empty() {
            "no port".to_owned()
        } else {
            format!("port {}", port_list(ports))
        });
    }
    if !entity.not_ports.is_empty() {
        parts.push(format!("not port {}", port_list(&entity.not_ports)));
    }
    parts.join(" ")
}

fn joined(items: &[impl ToString]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn port_list(ports: &[EffectivePort]) -> String {
    let mut text = String::new();
    for port in ports {
        if !text.is_empty() {
            text.push(',');
        }
        let written = match port {
            EffectivePort::Range(first, last) if first == last => write!(text, "{first}"),
            EffectivePort::Range(first, last) => write!(text, "{first}:{last}"),
            EffectivePort::Member { set, protocol, port } => {
                write!(text, "{}/{port} of [{}]", protocol_name(*protocol), set.0)
            }
        };
        // Writing to a string does not fail.
        written.unwrap_or_default();
    }
    text
}

fn icmp_name(icmp: IcmpMatch) -> String {
    match icmp.code {
        Some(code) => format!("icmp type {} code {code}", icmp.kind),
        None => format!("icmp type {}", icmp.kind),
    }
}

fn protocol_name(protocol: Protocol) -> String {
    match protocol.0 {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        33 => "dccp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        number => format!("protocol {number}"),
    }
}
