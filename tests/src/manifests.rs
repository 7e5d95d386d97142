//! Manifests of `projectcalico.org/v3` in a directory, as an operator would write them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::guest::Vm;

/// Name of the host in every test.
pub const HOSTNAME: &str = "compute-1";
/// Namespace of what Neutron's driver writes.
pub const NAMESPACE: &str = "openstack";

/// A directory of manifests.
#[derive(Debug)]
pub struct Manifests {
    directory: PathBuf,
}

impl Manifests {
    /// Makes the directory.
    pub fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("make the directory of manifests");
        Self {
            directory: directory.to_owned(),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes an object to a file of its own, replacing what is there by a rename.
    pub fn put(&self, object: &Object) {
        self.write(&object.file_name(), &object.yaml());
    }

    /// Takes an object's file away.
    pub fn remove(&self, object: &Object) {
        fs::remove_file(self.directory.join(object.file_name())).expect("the manifest was written before");
    }

    /// Writes any text to a file.
    pub fn write(&self, file: &str, text: &str) {
        let unfinished = self.directory.join(format!(".{file}.new"));
        fs::write(&unfinished, text).expect("write a manifest");
        fs::rename(&unfinished, self.directory.join(file)).expect("rename a manifest");
    }
}

/// A v3 object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(Value);

impl Object {
    /// Makes an object of a kind; an empty namespace is none.
    pub fn new(kind: &str, namespace: &str, name: &str, spec: &Value) -> Self {
        let mut metadata = Map::from_iter([("name".to_owned(), name.into())]);
        if !namespace.is_empty() {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        Self(json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": kind,
            "metadata": metadata,
            "spec": spec,
        }))
    }

    /// Takes an object as it is.
    pub fn of(object: Value) -> Self {
        Self(object)
    }

    /// Sets a field of `spec`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0["spec"][field] = value.into();
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = value.into();
        self
    }

    /// Appends a rule to `ingress`.
    #[must_use]
    pub fn ingress(self, rule: Value) -> Self {
        self.rule("ingress", rule)
    }

    /// Appends a rule to `egress`.
    #[must_use]
    pub fn egress(self, rule: Value) -> Self {
        self.rule("egress", rule)
    }

    fn rule(mut self, direction: &str, rule: Value) -> Self {
        let rules = &mut self.0["spec"][direction];
        if rules.is_null() {
            *rules = json!([]);
        }
        rules.as_array_mut().expect("rules are a list").push(rule);
        self
    }

    /// Returns the object as JSON.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// Returns the object as a YAML document.
    pub fn yaml(&self) -> String {
        serde_saphyr::to_string(&self.0).expect("JSON values are YAML")
    }

    fn file_name(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_ascii_lowercase();
        format!(
            "{}-{}.yaml",
            text(&self.0["kind"]),
            text(&self.0["metadata"]["name"])
        )
    }
}

/// The key under which Calico keeps an object in etcd (contract 1.1).
pub fn key_in_etcd(object: &Object) -> String {
    key_of(&object.0)
}

/// As [`key_in_etcd`], of any value that looks like an object.
pub fn key_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = text(&object["kind"]).to_ascii_lowercase();
    let plural = kind
        .strip_suffix('y')
        .map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    let metadata = &object["metadata"];
    let path = match text(&metadata["namespace"]) {
        namespace if namespace.is_empty() => text(&metadata["name"]),
        namespace => format!("{namespace}/{}", text(&metadata["name"])),
    };
    format!("/calico/resources/v3/projectcalico.org/{plural}/{path}")
}

/// The object that says whether an etcd is ready to be read (contract 1.5).
pub fn cluster_information(ready: bool) -> Object {
    let spec = json!({
        "clusterGUID": "5c1e3c9d7f3c4d0f8a3f1f0e2d6b7a90",
        "clusterType": "openstack",
        "datastoreReady": ready,
    });
    Object::new("ClusterInformation", "", "default", &spec)
}

/// The endpoint that Neutron's driver writes for a VM on [`HOSTNAME`].
pub fn workload_endpoint(vm: &Vm) -> Object {
    workload_endpoint_on(HOSTNAME, vm)
}

