//! Workloads and their objects.

use serde_json::json;

use crate::manifests::{HOSTNAME, NAMESPACE, Object};

/// A workload and its tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    pub mac: [u8; 6],
    pub tap_mac: [u8; 6],
}

pub(super) fn tap(name: &str) -> String {
    format!("tap{name}")
}

pub(super) fn endpoint_object(name: &str, mac: [u8; 6], addresses: &[&str]) -> Object {
    let doubled = HOSTNAME.replace('-', "--");
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let spec = json!({
        "orchestrator": "openstack",
        "workload": name,
        "node": HOSTNAME,
        "endpoint": format!("port{name}"),
        "interfaceName": tap(name),
        "mac": mac,
        "ipNetworks": addresses,
    });
    let full_name = format!("{doubled}-openstack-{name}-port{name}");
    Object::new("WorkloadEndpoint", NAMESPACE, &full_name, &spec).label("name", name)
}
