use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::Value;

use super::super::properties;

/// Names that decoders look for.
const NAMES: &[&str] = &[
    "action",
    "protocol",
    "notProtocol",
    "ipVersion",
    "icmp",
    "notICMP",
    "type",
    "code",
    "source",
    "destination",
    "nets",
    "notNets",
    "selector",
    "notSelector",
    "namespaceSelector",
    "ports",
    "notPorts",
    "serviceAccounts",
    "names",
    "tier",
    "order",
    "types",
    "ingress",
    "egress",
    "defaultAction",
    "labelsToApply",
    "node",
    "interfaceName",
    "ipNetworks",
    "allowedIps",
    "mac",
    "ipNATs",
    "internalIP",
    "externalIP",
    "profiles",
    "name",
    "port",
    "labels",
    "annotations",
    "expectedIPs",
    "cidr",
    "natOutgoing",
    "bgp",
    "ipv4Address",
    "addresses",
    "address",
    "workloadEndpoint",
    "hostname",
    "target",
    "datastoreReady",
    "qosControls",
    "reportingInterval",
];

/// Texts that decoders know.
const TEXTS: &[&str] = &[
    "Allow",
    "deny",
    "Log",
    "next-tier",
    "TCP",
    "icmp",
    "6",
    "0",
    "10.0.0.0/8",
    "10.65.0.7",
    "10.99.0.0/28/32",
    "::/0",
    "fd00::1/128",
    "8000:8080",
    "8:0",
    "tap8dfa1418-d5",
    "fa:16:3e:87:b5:03",
    "ff:ff:ff:ff:ff:ff",
    "has(a)",
    "a == 'b'",
    "all(",
    "Ingress",
    "Pass",
    "compute-1",
    "1m30s",
    "",
];

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![9 => prop::sample::select(NAMES).prop_map(str::to_owned), 1 => ".{0,20}"]
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(TEXTS).prop_map(str::to_owned), 1 => ".{0,80}"]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any_name(), inner), 0..8)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    let kinds: Vec<_> = crate::model::name::Kind::ALL
        .iter()
        .map(|kind| kind.as_str())
        .collect();
    (
        prop::sample::select(kinds),
        any_value(),
        any_value(),
        prop::bool::weighted(0.8),
    )
        .prop_map(|(kind, metadata, spec, is_named)| {
            let mut metadata = metadata;
            if is_named {
                metadata = serde_json::json!({"name": "it", "namespace": "openstack", "labels": metadata});
            }
            serde_json::json!({
                "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec,
            })
        })
}

proptest! {
    #[test]
    fn any_object_is_decoded_or_told(object in any_object()) {
        properties::check(object.to_string().as_bytes());
    }

    #[test]
    fn any_json_is_decoded_or_told(value in any_value()) {
        properties::check(value.to_string().as_bytes());
    }

    #[test]
    fn any_bytes_are_told(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        properties::check(&bytes);
    }

    #[test]
    fn any_part_of_an_object_is_told(object in any_object(), cut in any::<prop::sample::Index>()) {
        let json = object.to_string();
        properties::check(&json.as_bytes()[..cut.index(json.len())]);
    }
}

#[test]
fn control_characters_of_names_and_values_are_not_in_messages() {
    let mut rule = String::from("{\"action\": \"Allow\\n\"");
    for letter in 0..32 {
        write!(rule, ", \"x\\u{letter:04x}y\": \"\\u{letter:04x}\"").expect("memory");
    }
    let json = format!(
        r#"{{"apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {{"name": "it"}},
            "spec": {{"labelsToApply": {{"a\nb": []}}, "ingress": [{rule}}}]}}}}"#
    );
    let decoded = super::super::decode_json(json.as_bytes(), None);
    assert_eq!(decoded.problems.len(), 1 + 32 + 1, "{:?}", decoded.problems);
    properties::check(json.as_bytes());
}
