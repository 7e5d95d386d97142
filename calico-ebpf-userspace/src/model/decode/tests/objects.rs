use std::collections::BTreeMap;

use super::*;
use crate::model::labels::Labels;
use crate::model::resource::{ClusterInformation, FelixConfiguration, LiveMigration, MigrationSide, Node};

fn key(kind: Kind, namespace: &str, name: &str) -> ResourceKey {
    ResourceKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

#[test]
fn objects_as_neutron_writes_them_are_understood() {
    let text = include_str!("../../../../tests/data/neutron-objects.json");
    let objects: Vec<Value> = serde_json::from_str(text).unwrap();
    let decoded: Vec<Decoded> = objects.iter().map(|value| decode(value, None)).collect();
    for (value, decoded) in objects.iter().zip(&decoded) {
        assert!(decoded.resource.is_some(), "{:?}", decoded.problems);
        let kind = decoded.key.as_ref().unwrap().kind;
        assert_eq!(Some(kind.as_str()), value["kind"].as_str());
        for problem in &decoded.problems {
            let expected: &[Consequence] = if kind == Kind::NetworkPolicy {
                &[Consequence::RuleSkipped]
            } else {
                &[Consequence::Reinterpreted, Consequence::NotEnforced]
            };
            assert!(expected.contains(&problem.consequence), "{problem}");
        }
    }
    let counts: Vec<usize> = decoded.iter().map(|decoded| decoded.problems.len()).collect();
    assert_eq!(counts, [0, 0, 0, 4, 6, 2, 1, 4]);
}

#[test]
fn identity_comes_from_metadata() {
    for (kind, namespace) in [
        (Kind::NetworkPolicy, "openstack"),
        (Kind::GlobalNetworkPolicy, ""),
    ] {
        let decoded = decode_spec(kind.as_str(), &json!({}));
        assert_eq!(decoded.key, Some(key(kind, namespace, "it")));
    }
    let mut value = object("NetworkPolicy", &json!({}));
    value["metadata"]["namespace"] = Value::Null;
    assert_eq!(
        decode(&value, None).key,
        Some(key(Kind::NetworkPolicy, "default", "it"))
    );
}

#[test]
fn the_datastores_key_wins_over_metadata() {
    let hint = key(Kind::NetworkPolicy, "openstack", "other");
    let decoded = decode(&object("NetworkPolicy", &json!({})), Some(&hint));
    assert_eq!(decoded.key, Some(hint.clone()));
    assert!(decoded.resource.is_some());
    assert_eq!(told(&decoded), [("metadata.name", Consequence::Reinterpreted)]);
    let value = json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "spec": {}});
    assert!(decode(&value, Some(&hint)).resource.is_some());
    let decoded = decode(&object("Tier", &json!({})), Some(&hint));
    assert_eq!(
        (decoded.resource.as_ref(), decoded.key.as_ref()),
        (None, Some(&hint))
    );
    let decoded = decode(&json!("nonsense"), Some(&hint));
    assert_eq!((decoded.resource, decoded.key), (None, Some(hint)));
}

#[test]
fn every_object_without_identity_is_told() {
    let strange = |change: &dyn Fn(&mut Value)| {
        let mut value = object("NetworkPolicy", &json!({}));
        change(&mut value);
        let decoded = decode(&value, None);
        assert_eq!(decoded.resource, None);
        let [problem] = decoded.problems.as_slice() else {
            panic!("{:?}", decoded.problems)
        };
        assert_eq!(problem.consequence, Consequence::ObjectSkipped);
        format!("{}: {}", problem.field, problem.found)
    };
    assert_eq!(strange(&|value| *value = json!([])), ": a list of 0");
    assert_eq!(strange(&|value| *value = json!(null)), ": nothing");
    assert_eq!(
        strange(&|value| value["kind"] = json!("Policy")),
        "kind: \"Policy\""
    );
    assert_eq!(strange(&|value| value["kind"] = json!(5)), "kind: 5");
    assert_eq!(strange(&|value| value["kind"] = Value::Null), "kind: nothing");
    assert_eq!(
        strange(&|value| value["apiVersion"] = json!("v1")),
        "apiVersion: \"v1\""
    );
    assert_eq!(
        strange(&|value| value["apiVersion"] = Value::Null),
        "apiVersion: nothing"
    );
    assert_eq!(
        strange(&|value| value["metadata"] = Value::Null),
        "metadata.name: nothing"
    );
    assert_eq!(
        strange(&|value| value["metadata"] = json!("it")),
        "metadata: \"it\""
    );
    assert_eq!(
        strange(&|value| value["metadata"]["name"] = json!("")),
        "metadata.name: nothing"
    );
    assert_eq!(
        strange(&|value| value["metadata"]["name"] = json!(1)),
        "metadata.name: 1"
    );
    assert_eq!(
        strange(&|value| value["metadata"]["name"] = json!("a/b")),
        "metadata.name: \"a/b\""
    );
    assert_eq!(
        strange(&|value| value["metadata"]["namespace"] = json!("a\"b")),
        "metadata.namespace: \"a\"b\""
    );
    assert_eq!(strange(&|value| value["spec"] = json!([])), "spec: a list of 0");
}

