//! Which endpoints of this host take part in a live migration (contract 1.4).

use std::collections::{BTreeMap, HashMap};

use super::effective::MigrationRole;
use crate::model::name::ResourceKey;
use crate::model::resource::{LiveMigration, MigrationSide, Resource, WorkloadEndpoint};

/// Returns the endpoints of `hostname` that a live migration names, by the ids in it. An endpoint that is both, with one
/// migration not yet removed and the next one begun, is a source.
pub(super) fn migrations_here<'a>(
    migrations: impl Iterator<Item = &'a LiveMigration>,
    local_endpoints: impl Iterator<Item = (&'a ResourceKey, &'a WorkloadEndpoint)>,
    hostname: &str,
) -> BTreeMap<ResourceKey, MigrationRole> {
    let mut named: HashMap<Identity<'_>, MigrationRole> = HashMap::new();
    for migration in migrations {
        if migration.target.host == hostname {
            named
                .entry(Identity::of_side(&migration.target))
                .or_insert(MigrationRole::Target);
        }
        if migration.source.host == hostname {
            named.insert(Identity::of_side(&migration.source), MigrationRole::Source);
        }
    }
    if named.is_empty() {
        return BTreeMap::new();
    }
    let role_of = |(key, endpoint): (&ResourceKey, &WorkloadEndpoint)| {
        let workload = format!("{}/{}", key.namespace, endpoint.workload);
        let identity = Identity {
            orchestrator: &endpoint.orchestrator,
            workload: &workload,
            endpoint: &endpoint.endpoint,
        };
        Some((key.clone(), *named.get(&identity)?))
    };
    local_endpoints.filter_map(role_of).collect()
}

/// Returns the live migration that an object is.
pub(super) fn live_migration(resource: &Resource) -> Option<&LiveMigration> {
    if let Resource::LiveMigration(migration) = resource {
        Some(migration)
    } else {
        None
    }
}

/// Felix's identity of an endpoint on its host.
#[derive(PartialEq, Eq, Hash)]
struct Identity<'a> {
    orchestrator: &'a str,
    /// With its namespace.
    workload: &'a str,
    endpoint: &'a str,
}

impl<'a> Identity<'a> {
    fn of_side(side: &'a MigrationSide) -> Self {
        Self {
            orchestrator: &side.orchestrator,
            workload: &side.workload,
            endpoint: &side.endpoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::calc::fixture::{HOST, endpoint, endpoint_key, endpoint_on, options, snapshot};
    use crate::calc::resolve::resolve;

    fn side(host: &str, name: &str) -> Value {
        json!({"workloadEndpoint": {
            "hostname": host, "orchestratorID": "openstack",
            "workloadID": format!("openstack/{name}"), "endpointID": format!("port{name}"),
        }})
    }

    fn migration(name: &str, from: &str, to: &str) -> Value {
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "LiveMigration",
            "metadata": {"name": format!("{to}-{name}"), "namespace": "openstack"},
            "spec": {"source": side(from, name), "target": side(to, name)},
        })
    }

    fn roles(objects: &[Value]) -> BTreeMap<ResourceKey, MigrationRole> {
        BTreeMap::clone(&resolve(&snapshot(objects), &options()).migrations)
    }

    #[test]
    fn endpoints_of_this_host_are_targets_and_sources() {
        let found = roles(&[
            endpoint("in", &["10.0.0.1/32"]),
            endpoint_on("compute-2", "in", &["10.0.0.1/32"]),
            migration("in", "compute-2", HOST),
            endpoint("out", &["10.0.0.2/32"]),
            migration("out", HOST, "compute-2"),
            endpoint("stays", &["10.0.0.3/32"]),
            migration("elsewhere", "compute-2", "compute-3"),
        ]);
        let wanted = BTreeMap::from([
            (endpoint_key("in"), MigrationRole::Target),
            (endpoint_key("out"), MigrationRole::Source),
        ]);
        assert_eq!(found, wanted);
    }

    #[test]
    fn ids_of_another_namespace_name_another_endpoint() {
        let mut object = migration("in", "compute-2", HOST);
        object["spec"]["target"]["workloadEndpoint"]["workloadID"] = json!("openstack-region-x/in");
        assert_eq!(
            roles(&[endpoint("in", &["10.0.0.1/32"]), object]),
            BTreeMap::new()
        );
    }

    #[test]
    fn endpoint_that_goes_on_before_its_arrival_is_over_is_a_source() {
        let found = roles(&[
            endpoint("a", &["10.0.0.1/32"]),
            migration("a", "compute-2", HOST),
            migration("a", HOST, "compute-3"),
        ]);
        assert_eq!(found[&endpoint_key("a")], MigrationRole::Source);
    }
}
