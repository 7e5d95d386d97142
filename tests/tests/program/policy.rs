//! Policy through the real programs: rules as written, verdict and deciding rule as judged.

use std::net::IpAddr;
use std::sync::Arc;

use calico_ebpf_common::maps::Counter;
use calico_ebpf_common::port::protocol::{DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE};
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::manifests::{
    Object, allow_everything, global_network_policy, global_network_set, profile, tier,
};
use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::programs::{Counted, Dataplane, Origin};
use calico_ebpf_userspace::calc::effective::{EffectivePolicy, EffectivePort};
use serde_json::{Value, json};

use crate::scene::{families, under};

/// A policy for a with the same rules in both directions.
fn policy(name: &str, rules: &[Value]) -> Object {
    let policy = global_network_policy(name, "name == 'a'").with("types", json!(["Ingress", "Egress"]));
    rules.iter().fold(policy, |policy, rule| {
        policy.ingress(rule.clone()).egress(rule.clone())
    })
}

fn under_rules(rules: &[Value]) -> Dataplane {
    under(&[policy("rules", rules)])
}

fn allow() -> Value {
    json!({"action": "Allow"})
}

fn deny() -> Value {
    json!({"action": "Deny"})
}

fn pass() -> Value {
    json!({"action": "Pass"})
}

/// Judges a first packet at a's hooks; one that is dropped must be dropped by policy.
#[track_caller]
fn lets_through(dataplane: &mut Dataplane, packet: &Packet, from_a: bool) -> bool {
    dataplane.clear_flows();
    let ran = if from_a {
        dataplane.from_workload("a", packet)
    } else {
        dataplane.to_workload("a", packet, Origin::Remote)
    };
    if !ran.passed() {
        let reasons: Vec<Counted> = ran.counted.iter().map(|(reason, _)| *reason).collect();
        let policy = if from_a {
            DropReason::EgressPolicy
        } else {
            DropReason::IngressPolicy
        };
        assert_eq!(reasons, [Counted::Drop(policy)]);
    }
    ran.passed()
}

/// Makes a packet of `tcp 80`, `udp 53 1000` (source port), `icmp 8 0`, `47`.
fn packet(source: IpAddr, target: IpAddr, what: &str) -> Packet {
    let words: Vec<&str> = what.split(' ').collect();
    let number = |index: usize| {
        words
            .get(index)
            .map_or(0, |word| word.parse::<u16>().expect("a number"))
    };
    let path = Path::new((source, number(2)), (target, number(1)));
    let ports = [number(2).to_be_bytes(), number(1).to_be_bytes()].concat();
    let with_ports = |number: u8| path.protocol(number, &[&ports[..], &[0; 12]].concat());
    let byte = |index| u8::try_from(number(index)).expect("a byte");
    match words[0] {
        "tcp" => path.tcp("S"),
        "udp" => path.udp(),
        "sctp" => with_ports(SCTP),
        "dccp" => with_ports(DCCP),
        "udplite" => with_ports(UDPLITE),
        "icmp" => Path::new((source, 0), (target, 0)).icmp(byte(1), byte(2), 7, b"data"),
        number => Path::new((source, 0), (target, 0)).protocol(number.parse().expect("a number"), &[0; 24]),
    }
}

/// Judges a packet between a and somebody far away, in both families and both directions, which must agree.
#[track_caller]
fn everywhere(dataplane: &mut Dataplane, what: &str) -> bool {
    let mut verdicts = Vec::new();
    for family in families() {
        for from_a in [true, false] {
            let (source, target) = if from_a {
                (family.a, family.far)
            } else {
                (family.far, family.a)
            };
            verdicts.push(lets_through(dataplane, &packet(source, target, what), from_a));
        }
    }
    assert!(
        verdicts.iter().all(|verdict| *verdict == verdicts[0]),
        "{what}: {verdicts:?}"
    );
    verdicts[0]
}

