//! From manifests to what a host enforces.

mod history;

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::*;
use crate::calc::effective::{EffectivePort, SetId};
use crate::calc::fixture::{
    HOST, endpoint, endpoint_key, endpoint_on, global, labelled, options, snapshot, with,
};
use crate::model::rule::Protocol;

fn resolved(objects: &[Value]) -> EffectiveState {
    resolve(&snapshot(objects), &options())
}

fn policy(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = spec.get("selector").cloned().unwrap_or(json!("all()"));
    global("GlobalNetworkPolicy", name, spec)
}

fn allow_from(selector: &str) -> Value {
    json!([{"action": "Allow", "source": {"selector": selector}}])
}

/// Names of the tiers and policies that judge packets to the endpoint.
fn ingress_order(state: &EffectiveState, name: &str) -> Vec<(String, Vec<String>)> {
    let tiers = &state.endpoints[&endpoint_key(name)].policy.ingress.tiers;
    let names = |tier: &EffectiveTier| {
        tier.policies
            .iter()
            .map(|policy| policy.key.name.clone())
            .collect()
    };
    tiers
        .iter()
        .map(|tier| (tier.name.to_string(), names(tier)))
        .collect()
}

fn members(state: &EffectiveState, selector: &str) -> Vec<String> {
    state.sets[&SetId(Arc::from(selector))]
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn only_endpoints_of_this_host_are_in_force_but_all_are_members() {
    let state = resolved(&[
        endpoint("a", &["10.0.0.1/32"]),
        endpoint_on("compute-2", "b", &["10.0.0.2/32", "fd00::2/128"]),
        global(
            "HostEndpoint",
            "h",
            json!({"node": "compute-2", "interfaceName": "eth0", "expectedIPs": ["10.9.0.1"]}),
        ),
        labelled(
            global("GlobalNetworkSet", "s", json!({"nets": ["192.0.2.0/24"]})),
            json!({"kind": "outside"}),
        ),
        policy(
            "p",
            json!({"ingress": allow_from("all()"), "egress": allow_from("has(role) || kind == 'outside'")}),
        ),
    ]);
    assert_eq!(
        state.endpoints.keys().cloned().collect::<Vec<_>>(),
        [endpoint_key("a")]
    );
    let all = [
        "10.0.0.1/32",
        "10.0.0.2/32",
        "10.9.0.1/32",
        "192.0.2.0/24",
        "fd00::2/128",
    ];
    assert_eq!(members(&state, "all()"), all);
    let sets: Vec<&SetId> = state.sets.keys().collect();
    let other = sets.iter().find(|set| &*set.0 != "all()").unwrap();
    assert_eq!(state.sets[*other].len(), 4);
    assert_eq!(sets.len(), 2);
}

#[test]
fn policies_that_select_no_local_endpoint_make_no_sets() {
    let state = resolved(&[
        endpoint("a", &["10.0.0.1/32"]),
        policy(
            "p",
            json!({"selector": "role == 'b'", "ingress": allow_from("has(x)")}),
        ),
        policy("q", json!({"types": ["Egress"], "ingress": allow_from("has(y)")})),
    ]);
    assert!(state.sets.is_empty());
    assert!(ingress_order(&state, "a").is_empty());
}

#[test]
fn own_labels_win_over_those_of_profiles_and_earlier_profiles_over_later() {
    let profile = |name: &str, labels: Value| global("Profile", name, json!({"labelsToApply": labels}));
    let state = resolved(&[
        with(
            endpoint("a", &["10.0.0.1/32"]),
            "profiles",
            json!(["one", "absent", "two"]),
        ),
        profile("one", json!({"role": "one", "x": "1"})),
        profile("two", json!({"x": "2", "y": "2"})),
    ]);
    let labels = &state.endpoints[&endpoint_key("a")].labels;
    let of = |label: &str| labels.get(label).map(String::as_str);
    assert_eq!((of("role"), of("x"), of("y")), (Some("a"), Some("1"), Some("2")));
}

#[test]
fn an_endpoint_is_selected_by_inherited_labels() {
    let state = resolved(&[
        with(endpoint("a", &["10.0.0.1/32"]), "profiles", json!(["one"])),
        global("Profile", "one", json!({"labelsToApply": {"x": "1"}})),
        policy(
            "p",
            json!({"selector": "x == '1'", "ingress": allow_from("x == '1'")}),
        ),
    ]);
    assert_eq!(
        ingress_order(&state, "a"),
        [("default".to_owned(), vec!["p".to_owned()])]
    );
    assert_eq!(members(&state, "x == \"1\""), ["10.0.0.1/32"]);
}

#[test]
fn tiers_come_by_order_then_name_and_those_nobody_made_last() {
    let in_tier = |tier: &str| policy(&format!("in-{tier}"), json!({"tier": tier}));
    let state = resolved(&[
        endpoint("a", &["10.0.0.1/32"]),
        global("Tier", "late", json!({"order": 100})),
        global("Tier", "zz", json!({"order": 1.5})),
        global("Tier", "early", json!({"order": 1.5, "defaultAction": "Pass"})),
        global("Tier", "no-order", json!({})),
        global("Tier", "unused", json!({"order": 1})),
        in_tier("ghost"),
        in_tier("default"),
        in_tier("late"),
        in_tier("zz"),
        in_tier("early"),
        in_tier("no-order"),
    ]);
    let names: Vec<String> = ingress_order(&state, "a")
        .into_iter()
        .map(|tier| tier.0)
        .collect();
    assert_eq!(names, ["early", "zz", "late", "no-order", "default", "ghost"]);
    let tiers = &state.endpoints[&endpoint_key("a")].policy.ingress.tiers;
    let passing: Vec<bool> = tiers.iter().map(|tier| tier.default_pass).collect();
    assert_eq!(passing, [true, false, false, false, false, false]);
}

#[test]
fn policies_come_by_order_then_name_and_those_without_order_last() {
    let state = resolved(&[
        endpoint("a", &["10.0.0.1/32"]),
        policy("ossg.default.b", json!({})),
        policy("ossg.default.a", json!({})),
        policy("z", json!({"order": -1})),
        policy("y", json!({"order": 1000})),
        policy("x", json!({"order": 1000})),
    ]);
    let policies = &ingress_order(&state, "a")[0].1;
    assert_eq!(policies, &["z", "x", "y", "ossg.default.a", "ossg.default.b"]);
}

#[test]
fn a_policy_counts_only_in_the_directions_of_its_types() {
    let state = resolved(&[
        endpoint("a", &["10.0.0.1/32"]),
        policy("in", json!({"types": ["Ingress"], "tier": "t"})),
        policy("out", json!({"types": ["Egress"]})),
        policy("both", json!({})),
    ]);
    let policy = &state.endpoints[&endpoint_key("a")].policy;
    let names = |direction: &DirectionPolicy| -> Vec<String> {
        direction
            .tiers
            .iter()
            .flat_map(|tier| &tier.policies)
            .map(|policy| policy.key.name.clone())
            .collect()
    };
    assert_eq!(names(&policy.ingress), ["both", "in"]);
    assert_eq!(names(&policy.egress), ["both", "out"]);
    assert_eq!(policy.egress.tiers.len(), 1);
}

#[test]
fn policies_for_host_endpoints_only_do_not_touch_workloads() {
    let state = resolved(&[
        endpoint("a", &["10.0.0.1/32"]),
        policy("untracked", json!({"doNotTrack": true, "applyOnForward": true})),
    ]);
    assert!(ingress_order(&state, "a").is_empty());
}

#[test]
fn profiles_are_kept_in_order_and_missing_ones_are_marked() {
    let state = resolved(&[
        with(
            endpoint("a", &["10.0.0.1/32"]),
            "profiles",
            json!(["two", "absent", DEFAULT_ALLOW_PROFILE]),
        ),
        global("Profile", "two", json!({"ingress": [{"action": "Allow"}]})),
    ]);
    let ingress = &state.endpoints[&endpoint_key("a")].policy.ingress;
    let profiles: Vec<(&str, Option<usize>)> = ingress
        .profiles
        .iter()
        .map(|profile| (&*profile.name, profile.rules.as_ref().map(Vec::len)))
        .collect();
    assert_eq!(
        profiles,
        [
            ("two", Some(1)),
            ("absent", None),
            (DEFAULT_ALLOW_PROFILE, Some(1))
        ]
    );
}

#[test]
fn of_two_endpoints_with_one_interface_the_lowest_wins() {
    let a = with(endpoint("a", &["10.0.0.1/32"]), "interfaceName", json!("tapx"));
    let b = with(endpoint("b", &["10.0.0.2/32"]), "interfaceName", json!("tapx"));
    let state = resolved(&[b, a]);
    assert_eq!(
        state.endpoints.keys().cloned().collect::<Vec<_>>(),
        [endpoint_key("a")]
    );
    let reason = &state.inactive[&endpoint_key("b")];
    assert_eq!(
        reason,
        &format!("interface tapx belongs to {}", endpoint_key("a"))
    );
}

#[test]
fn an_endpoint_without_addresses_is_not_in_force() {
    let mut snapshot = snapshot(&[endpoint("a", &["10.0.0.1/32"]), endpoint("b", &["10.0.0.2/32"])]);
    for (name, clear) in [("a", true), ("b", false)] {
        let resource = snapshot.get_mut(&endpoint_key(name)).map(Arc::make_mut);
        let Some(Resource::WorkloadEndpoint(endpoint)) = resource else {
            panic!()
        };
        if clear {
            endpoint.ip_networks.clear();
        } else {
            endpoint.interface_name.clear();
        }
    }
    let state = resolve(&snapshot, &options());
    assert!(state.endpoints.is_empty());
    assert_eq!(state.inactive[&endpoint_key("a")], "has no addresses");
    assert_eq!(state.inactive[&endpoint_key("b")], "has no interface name");
}

#[test]
fn named_ports_are_those_of_what_the_entity_selects() {
    let port =
        |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port});
    let destination = json!({"selector": "role in {'a', 'b'}", "ports": ["http", 8080]});
    let state = resolved(&[
        with(
            endpoint("a", &["10.0.0.1/32"]),
            "ports",
            json!([port("http", "TCP", 80), port("dns", "UDP", 53)]),
        ),
        with(
            endpoint("b", &["10.0.0.2/32"]),
            "ports",
            json!([port("http", "TCP", 81), port("http", "UDP", 80)]),
        ),
        with(
            endpoint_on("compute-2", "c", &["10.0.0.3/32"]),
            "ports",
            json!([port("http", "TCP", 80)]),
        ),
        policy(
            "p",
            json!({"egress": [
                {"action": "Allow", "protocol": "TCP", "destination": destination},
                {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["nowhere"]}},
                {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http"]}},
            ]}),
        ),
    ]);
    let rules = &state.endpoints[&endpoint_key("a")].policy.egress.tiers[0].policies[0].rules;
    let ports = |index: usize| -> Vec<(u8, u16, BTreeSet<IpNet>)> {
        let ports = rules[index].destination.ports.as_ref().unwrap().iter();
        let member = |port: &EffectivePort| match port {
            EffectivePort::Member {
                set,
                protocol: Protocol(number),
                port,
            } => Some((*number, *port, state.sets[set].iter().copied().collect())),
            EffectivePort::Range(..) => None,
        };
        ports.filter_map(member).collect()
    };
    let nets = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.parse().unwrap())
            .collect::<BTreeSet<IpNet>>()
    };
    assert_eq!(
        ports(0),
        [(6, 80, nets(&["10.0.0.1/32"])), (6, 81, nets(&["10.0.0.2/32"]))]
    );
    assert_eq!(rules[0].destination.ports.as_ref().unwrap().len(), 3);
    assert_eq!(rules[1].destination.ports, Some(Vec::new()), "matches nothing");
    assert_eq!(
        ports(2),
        [
            (6, 80, nets(&["10.0.0.1/32", "10.0.0.3/32"])),
            (6, 81, nets(&["10.0.0.2/32"]))
        ]
    );
}

