//! What single rules match, through the real programs.

use std::sync::Arc;

use calico_ebpf_tests::manifests::{Object, global_network_policy, global_network_set};
use calico_ebpf_tests::programs::by_fall_back;
use calico_ebpf_userspace::calc::effective::{EffectivePolicy, EffectivePort};
use serde_json::{Value, json};

use crate::policy::{allow, check, lets_through, packet, under_rules, with_peer};
use crate::scene::{families, under};

#[test]
fn scenario_34_protocols_by_number_and_name() {
    let by = |field: &str, protocol: Value| under_rules(&[json!({"action": "Allow", field: protocol})]);
    check(&mut by("protocol", json!("TCP")), &["tcp 80"], &["udp 80", "47"]);
    check(
        &mut by("notProtocol", json!("TCP")),
        &["udp 80", "47", "icmp 8 0"],
        &["tcp 80"],
    );
    for (written, what) in [
        (json!(112), "112"),
        (json!(47), "47"),
        (json!("SCTP"), "sctp 80"),
        (json!(132), "sctp 80"),
        (json!("UDPLite"), "udplite 80"),
        (json!(33), "dccp 80"),
    ] {
        check(&mut by("protocol", written), &[what], &["tcp 80", "50"]);
    }
    let [v4, v6] = families();
    for written in [json!("ICMPv6"), json!(58)] {
        let mut dataplane = by("protocol", written);
        assert!(lets_through(
            &mut dataplane,
            &packet(v6.a, v6.far, "icmp 128 0"),
            true
        ));
        assert!(!lets_through(
            &mut dataplane,
            &packet(v4.a, v4.far, "icmp 8 0"),
            true
        ));
    }
}

