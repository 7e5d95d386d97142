//! The objects.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::labels::Labels;
use super::name::ResourceKey;
use super::rule::{Protocol, Rule};
use super::selector::Selector;

/// One object of the datastore.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Resource {
    WorkloadEndpoint(WorkloadEndpoint),
    HostEndpoint(HostEndpoint),
    /// NetworkPolicy and `GlobalNetworkPolicy`: alike once selectors are effective (contract 4.2).
    Policy(Policy),
    Tier(Tier),
    Profile(Profile),
    /// `NetworkSet` and `GlobalNetworkSet`.
    NetworkSet(NetworkSet),
    IpPool(IpPool),
    Node(Node),
    LiveMigration(LiveMigration),
    FelixConfiguration(FelixConfiguration),
    ClusterInformation(ClusterInformation),
}

/// State of the world: every valid object by its identity.
pub type Snapshot = BTreeMap<ResourceKey, Arc<Resource>>;

/// Objects that are new or different, by identity; `None`: gone.
pub type Changes = BTreeMap<ResourceKey, Option<Arc<Resource>>>;

/// Returns what makes `new` out of `old`.
pub fn changes_between(old: &Snapshot, new: &Snapshot) -> Changes {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let mut changes: Changes = gone.map(|key| (key.clone(), None)).collect();
    for (key, resource) in new {
        let is_same = old
            .get(key)
            .is_some_and(|before| Arc::ptr_eq(before, resource) || before == resource);
        if !is_same {
            changes.insert(key.clone(), Some(Arc::clone(resource)));
        }
    }
    changes
}

/// Makes a snapshot follow changes.
pub fn apply_changes(snapshot: &mut Snapshot, changes: &Changes) {
    for (key, resource) in changes {
        match resource {
            Some(resource) => snapshot.insert(key.clone(), Arc::clone(resource)),
            None => snapshot.remove(key),
        };
    }
}

/// MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct MacAddress(pub [u8; 6]);

impl std::fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(formatter, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(formatter, ":{byte:02x}"))
    }
}

/// A VM's port (contract 1.2).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkloadEndpoint {
    /// `spec.node`.
    pub node: String,
    pub orchestrator: String,
    /// `spec.workload`: the VM.
    pub workload: String,
    /// `spec.endpoint`: the port.
    pub endpoint: String,
    pub interface_name: String,
    pub mac: Option<MacAddress>,
    /// Addresses and prefixes of `ipNetworks`: fixed addresses and address pairs.
    pub ip_networks: Vec<IpNet>,
    /// `allowedIps`: the pairs among `ip_networks`, which may come from any unicast MAC.
    pub allowed_ips: Vec<IpNet>,
    pub ipv4_gateway: Option<Ipv4Addr>,
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Floating addresses.
    pub ip_nats: Vec<IpNat>,
    /// Labels, without those that start with `pcns.` or `pcsa.` (contract 1.2).
    pub labels: Labels,
    pub profiles: Vec<String>,
    pub ports: Vec<NamedPort>,
    pub allow_spoofed_source_prefixes: Vec<IpNet>,
    /// `qosControls` is present: read, not enforced.
    pub has_qos_controls: bool,
}

/// A floating address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct IpNat {
    pub internal: IpAddr,
    pub external: IpAddr,
}

/// A named port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// An interface of a host: read, not enforced.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostEndpoint {
    pub node: String,
    pub interface_name: String,
    pub expected_ips: Vec<IpAddr>,
    pub labels: Labels,
    pub profiles: Vec<String>,
    pub ports: Vec<NamedPort>,
}

/// NetworkPolicy or `GlobalNetworkPolicy`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    /// `default` when none is given.
    pub tier: String,
    /// `None` is last.
    pub order: Option<f64>,
    /// Effective selector (contract 4.2).
    pub selector: Selector,
    /// Whether it governs traffic to the endpoint. No `types` means both (contract 0).
    pub ingress_enabled: bool,
    /// Whether it governs traffic from the endpoint.
    pub egress_enabled: bool,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
    /// `doNotTrack`, `preDNAT` or `applyOnForward`: host endpoints only, never applied to workloads
    /// (`applyOnForward` alone does not take a policy away from workloads).
    pub host_endpoints_only: bool,
}

/// A tier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tier {
    pub order: Option<f64>,
    /// Whether the end of the tier passes (`defaultAction: Pass`) instead of denying.
    pub default_pass: bool,
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    pub labels_to_apply: Labels,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

/// `NetworkSet` or `GlobalNetworkSet`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkSet {
    pub nets: Vec<IpNet>,
    /// With `projectcalico.org/namespace` added for a `NetworkSet`.
    pub labels: Labels,
    /// `kns.<namespace>` for a `NetworkSet`: labels are inherited from it.
    pub profiles: Vec<String>,
}

/// An address pool: read, not enforced (`natOutgoing`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IpPool {
    pub cidr: IpNet,
    pub nat_outgoing: bool,
    pub disabled: bool,
}

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Node {
    pub addresses: Vec<IpAddr>,
    /// What `nodeSelector` of a `FelixConfiguration` is held against.
    pub labels: Labels,
}

/// Parameters for all hosts (`default`), for one (`node.<host>`), or for those that a selector selects.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FelixConfiguration {
    /// Hosts that it is for; `None` for `default` and for a host's own.
    pub node_selector: Option<Selector>,
    /// By name as in contract 3.6, upper camel.
    pub parameters: BTreeMap<String, ParameterText>,
}

/// One parameter as an object sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParameterText {
    pub value: String,
    /// Path to the field: `spec.healthPort`, `metadata.annotations.config.projectcalico.org/HealthPort`.
    pub field: String,
}

/// A live migration in progress (contract 1.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveMigration {
    pub source: MigrationSide,
    pub target: MigrationSide,
}

/// The endpoint at one side of a live migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrationSide {
    pub host: String,
    pub orchestrator: String,
    /// Namespace and workload: `openstack/<device id>`.
    pub workload: String,
    pub endpoint: String,
}

/// Cluster-wide facts (contract 1.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterInformation {
    pub cluster_guid: String,
    pub cluster_type: String,
    pub datastore_ready: Option<bool>,
    pub calico_version: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Kind;

    fn key(name: &str) -> ResourceKey {
        ResourceKey {
            kind: Kind::Tier,
            namespace: String::new(),
            name: name.to_owned(),
        }
    }

    fn tier(order: f64) -> Arc<Resource> {
        Arc::new(Resource::Tier(Tier {
            order: Some(order),
            default_pass: false,
        }))
    }

    #[test]
    fn changes_lead_from_one_snapshot_to_the_other() {
        let old = Snapshot::from([
            (key("a"), tier(1.0)),
            (key("b"), tier(1.0)),
            (key("c"), tier(1.0)),
        ]);
        let new = Snapshot::from([
            (key("b"), tier(1.0)),
            (key("c"), tier(2.0)),
            (key("d"), tier(1.0)),
        ]);
        let changes = changes_between(&old, &new);
        assert_eq!(changes.len(), 3);
        let mut followed = old;
        apply_changes(&mut followed, &changes);
        assert_eq!(followed, new);
    }
}
