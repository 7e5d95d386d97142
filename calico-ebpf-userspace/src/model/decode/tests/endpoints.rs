use super::*;
use crate::model::resource::{HostEndpoint, IpNat, NamedPort, NetworkSet};
use crate::model::rule::Protocol;

fn spec() -> Value {
    json!({
        "node": "compute-1", "orchestrator": "openstack", "workload": "vm", "endpoint": "port",
        "interfaceName": "tap1", "mac": "FA:16:3e:87:b5:03", "ipNetworks": ["10.65.0.17/32", "fd5f::11/128"],
    })
}

fn with(name: &str, value: Value) -> Decoded {
    let mut spec = spec();
    spec[name] = value;
    decode_spec("WorkloadEndpoint", &spec)
}

fn without(name: &str) -> Decoded {
    with(name, Value::Null)
}

#[test]
fn a_complete_endpoint_is_read_without_problems() {
    let mut spec = spec();
    spec["ipv4Gateway"] = json!("10.65.0.1");
    spec["ipv6Gateway"] = json!("fd5f::1");
    spec["ipNetworks"] = json!(["10.65.0.17/32", "10.65.0.200/32", "fd5f::11"]);
    spec["allowedIps"] = json!(["10.65.0.200/32"]);
    spec["ipNATs"] = json!([{"internalIP": "10.65.0.17", "externalIP": "172.24.4.100"}]);
    spec["profiles"] = json!(["p1", "p2"]);
    spec["ports"] = json!([{"name": "http", "protocol": "TCP", "port": 80}]);
    spec["allowSpoofedSourcePrefixes"] = json!(["192.0.2.0/24"]);
    spec["serviceAccountName"] = json!("robot");
    let decoded = decode_spec("WorkloadEndpoint", &spec);
    let endpoint = endpoint_of(&decoded);
    assert_eq!(decoded.problems, []);
    assert_eq!(endpoint.mac.unwrap().to_string(), "fa:16:3e:87:b5:03");
    assert_eq!(endpoint.ip_networks.len(), 3);
    assert_eq!(endpoint.allowed_ips, ["10.65.0.200/32".parse().unwrap()]);
    assert_eq!(endpoint.ipv4_gateway, Some("10.65.0.1".parse().unwrap()));
    assert_eq!(endpoint.ipv6_gateway, Some("fd5f::1".parse().unwrap()));
    let nat = IpNat {
        internal: "10.65.0.17".parse().unwrap(),
        external: "172.24.4.100".parse().unwrap(),
    };
    assert_eq!(endpoint.ip_nats, [nat]);
    assert_eq!(endpoint.profiles, ["p1", "p2"]);
    assert_eq!(
        endpoint.ports,
        [NamedPort {
            name: "http".to_owned(),
            protocol: Protocol(6),
            port: 80
        }]
    );
    assert_eq!(
        endpoint.allow_spoofed_source_prefixes,
        ["192.0.2.0/24".parse().unwrap()]
    );
    assert!(!endpoint.has_qos_controls);
    let labels: Vec<_> = endpoint
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        labels,
        [
            "projectcalico.org/namespace=openstack",
            "projectcalico.org/orchestrator=openstack",
            "projectcalico.org/serviceaccount=robot",
        ]
    );
}

#[test]
fn an_endpoint_that_cannot_exist_is_skipped_as_an_object() {
    for (decoded, field) in [
        (without("node"), "spec.node"),
        (without("interfaceName"), "spec.interfaceName"),
        (with("interfaceName", json!("")), "spec.interfaceName"),
        (
            with("interfaceName", json!("tap-with-a-long-name")),
            "spec.interfaceName",
        ),
        (with("interfaceName", json!("../net")), "spec.interfaceName"),
        (with("interfaceName", json!(7)), "spec.interfaceName"),
        (without("ipNetworks"), "spec.ipNetworks"),
        (with("ipNetworks", json!([])), "spec.ipNetworks"),
        (with("ipNetworks", json!("10.0.0.1")), "spec.ipNetworks"),
        (with("mac", json!("fa:16:3e")), "spec.mac"),
        (with("mac", json!("01:00:5e:00:00:01")), "spec.mac"),
        (with("mac", json!("00:00:00:00:00:00")), "spec.mac"),
        (with("mac", json!("fa:16:3e:87:b5:03:00")), "spec.mac"),
        (with("mac", json!("fa:16:3e:87:b5:+3")), "spec.mac"),
        (with("mac", json!(1)), "spec.mac"),
        (decode_spec("WorkloadEndpoint", &json!(null)), "spec.node"),
    ] {
        assert_eq!(decoded.resource, None, "{field}");
        assert_eq!(told(&decoded), [(field, Consequence::ObjectSkipped)]);
    }
}