#[test]
fn an_unknown_kind_is_answered_with_the_kinds() {
    let problem = only_problem(&decode_spec("Policy", &json!({})));
    assert_eq!(
        problem,
        "kind: found \"Policy\", expected one of WorkloadEndpoint, HostEndpoint, NetworkPolicy, GlobalNetworkPolicy, \
         Tier, Profile, NetworkSet, GlobalNetworkSet, IPPool, Node, LiveMigration, FelixConfiguration, \
         ClusterInformation"
    );
}

#[test]
fn long_and_strange_text_is_quoted_safely() {
    let decoded = decode_spec("Tier", &json!({"order": format!("a\n\u{1b}{}", "x".repeat(100))}));
    let found = &decoded.problems[0].found;
    assert!(
        !found.contains('\n') && !found.contains('\u{1b}') && found.len() < 80,
        "{found}"
    );
}

fn decode_configuration(name: &str, spec: &Value) -> Decoded {
    let mut value = object("FelixConfiguration", spec);
    value["metadata"]["name"] = name.into();
    decode(&value, None)
}

fn configuration_of(decoded: &Decoded) -> &FelixConfiguration {
    match &decoded.resource {
        Some(Resource::FelixConfiguration(configuration)) => configuration,
        other => panic!("{other:?}, {:?}", decoded.problems),
    }
}

fn parameters_of(decoded: &Decoded) -> BTreeMap<String, String> {
    let parameters = configuration_of(decoded).parameters.iter();
    parameters
        .map(|(name, text)| (name.clone(), text.value.clone()))
        .collect()
}

#[test]
fn the_hosts_of_felix_configuration_are_told_by_its_name_or_by_a_selector() {
    let selected = decode_configuration("rack-a", &json!({"nodeSelector": "rack == 'a'", "healthPort": 1}));
    let configuration = configuration_of(&selected);
    let selector = configuration.node_selector.as_ref().map(ToString::to_string);
    assert_eq!(selector.as_deref(), Some("rack == \"a\""));
    assert_eq!(
        configuration.parameters["HealthPort"].field, "spec.healthPort",
        "and the selector is no parameter: {configuration:?}"
    );
    assert_eq!(configuration.parameters.len(), 1);
    for name in ["default", "node.compute-1"] {
        let decoded = decode_configuration(name, &json!({"nodeSelector": "all()", "healthPort": 1}));
        assert_eq!(configuration_of(&decoded).node_selector, None);
        assert_eq!(told(&decoded), [("spec.nodeSelector", Consequence::FieldSkipped)]);
    }
    for spec in [
        json!({"healthPort": 1}),
        json!({"nodeSelector": "rack =="}),
        json!({"nodeSelector": 5}),
    ] {
        let decoded = decode_configuration("rack-a", &spec);
        assert_eq!(decoded.resource, None);
        assert_eq!(
            told(&decoded),
            [("spec.nodeSelector", Consequence::ObjectSkipped)]
        );
    }
}

#[test]
fn felix_configuration_speaks_the_names_of_felix_cfg() {
    let decoded = decode_configuration(
        "default",
        &json!({
            "endpointReportingEnabled": true, "interfacePrefix": "tap", "reportingInterval": "30s",
            "reportingTTL": "1m30s", "endpointReportingDelay": "1.5s", "ipv6Support": false,
            "routeRefreshInterval": "90s", "bpfLogLevel": "Debug", "bpfConntrackTimeouts": {"tcpEstablished": "1h"},
            "failsafeInboundHostPorts": [{"protocol": "TCP", "port": 22}, {"protocol": "udp", "net": "10.0.0.0/8", "port": 68}],
            "failsafeOutboundHostPorts": [], "ipv4NormalRoutePriority": 1024, "iptablesLockProbeInterval": "50ms",
            "metadataPort": 8775, "vxlanEnabled": null, "openstackRegion": "5m", "natPortRange": "1:2",
            "routeTableRanges": [{"min": 1, "max": 250}], "ipipEnabled": false, "ipForwarding": "Enabled",
            "odd": [[1]], "liveMigrationRouteConvergenceTime": "30s", "interfaceRefreshInterval": "90",
        }),
    );
    let found = parameters_of(&decoded);
    let expected = BTreeMap::from(
        [
            ("EndpointReportingEnabled", "true"),
            ("InterfacePrefix", "tap"),
            ("ReportingIntervalSecs", "30"),
            ("ReportingTTLSecs", "90"),
            ("EndpointReportingDelaySecs", "1.5"),
            ("Ipv6Support", "false"),
            ("RouteRefreshInterval", "90"),
            ("BPFLogLevel", "Debug"),
            ("BPFConntrackTimeouts", "tcpEstablished=1h"),
            ("FailsafeInboundHostPorts", "tcp:22,udp:10.0.0.0/8:68"),
            ("FailsafeOutboundHostPorts", "none"),
            ("IPv4NormalRoutePriority", "1024"),
            ("IptablesLockProbeIntervalMillis", "50"),
            ("MetadataPort", "8775"),
            ("OpenstackRegion", "5m"),
            ("NATPortRange", "1:2"),
            ("RouteTableRanges", "1-250"),
            ("IpInIpEnabled", "false"),
            ("IPForwarding", "Enabled"),
            ("LiveMigrationRouteConvergenceTime", "30"),
            ("InterfaceRefreshInterval", "90"),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned())),
    );
    assert_eq!(found, expected);
    assert_eq!(told(&decoded), [("spec.odd", Consequence::FieldSkipped)]);
}

