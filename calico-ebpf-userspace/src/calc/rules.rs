//! Rules with their selectors resolved to sets.

use ipnet::IpNet;

use super::effective::{EffectiveEntity, EffectivePort, EffectiveRule};
use super::members::Sets;
use crate::model::rule::{Entity, PortMatch, Protocol, Rule};
use crate::model::selector::Selector;

/// Resolves a list of rules.
pub(super) fn resolve_rules(rules: &[Rule], sets: &mut Sets<'_>) -> Vec<EffectiveRule> {
    rules.iter().map(|rule| resolve_rule(rule, sets)).collect()
}

fn resolve_rule(rule: &Rule, sets: &mut Sets<'_>) -> EffectiveRule {
    EffectiveRule {
        action: rule.action,
        ip_version: rule.ip_version,
        protocol: rule.protocol,
        not_protocol: rule.not_protocol,
        icmp: rule.icmp,
        not_icmp: rule.not_icmp,
        source: resolve_entity(&rule.source, rule.protocol, sets),
        destination: resolve_entity(&rule.destination, rule.protocol, sets),
        index: rule.index,
    }
}

fn resolve_entity(entity: &Entity, protocol: Option<Protocol>, sets: &mut Sets<'_>) -> EffectiveEntity {
    let masked = |nets: &[IpNet]| nets.iter().map(IpNet::trunc).collect::<Vec<_>>();
    // Named ports are those of what the positive selector selects, else of everything.
    let owners = entity.selector.clone().unwrap_or_else(Selector::all);
    EffectiveEntity {
        nets: entity.nets.as_deref().map(masked),
        not_nets: masked(&entity.not_nets),
        sets: entity
            .selector
            .iter()
            .map(|selector| sets.selected(selector))
            .collect(),
        not_sets: entity
            .not_selector
            .iter()
            .map(|selector| sets.selected(selector))
            .collect(),
        ports: entity
            .ports
            .as_deref()
            .map(|ports| resolve_ports(ports, &owners, protocol, sets)),
        not_ports: resolve_ports(&entity.not_ports, &owners, protocol, sets),
    }
}

fn resolve_ports(
    ports: &[PortMatch],
    owners: &Selector,
    wanted: Option<Protocol>,
    sets: &mut Sets<'_>,
) -> Vec<EffectivePort> {
    let mut resolved = Vec::new();
    for port in ports {
        match port {
            PortMatch::Range(first, last) => resolved.push(EffectivePort::Range(*first, *last)),
            PortMatch::Named(name) => {
                let members = sets.with_port(owners, name).into_iter();
                let members =
                    members.filter(|(_, protocol, _)| wanted.is_none_or(|wanted| wanted == *protocol));
                resolved.extend(members.map(|(set, protocol, port)| EffectivePort::Member {
                    set,
                    protocol,
                    port,
                }));
            }
        }
    }
    resolved
}
