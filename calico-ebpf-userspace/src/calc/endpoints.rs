//! What is said about one object by itself: what it has, whether it can be in force, what of it is not enforced.

use std::borrow::Cow;
use std::sync::Arc;

use ipnet::IpNet;

use super::effective::{EffectiveEndpoint, EffectivePolicy};
use super::resolve::CalcOptions;
use crate::model::labels::Labels;
use crate::model::name::ResourceKey;
use crate::model::resource::{NamedPort, Profile, Resource, WorkloadEndpoint};

/// Something with labels and addresses, as far as it says so itself.
pub(super) struct Member<'a> {
    pub(super) labels: &'a Labels,
    /// Where further labels come from, in order.
    pub(super) profiles: &'a [String],
    /// Masked.
    pub(super) nets: Vec<IpNet>,
    pub(super) ports: &'a [NamedPort],
}

/// Returns what a selector can select: endpoints of all hosts, host endpoints and network sets.
pub(super) fn member_of(resource: &Resource) -> Option<Member<'_>> {
    match resource {
        Resource::WorkloadEndpoint(endpoint) if is_complete(endpoint) => Some(Member {
            labels: &endpoint.labels,
            profiles: &endpoint.profiles,
            nets: endpoint.ip_networks.iter().map(IpNet::trunc).collect(),
            ports: &endpoint.ports,
        }),
        Resource::HostEndpoint(endpoint) => Some(Member {
            labels: &endpoint.labels,
            profiles: &endpoint.profiles,
            nets: endpoint.expected_ips.iter().map(|ip| IpNet::from(*ip)).collect(),
            ports: &endpoint.ports,
        }),
        Resource::NetworkSet(set) => Some(Member {
            labels: &set.labels,
            profiles: &set.profiles,
            nets: set.nets.iter().map(IpNet::trunc).collect(),
            ports: &[],
        }),
        Resource::WorkloadEndpoint(_)
        | Resource::Policy(_)
        | Resource::Tier(_)
        | Resource::Profile(_)
        | Resource::IpPool(_)
        | Resource::Node(_)
        | Resource::LiveMigration(_)
        | Resource::FelixConfiguration(_)
        | Resource::ClusterInformation(_) => None,
    }
}

/// Returns the endpoint, if it is one of this host.
pub(super) fn local_endpoint<'a>(
    resource: &'a Resource,
    options: &CalcOptions,
) -> Option<&'a WorkloadEndpoint> {
    if let Resource::WorkloadEndpoint(endpoint) = resource
        && endpoint.node == options.hostname
    {
        Some(endpoint)
    } else {
        None
    }
}

/// Returns whether Felix would take the endpoint at all: with an interface and an address.
pub(super) fn is_complete(endpoint: &WorkloadEndpoint) -> bool {
    why_incomplete(endpoint).is_none()
}

/// Returns why an endpoint cannot be in force, whatever others there are.
pub(super) fn why_incomplete(endpoint: &WorkloadEndpoint) -> Option<&'static str> {
    if endpoint.interface_name.is_empty() {
        Some("has no interface name")
    } else if endpoint.ip_networks.is_empty() {
        Some("has no addresses")
    } else {
        None
    }
}

/// Returns why an endpoint is not in force although it is complete.
pub(super) fn why_shadowed(endpoint: &WorkloadEndpoint, winner: &ResourceKey) -> String {
    format!("interface {} belongs to {winner}", endpoint.interface_name)
}

/// Felix's identity of an endpoint: of those with one interface the lowest is in force (contract 3.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    orchestrator: String,
    /// `namespace/device`.
    workload: String,
    endpoint: String,
    pub(super) key: ResourceKey,
}

impl Identity {
    /// Returns the identity of an endpoint.
    pub(super) fn new(key: &ResourceKey, endpoint: &WorkloadEndpoint) -> Self {
        Self {
            orchestrator: endpoint.orchestrator.clone(),
            workload: format!("{}/{}", key.namespace, endpoint.workload),
            endpoint: endpoint.endpoint.clone(),
            key: key.clone(),
        }
    }
}

/// Returns own labels, then those of each profile in order that are not there yet.
pub(super) fn inherited<'a, 'b>(
    own: &'a Labels,
    profiles: &[String],
    profile: impl Fn(&str) -> Option<&'b Profile>,
) -> Cow<'a, Labels> {
    let mut labels = Cow::Borrowed(own);
    for profile in profiles.iter().filter_map(|name| profile(name)) {
        for (label, value) in &profile.labels_to_apply {
            if !labels.contains_key(label) {
                labels.to_mut().insert(label.clone(), value.clone());
            }
        }
    }
    labels
}

/// Returns an endpoint in force.
pub(super) fn effective_endpoint(
    endpoint: &WorkloadEndpoint,
    options: &CalcOptions,
    policy: Arc<EffectivePolicy>,
    labels: Arc<Labels>,
) -> EffectiveEndpoint {
    let spoofed = if options.workload_source_spoofing {
        endpoint.allow_spoofed_source_prefixes.clone()
    } else {
        Vec::new()
    };
    EffectiveEndpoint {
        interface_name: endpoint.interface_name.clone(),
        mac: endpoint.mac,
        ip_networks: endpoint.ip_networks.clone(),
        allowed_ips: endpoint.allowed_ips.clone(),
        allow_spoofed_source_prefixes: spoofed,
        ip_nats: endpoint.ip_nats.clone(),
        policy,
        labels,
    }
}

/// Returns what of an object concerns this host and is not enforced.
pub(super) fn not_enforced(resource: &Resource, options: &CalcOptions) -> Vec<&'static str> {
    let mut list = Vec::new();
    match resource {
        Resource::HostEndpoint(endpoint) if endpoint.node == options.hostname => list.push("host endpoint"),
        Resource::WorkloadEndpoint(endpoint) if endpoint.node == options.hostname => {
            if endpoint.has_qos_controls {
                list.push("qosControls");
            }
        }
        Resource::IpPool(pool) if pool.nat_outgoing => list.push("natOutgoing"),
        Resource::HostEndpoint(_)
        | Resource::WorkloadEndpoint(_)
        | Resource::IpPool(_)
        | Resource::Policy(_)
        | Resource::Tier(_)
        | Resource::Profile(_)
        | Resource::NetworkSet(_)
        | Resource::Node(_)
        | Resource::LiveMigration(_)
        | Resource::FelixConfiguration(_)
        | Resource::ClusterInformation(_) => {}
    }
    list
}