#[test]
fn what_is_not_enforced_is_listed() {
    let state = resolved(&[
        with(
            endpoint("a", &["10.0.0.1/32"]),
            "qosControls",
            json!({"ingressBandwidth": 1000}),
        ),
        global(
            "HostEndpoint",
            "mine",
            json!({"node": HOST, "interfaceName": "eth0"}),
        ),
        global(
            "HostEndpoint",
            "other",
            json!({"node": "compute-2", "interfaceName": "eth0"}),
        ),
        global(
            "IPPool",
            "pool",
            json!({"cidr": "10.0.0.0/8", "natOutgoing": true}),
        ),
        global("IPPool", "plain", json!({"cidr": "11.0.0.0/8"})),
    ]);
    let list: Vec<(&str, &str)> = state
        .not_enforced
        .iter()
        .map(|(key, what)| (key.name.as_str(), what.as_str()))
        .collect();
    let a = endpoint_key("a");
    assert_eq!(
        list,
        [
            (&*a.name, "qosControls"),
            ("mine", "host endpoint"),
            ("pool", "natOutgoing")
        ]
    );
}

#[test]
fn spoofed_sources_count_only_when_the_host_lets_them() {
    let objects = [with(
        endpoint("a", &["10.0.0.1/32"]),
        "allowSpoofedSourcePrefixes",
        json!(["0.0.0.0/0"]),
    )];
    let prefixes = |workload_source_spoofing: bool| {
        let options = CalcOptions {
            workload_source_spoofing,
            ..options()
        };
        resolve(&snapshot(&objects), &options).endpoints[&endpoint_key("a")]
            .allow_spoofed_source_prefixes
            .len()
    };
    assert_eq!([prefixes(false), prefixes(true)], [0, 1]);
}

