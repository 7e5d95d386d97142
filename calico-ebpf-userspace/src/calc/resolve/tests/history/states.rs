//! The states, by subject (contract 4): each list is walked in every order.

use super::*;

fn network_set(name: &str, nets: &[&str], labels: Value) -> Value {
    labelled(global("GlobalNetworkSet", name, json!({"nets": nets})), labels)
}

#[expect(clippy::needless_pass_by_value, reason = "a literal is written at each call")]
fn profile(name: &str, labels: Value) -> Value {
    let spec =
        json!({"labelsToApply": labels, "ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]});
    global("Profile", name, spec)
}

fn tier(name: &str, order: u32) -> Value {
    global("Tier", name, json!({"order": order}))
}

fn from(selector: &str) -> Value {
    policy("from", json!({"ingress": allow_from(selector)}))
}

#[test]
fn endpoints_come_go_overlap_and_change_address() {
    let [a, b] = ["10.0.0.1/32", "10.0.0.2/32"];
    let remote = |name: &str, address: &str| endpoint_on("compute-2", name, &[address]);
    assert_history_does_not_matter(&[
        vec![from("all()"), endpoint("a", &[a])],
        vec![from("all()"), endpoint("a", &[a]), endpoint("b", &[b])],
        vec![from("all()"), endpoint("a", &[a]), endpoint("b", &[a])],
        vec![from("all()"), endpoint("a", &[a, b]), endpoint("b", &[a])],
        vec![from("all()"), endpoint("b", &[a]), remote("c", a), remote("d", b)],
        vec![from("has(role)"), endpoint("a", &["fd00::1/128"]), remote("c", b)],
        vec![from("role == 'c'"), endpoint("a", &[a]), remote("c", a)],
    ]);
}

#[test]
fn of_several_with_one_interface_the_next_comes_when_the_first_goes() {
    let on_x = |name: &str, address: &str| with(endpoint(name, &[address]), "interfaceName", json!("tapx"));
    let [a, b, c] = [
        on_x("a", "10.0.0.1/32"),
        on_x("b", "10.0.0.2/32"),
        on_x("c", "10.0.0.2/32"),
    ];
    let policies = [
        from("all()"),
        policy(
            "b",
            json!({"selector": "role == 'b'", "ingress": allow_from("role == 'c'")}),
        ),
    ];
    let with_policies = |endpoints: &[&Value]| -> Vec<Value> {
        policies
            .iter()
            .chain(endpoints.iter().copied())
            .cloned()
            .collect()
    };
    let elsewhere = endpoint("a", &["10.0.0.1/32"]);
    assert_history_does_not_matter(&[
        with_policies(&[&a, &b, &c]),
        with_policies(&[&b, &c]),
        with_policies(&[&c]),
        with_policies(&[&elsewhere, &b, &c]),
        with_policies(&[&a, &c]),
    ]);
}

#[test]
fn policies_are_reordered_and_govern_other_directions() {
    let state = |policies: &[(&str, Option<i32>, Value)]| -> Vec<Value> {
        let one = |(name, order, types): &(&str, Option<i32>, Value)| {
            let mut spec =
                json!({"types": types, "ingress": allow_from("has(role)"), "egress": [{"action": "Deny"}]});
            if let Some(order) = order {
                spec["order"] = json!(order);
            }
            policy(name, spec)
        };
        let policies = policies.iter().map(one);
        policies.chain([endpoint("a", &["10.0.0.1/32"])]).collect()
    };
    let [both, ingress, egress] = [
        json!(["Ingress", "Egress"]),
        json!(["Ingress"]),
        json!(["Egress"]),
    ];
    let all = |orders: [Option<i32>; 3], types: &Value| {
        let [x, y, z] = orders;
        state(&[
            ("x", x, types.clone()),
            ("y", y, types.clone()),
            ("z", z, types.clone()),
        ])
    };
    assert_history_does_not_matter(&[
        all([Some(1), Some(2), Some(3)], &both),
        all([Some(3), Some(2), Some(1)], &both),
        all([None; 3], &both),
        all([Some(5), None, Some(5)], &ingress),
        all([None, Some(-1), None], &egress),
        state(&[("x", None, ingress.clone()), ("y", None, egress.clone())]),
    ]);
}

#[test]
fn tiers_are_reordered_go_missing_and_policies_move_between_them() {
    let in_tiers = |tiers: [&str; 3], made: Vec<Value>| -> Vec<Value> {
        let names = ["x", "y", "z"].into_iter().zip(tiers);
        let policies =
            names.map(|(name, tier)| policy(name, json!({"tier": tier, "ingress": [{"action": "Pass"}]})));
        policies
            .chain(made)
            .chain([endpoint("a", &["10.0.0.1/32"])])
            .collect()
    };
    let abc = ["a", "b", "c"];
    let passing = global("Tier", "b", json!({"order": 2, "defaultAction": "Pass"}));
    assert_history_does_not_matter(&[
        in_tiers(abc, vec![tier("a", 1), tier("b", 2), tier("c", 3)]),
        in_tiers(abc, vec![tier("a", 3), tier("b", 2), tier("c", 1)]),
        in_tiers(abc, vec![tier("a", 2), tier("b", 2), tier("c", 2)]),
        in_tiers(abc, vec![tier("c", 3), passing]),
        in_tiers(["b", "b", "default"], vec![tier("b", 9)]),
        in_tiers(["c", "a", "a"], vec![tier("a", 1), tier("c", 0)]),
        in_tiers(abc, vec![]),
    ]);
}

#[test]
fn profiles_come_change_and_go_and_their_labels_with_them() {
    let a = |profiles: Value| with(endpoint("a", &["10.0.0.1/32"]), "profiles", profiles);
    let other = with(
        endpoint_on("compute-2", "b", &["10.0.0.2/32"]),
        "profiles",
        json!(["p"]),
    );
    let selected = || {
        policy(
            "p",
            json!({"selector": "x == 'p'", "ingress": allow_from("x == 'p'")}),
        )
    };
    let refused = || {
        policy(
            "q",
            json!({"selector": "!has(x)", "ingress": allow_from("!has(x)")}),
        )
    };
    let state = |more: Vec<Value>| [vec![other.clone(), selected(), refused()], more].concat();
    let rules = json!({"labelsToApply": {"x": "p"}, "ingress": [{"action": "Deny", "source": {"notSelector": "has(role)"}}]});
    assert_history_does_not_matter(&[
        state(vec![a(json!(["p"])), profile("p", json!({"x": "p"}))]),
        state(vec![a(json!(["p"]))]),
        state(vec![
            a(json!(["q", "p"])),
            profile("p", json!({"x": "p"})),
            profile("q", json!({"x": "q"})),
        ]),
        state(vec![
            a(json!(["p", "q"])),
            profile("p", json!({"role": "p"})),
            profile("q", json!({"x": "p"})),
        ]),
        state(vec![a(json!(["p"])), global("Profile", "p", rules)]),
        state(vec![
            a(json!([DEFAULT_ALLOW_PROFILE])),
            profile(DEFAULT_ALLOW_PROFILE, json!({"x": "p"})),
        ]),
        state(vec![
            labelled(a(json!(["p"])), json!({"x": "own"})),
            profile("p", json!({"x": "p"})),
        ]),
    ]);
}

#[test]
fn network_sets_nest_overlap_and_inherit() {
    let in_namespace = |nets: &[&str]| {
        let mut set = network_set("n", nets, json!({}));
        set["kind"] = json!("NetworkSet");
        set["metadata"]["namespace"] = json!("openstack");
        set
    };
    let state = |sets: Vec<Value>| [vec![endpoint("a", &["10.0.0.1/32"]), from("has(x)")], sets].concat();
    let x = || json!({"x": ""});
    assert_history_does_not_matter(&[
        state(vec![network_set("s", &["10.0.0.0/8"], x())]),
        state(vec![network_set("s", &["10.0.0.0/8", "10.0.0.0/24"], x())]),
        state(vec![
            network_set("s", &["10.0.0.0/24"], x()),
            network_set("t", &["10.0.0.7/24", "fd00::/64"], x()),
        ]),
        state(vec![
            network_set("t", &["10.0.0.0/24"], x()),
            network_set("s", &["10.0.0.0/24"], json!({})),
        ]),
        state(vec![
            in_namespace(&["10.0.0.0/24"]),
            profile("kns.openstack", x()),
        ]),
        state(vec![in_namespace(&["10.0.0.0/24"])]),
    ]);
}

#[test]
fn named_ports_come_and_go_with_their_owners() {
    let port =
        |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port});
    let owner = |name: &str, ports: Value| {
        let address = if name == "b" { "10.0.0.1/32" } else { "10.0.0.2/32" };
        with(endpoint_on("compute-2", name, &[address]), "ports", ports)
    };
    let rules = |protocol: &str, field: &str, selector: &str| {
        let to = json!({"selector": selector, field: ["http", 8080]});
        policy(
            "p",
            json!({"egress": [{"action": "Allow", "protocol": protocol, "destination": to}]}),
        )
    };
    let a = || endpoint("a", &["10.0.0.9/32"]);
    let (tcp, udp) = (port("http", "TCP", 80), port("http", "UDP", 80));
    let labels = json!({"role": "c"});
    assert_history_does_not_matter(&[
        vec![a(), rules("TCP", "ports", "all()"), owner("b", json!([tcp]))],
        vec![
            a(),
            rules("TCP", "ports", "all()"),
            owner("b", json!([tcp, udp])),
            owner("c", json!([tcp])),
        ],
        vec![a(), rules("UDP", "ports", "all()"), owner("b", json!([tcp]))],
        vec![
            a(),
            rules("UDP", "notPorts", "role == 'b'"),
            owner("b", json!([udp])),
            owner("c", json!([udp])),
        ],
        vec![
            a(),
            rules("TCP", "ports", "role == 'c'"),
            owner("b", json!([tcp, tcp, port("http", "TCP", 81)])),
        ],
        vec![
            a(),
            rules("TCP", "ports", "role == 'c'"),
            profile("p", labels),
            with(
                labelled(owner("b", json!([tcp])), json!({})),
                "profiles",
                json!(["p"]),
            ),
        ],
        vec![
            a(),
            rules("TCP", "ports", "all()"),
            owner("b", json!([port("https", "TCP", 443)])),
        ],
    ]);
}
