//! Counts what the datastore holds for all hosts. The cost follows the change.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use crate::model::name::{Kind, ResourceKey};
use crate::model::resource::{Changes, Resource, Snapshot};
use crate::report::ClusterReport;

/// Counts of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    by_kind: BTreeMap<Kind, u64>,
    /// Hosts and how many objects name them.
    hosts: BTreeMap<String, u64>,
}

impl Cluster {
    /// Follows changes that are about to be made to `snapshot`.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, changes: &Changes) {
        for (key, new) in changes {
            if let Some(old) = snapshot.get(key) {
                decrement(&mut self.by_kind, &key.kind);
                if let Some(host) = host_of(key, old) {
                    decrement(&mut self.hosts, host);
                }
            }
            if let Some(new) = new {
                *self.by_kind.entry(key.kind).or_default() += 1;
                if let Some(host) = host_of(key, new) {
                    *self.hosts.entry(host.to_owned()).or_default() += 1;
                }
            }
        }
    }

    /// Returns the number of all objects.
    pub(super) fn objects(&self) -> u64 {
        self.by_kind.values().sum()
    }

    /// Returns the counts in words.
    pub(super) fn report(&self) -> ClusterReport {
        let count = |kind| self.by_kind.get(&kind).copied().unwrap_or(0);
        ClusterReport {
            hosts: self.hosts.len() as u64,
            workload_endpoints: count(Kind::WorkloadEndpoint),
            host_endpoints: count(Kind::HostEndpoint),
            policies: count(Kind::NetworkPolicy) + count(Kind::GlobalNetworkPolicy),
            profiles: count(Kind::Profile),
            tiers: count(Kind::Tier),
        }
    }
}

/// Takes one away; an entry of none is none.
fn decrement<K: Ord + Borrow<Q>, Q: Ord + ?Sized>(counts: &mut BTreeMap<K, u64>, key: &Q) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Returns the host that an object makes known.
fn host_of<'a>(key: &'a ResourceKey, resource: &'a Resource) -> Option<&'a str> {
    match resource {
        Resource::WorkloadEndpoint(endpoint) => Some(&endpoint.node),
        Resource::HostEndpoint(endpoint) => Some(&endpoint.node),
        Resource::Node(_) => Some(&key.name),
        Resource::Policy(_)
        | Resource::Tier(_)
        | Resource::Profile(_)
        | Resource::NetworkSet(_)
        | Resource::IpPool(_)
        | Resource::LiveMigration(_)
        | Resource::FelixConfiguration(_)
        | Resource::ClusterInformation(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::resource::{HostEndpoint, Tier, apply_changes};

    fn key(kind: Kind, name: &str) -> ResourceKey {
        ResourceKey {
            kind,
            namespace: String::new(),
            name: name.to_owned(),
        }
    }

    fn host_endpoint(node: &str) -> Arc<Resource> {
        Arc::new(Resource::HostEndpoint(HostEndpoint {
            node: node.to_owned(),
            interface_name: "*".to_owned(),
            expected_ips: Vec::new(),
            labels: std::collections::BTreeMap::default(),
            profiles: Vec::new(),
            ports: Vec::new(),
        }))
    }

    fn tier() -> Arc<Resource> {
        Arc::new(Resource::Tier(Tier {
            order: None,
            default_pass: false,
        }))
    }

    #[test]
    fn counts_follow_objects_that_come_move_and_go() {
        let (a, b) = (key(Kind::HostEndpoint, "a"), key(Kind::HostEndpoint, "b"));
        let t = key(Kind::Tier, "t");
        let steps = [
            (
                Changes::from([
                    (a.clone(), Some(host_endpoint("h1"))),
                    (b.clone(), Some(host_endpoint("h1"))),
                    (t.clone(), Some(tier())),
                ]),
                (1, 2, 1),
            ),
            (
                Changes::from([(b.clone(), Some(host_endpoint("h2"))), (t.clone(), Some(tier()))]),
                (2, 2, 1),
            ),
            (Changes::from([(a, None), (t, None)]), (1, 1, 0)),
            (Changes::from([(b, None)]), (0, 0, 0)),
        ];
        let (mut cluster, mut snapshot) = (Cluster::default(), Snapshot::new());
        for (changes, (hosts, host_endpoints, tiers)) in steps {
            cluster.follow(&snapshot, &changes);
            apply_changes(&mut snapshot, &changes);
            let expected = ClusterReport {
                hosts,
                host_endpoints,
                tiers,
                ..ClusterReport::default()
            };
            assert_eq!(cluster.report(), expected);
        }
        assert_eq!(cluster, Cluster::default());
    }
}