/// The endpoint that Neutron's driver writes for a VM on a host: the name has each part's dashes doubled.
pub fn workload_endpoint_on(host: &str, vm: &Vm) -> Object {
    let (device, port) = (vm.device_id(), vm.port_id());
    let doubled = |text: &str| text.replace('-', "--");
    let name = format!(
        "{}-openstack-{}-{}",
        doubled(host),
        doubled(&device),
        doubled(&port)
    );
    let spec = json!({
        "orchestrator": "openstack",
        "workload": device,
        "node": host,
        "endpoint": port,
        "interfaceName": vm.interface(),
        "mac": vm.mac_text(),
        "ipv4Gateway": crate::guest::GATEWAY_V4.to_string(),
        "ipNetworks": [format!("{}/32", vm.v4()), format!("{}/128", vm.v6())],
        "allowedIps": [],
    });
    Object::new("WorkloadEndpoint", NAMESPACE, &name, &spec)
        .label("projectcalico.org/namespace", NAMESPACE)
        .label("projectcalico.org/orchestrator", "openstack")
        .label("name", vm.name())
}

/// What Neutron's driver writes while a VM moves from one host to another.
pub fn live_migration(vm: &Vm, from: &str, to: &str) -> Object {
    let target = workload_endpoint_on(to, vm);
    let name = target.value()["metadata"]["name"].as_str().expect("a name");
    let side = |host: &str| {
        json!({"workloadEndpoint": {
            "hostname": host,
            "orchestratorID": "openstack",
            "workloadID": format!("{NAMESPACE}/{}", vm.device_id()),
            "endpointID": vm.port_id(),
        }})
    };
    let spec = json!({"source": side(from), "target": side(to)});
    Object::new("LiveMigration", NAMESPACE, name, &spec)
}

/// A network policy for the endpoints of [`NAMESPACE`] that a selector finds; rules are added to it.
pub fn network_policy(name: &str, selector: &str) -> Object {
    Object::new("NetworkPolicy", NAMESPACE, name, &json!({ "selector": selector }))
}

/// A global network policy; rules are added to it.
pub fn global_network_policy(name: &str, selector: &str) -> Object {
    Object::new("GlobalNetworkPolicy", "", name, &json!({ "selector": selector }))
}

/// A tier; `default_action` is `Deny` or `Pass`.
pub fn tier(name: &str, order: u32, default_action: &str) -> Object {
    Object::new(
        "Tier",
        "",
        name,
        &json!({ "order": order, "defaultAction": default_action }),
    )
}

/// A profile; rules are added to it.
pub fn profile(name: &str) -> Object {
    Object::new("Profile", "", name, &json!({}))
}

/// A set of networks with one label.
pub fn global_network_set(name: &str, label: (&str, &str), nets: &[&str]) -> Object {
    Object::new("GlobalNetworkSet", "", name, &json!({ "nets": nets })).label(label.0, label.1)
}

/// A policy that lets every endpoint send anything.
pub fn allow_all_egress() -> Object {
    network_policy("allow-egress", "all()")
        .with("types", json!(["Egress"]))
        .egress(json!({ "action": "Allow" }))
}

/// A policy that lets every endpoint send and receive anything.
pub fn allow_everything() -> Object {
    let allow = json!({ "action": "Allow" });
    network_policy("allow-everything", "all()")
        .ingress(allow.clone())
        .egress(allow)
}

/// A rule that allows TCP to a port.
pub fn allow_tcp(port: u16) -> Value {
    json!({ "action": "Allow", "protocol": "TCP", "destination": { "ports": [port] } })
}

/// A rule that allows UDP to a port.
pub fn allow_udp(port: u16) -> Value {
    json!({ "action": "Allow", "protocol": "UDP", "destination": { "ports": [port] } })
}

/// Narrows a rule to sources that a selector finds.
#[must_use]
pub fn only_from(mut rule: Value, selector: &str) -> Value {
    rule["source"]["selector"] = selector.into();
    rule
}

/// Rules that allow echo requests of both families.
pub fn allow_ping() -> [Value; 2] {
    [
        json!({ "action": "Allow", "ipVersion": 4, "protocol": "ICMP", "icmp": { "type": 8, "code": 0 } }),
        json!({ "action": "Allow", "ipVersion": 6, "protocol": "ICMPv6", "icmp": { "type": 128, "code": 0 } }),
    ]
}