#[test]
fn scenario_35_nets_and_their_negation_up_to_the_borders() {
    let cases: [(&[&str], &[&str], &[&str]); 6] = [
        (&["0.0.0.0/0"], &["1.0.0.1", "223.255.255.255"], &[]),
        (
            &["::/0"],
            &["2001:db8::9", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            &[],
        ),
        (
            &["128.0.0.0/1"],
            &["128.0.0.0", "223.255.255.255"],
            &["126.255.255.255", "1.0.0.0"],
        ),
        (
            &["8000::/1"],
            &["8000::", "fc00::"],
            &["7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
        ),
        (
            &["203.0.113.5/32", "198.51.100.0/31"],
            &["203.0.113.5", "198.51.100.0", "198.51.100.1"],
            &["203.0.113.4", "203.0.113.6", "198.51.100.2"],
        ),
        (
            &["2001:db8::5/128", "2001:db8:7::/64"],
            &["2001:db8::5", "2001:db8:7::", "2001:db8:7::ffff:ffff:ffff:ffff"],
            &["2001:db8::4", "2001:db8::6", "2001:db8:7:1::"],
        ),
    ];
    for (nets, inside, outside) in cases {
        for (field, expected) in [("nets", true), ("notNets", false)] {
            let rules = |side: &str| json!({"action": "Allow", side: {field: nets}});
            let mut dataplane = under(&[global_network_policy("rules", "name == 'a'")
                .ingress(rules("source"))
                .egress(rules("destination"))]);
            for peer in inside {
                assert_eq!(
                    with_peer(&mut dataplane, peer),
                    expected,
                    "{field} {nets:?} {peer}"
                );
            }
            for peer in outside {
                assert_eq!(
                    with_peer(&mut dataplane, peer),
                    !expected,
                    "{field} {nets:?} {peer}"
                );
            }
        }
    }
}

#[test]
fn scenario_36_ports_up_to_the_borders() {
    let by = |field: &str, ports: Value| {
        under_rules(&[json!({"action": "Allow", "protocol": "TCP", "destination": {field: ports}})])
    };
    check(
        &mut by("ports", json!(["1:80"])),
        &["tcp 1", "tcp 80"],
        &["tcp 0", "tcp 81", "tcp 65535", "udp 80", "47"],
    );
    check(
        &mut by("ports", json!(["80:65535"])),
        &["tcp 80", "tcp 65535"],
        &["tcp 0", "tcp 79"],
    );
    check(
        &mut by("ports", json!([22, "80:81", 443])),
        &["tcp 22", "tcp 80", "tcp 81", "tcp 443"],
        &["tcp 21", "tcp 23", "tcp 79", "tcp 82"],
    );
    check(
        &mut by("notPorts", json!([22, "80:81"])),
        &["tcp 0", "tcp 21", "tcp 23", "tcp 79", "tcp 82", "tcp 65535"],
        &["tcp 22", "tcp 80", "tcp 81", "udp 82", "47"],
    );
    let source = json!({"action": "Allow", "protocol": "UDP", "source": {"ports": ["1000:1023"]}, "destination": {"ports": [53]}});
    check(
        &mut under_rules(&[source]),
        &["udp 53 1000", "udp 53 1023"],
        &["udp 53 999", "udp 53 1024", "udp 54 1000", "tcp 53 1000"],
    );
}

#[test]
fn scenario_36_port_zero_is_a_port_and_a_rule_with_ports_never_matches_a_protocol_without() {
    let mut dataplane = under_rules(&[allow()]);
    let mut state = dataplane.state().clone();
    let a = state
        .endpoints
        .values_mut()
        .find(|endpoint| endpoint.interface_name == "tapa");
    let a = Arc::make_mut(a.expect("the workload"));
    let mut policy = EffectivePolicy::clone(&a.policy);
    for direction in [&mut policy.egress, &mut policy.ingress] {
        direction.tiers[0].policies[0].rules[0].destination.ports = Some(vec![EffectivePort::Range(0, 80)]);
    }
    a.policy = Arc::new(policy);
    let host = dataplane.host().clone();
    dataplane.set_state(state, host);
    let allowed = ["tcp 0", "udp 80", "sctp 0", "dccp 80", "udplite 0"];
    check(
        &mut dataplane,
        &allowed,
        &["tcp 81", "udp 81", "sctp 81", "47", "icmp 8 0", "icmp 128 0"],
    );
}

/// Rules about the peer, for both directions.
fn about_peer(entity: &Value) -> Object {
    global_network_policy("peer", "name == 'a'")
        .ingress(json!({"action": "Allow", "source": entity}))
        .egress(json!({"action": "Allow", "destination": entity}))
}

const FRIENDS: (&str, &str) = ("role", "friend");

#[test]
fn scenario_37_an_empty_set_matches_nothing_and_its_negation_everything() {
    let mut dataplane = under(&[about_peer(&json!({"selector": "role == 'nobody'"}))]);
    check(&mut dataplane, &[], &["tcp 80"]);
    let mut dataplane = under(&[about_peer(&json!({"notSelector": "role == 'nobody'"}))]);
    check(&mut dataplane, &["tcp 80"], &[]);
}

#[test]
fn scenario_38_a_member_added_is_allowed_and_a_member_removed_denied() {
    let mut dataplane = under(&[about_peer(&json!({"selector": "role == 'friend'"}))]);
    let set = |nets: &[&str]| global_network_set("friends", FRIENDS, nets);
    for _ in 0..2 {
        for peer in ["192.0.2.9", "2001:db8::9"] {
            assert!(!with_peer(&mut dataplane, peer));
        }
        dataplane.put(&set(&["192.0.2.0/24", "192.0.2.64/26", "2001:db8::/64"]));
        for (peer, expected) in [
            ("192.0.2.9", true),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("2001:db8::9", true),
            ("2001:db8:0:1::", false),
        ] {
            assert_eq!(with_peer(&mut dataplane, peer), expected, "{peer}");
        }
        dataplane.put(&set(&["198.51.100.0/24"]));
    }
}

#[test]
fn scenario_39_sets_and_negated_sets_of_one_side_must_all_hold() {
    let sets = [
        global_network_set("x", ("a", "yes"), &["198.51.100.7/32", "2001:db8:1::7/128"]).label("b", "yes"),
        global_network_set("y", ("a", "yes"), &["198.51.100.8/32", "2001:db8:1::8/128"]),
    ];
    for (entity, seven, eight) in [
        (json!({"selector": "has(a)"}), true, true),
        (json!({"selector": "has(a) && has(b)"}), true, false),
        (
            json!({"selector": "has(a)", "notSelector": "has(b)"}),
            false,
            true,
        ),
        (
            json!({"selector": "has(a)", "nets": ["198.51.100.8/30", "2001:db8:1::8/125"]}),
            false,
            true,
        ),
        (
            json!({"selector": "has(a)", "notNets": ["198.51.100.8/30", "2001:db8:1::8/125"]}),
            true,
            false,
        ),
    ] {
        let mut dataplane = under(&[sets[0].clone(), sets[1].clone(), about_peer(&entity)]);
        for (peer, expected) in [
            ("198.51.100.7", seven),
            ("2001:db8:1::7", seven),
            ("198.51.100.8", eight),
            ("2001:db8:1::8", eight),
            ("198.51.100.9", false),
            ("2001:db8:1::9", false),
        ] {
            assert_eq!(with_peer(&mut dataplane, peer), expected, "{entity} {peer}");
        }
    }
}

#[test]
fn scenario_40_named_ports_beside_numbers() {
    let by = |field: &str| {
        let rule = json!({"action": "Allow", "protocol": "TCP", "destination": {field: ["http", 22]}});
        let mut dataplane = under(&[global_network_policy("rules", "name == 'a'").ingress(rule)]);
        dataplane.workload_with("a", &["10.0.0.1/32", "fd00::1/128"], |object| {
            object.with(
                "ports",
                json!([{"name": "http", "protocol": "TCP", "port": 8080}]),
            )
        });
        dataplane
    };
    for (field, expected) in [("ports", true), ("notPorts", false)] {
        let mut dataplane = by(field);
        for family in families() {
            let mut to_a =
                |what: &str| lets_through(&mut dataplane, &packet(family.far, family.a, what), false);
            assert_eq!(to_a("tcp 8080"), expected);
            assert_eq!(to_a("tcp 22"), expected);
            assert_eq!(to_a("tcp 80"), !expected);
            assert!(!to_a("udp 8080") && !to_a("udp 80"), "another protocol");
        }
    }
}

#[test]
fn scenario_41_icmp_type_and_code() {
    let by = |field: &str, icmp: Value| {
        let rule = |version: u8, protocol: &str| json!({"action": "Allow", "ipVersion": version, "protocol": protocol, field: icmp.clone()});
        under_rules(&[rule(4, "ICMP"), rule(6, "ICMPv6")])
    };
    // 200 and 201 are nothing special in either family; 0 is no answer in ICMPv6, and an answer of ICMP needs a flow.
    check(
        &mut by("icmp", json!({"type": 200})),
        &["icmp 200 0", "icmp 200 255"],
        &["icmp 201 0"],
    );
    check(
        &mut by("icmp", json!({"type": 200, "code": 0})),
        &["icmp 200 0"],
        &["icmp 200 1", "icmp 201 0"],
    );
    check(
        &mut by("notICMP", json!({"type": 200})),
        &["icmp 201 0", "icmp 254 255"],
        &["icmp 200 0", "icmp 200 7"],
    );
    check(
        &mut by("notICMP", json!({"type": 200, "code": 0})),
        &["icmp 200 1", "icmp 201 0"],
        &["icmp 200 0"],
    );
    let [v4, v6] = families();
    let mut dataplane = by("icmp", json!({"type": 0, "code": 0}));
    assert!(lets_through(
        &mut dataplane,
        &packet(v6.a, v6.far, "icmp 0 0"),
        true
    ));
    for what in ["icmp 0 1", "icmp 128 0", "icmp 255 0"] {
        assert!(
            !lets_through(&mut dataplane, &packet(v6.a, v6.far, what), true),
            "{what}"
        );
    }
    let echo = |kind: u8| json!({"type": kind, "code": 0});
    for (kind, family) in [(8, v4), (128, v6)] {
        let mut dataplane = by("icmp", echo(kind));
        let what = format!("icmp {kind} 0");
        assert!(lets_through(
            &mut dataplane,
            &packet(family.a, family.far, &what),
            true
        ));
        assert!(lets_through(
            &mut dataplane,
            &packet(family.far, family.a, &what),
            false
        ));
        let other_code = format!("icmp {kind} 1");
        assert!(!lets_through(
            &mut dataplane,
            &packet(family.a, family.far, &other_code),
            true
        ));
    }
}

#[test]
fn single_rules_match_alike_by_the_fall_back() {
    for scenario in [
        scenario_34_protocols_by_number_and_name,
        scenario_35_nets_and_their_negation_up_to_the_borders,
        scenario_36_ports_up_to_the_borders,
        scenario_36_port_zero_is_a_port_and_a_rule_with_ports_never_matches_a_protocol_without,
        scenario_37_an_empty_set_matches_nothing_and_its_negation_everything,
        scenario_38_a_member_added_is_allowed_and_a_member_removed_denied,
        scenario_39_sets_and_negated_sets_of_one_side_must_all_hold,
        scenario_40_named_ports_beside_numbers,
        scenario_41_icmp_type_and_code,
    ] {
        by_fall_back(scenario);
    }
}
