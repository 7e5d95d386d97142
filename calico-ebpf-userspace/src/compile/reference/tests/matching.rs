//! What single rules match.

use super::*;

#[test]
fn scenario_34_protocols_by_number_and_name() {
    let by = |field: &str, protocol: Value| under(&json!([{"action": "Allow", field: protocol}]));
    let tcp = by("protocol", json!("TCP"));
    assert!(tcp.allows_everywhere("tcp 80"));
    assert!(!tcp.allows_everywhere("udp 80"));
    let not_tcp = by("notProtocol", json!("tcp"));
    assert!(!not_tcp.allows_everywhere("tcp 80"));
    assert!(not_tcp.allows_everywhere("udp 80"));
    assert!(not_tcp.allows_everywhere("47"));
    for (written, number) in [
        (json!(112), 112),
        (json!(47), 47),
        (json!("132"), 132),
        (json!("UDPLite"), 136),
    ] {
        let world = by("protocol", written);
        assert!(world.allows_everywhere(&number.to_string()), "{number}");
        assert!(
            !world.allows_everywhere("tcp 80") && !world.allows_everywhere("50"),
            "{number}"
        );
    }
    for written in [json!(58), json!("ICMPv6")] {
        let world = by("protocol", written);
        assert!(world.allows("fd00::1 > fd00::2 icmp 128 0"));
        assert!(!world.allows("10.0.0.1 > 10.0.0.2 icmp 8 0"));
    }
}

