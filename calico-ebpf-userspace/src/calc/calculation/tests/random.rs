//! Random histories in a universe so small that everything collides.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::*;
use crate::calc::fixture::{endpoint_on, global, labelled, snapshot};

const HOSTS: [&str; 2] = ["compute-1", "compute-2"];
const ADDRESSES: [&str; 4] = ["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128", "10.0.0.0/24"];
const SELECTORS: [&str; 14] = [
    "all()",
    "has(a)",
    "!has(a)",
    "a == 'x'",
    "a != 'x'",
    "b in {'x', 'y'}",
    "b not in {'x'}",
    "a == 'x' || b == 'y'",
    "has(a) && has(b)",
    "has(a) && !has(b)",
    "a starts with 'x'",
    "a == 'x' && projectcalico.org/namespace == 'openstack'",
    "global()",
    "c == 'p'",
];
const TIERS: [&str; 3] = ["default", "first", "ghost"];
const PROFILES: [&str; 4] = ["p", "q", "kns.openstack", "projectcalico-default-allow"];

fn labels() -> impl Strategy<Value = Value> {
    let value = || prop::option::of(select(vec!["x", "y", ""]));
    (value(), value()).prop_map(|(a, b)| {
        let pairs = [("a", a), ("b", b)].into_iter();
        pairs
            .filter_map(|(label, value)| Some((label.to_owned(), json!(value?))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    })
}

fn some<Item: Clone + std::fmt::Debug + 'static>(
    items: &'static [Item],
    most: usize,
) -> impl Strategy<Value = Vec<Item>> {
    prop::collection::vec(select(items), 0..=most)
}

fn ports() -> impl Strategy<Value = Value> {
    let port = (
        select(vec!["http", "dns"]),
        select(vec!["TCP", "UDP"]),
        select(vec![53, 80]),
    );
    let port =
        port.prop_map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}));
    prop::collection::vec(port, 0..3).prop_map(Value::from)
}

fn workload() -> impl Strategy<Value = Value> {
    let what = (
        select(&HOSTS[..]),
        select(vec!["1", "2", "3"]),
        prop::collection::vec(select(&ADDRESSES[..]), 1..=2),
        labels(),
        some(&PROFILES, 2),
        ports(),
        select(vec!["tapa", "tapb"]),
        any::<bool>(),
    );
    what.prop_map(
        |(host, name, addresses, labels, profiles, ports, interface, extras)| {
            let mut object = labelled(endpoint_on(host, name, &addresses), labels);
            let spec = &mut object["spec"];
            spec["profiles"] = json!(profiles);
            spec["ports"] = ports;
            spec["interfaceName"] = json!(interface);
            if extras {
                spec["qosControls"] = json!({"ingressBandwidth": 1000});
            }
            object
        },
    )
}

fn host_endpoint() -> impl Strategy<Value = Value> {
    let what = (
        select(&HOSTS[..]),
        labels(),
        some(&PROFILES, 1),
        ports(),
        any::<bool>(),
    );
    what.prop_map(|(host, labels, profiles, ports, has_address)| {
        let addresses = if has_address { vec!["10.0.0.1"] } else { vec![] };
        let spec = json!({"node": host, "interfaceName": "eth0", "expectedIPs": addresses, "profiles": profiles,
            "ports": ports});
        labelled(global("HostEndpoint", "host", spec), labels)
    })
}