#[test]
fn annotations_win_over_the_spec_of_felix_configuration() {
    let mut value = object(
        "FelixConfiguration",
        &json!({"reportingInterval": "30s", "metadataAddr": "none"}),
    );
    value["metadata"]["name"] = "default".into();
    value["metadata"]["annotations"] = json!({"config.projectcalico.org/reportingIntervalSecs": "5", "other.org/x": "y", "config.projectcalico.org/New": 5});
    let decoded = decode(&value, None);
    let pairs: Vec<_> = parameters_of(&decoded)
        .iter()
        .map(|(name, text)| format!("{name}={text}"))
        .collect();
    assert_eq!(pairs, ["MetadataAddr=none", "reportingIntervalSecs=5"]);
    assert_eq!(decoded.problems.len(), 1);
}

#[test]
fn cluster_objects_are_read() {
    let decoded = decode_spec(
        "ClusterInformation",
        &json!({"clusterType": "openstack", "datastoreReady": false}),
    );
    let Some(Resource::ClusterInformation(ClusterInformation {
        cluster_type,
        datastore_ready,
        ..
    })) = decoded.resource
    else {
        panic!()
    };
    assert_eq!(
        (cluster_type.as_str(), datastore_ready),
        ("openstack", Some(false))
    );
    let node = json!({"bgp": {"ipv4Address": "192.0.2.1/24", "ipv6Address": ""}, "addresses": [{"address": "192.0.2.1"}, {"address": "fd00::1"}, {"address": "x"}]});
    let decoded = decode_spec("Node", &node);
    let addresses = ["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()].to_vec();
    let labels = Labels::new();
    assert_eq!(decoded.resource, Some(Resource::Node(Node { addresses, labels })));
    assert_eq!(
        told(&decoded),
        [("spec.addresses[2].address", Consequence::FieldSkipped)]
    );
    let side = |host: &str| json!({"workloadEndpoint": {"hostname": host, "orchestratorID": "openstack", "workloadID": "openstack/w", "endpointID": "p"}});
    let decoded = decode_spec(
        "LiveMigration",
        &json!({"source": side("a"), "target": side("b")}),
    );
    let side_on = |host: &str| MigrationSide {
        host: host.to_owned(),
        orchestrator: "openstack".to_owned(),
        workload: "openstack/w".to_owned(),
        endpoint: "p".to_owned(),
    };
    let migration = LiveMigration {
        source: side_on("a"),
        target: side_on("b"),
    };
    assert_eq!(decoded.resource, Some(Resource::LiveMigration(migration)));
    assert_eq!(
        told(&decode_spec("LiveMigration", &json!({"source": side("a")}))),
        [(
            "spec.target.workloadEndpoint.hostname",
            Consequence::ObjectSkipped
        )]
    );
    let mut nameless = side("b");
    nameless["workloadEndpoint"]["endpointID"] = json!("");
    assert_eq!(
        told(&decode_spec(
            "LiveMigration",
            &json!({"source": side("a"), "target": nameless})
        )),
        [(
            "spec.target.workloadEndpoint.endpointID",
            Consequence::ObjectSkipped
        )]
    );
}

#[test]
fn pools_need_a_prefix_and_tell_that_nat_is_not_done() {
    let decoded = decode_spec("IPPool", &json!({"cidr": "10.65.0.9/16", "natOutgoing": true}));
    let Some(Resource::IpPool(pool)) = &decoded.resource else {
        panic!("{decoded:?}")
    };
    assert_eq!(
        (pool.cidr.to_string().as_str(), pool.nat_outgoing, pool.disabled),
        ("10.65.0.0/16", true, false)
    );
    assert_eq!(told(&decoded), [("spec.natOutgoing", Consequence::NotEnforced)]);
    assert_eq!(
        told(&decode_spec("IPPool", &json!({}))),
        [("spec.cidr", Consequence::ObjectSkipped)]
    );
    assert_eq!(
        told(&decode_spec("IPPool", &json!({"cidr": "x"}))),
        [("spec.cidr", Consequence::ObjectSkipped)]
    );
}