#[test]
fn scenario_35_nets_and_their_negation_up_to_the_borders() {
    let by = |field: &str, nets: &[&str]| {
        let ingress = json!([{"action": "Allow", "source": {field: nets}}]);
        let egress = json!([{"action": "Allow", "destination": {field: nets}}]);
        let spec = json!({"selector": "role == 'web'", "ingress": ingress, "egress": egress});
        World::new(&[global("GlobalNetworkPolicy", "p", spec)])
    };
    let check = |world: &World, address: &str, expected: bool| {
        let web = if address.contains(':') { WEB[1] } else { WEB[0] };
        for packet in [
            format!("{address} > {web} tcp 80"),
            format!("{web} > {address} tcp 80"),
        ] {
            assert_eq!(world.allows(&packet), expected, "{packet}");
        }
    };
    // Nets, addresses inside, addresses outside.
    let cases: [(&[&str], &[&str], &[&str]); 7] = [
        (&["0.0.0.0/0"], &["0.0.0.1", "255.255.255.255", "10.0.0.9"], &[]),
        (
            &["::/0"],
            &["::2", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            &[],
        ),
        (
            &["128.0.0.0/1"],
            &["128.0.0.0", "255.255.255.255"],
            &["127.255.255.255", "0.0.0.1"],
        ),
        (
            &["8000::/1"],
            &["8000::", "ffff::"],
            &["7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
        ),
        (
            &["10.0.0.5/32", "192.0.2.0/31"],
            &["10.0.0.5", "192.0.2.1"],
            &["10.0.0.4", "10.0.0.6", "192.0.2.2"],
        ),
        (
            &["fd00::5/128", "2001:db8::/64"],
            &["fd00::5", "2001:db8::ffff:0:0:1"],
            &["fd00::4", "2001:db8:0:1::"],
        ),
        (
            &["10.65.0.7/24"],
            &["10.65.0.0", "10.65.0.255"],
            &["10.64.255.255", "10.65.1.0"],
        ),
    ];
    for (nets, inside, outside) in cases {
        let positive = by("nets", nets);
        let negative = by("notNets", nets);
        for address in inside {
            check(&positive, address, true);
            check(&negative, address, false);
        }
        for address in outside {
            check(&positive, address, false);
            check(&negative, address, true);
        }
    }
    // Nets of one version say nothing positive about the other, and exclude nothing there.
    check(&by("nets", &["0.0.0.0/0"]), "fd00::9", false);
    check(&by("notNets", &["0.0.0.0/0"]), "fd00::9", true);
}

#[test]
fn scenario_36_ports_up_to_the_borders() {
    let by = |field: &str, ports: Value| {
        under(&json!([{"action": "Allow", "protocol": "TCP", "destination": {field: ports}}]))
    };
    let check = |world: &World, allowed: &[u16], denied: &[u16]| {
        for port in allowed {
            assert!(world.allows_everywhere(&format!("tcp {port} 4000")), "{port}");
        }
        for port in denied {
            assert!(!world.allows_everywhere(&format!("tcp {port} 4000")), "{port}");
        }
    };
    check(&by("ports", json!(["1:80"])), &[1, 80], &[0, 81, 65535]);
    check(&by("ports", json!(["80:65535"])), &[80, 65535], &[0, 79]);
    check(
        &by("ports", json!([22, "80:81", 443])),
        &[22, 80, 81, 443],
        &[21, 23, 79, 82, 442, 444],
    );
    check(
        &by("notPorts", json!([22, "80:81"])),
        &[0, 21, 23, 79, 82, 65535],
        &[22, 80, 81],
    );
    assert!(!by("ports", json!([80])).allows_everywhere("udp 80"));
}

#[test]
fn scenario_36_port_zero_is_a_port() {
    let mut state = World::new(&[policy(&json!([{"action": "Allow", "protocol": "TCP"}]))]).state;
    let web = Arc::make_mut(state.endpoints.get_mut(&endpoint_key("web")).unwrap());
    let mut policy = EffectivePolicy::clone(&web.policy);
    for direction in [&mut policy.egress, &mut policy.ingress] {
        direction.tiers[0].policies[0].rules[0].destination.ports = Some(vec![EffectivePort::Range(0, 80)]);
    }
    web.policy = Arc::new(policy);
    let world = World::of(state);
    assert!(world.allows_everywhere("tcp 0") && world.allows_everywhere("tcp 80"));
    assert!(!world.allows_everywhere("tcp 81"));
}

#[test]
fn scenario_36_a_rule_with_ports_never_matches_a_protocol_without() {
    for field in ["ports", "notPorts"] {
        let world = under(&json!([{"action": "Deny", "protocol": "UDP"},
            {"action": "Deny", "protocol": "TCP", "destination": {field: [80]}}, {"action": "Allow"}]));
        let mut state = world.state;
        let web = Arc::make_mut(state.endpoints.get_mut(&endpoint_key("web")).unwrap());
        let mut policy = EffectivePolicy::clone(&web.policy);
        for direction in [&mut policy.egress, &mut policy.ingress] {
            // Without a protocol the rule is about every protocol with ports.
            direction.tiers[0].policies[0].rules[1].protocol = None;
        }
        web.policy = Arc::new(policy);
        let world = World::of(state);
        assert!(world.allows_everywhere("47") && world.allows_everywhere("icmp 8 0"));
        let denied = if field == "ports" { 80 } else { 81 };
        for protocol in ["tcp", "sctp", "udplite", "33"] {
            assert!(
                !world.allows_everywhere(&format!("{protocol} {denied}")),
                "{protocol}"
            );
            assert!(
                world.allows_everywhere(&format!("{protocol} {}", 161 - denied)),
                "{protocol}"
            );
        }
    }
}

#[test]
fn scenario_36_source_ports() {
    let rules = json!([{"action": "Allow", "protocol": "UDP", "source": {"ports": ["1000:1023"]}, "destination": {"ports": [53]}}]);
    let world = under(&rules);
    assert!(world.allows_everywhere("udp 53 1000") && world.allows_everywhere("udp 53 1023"));
    assert!(!world.allows_everywhere("udp 53 999") && !world.allows_everywhere("udp 53 1024"));
    assert!(!world.allows_everywhere("udp 54 1000") && !world.allows_everywhere("tcp 53 1000"));
}

/// Rules about the peer by selectors, for both directions.
fn about_peer(entity: &Value) -> Value {
    let ingress = json!([{"action": "Allow", "source": entity}]);
    let egress = json!([{"action": "Allow", "destination": entity}]);
    global(
        "GlobalNetworkPolicy",
        "p",
        json!({"selector": "role == 'web'", "ingress": ingress, "egress": egress}),
    )
}

#[test]
fn scenario_37_an_empty_set_matches_nothing_and_its_negation_everything() {
    let world = World::new(&[about_peer(&json!({"selector": "role == 'nobody'"}))]);
    assert!(!world.allows_everywhere("tcp 80"));
    let world = World::new(&[about_peer(&json!({"notSelector": "role == 'nobody'"}))]);
    assert!(world.allows_everywhere("tcp 80"));
    assert!(world.allows("192.0.2.9 > 10.0.0.2 tcp 80"));
}

#[test]
fn scenario_38_a_member_added_is_allowed_and_a_member_removed_denied() {
    let rule = about_peer(&json!({"selector": "role == 'friend'"}));
    let peer = |role: &str| {
        labelled(
            endpoint_on("compute-3", "peer", &["10.0.0.7/32"]),
            json!({"role": role}),
        )
    };
    let allows = |role: &str| World::new(&[rule.clone(), peer(role)]).allows("10.0.0.7 > 10.0.0.2 tcp 80");
    assert!(!allows("stranger"));
    assert!(allows("friend"));
}

#[test]
fn scenario_38_a_network_set_has_members_by_prefix() {
    let set = labelled(
        global(
            "GlobalNetworkSet",
            "s",
            json!({"nets": ["192.0.2.0/24", "192.0.2.64/26"]}),
        ),
        json!({"role": "friend"}),
    );
    let world = World::new(&[about_peer(&json!({"selector": "role == 'friend'"})), set]);
    assert!(world.allows("192.0.2.0 > 10.0.0.2 tcp 80") && world.allows("10.0.0.2 > 192.0.2.255 tcp 80"));
    assert!(!world.allows("192.0.3.0 > 10.0.0.2 tcp 80"));
}

#[test]
fn scenario_39_sets_and_negated_sets_of_one_side_must_all_hold() {
    let peers = [
        labelled(
            endpoint_on("compute-3", "x", &["10.0.0.7/32"]),
            json!({"role": "x", "a": "", "b": ""}),
        ),
        labelled(
            endpoint_on("compute-3", "y", &["10.0.0.8/32"]),
            json!({"role": "y", "a": ""}),
        ),
    ];
    let world = |entity: Value| World::new(&[peers[0].clone(), peers[1].clone(), about_peer(&entity)]);
    let negated = world(json!({"selector": "has(a)", "notSelector": "has(b)"}));
    assert!(!negated.allows("10.0.0.7 > 10.0.0.2 tcp 80"));
    assert!(negated.allows("10.0.0.8 > 10.0.0.2 tcp 80"));
    assert!(!negated.allows("10.0.0.9 > 10.0.0.2 tcp 80"));
    let with_nets = world(json!({"selector": "has(a)", "nets": ["10.0.0.8/30"]}));
    assert!(!with_nets.allows("10.0.0.7 > 10.0.0.2 tcp 80"));
    assert!(with_nets.allows("10.0.0.8 > 10.0.0.2 tcp 80"));

    let mut state = world(json!({"selector": "has(a)", "notSelector": "has(b)"})).state;
    let web = Arc::make_mut(state.endpoints.get_mut(&endpoint_key("web")).unwrap());
    let mut policy = EffectivePolicy::clone(&web.policy);
    let source = &mut policy.ingress.tiers[0].policies[0].rules[0].source;
    source.sets.append(&mut source.not_sets);
    web.policy = Arc::new(policy);
    let both = World::of(state);
    assert!(both.allows("10.0.0.7 > 10.0.0.2 tcp 80"));
    assert!(!both.allows("10.0.0.8 > 10.0.0.2 tcp 80"));
}

#[test]
fn scenario_40_named_ports_beside_numbers() {
    let ports = json!([{"name": "http", "protocol": "TCP", "port": 8080}]);
    let web = || {
        with(
            endpoint("web", &["10.0.0.2/32", "fd00::2/128"]),
            "ports",
            ports.clone(),
        )
    };
    let world = |field: &str| {
        let rules = json!([{"action": "Allow", "protocol": "TCP", "destination": {field: ["http", 22]}}]);
        let spec = json!({"selector": "role == 'web'", "ingress": rules, "egress": rules});
        World::with_web(web(), &[global("GlobalNetworkPolicy", "p", spec)])
    };
    for [client, web] in [[CLIENT[0], WEB[0]], [CLIENT[1], WEB[1]]] {
        let to_web = |world: &World, what: &str| world.allows(&format!("{client} > {web} {what}"));
        let to_client = |world: &World, what: &str| world.allows(&format!("{web} > {client} {what}"));
        let positive = world("ports");
        assert!(to_web(&positive, "tcp 8080") && to_web(&positive, "tcp 22"));
        assert!(!to_web(&positive, "tcp 80") && !to_web(&positive, "udp 8080"));
        assert!(!to_client(&positive, "tcp 8080"), "the client has no such port");
        assert!(to_client(&positive, "tcp 22"));
        let negative = world("notPorts");
        assert!(!to_web(&negative, "tcp 8080") && !to_web(&negative, "tcp 22"));
        assert!(to_web(&negative, "tcp 80"));
        assert!(to_client(&negative, "tcp 8080"));
    }
}

#[test]
fn scenario_41_icmp_type_and_code() {
    let by = |field: &str, icmp: Value| {
        let rule = |version: u8, protocol: &str| json!({"action": "Allow", "ipVersion": version, "protocol": protocol, field: icmp.clone()});
        under(&json!([rule(4, "ICMP"), rule(6, "ICMPv6")]))
    };
    let kind = by("icmp", json!({"type": 8}));
    assert!(kind.allows_everywhere("icmp 8 0") && kind.allows_everywhere("icmp 8 255"));
    assert!(!kind.allows_everywhere("icmp 9 0") && !kind.allows_everywhere("tcp 8"));
    let coded = by("icmp", json!({"type": 3, "code": 4}));
    assert!(coded.allows_everywhere("icmp 3 4"));
    assert!(!coded.allows_everywhere("icmp 3 0") && !coded.allows_everywhere("icmp 4 4"));
    let zero = by("icmp", json!({"type": 0, "code": 0}));
    assert!(zero.allows_everywhere("icmp 0 0"));
    assert!(!zero.allows_everywhere("icmp 0 1") && !zero.allows_everywhere("icmp 8 0"));
    let not_kind = by("notICMP", json!({"type": 8}));
    assert!(!not_kind.allows_everywhere("icmp 8 0"));
    assert!(not_kind.allows_everywhere("icmp 0 0"));
    assert!(!not_kind.allows_everywhere("tcp 80"), "still a rule about ICMP");
    let not_coded = by("notICMP", json!({"type": 0, "code": 0}));
    assert!(!not_coded.allows_everywhere("icmp 0 0"));
    assert!(not_coded.allows_everywhere("icmp 0 1") && not_coded.allows_everywhere("icmp 1 0"));
}

#[test]
fn scenario_44_log_goes_on_with_the_next_rule() {
    let world = under(&json!([{"action": "Log", "protocol": "TCP"}, {"action": "Allow"}]));
    let judgement = world.judge(&parse("10.0.0.1 > 10.0.0.2 tcp 80"));
    assert!(judgement.log && judgement.allow);
    let judgement = world.judge(&parse("10.0.0.1 > 10.0.0.2 udp 80"));
    assert!(!judgement.log && judgement.allow);
    let judgement = under(&json!([{"action": "Log"}])).judge(&parse("10.0.0.1 > 10.0.0.2 tcp 80"));
    assert!(judgement.log && !judgement.allow);
}

#[test]
fn rules_about_the_endpoints_own_side_look_at_the_address_in_the_packet() {
    let rules = json!([{"action": "Allow", "destination": {"nets": ["10.0.0.2/32"]}}]);
    let web = endpoint("web", &["10.0.0.2/32", "10.0.0.3/32"]);
    let world = World::with_web(web, &[policy(&rules)]);
    assert!(world.allows("10.0.0.1 > 10.0.0.2 tcp 80"));
    assert!(!world.allows("10.0.0.1 > 10.0.0.3 tcp 80"));
}

#[test]
fn scenario_42_twelve_thousand_rules_over_250_policies_on_one_port() {
    let mut objects = Vec::new();
    for number in 0..250_u16 {
        let rules: Vec<Value> = (0..50)
            .map(|rule| {
                let index = number * 50 + rule;
                let action = if index % 3 == 0 { "Deny" } else { "Allow" };
                let net = format!("10.{}.{}.0/24", index / 256, index % 256);
                json!({"action": action, "protocol": "TCP",
                    "source": {"nets": [net, "172.16.0.0/12"]}, "destination": {"ports": [1 + index % 50]}})
            })
            .collect();
        let spec = json!({"selector": "role == 'web'", "order": number, "ingress": rules});
        objects.push(global("GlobalNetworkPolicy", &format!("p{number:03}"), spec));
    }
    let world = World::new(&objects);
    let decider = |packet: &str| world.judge(&parse(packet)).decided_by.unwrap().to_string();
    assert_eq!(
        decider("10.1.0.9 > 10.0.0.2 tcp 7"),
        "default/GlobalNetworkPolicy(p005) ingress[6]"
    );
    assert_eq!(
        decider("172.16.0.1 > 10.0.0.2 tcp 7"),
        "default/GlobalNetworkPolicy(p000) ingress[6]"
    );
    assert!(!world.allows("10.1.0.9 > 10.0.0.2 tcp 8"));
    assert_eq!(
        world
            .judge(&parse("10.48.211.9 > 10.0.0.2 tcp 50"))
            .decided_by
            .unwrap()
            .index,
        49
    );
}

#[test]
fn scenario_43_a_rule_with_a_thousand_nets_and_a_thousand_ranges() {
    let nets: Vec<String> = (0..1_000)
        .map(|number| format!("10.{}.{}.0/25", number / 256 + 1, number % 256))
        .collect();
    let ports: Vec<String> = (0..1_000)
        .map(|number| format!("{}:{}", number * 50 + 10, number * 50 + 20))
        .collect();
    let rules = json!([{"action": "Allow", "protocol": "UDP", "source": {"nets": nets}, "destination": {"ports": ports}}]);
    let world = under(&rules);
    assert!(world.allows("10.1.7.127 > 10.0.0.2 udp 49970"));
    assert!(!world.allows("10.1.7.128 > 10.0.0.2 udp 49970"));
    assert!(!world.allows("10.1.7.127 > 10.0.0.2 udp 49971"));
    assert!(
        world.tables[0].report.cells < 100,
        "the lists are one predicate each"
    );
}