#[test]
fn an_endpoint_may_have_no_mac() {
    assert_eq!(endpoint_of(&without("mac")).mac, None);
    assert_eq!(endpoint_of(&with("mac", json!(""))).mac, None);
    assert_eq!(
        endpoint_of(&with("mac", json!("fa-16-3e-87-b5-03")))
            .mac
            .unwrap()
            .0[5],
        3
    );
}

#[test]
fn an_address_pair_given_as_a_prefix_is_read_as_the_prefix() {
    let decoded = with(
        "ipNetworks",
        json!(["10.65.0.17/32", "10.99.0.5/28/32", "fd5f::/64/128"]),
    );
    let networks: Vec<String> = endpoint_of(&decoded)
        .ip_networks
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(networks, ["10.65.0.17/32", "10.99.0.0/28", "fd5f::/64"]);
    assert_eq!(
        told(&decoded),
        [
            ("spec.ipNetworks[1]", Consequence::Reinterpreted),
            ("spec.ipNetworks[2]", Consequence::Reinterpreted),
        ]
    );
}

#[test]
fn a_bad_address_is_left_out_alone() {
    let bad = json!([
        "10.65.0.300",
        "10.65.0.17/32",
        "10.0.0.0/8/31",
        "fd5f::/64/32",
        "10.0.0.1/32/32/32",
        "",
        7,
        null
    ]);
    let decoded = with("ipNetworks", bad);
    assert_eq!(
        endpoint_of(&decoded).ip_networks,
        ["10.65.0.17/32".parse().unwrap()]
    );
    assert_eq!(decoded.problems.len(), 7);
    assert!(
        decoded
            .problems
            .iter()
            .all(|problem| problem.consequence == Consequence::FieldSkipped)
    );
    for (name, value) in [
        ("ipv4Gateway", json!("fd5f::1")),
        ("ipv6Gateway", json!("10.0.0.1")),
        ("ipNATs", json!([{"internalIP": "10.0.0.1"}])),
        (
            "ipNATs",
            json!([{"internalIP": "10.0.0.1", "externalIP": "fd5f::1"}]),
        ),
        ("ipNATs", json!({})),
        ("profiles", json!([5])),
        ("ports", json!([{"name": "http", "protocol": "TCP", "port": 0}])),
        ("ports", json!([{"name": "http", "port": 80}])),
        ("allowedIps", json!(["10.99.99.99/32"])),
        ("allowSpoofedSourcePrefixes", json!(["everything"])),
    ] {
        let decoded = with(name, value);
        endpoint_of(&decoded);
        let [(field, Consequence::FieldSkipped)] = told(&decoded)[..] else {
            panic!("{:?}", decoded.problems)
        };
        assert!(field.starts_with(&format!("spec.{name}")), "{field}");
    }
}

#[test]
fn a_default_route_is_never_an_endpoints_address() {
    let decoded = with("ipNetworks", json!(["10.65.0.17/32", "0.0.0.0/0/32", "::/0"]));
    assert_eq!(endpoint_of(&decoded).ip_networks.len(), 1);
    assert_eq!(
        decoded
            .problems
            .iter()
            .filter(|problem| problem.consequence == Consequence::FieldSkipped)
            .count(),
        2
    );
}

#[test]
fn rate_limits_are_told_as_not_enforced() {
    let decoded = with("qosControls", json!({"egressBandwidth": 1000}));
    assert!(endpoint_of(&decoded).has_qos_controls);
    assert_eq!(told(&decoded), [("spec.qosControls", Consequence::NotEnforced)]);
    assert!(!endpoint_of(&with("qosControls", json!({}))).has_qos_controls);
}

