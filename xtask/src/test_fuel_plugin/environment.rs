//! What Fuel tells a node: `/etc/astute.yaml`, as hiera reads it.

use serde_json::{Map, Value, json};

/// The nodes, by uid. Computes have no other role.
pub(super) const NODES: [(u8, &str); 5] = [
    (1, "primary-controller"),
    (2, "controller"),
    (3, "controller"),
    (4, "compute"),
    (5, "compute"),
];

/// Returns a node's name.
pub(super) fn fqdn(uid: u8) -> String {
    format!("node-{uid}.domain.tld")
}

/// Returns the file's text: JSON is YAML. `changes` are settings that differ from those of [`settings`]; the nodes `gone`
/// are not in the environment.
pub(super) fn astute(uid: u8, changes: &Value, gone: &[u8]) -> String {
    let mut settings = settings();
    if let (Some(settings), Some(changes)) = (settings.as_object_mut(), changes.as_object()) {
        settings.extend(changes.clone());
    }
    let nodes: Map<String, Value> = NODES
        .iter()
        .filter(|(uid, _)| !gone.contains(uid))
        .map(|(uid, role)| (format!("node-{uid}"), node(*uid, role)))
        .collect();
    let text = json!({
        "uid": uid.to_string(),
        "fqdn": fqdn(uid),
        "fuel_version": "9.0",
        "network_metadata": {"nodes": nodes},
        "network_scheme": {"transformations": [{"action": "add-br", "name": "br-prv", "provider": "ovs"}]},
        "fuel-plugin-calico": settings,
    });
    format!("---\n{text:#}\n")
}

/// Settings that differ from the defaults where that can be seen on a node.
fn settings() -> Value {
    json!({
        "metadata": {"enabled": true},
        "ebpf_mode": true,
        "kernel_choice": "keep",
        "kernel_failure_policy": "iptables",
        "as_number": "4200000000",
        "ippool_cidr": "10.65.0.0/16",
        "ippool_gateway": "10.65.0.1",
        "workload_mtu": "1500",
        "bgp_topology": "reflectors",
        "enable_external_peering": true,
        "external_peers": "edge-1:65001:192.168.2.250\n",
        "metadata_addr": "127.0.0.1",
        "metadata_port": "8776",
        "etcd_endpoints": "",
        "etcd_tls": true,
        "etcd_ca": "",
        "etcd_cert": "",
        "etcd_key": "",
        "log_level": "warning",
        "metrics_enabled": true,
        "metrics_port": "9191",
    })
}

fn node(uid: u8, role: &str) -> Value {
    json!({
        "name": format!("node-{uid}"),
        "fqdn": fqdn(uid),
        "uid": uid.to_string(),
        "node_roles": [role],
        "network_roles": {"neutron/mesh": format!("192.168.2.{uid}"), "mgmt/vip": format!("192.168.0.{uid}")},
    })
}

/// What `calico-ebpf config show` has to say of them on node 4, by parameter.
pub(super) const EXPECTED: [(&str, &str); 14] = [
    ("FelixHostname", "node-4.domain.tld"),
    ("DatastoreType", "etcdv3"),
    (
        "EtcdEndpoints",
        "https://192.168.0.2:2379,https://192.168.0.3:2379,https://192.168.0.1:2379",
    ),
    ("EtcdCaFile", "/etc/calico/etcd/ca.crt"),
    ("EtcdCertFile", "/etc/calico/etcd/node.crt"),
    ("EtcdKeyFile", "/etc/calico/etcd/node.key"),
    ("InterfacePrefix", "tap"),
    ("EndpointReportingEnabled", "true"),
    ("MetadataAddr", "127.0.0.1"),
    ("MetadataPort", "8776"),
    ("LogSeverityScreen", "WARNING"),
    ("LogFilePath", "none"),
    ("PrometheusMetricsEnabled", "true"),
    ("PrometheusMetricsPort", "9191"),
];
