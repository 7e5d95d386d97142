//! Policy through the real programs: rules as written, verdict and deciding rule as judged.

use std::net::IpAddr;

use calico_ebpf_common::maps::Counter;
use calico_ebpf_common::port::protocol::{DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE};
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::manifests::{Object, allow_everything, global_network_policy, profile, tier};
use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::programs::{Counted, Dataplane, Origin};
use serde_json::{Value, json};

use crate::scene::{families, under};

/// A policy for a with the same rules in both directions.
pub(crate) fn policy(name: &str, rules: &[Value]) -> Object {
    let policy = global_network_policy(name, "name == 'a'").with("types", json!(["Ingress", "Egress"]));
    rules.iter().fold(policy, |policy, rule| {
        policy.ingress(rule.clone()).egress(rule.clone())
    })
}

pub(crate) fn under_rules(rules: &[Value]) -> Dataplane {
    under(&[policy("rules", rules)])
}

pub(crate) fn allow() -> Value {
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
pub(crate) fn lets_through(dataplane: &mut Dataplane, packet: &Packet, from_a: bool) -> bool {
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
pub(crate) fn packet(source: IpAddr, target: IpAddr, what: &str) -> Packet {
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
pub(crate) fn everywhere(dataplane: &mut Dataplane, what: &str) -> bool {
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
pub(crate) fn check(dataplane: &mut Dataplane, allowed: &[&str], denied: &[&str]) {
    for what in allowed {
        assert!(everywhere(dataplane, what), "{what}");
    }
    for what in denied {
        assert!(!everywhere(dataplane, what), "{what}");
    }
}

/// Judges a packet between a and `peer` in both directions, which must agree.
#[track_caller]
pub(crate) fn with_peer(dataplane: &mut Dataplane, peer: &str) -> bool {
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
fn scenario_44_a_log_rule_leaves_the_verdict_to_the_next_one() {
    let log = json!({"action": "Log", "protocol": "TCP"});
    check(
        &mut under_rules(std::slice::from_ref(&log)),
        &[],
        &["tcp 80", "udp 53"],
    );
    check(
        &mut under_rules(&[log.clone(), allow()]),
        &["tcp 80", "udp 53"],
        &[],
    );
    check(
        &mut under_rules(&[log, deny(), allow()]),
        &[],
        &["tcp 80", "udp 53"],
    );
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