#[test]
fn the_name_tells_what_spec_leaves_out() {
    let mut value = object(
        "WorkloadEndpoint",
        &json!({"interfaceName": "tap1", "ipNetworks": ["10.0.0.1"]}),
    );
    value["metadata"]["name"] = json!("compute--1.example.org-openstack-11--22-aa--bb");
    let decoded = decode(&value, None);
    let endpoint = endpoint_of(&decoded);
    assert_eq!(endpoint.node, "compute-1.example.org");
    assert_eq!(endpoint.orchestrator, "openstack");
    assert_eq!(
        (endpoint.workload.as_str(), endpoint.endpoint.as_str()),
        ("11-22", "aa-bb")
    );
    value["metadata"]["name"] = json!("web");
    value["spec"]["node"] = json!("compute-1");
    let decoded = decode(&value, None);
    let endpoint = endpoint_of(&decoded);
    assert_eq!(
        (
            endpoint.orchestrator.as_str(),
            endpoint.workload.as_str(),
            endpoint.endpoint.as_str()
        ),
        ("openstack", "", "web")
    );
}

#[test]
fn an_endpoint_cannot_forge_its_namespace_or_account() {
    let mut value = object("WorkloadEndpoint", &spec());
    value["metadata"]["labels"] = json!({
        "role": "web", "empty": "", "pcns.team": "a", "pcsa.robot": "b", "projectcalico.org/namespace": "other",
        "projectcalico.org/orchestrator": "k8s",
    });
    let decoded = decode(&value, None);
    let labels: Vec<_> = endpoint_of(&decoded)
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        labels,
        [
            "empty=",
            "projectcalico.org/namespace=openstack",
            "projectcalico.org/orchestrator=k8s",
            "role=web"
        ]
    );
    assert_eq!(
        told(&decoded),
        [("metadata.labels", Consequence::FieldSkipped); 2]
    );
}

#[test]
fn labels_that_yaml_took_for_numbers_are_read_as_text() {
    let mut value = object("WorkloadEndpoint", &spec());
    value["metadata"]["labels"] = json!({"quarantine": true, "stage": 5, "none": null, "list": []});
    let decoded = decode(&value, None);
    let labels = &endpoint_of(&decoded).labels;
    assert_eq!(
        (labels["quarantine"].as_str(), labels["stage"].as_str()),
        ("true", "5")
    );
    assert_eq!(
        told(&decoded),
        [
            ("metadata.labels.list", Consequence::FieldSkipped),
            ("metadata.labels.quarantine", Consequence::Reinterpreted),
            ("metadata.labels.stage", Consequence::Reinterpreted),
        ]
    );
}

#[test]
fn host_endpoints_are_read_and_not_enforced() {
    let decoded = decode_spec(
        "HostEndpoint",
        &json!({"node": "compute-1", "interfaceName": "*", "expectedIPs": ["192.0.2.1", "x"], "profiles": ["p"]}),
    );
    let Some(Resource::HostEndpoint(HostEndpoint {
        interface_name,
        expected_ips,
        ..
    })) = &decoded.resource
    else {
        panic!("{decoded:?}")
    };
    assert_eq!((interface_name.as_str(), expected_ips.len()), ("*", 1));
    assert_eq!(
        told(&decoded),
        [
            ("spec.expectedIPs[1]", Consequence::FieldSkipped),
            ("", Consequence::NotEnforced)
        ]
    );
    assert_eq!(decode_spec("HostEndpoint", &json!({})).resource, None);
}

#[test]
fn network_sets_carry_their_namespace() {
    let spec = json!({"nets": ["192.0.2.7/24", "198.51.100.1", "x"]});
    let decoded = decode_spec("NetworkSet", &spec);
    let Some(Resource::NetworkSet(NetworkSet {
        nets,
        labels,
        profiles,
    })) = &decoded.resource
    else {
        panic!()
    };
    assert_eq!(
        nets[..],
        [
            "192.0.2.0/24".parse().unwrap(),
            "198.51.100.1/32".parse().unwrap()
        ]
    );
    assert_eq!(labels["projectcalico.org/namespace"], "openstack");
    assert_eq!(profiles[..], ["kns.openstack"]);
    assert_eq!(told(&decoded), [("spec.nets[2]", Consequence::FieldSkipped)]);
    let Some(Resource::NetworkSet(global)) = decode_spec("GlobalNetworkSet", &spec).resource else {
        panic!()
    };
    assert!(global.labels.is_empty() && global.profiles.is_empty());
    assert_eq!(
        decode_spec("NetworkSet", &json!({"nets": "192.0.2.0/24"})).resource,
        None
    );
}
