//! Policy as large as it comes.

use std::net::IpAddr;

use calico_ebpf_tests::manifests::{Object, global_network_policy};
use calico_ebpf_tests::packets::Path;
use serde_json::{Value, json};

use crate::policy::{everywhere, lets_through, policy};
use crate::scene::{families, under};

const POLICIES: u16 = 250;
const RULES: u16 = 50;
const FIRST_PORT: u16 = 20_000;

/// Ports of each rule: so many rules match a port, of three policies.
const OVERLAP: u16 = 2 * RULES;

/// A rule for a port and those above it.
fn from_port_on(port: u16) -> Value {
    let action = if allows(port) { "Allow" } else { "Deny" };
    let last = port + OVERLAP - 1;
    json!({"action": action, "protocol": "TCP", "destination": {"ports": [format!("{port}:{last}")]}})
}

/// Neither every other port, nor every other policy.
fn allows(port: u16) -> bool {
    port.is_multiple_of(3) || (port / RULES).is_multiple_of(2)
}

#[test]
fn scenario_42_of_12500_rules_in_250_policies_the_first_that_matches_decides() {
    // The first policy has the highest ports: the first rule that matches a port is that port's own.
    let policies: Vec<Object> = (0..POLICIES)
        .map(|number| {
            let first = FIRST_PORT + (POLICIES - 1 - number) * RULES;
            let rules: Vec<Value> = (first..first + RULES).rev().map(from_port_on).collect();
            policy(&format!("p{number:03}"), &rules).with("order", number)
        })
        .collect();
    let mut dataplane = under(&policies);
    let last = FIRST_PORT + POLICIES * RULES - 1;
    let sampled = (FIRST_PORT..=last).step_by(97).chain([last]);
    for port in sampled {
        assert_eq!(
            everywhere(&mut dataplane, &format!("tcp {port}")),
            allows(port),
            "{port}"
        );
    }
    // Behind the last port its own rule still matches.
    assert_eq!(
        everywhere(&mut dataplane, &format!("tcp {}", last + 1)),
        allows(last)
    );
    for port in [0, FIRST_PORT - 1, last + OVERLAP, 65535] {
        assert!(!everywhere(&mut dataplane, &format!("tcp {port}")), "{port}");
    }
    assert!(!everywhere(&mut dataplane, &format!("udp {last}")));
}

#[test]
fn scenario_43_a_rule_with_1000_prefixes_and_1000_port_ranges_is_enforced_as_written() {
    const PREFIXES: u16 = 1000;
    // Every other /24 and /64, and ten of every forty ports.
    let prefix4 = |number: u16| format!("20.{}.{}.0/24", number * 2 / 256, number * 2 % 256);
    let prefix6 = |number: u16| format!("2001:db8:{:x}::/64", number * 2);
    let nets = (0..PREFIXES).flat_map(|number| [prefix4(number), prefix6(number)]);
    let nets: Vec<String> = nets.collect();
    let ports: Vec<String> = (0..1000_u16)
        .map(|number| format!("{}:{}", 1000 + number * 40, 1009 + number * 40))
        .collect();
    let rule = |peer: &str| {
        let mut rule = json!({"action": "Allow", "protocol": "TCP"});
        rule[peer]["nets"] = nets.clone().into();
        rule["destination"]["ports"] = ports.clone().into();
        rule
    };
    let rules = global_network_policy("large", "name == 'a'")
        .ingress(rule("source"))
        .egress(rule("destination"));
    let mut dataplane = under(&[rules]);
    let mut judge = |peer: &str, port: u16| {
        let peer: IpAddr = peer.parse().expect("an address");
        let [v4, v6] = families();
        let a = if peer.is_ipv4() { v4.a } else { v6.a };
        let there = Path::new((a, 4000), (peer, port));
        let from_a = lets_through(&mut dataplane, &there.tcp("S"), true);
        let to_a = lets_through(
            &mut dataplane,
            &Path::new((peer, 4000), (a, port)).tcp("S"),
            false,
        );
        assert_eq!(from_a, to_a, "{peer} {port}");
        from_a
    };
    for number in [0, 1, 127, 128, 500, 998, 999] {
        let (high, low) = (number * 2 / 256, number * 2 % 256);
        let inside = [
            format!("20.{high}.{low}.0"),
            format!("20.{high}.{low}.255"),
            format!("2001:db8:{:x}::", number * 2),
            format!("2001:db8:{:x}::ffff:ffff:ffff:ffff", number * 2),
        ];
        let outside = [
            format!("20.{high}.{}.0", low + 1),
            format!("2001:db8:{:x}::", number * 2 + 1),
        ];
        let first = 1000 + number * 40;
        for port in [first, first + 9] {
            assert!(inside.iter().all(|peer| judge(peer, port)), "{number} {port}");
            assert!(!outside.iter().any(|peer| judge(peer, port)), "{number} {port}");
        }
        for port in [first - 1, first + 10] {
            assert!(!inside.iter().any(|peer| judge(peer, port)), "{number} {port}");
        }
    }
}