/// Checks packets that must be allowed, and packets that must not.
#[track_caller]
fn check(dataplane: &mut Dataplane, allowed: &[&str], denied: &[&str]) {
    for what in allowed {
        assert!(everywhere(dataplane, what), "{what}");
    }
    for what in denied {
        assert!(!everywhere(dataplane, what), "{what}");
    }
}

/// Judges a packet between a and `peer` in both directions, which must agree.
#[track_caller]
fn with_peer(dataplane: &mut Dataplane, peer: &str) -> bool {
    let peer: IpAddr = peer.parse().expect("an address");
    let [v4, v6] = families();
    let a = if peer.is_ipv4() { v4.a } else { v6.a };
    let there = lets_through(dataplane, &packet(a, peer, "tcp 80 4000"), true);
    let back = lets_through(dataplane, &packet(peer, a, "tcp 80 4000"), false);
    assert_eq!(there, back, "{peer}");
    there
}

#[test]
fn scenario_30_no_policy_and_no_profile_denies() {
    check(&mut under(&[]), &[], &["tcp 80", "udp 53", "icmp 8 0", "47"]);
}

#[test]
fn scenario_31_a_tier_without_a_policy_for_the_workload_has_no_effect() {
    let other = global_network_policy("first.other", "name == 'b'").with("tier", "first");
    let mut dataplane = under(&[tier("first", 1, "Deny"), other, policy("rules", &[allow()])]);
    check(&mut dataplane, &["tcp 80"], &[]);
}

#[test]
fn scenario_32_pass_past_the_last_tier_reaches_the_profiles_and_then_denies() {
    let with_rules = |name: &str, rules: &[Value]| {
        rules.iter().fold(profile(name), |profile, rule| {
            profile.ingress(rule.clone()).egress(rule.clone())
        })
    };
    let mut dataplane = under(&[
        policy("rules", &[pass()]),
        with_rules("open", &[allow()]),
        with_rules("shut", &[deny()]),
        with_rules("empty", &[]),
    ]);
    check(&mut dataplane, &[], &["tcp 80"]);
    for (profiles, allowed) in [
        (json!(["open"]), true),
        (json!(["empty", "open"]), true),
        (json!(["empty"]), false),
        (json!(["shut", "open"]), false),
        (json!(["missing", "open"]), false),
    ] {
        dataplane.workload_with("a", &["10.0.0.1/32", "fd00::1/128"], |object| {
            object.with("profiles", profiles.clone())
        });
        assert_eq!(everywhere(&mut dataplane, "tcp 80"), allowed, "{profiles}");
    }
}

