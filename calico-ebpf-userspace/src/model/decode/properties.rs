//! What holds for any bytes at all: for random tests and fuzzing.

use super::{Decoded, decode, decode_json};
use crate::model::name::{Kind, ResourceKey};
use crate::model::problem::{Consequence, Problem};
use crate::model::resource::{Policy, Resource, WorkloadEndpoint};
use crate::model::rule::{Entity, PortMatch, Protocol, Rule};

/// Longest part of a message, in bytes; a name in the identity has up to 1024 and is not counted.
const MAX_PART: usize = 2500;

/// Checks bytes as a file's object and as the value of a key of each kind: they give a valid object, or a problem says
/// why there is none.
///
/// # Panics
///
/// When something else is true.
pub fn check(json: &[u8]) {
    check_file(json);
    let Ok(value) = serde_json::from_slice(json) else {
        return;
    };
    for &kind in Kind::ALL {
        let namespace = if kind.is_namespaced() { "openstack" } else { "" };
        let hint = ResourceKey {
            kind,
            namespace: namespace.to_owned(),
            name: "compute--1-openstack-vm-port".to_owned(),
        };
        let decoded = decode(&value, Some(&hint));
        assert_eq!(decoded.key.as_ref(), Some(&hint));
        check_decoded(&decoded);
    }
}

/// Checks bytes as a file's object.
pub(super) fn check_file(json: &[u8]) {
    check_decoded(&decode_json(json, None));
}

fn check_decoded(decoded: &Decoded) {
    let is_skip = |problem: &&Problem| problem.consequence == Consequence::ObjectSkipped;
    let skips = decoded.problems.iter().filter(is_skip).count();
    assert_eq!(skips, usize::from(decoded.resource.is_none()), "{decoded:?}");
    for problem in &decoded.problems {
        check_problem(problem, decoded);
    }
    if let Some(resource) = &decoded.resource {
        let key = decoded.key.as_ref().expect("an object has an identity");
        check_resource(key, resource);
    }
}

fn check_problem(problem: &Problem, decoded: &Decoded) {
    assert_eq!(problem.object, decoded.key, "{problem}");
    assert_eq!(problem.place, None, "{problem}");
    for part in [&problem.field, &problem.found, &problem.expected] {
        assert!(part.len() <= MAX_PART, "{problem}");
        assert!(!part.contains(char::is_control), "{problem:?}");
    }
    assert!(
        !problem.found.is_empty() && !problem.expected.is_empty(),
        "{problem:?}"
    );
    let is_whole = decoded.resource.is_none()
        || problem.found.ends_with("more problems")
        || problem.found == "a host endpoint";
    assert!(!problem.field.is_empty() || is_whole, "{problem:?}");
}

fn check_resource(key: &ResourceKey, resource: &Resource) {
    match (key.kind, resource) {
        (Kind::WorkloadEndpoint, Resource::WorkloadEndpoint(endpoint)) => check_endpoint(endpoint),
        (Kind::NetworkPolicy | Kind::GlobalNetworkPolicy, Resource::Policy(policy)) => check_policy(policy),
        (Kind::Profile, Resource::Profile(profile)) => {
            check_rules(&profile.ingress);
            check_rules(&profile.egress);
        }
        (Kind::NetworkSet | Kind::GlobalNetworkSet, Resource::NetworkSet(set)) => {
            assert!(set.nets.iter().all(|net| net.trunc() == *net), "{set:?}");
        }
        (Kind::HostEndpoint, Resource::HostEndpoint(endpoint)) => assert!(!endpoint.node.is_empty()),
        (Kind::LiveMigration, Resource::LiveMigration(migration)) => {
            assert!(!migration.source.host.is_empty() && !migration.target.host.is_empty());
        }
        (Kind::IPPool, Resource::IpPool(pool)) => assert_eq!(pool.cidr, pool.cidr.trunc()),
        (Kind::Tier, Resource::Tier(_))
        | (Kind::Node, Resource::Node(_))
        | (Kind::FelixConfiguration, Resource::FelixConfiguration(_))
        | (Kind::ClusterInformation, Resource::ClusterInformation(_)) => {}
        (kind, other) => panic!("{kind:?} gave {other:?}"),
    }
}

fn check_endpoint(endpoint: &WorkloadEndpoint) {
    let WorkloadEndpoint {
        node,
        interface_name,
        mac,
        ip_networks,
        allowed_ips,
        ip_nats,
        labels,
        ports,
        ..
    } = endpoint;
    assert!(!node.is_empty());
    assert!((1..=15).contains(&interface_name.len()), "{interface_name}");
    assert!(!interface_name.contains(['/', ' ', '\0']), "{interface_name}");
    assert!(mac.is_none_or(|mac| mac.0[0] & 1 == 0 && mac.0 != [0; 6]));
    assert!(!ip_networks.is_empty());
    for net in ip_networks {
        assert!(net.prefix_len() > 0 && *net == net.trunc(), "{net}");
    }
    assert!(allowed_ips.iter().all(|net| ip_networks.contains(net)));
    for nat in ip_nats {
        assert_eq!(nat.internal.is_ipv4(), nat.external.is_ipv4());
    }
    assert!(labels.contains_key("projectcalico.org/namespace"));
    assert!(
        !labels
            .keys()
            .any(|label| label.starts_with("pcns.") || label.starts_with("pcsa."))
    );
    for port in ports {
        assert!(port.port > 0 && port.protocol.0 > 0, "{port:?}");
    }
}

fn check_policy(policy: &Policy) {
    assert!(policy.ingress_enabled || policy.egress_enabled);
    assert!(policy.order.is_none_or(f64::is_finite));
    assert!(!policy.tier.is_empty());
    check_rules(&policy.ingress);
    check_rules(&policy.egress);
}

fn check_rules(rules: &[Rule]) {
    assert!(rules.is_sorted_by(|left, right| left.index < right.index));
    for rule in rules {
        let protocols = [rule.protocol, rule.not_protocol];
        assert!(!protocols.contains(&Some(Protocol(0))), "{rule:?}");
        if rule.icmp.is_some() || rule.not_icmp.is_some() {
            assert!(matches!(rule.protocol, Some(Protocol(1 | 58))), "{rule:?}");
        }
        for entity in [&rule.source, &rule.destination] {
            check_entity(rule, entity);
        }
    }
}

fn check_entity(rule: &Rule, entity: &Entity) {
    let nets = entity.nets.iter().flatten().chain(&entity.not_nets);
    for net in nets {
        assert_eq!(*net, net.trunc());
    }
    for port in entity.ports.iter().flatten().chain(&entity.not_ports) {
        assert!(rule.protocol.is_some(), "{rule:?}");
        match port {
            PortMatch::Range(first, last) => assert!(*first > 0 && first <= last, "{rule:?}"),
            PortMatch::Named(name) => assert!(!name.is_empty(), "{rule:?}"),
        }
    }
}
