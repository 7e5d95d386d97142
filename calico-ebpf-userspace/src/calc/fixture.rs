//! Objects for tests, written as in manifests.

use serde_json::{Value, json};

use super::resolve::CalcOptions;
use crate::model::decode::decode;
use crate::model::name::{Kind, ResourceKey};
use crate::model::problem::{Consequence, Problem};
use crate::model::resource::Snapshot;

/// Host whose endpoints are local.
pub(crate) const HOST: &str = "compute-1";

/// Returns the options of [`HOST`].
pub(crate) fn options() -> CalcOptions {
    CalcOptions {
        hostname: HOST.to_owned(),
        workload_source_spoofing: false,
    }
}

/// Decodes objects; anything wrong with one fails the test.
pub(crate) fn snapshot(objects: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for object in objects {
        let decoded = decode(object, None);
        let wrong: Vec<&Problem> = decoded
            .problems
            .iter()
            .filter(|problem| problem.consequence != Consequence::NotEnforced)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        snapshot.insert(
            decoded.key.expect("a key"),
            decoded.resource.expect("an object").into(),
        );
    }
    snapshot
}

/// Key of an endpoint made by [`endpoint`].
pub(crate) fn endpoint_key(name: &str) -> ResourceKey {
    ResourceKey {
        kind: Kind::WorkloadEndpoint,
        namespace: "openstack".to_owned(),
        name: full_name(HOST, name),
    }
}

fn full_name(host: &str, name: &str) -> String {
    format!("{}-openstack-{name}-port{name}", host.replace('-', "--"))
}

/// An endpoint of [`HOST`]: interface `tap<name>`, label `role`.
pub(crate) fn endpoint(name: &str, addresses: &[&str]) -> Value {
    endpoint_on(HOST, name, addresses)
}

/// An endpoint of any host.
pub(crate) fn endpoint_on(host: &str, name: &str, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "WorkloadEndpoint",
        "metadata": {"name": full_name(host, name), "namespace": "openstack", "labels": {"role": name}},
        "spec": {
            "orchestrator": "openstack", "workload": name, "node": host, "endpoint": format!("port{name}"),
            "interfaceName": format!("tap{name}"), "mac": "fa:16:3e:00:00:01", "ipNetworks": addresses,
        },
    })
}

/// The object with a field of its `spec` set.
pub(crate) fn with(mut object: Value, field: &str, value: Value) -> Value {
    object["spec"][field] = value;
    object
}

/// The object with labels instead of those it has.
pub(crate) fn labelled(mut object: Value, labels: Value) -> Value {
    object["metadata"]["labels"] = labels;
    object
}

/// An object without a namespace.
#[expect(clippy::needless_pass_by_value, reason = "a literal is written at each call")]
pub(crate) fn global(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})
}
