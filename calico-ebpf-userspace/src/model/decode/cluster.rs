//! Objects of the cluster: pools, hosts, migrations, facts.

use std::net::IpAddr;

use super::field::{Fault, Field, Notes};
use super::network::read_net;
use super::object::{Object, read_labels};
use crate::model::resource::{ClusterInformation, IpPool, LiveMigration, MigrationSide, Node};

/// Reads an address pool.
pub(super) fn ip_pool(object: &Object<'_>, notes: &mut Notes) -> Result<IpPool, Fault> {
    let spec = &object.spec;
    let cidr = spec.get("cidr").ok_or_else(|| absent("spec.cidr", "a prefix"))?;
    let pool = IpPool {
        cidr: read_net(&cidr, notes)?,
        nat_outgoing: spec.get_bool("natOutgoing")?.unwrap_or_default(),
        disabled: spec.get_bool("disabled")?.unwrap_or_default(),
    };
    if let (true, Some(field)) = (pool.nat_outgoing, spec.get("natOutgoing")) {
        notes.not_enforced(field.fault("false (natOutgoing is not enforced)"));
    }
    Ok(pool)
}

/// Reads a host, its labels and its addresses; a bad address is left out alone.
pub(super) fn node(object: &Object<'_>, notes: &mut Notes) -> Result<Node, Fault> {
    let spec = &object.spec;
    let mut fields = Vec::new();
    if let Some(bgp) = spec.get_map("bgp")? {
        fields.extend(bgp.get("ipv4Address"));
        fields.extend(bgp.get("ipv6Address"));
    }
    fields.extend(
        spec.get_list("addresses")?
            .iter()
            .filter_map(|item| item.get("address")),
    );
    let mut addresses = Vec::new();
    for field in fields.iter().filter(|field| field.value().as_str() != Some("")) {
        if let Some(address) = notes.or_skip_field(read_host_address(field))
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    let labels = read_labels(object.metadata.as_ref(), "labels", notes);
    Ok(Node { addresses, labels })
}

/// Reads an address, with or without the length of its prefix.
fn read_host_address(field: &Field<'_>) -> Result<IpAddr, Fault> {
    let text = field.text()?;
    let address = text
        .parse()
        .or_else(|_| text.parse().map(|net: ipnet::IpNet| net.addr()));
    address
        .ok()
        .ok_or_else(|| field.fault("an address such as 192.0.2.1 or 192.0.2.1/24"))
}

/// Reads a live migration.
pub(super) fn live_migration(object: &Object<'_>) -> Result<LiveMigration, Fault> {
    Ok(LiveMigration {
        source: migration_side(object, "source")?,
        target: migration_side(object, "target")?,
    })
}

fn migration_side(object: &Object<'_>, side: &str) -> Result<MigrationSide, Fault> {
    let endpoint = match object.spec.get_map(side)? {
        Some(side) => side.get_map("workloadEndpoint")?,
        None => None,
    };
    let text = |name: &str, expected: &str| {
        let text = match &endpoint {
            Some(endpoint) => endpoint.get_text(name)?.filter(|text| !text.is_empty()),
            None => None,
        };
        text.map(str::to_owned)
            .ok_or_else(|| absent(&format!("spec.{side}.workloadEndpoint.{name}"), expected))
    };
    Ok(MigrationSide {
        host: text("hostname", "the name of a host")?,
        orchestrator: text("orchestratorID", "an orchestrator")?,
        workload: text("workloadID", "a namespace and a workload")?,
        endpoint: text("endpointID", "an endpoint")?,
    })
}

/// Reads the facts of the cluster.
pub(super) fn cluster_information(object: &Object<'_>) -> Result<ClusterInformation, Fault> {
    let spec = &object.spec;
    let text = |name: &str| {
        spec.get_text(name)
            .map(|text| text.unwrap_or_default().to_owned())
    };
    Ok(ClusterInformation {
        cluster_guid: text("clusterGUID")?,
        cluster_type: text("clusterType")?,
        datastore_ready: spec.get_bool("datastoreReady")?,
        calico_version: text("calicoVersion")?,
    })
}

fn absent(path: &str, expected: &str) -> Fault {
    Fault {
        path: path.to_owned(),
        found: "nothing".to_owned(),
        expected: expected.to_owned(),
    }
}
