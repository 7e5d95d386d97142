//! Rules with their selectors resolved to sets.

use std::sync::Arc;

use ipnet::IpNet;

use super::effective::{EffectiveEntity, EffectivePort, EffectiveProfile, EffectiveRule, SetId};
use crate::model::resource::{Policy, Profile};
use crate::model::rule::{Action, Entity, PortMatch, Protocol, Rule};
use crate::model::selector::Selector;

/// The profile that allows everything. It is in no datastore, and one of that name would not count.
pub const DEFAULT_ALLOW_PROFILE: &str = "projectcalico-default-allow";

/// Index of egress in pairs of directions.
pub(super) const EGRESS: usize = 0;
/// Index of ingress in pairs of directions.
pub(super) const INGRESS: usize = 1;

/// Who makes sets of selectors.
pub(super) trait SetSource {
    /// Returns the set of what the selector selects.
    fn selected(&mut self, selector: &Selector) -> SetId;

    /// Returns the sets of what the selector selects and has the named port, with protocol and port, in their order;
    /// only those of the wanted protocol.
    fn with_port(
        &mut self,
        selector: &Selector,
        name: &str,
        wanted: Option<Protocol>,
    ) -> Vec<(SetId, Protocol, u16)>;
}

/// Returns the name of the set of what the selector selects.
pub(super) fn set_id(selector: &Selector) -> SetId {
    SetId(Arc::from(selector.to_string()))
}

/// Returns the name of the set of what the selector selects and has the named port with this protocol and number.
pub(super) fn port_set_id(selector: &Selector, name: &str, protocol: Protocol, port: u16) -> SetId {
    SetId(Arc::from(format!(
        "port {name} {}/{port} of {selector}",
        protocol.0
    )))
}

/// Returns the rules of a policy: egress, ingress. A direction that it does not govern has none, so that its selectors
/// make no sets.
pub(super) fn resolve_policy(policy: &Policy, sets: &mut impl SetSource) -> [Vec<EffectiveRule>; 2] {
    let mut resolve = |governed: bool, rules: &[Rule]| {
        if governed {
            resolve_rules(rules, sets)
        } else {
            Vec::new()
        }
    };
    [
        resolve(policy.egress_enabled, &policy.egress),
        resolve(policy.ingress_enabled, &policy.ingress),
    ]
}

/// Returns what a profile says: egress, ingress. `None`: there is no such profile.
pub(super) fn resolve_profile(
    name: &str,
    profile: Option<&Profile>,
    sets: &mut impl SetSource,
) -> [EffectiveProfile; 2] {
    let rules = if name == DEFAULT_ALLOW_PROFILE {
        let allow = resolve_rules(&[allow_all()], sets);
        [Some(allow.clone()), Some(allow)]
    } else {
        let mut resolve = |rules: &[Rule]| resolve_rules(rules, sets);
        match profile {
            Some(profile) => [Some(resolve(&profile.egress)), Some(resolve(&profile.ingress))],
            None => [None, None],
        }
    };
    rules.map(|rules| EffectiveProfile {
        name: Arc::from(name),
        rules,
    })
}

fn allow_all() -> Rule {
    Rule {
        action: Action::Allow,
        ip_version: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Entity::default(),
        destination: Entity::default(),
        index: 0,
    }
}

fn resolve_rules(rules: &[Rule], sets: &mut impl SetSource) -> Vec<EffectiveRule> {
    rules.iter().map(|rule| resolve_rule(rule, sets)).collect()
}

fn resolve_rule(rule: &Rule, sets: &mut impl SetSource) -> EffectiveRule {
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

fn resolve_entity(entity: &Entity, protocol: Option<Protocol>, sets: &mut impl SetSource) -> EffectiveEntity {
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
    sets: &mut impl SetSource,
) -> Vec<EffectivePort> {
    let mut resolved = Vec::new();
    for port in ports {
        match port {
            PortMatch::Range(first, last) => resolved.push(EffectivePort::Range(*first, *last)),
            PortMatch::Named(name) => {
                let members = sets.with_port(owners, name, wanted).into_iter();
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