#[test]
fn scenario_33_pass_goes_to_the_next_tier_and_what_decided_ends_it() {
    let in_tier = |tier: &str, rules: &[Value]| policy(&format!("{tier}.p"), rules).with("tier", tier);
    for (first, second, allowed) in [
        (pass(), allow(), true),
        (pass(), deny(), false),
        (allow(), deny(), true),
        (deny(), allow(), false),
    ] {
        let mut dataplane = under(&[
            tier("first", 1, "Deny"),
            tier("second", 2, "Deny"),
            in_tier("first", std::slice::from_ref(&first)),
            in_tier("second", std::slice::from_ref(&second)),
        ]);
        assert_eq!(everywhere(&mut dataplane, "tcp 80"), allowed, "{first} {second}");
    }
    for (default, allowed) in [("Deny", false), ("Pass", true)] {
        let mut dataplane = under(&[
            tier("first", 1, default),
            tier("second", 2, "Deny"),
            in_tier("first", &[json!({"action": "Deny", "protocol": "UDP"})]),
            in_tier("second", &[allow()]),
        ]);
        assert_eq!(everywhere(&mut dataplane, "tcp 80"), allowed, "{default}");
    }
}

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
    let a = a.expect("the workload");
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
fn scenario_46_the_rule_that_decided_is_counted_and_named_in_the_flow() {
    let rules = [
        json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": [22]}}),
        json!({"action": "Log"}),
        json!({"action": "Deny", "protocol": "UDP"}),
        json!({"action": "Allow", "protocol": "TCP"}),
        json!({"action": "Allow"}),
    ];
    let mut dataplane = under_rules(&rules);
    for family in families() {
        let icmp = if family.a.is_ipv4() { ICMP } else { ICMPV6 };
        let kind = if family.a.is_ipv4() { 8 } else { 128 };
        for (what, protocol, decides) in [
            ("tcp 22 4000".to_owned(), TCP, 0),
            ("udp 53 4000".to_owned(), UDP, 2),
            ("tcp 80 4000".to_owned(), TCP, 3),
            ("47".to_owned(), 47, 4),
            (format!("icmp {kind} 0"), icmp, 4),
        ] {
            for from_a in [true, false] {
                let (source, target) = if from_a {
                    (family.a, family.far)
                } else {
                    (family.far, family.a)
                };
                let direction = if from_a { "egress" } else { "ingress" };
                let numbers: Vec<(u32, u32)> = dataplane_rules(&mut dataplane, direction);
                let before: Vec<Counter> = numbers
                    .iter()
                    .map(|(_, number)| dataplane.rule_counter(*number))
                    .collect();
                let sent = packet(source, target, &what);
                lets_through(&mut dataplane, &sent, from_a);
                for ((index, number), before) in numbers.iter().zip(before) {
                    let now = dataplane.rule_counter(*number);
                    let expected = u64::from(*index == decides);
                    assert_eq!(
                        now.packets - before.packets,
                        expected,
                        "{what} {direction}[{index}]"
                    );
                    let bytes = expected * sent.bytes().len() as u64;
                    assert_eq!(now.bytes - before.bytes, bytes);
                }
                let decided = numbers.iter().find(|(index, _)| *index == decides);
                let flows = dataplane
                    .flows4()
                    .into_values()
                    .chain(dataplane.flows6().into_values());
                for flow in flows {
                    let number = decided.expect("it is numbered").1;
                    let expected = if from_a { [number, 0] } else { [0, number] };
                    assert_eq!(flow.rule, expected, "protocol {protocol}");
                }
            }
        }
    }
}

/// Returns index and counter of every numbered rule of a direction.
fn dataplane_rules(dataplane: &mut Dataplane, direction: &str) -> Vec<(u32, u32)> {
    dataplane.switch_to("a");
    dataplane
        .rule_ids()
        .iter()
        .filter(|(key, _)| key.rule.direction.as_str() == direction)
        .map(|(key, number)| (key.rule.index, number))
        .collect()
}

#[test]
fn scenario_46_what_no_rule_decides_is_counted_apart() {
    let mut dataplane = under_rules(&[json!({"action": "Allow", "protocol": "TCP"})]);
    let before = dataplane.rule_counter(0);
    assert!(!everywhere(&mut dataplane, "udp 53"));
    assert_eq!(dataplane.rule_counter(0).packets - before.packets, 4);
}

#[test]
fn dry_run_judges_alike_and_writes_nothing() {
    use calico_ebpf_common::maps::settings::DRY_RUN;
    let mut dataplane = crate::scene::under_with(&[(DRY_RUN, 1)], &[allow_everything()]);
    for family in families() {
        for what in ["tcp 80 1", "udp 53 1", "47"] {
            for _ in 0..2 {
                let ran = dataplane.from_workload("a", &packet(family.a, family.b, what));
                assert_eq!(ran.redirected_to.as_deref(), Some("b"));
                assert_eq!(ran.counted, []);
            }
        }
        let stray = Path::new((family.a, 1), (family.b, 2)).tcp("A");
        assert!(!dataplane.from_workload("a", &stray).passed());
    }
    assert_eq!(dataplane.flow_count(), 0);
    assert_eq!(dataplane.counters().len(), 0);
}