fn network_set() -> impl Strategy<Value = Value> {
    let nets = some(&["10.0.0.0/24", "10.0.0.0/8", "10.0.0.1/32", "10.0.0.7/24"], 3);
    (select(vec!["NetworkSet", "GlobalNetworkSet"]), nets, labels()).prop_map(|(kind, nets, labels)| {
        let mut object = labelled(global(kind, "set", json!({"nets": nets})), labels);
        if kind == "NetworkSet" {
            object["metadata"]["namespace"] = json!("openstack");
        }
        object
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let what = (
        select(vec!["Allow", "Deny", "Pass", "Log"]),
        select(vec!["", "TCP", "UDP"]),
        prop::option::of(select(&SELECTORS[..])),
        prop::option::of(select(&SELECTORS[..])),
        prop::option::of(select(vec!["http", "dns"])),
        any::<bool>(),
    );
    what.prop_map(|(action, protocol, selector, not_selector, port, is_negated)| {
        let mut side = json!({});
        if let Some(selector) = selector {
            side["selector"] = json!(selector);
        }
        if let Some(selector) = not_selector {
            side["notSelector"] = json!(selector);
        }
        let mut rule = json!({"action": action});
        if !protocol.is_empty() {
            rule["protocol"] = json!(protocol);
            if let Some(port) = port {
                side[if is_negated { "notPorts" } else { "ports" }] = json!([port]);
            }
        }
        rule[if is_negated { "destination" } else { "source" }] = side;
        rule
    })
}

fn rules() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec(rule(), 0..3)
}

fn policy() -> impl Strategy<Value = Value> {
    let what = (
        (
            select(vec!["NetworkPolicy", "GlobalNetworkPolicy"]),
            select(vec!["one", "two", "three"]),
        ),
        select(&SELECTORS[..]),
        select(&TIERS[..]),
        select(vec![json!(null), json!(1), json!(2)]),
        select(vec![
            json!(["Ingress"]),
            json!(["Egress"]),
            json!(["Ingress", "Egress"]),
        ]),
        rules(),
        rules(),
        prop::bool::weighted(0.1),
    );
    what.prop_map(|((kind, name), selector, tier, order, types, ingress, egress, untracked)| {
        let mut spec = json!({"selector": selector, "tier": tier, "types": types, "ingress": ingress, "egress": egress});
        if !order.is_null() {
            spec["order"] = order;
        }
        let mut object = global(kind, name, spec);
        if kind == "NetworkPolicy" {
            object["metadata"]["namespace"] = json!("openstack");
        } else if untracked {
            object["spec"]["doNotTrack"] = json!(true);
            object["spec"]["applyOnForward"] = json!(true);
        }
        object
    })
}

fn tier() -> impl Strategy<Value = Value> {
    (select(&TIERS[..2]), 0..3_u32, select(vec!["Deny", "Pass"])).prop_map(|(name, order, action)| {
        global("Tier", name, json!({"order": order, "defaultAction": action}))
    })
}

fn profile() -> impl Strategy<Value = Value> {
    let labels = (labels(), any::<bool>()).prop_map(|(mut labels, extra)| {
        if extra {
            labels["c"] = json!("p");
        }
        labels
    });
    (select(&PROFILES[..3]), labels, rules(), rules()).prop_map(|(name, labels, ingress, egress)| {
        let spec = json!({"labelsToApply": labels, "ingress": ingress, "egress": egress});
        global("Profile", name, spec)
    })
}

fn live_migration() -> impl Strategy<Value = Value> {
    (select(vec!["1", "2"]), any::<bool>()).prop_map(|(name, comes)| {
        let side = |host: &str| {
            json!({"workloadEndpoint": {"hostname": host, "orchestratorID": "openstack",
                "workloadID": format!("openstack/{name}"), "endpointID": format!("port{name}")}})
        };
        let [here, there] = HOSTS;
        let (source, target) = if comes { (there, here) } else { (here, there) };
        let spec = json!({"source": side(source), "target": side(target)});
        let mut object = global("LiveMigration", "migration", spec);
        object["metadata"]["namespace"] = json!("openstack");
        object
    })
}

fn pool() -> impl Strategy<Value = Value> {
    any::<bool>().prop_map(|nat| {
        global(
            "IPPool",
            "pool",
            json!({"cidr": "10.0.0.0/8", "natOutgoing": nat}),
        )
    })
}

#[derive(Clone, Debug)]
enum Change {
    Put(Value),
    Remove(Index),
    /// Empties an endpoint's addresses: decoding never yields that, calculation answers it all the same.
    Strip(Index),
    /// Asks for the state.
    Ask,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => workload().prop_map(Change::Put),
        1 => host_endpoint().prop_map(Change::Put),
        2 => network_set().prop_map(Change::Put),
        6 => policy().prop_map(Change::Put),
        1 => tier().prop_map(Change::Put),
        3 => profile().prop_map(Change::Put),
        1 => live_migration().prop_map(Change::Put),
        1 => pool().prop_map(Change::Put),
        6 => any::<Index>().prop_map(Change::Remove),
        1 => any::<Index>().prop_map(Change::Strip),
        10 => Just(Change::Ask),
    ]
}

/// Returns what the change makes of the objects that are there.
fn changes_of(change: &Change, there: &Snapshot) -> Changes {
    let nth = |index: &Index| there.iter().nth(index.index(there.len().max(1)));
    match change {
        Change::Put(object) => {
            let objects = snapshot(std::slice::from_ref(object)).into_iter();
            objects.map(|(key, resource)| (key, Some(resource))).collect()
        }
        Change::Remove(index) => nth(index)
            .map(|(key, _)| (key.clone(), None))
            .into_iter()
            .collect(),
        Change::Strip(index) => {
            let mut changes = Changes::new();
            if let Some((key, resource)) = nth(index)
                && let Resource::WorkloadEndpoint(endpoint) = &**resource
            {
                let mut endpoint = endpoint.clone();
                endpoint.ip_networks.clear();
                changes.insert(key.clone(), Some(Arc::new(Resource::WorkloadEndpoint(endpoint))));
            }
            changes
        }
        Change::Ask => Changes::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_in_what_the_plain_calculation_says(
        history in prop::collection::vec(change(), 1..80),
        batches in any::<bool>(),
    ) {
        let mut followed = Followed::new();
        let mut pending = Changes::new();
        for change in history {
            let mut there = followed.snapshot.clone();
            apply_changes(&mut there, &pending);
            pending.extend(changes_of(&change, &there));
            if !batches || matches!(change, Change::Ask) {
                followed.follow(&std::mem::take(&mut pending));
            } else if pending.len() % 3 == 2 {
                // Taken, but not asked for yet.
                let changes = std::mem::take(&mut pending);
                apply_changes(&mut followed.snapshot, &changes);
                followed.calculation.apply(&changes);
            }
        }
        followed.follow(&pending);
        let state = followed.move_to(&Snapshot::new());
        prop_assert_eq!(&*state, &EffectiveState::default());
        prop_assert!(followed.calculation.is_empty(), "{:?}", followed.calculation);
    }
}