#[test]
fn endpoints_with_equal_policies_share_them() {
    let state = resolved(&[
        endpoint("a", &["10.0.0.1/32"]),
        endpoint("b", &["10.0.0.2/32"]),
        policy("p", json!({"ingress": allow_from("all()")})),
    ]);
    let of = |name: &str| &state.endpoints[&endpoint_key(name)].policy;
    assert!(Arc::ptr_eq(of("a"), of("b")));
}

#[test]
fn ten_thousand_endpoints_and_a_thousand_groups_resolve_quickly() {
    let group = |number: usize| format!("sg.projectcalico.org/openstack-{number}");
    let mut objects = Vec::new();
    for number in 0..10_000_usize {
        let host = if number % 40 == 0 { HOST } else { "compute-2" };
        let address = format!("10.1.{}.{}/32", number / 250, number % 250);
        let vm = endpoint_on(host, &format!("vm{number}"), &[&address]);
        objects.push(labelled(
            vm,
            json!({group(number % 1_000): "", group(number % 7): ""}),
        ));
    }
    for number in 0..1_000 {
        let has = format!("has({})", group(number));
        let spec =
            json!({"selector": has.clone(), "ingress": allow_from(&has), "egress": [{"action": "Allow"}]});
        objects.push(policy(&format!("ossg.default.{number}"), spec));
    }
    let snapshot = snapshot(&objects);
    let state = resolve(&snapshot, &options());
    assert_eq!(state.sets.len(), 31);
    assert_eq!(state.endpoints.len(), 250);
}
