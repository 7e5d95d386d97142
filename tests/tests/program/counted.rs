//! Rule counters: each packet that was sent, and its bytes, at the rules of its flow.

use std::collections::BTreeMap;

use calico_ebpf_common::maps::{Counter, settings};
use calico_ebpf_tests::manifests::{allow_tcp, global_network_policy};
use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::programs::{Dataplane, Origin, Ran};
use serde_json::json;

use crate::nat::{external, with_floating};
use crate::scene::{families, under_with};

/// What the rules should have counted, beside what they did.
struct Ledger {
    dataplane: Dataplane,
    before: BTreeMap<String, Counter>,
    expected: BTreeMap<String, Counter>,
}

impl Ledger {
    fn open(mut dataplane: Dataplane) -> Self {
        dataplane.switch_to("a");
        let before = counted(&dataplane);
        let expected = before
            .keys()
            .map(|name| (name.clone(), Counter::default()))
            .collect();
        Self {
            dataplane,
            before,
            expected,
        }
    }

    /// Sends a packet from a workload: these rules and no others decide about it.
    fn send(&mut self, name: &str, packet: &Packet, rules: &[&str]) -> Ran {
        let ran = self.dataplane.from_workload(name, packet);
        self.note(&ran, rules);
        if ran.redirected_to.is_some() {
            // What was judged is not counted again at the other tap.
            self.dataplane.follow(&ran).expect_pass_by_mark();
        }
        ran
    }

    fn receive(&mut self, name: &str, packet: &Packet, origin: Origin, rules: &[&str]) -> Ran {
        let ran = self.dataplane.to_workload(name, packet, origin);
        self.note(&ran, rules);
        ran
    }

    fn note(&mut self, ran: &Ran, rules: &[&str]) {
        for rule in rules {
            let counter = self
                .expected
                .get_mut(*rule)
                .unwrap_or_else(|| panic!("no rule {rule}"));
            counter.packets += 1;
            counter.bytes += ran.sent.len() as u64;
        }
        assert_eq!(self.counted(), self.expected, "{:02x?}", ran.sent);
    }

    fn counted(&self) -> BTreeMap<String, Counter> {
        let since = |(name, now): (String, Counter)| {
            let before = self.before[&name];
            let counter = Counter {
                packets: now.packets - before.packets,
                bytes: now.bytes - before.bytes,
            };
            (name, counter)
        };
        counted(&self.dataplane).into_iter().map(since).collect()
    }
}

/// Returns what every rule has counted, by policy, direction and place: `a egress 0`.
fn counted(dataplane: &Dataplane) -> BTreeMap<String, Counter> {
    let name = |text: &str| {
        let (policy, rest) = text.split_once(')').expect("a policy");
        let policy = policy.rsplit('(').next().expect("a name");
        let (direction, index) = rest
            .trim()
            .trim_end_matches(']')
            .split_once('[')
            .expect("a place");
        format!("{policy} {direction} {index}")
    };
    let rules = dataplane.rule_ids().iter();
    rules
        .map(|(key, number)| (name(&key.rule.to_string()), dataplane.rule_counter(number)))
        .collect()
}

fn ledger() -> Ledger {
    let udp = |action: &str, port: u16| json!({"action": action, "protocol": "UDP", "destination": {"ports": [port]}});
    let a = global_network_policy("a", "name == 'a'")
        .egress(allow_tcp(80))
        .egress(udp("Allow", 5300))
        .egress(udp("Deny", 99))
        .egress(json!({"action": "Allow"}))
        .ingress(allow_tcp(22));
    let b = global_network_policy("b", "name == 'b'")
        .ingress(allow_tcp(80))
        .ingress(udp("Allow", 5300))
        .ingress(json!({"action": "Deny"}));
    let settings = [(settings::ENDPOINT_TO_HOST_ACCEPT, 1)];
    Ledger::open(with_floating(under_with(&settings, &[a, b])))
}

/// A connection with data of several lengths both ways, from its first packet to its last.
fn connection(there: Path) -> Vec<(bool, Packet)> {
    let back = there.back();
    let mut packets = vec![
        (true, there.tcp("S")),
        (false, back.tcp("SA")),
        (true, there.tcp("A")),
    ];
    for length in [1, 100, 1400] {
        packets.push((true, there.tcp_with("A", &vec![7; length])));
        packets.push((false, back.tcp_with("A", &vec![8; length / 2])));
        packets.push((true, there.tcp("A")));
    }
    packets.extend([
        (true, there.tcp("FA")),
        (false, back.tcp("FA")),
        (true, there.tcp("A")),
    ]);
    packets
}

#[test]
fn counters_equal_packets_sent_between_workloads() {
    let mut ledger = ledger();
    for family in families() {
        let rules = ["a egress 0", "b ingress 0"];
        for (forth, packet) in connection(family.a_to_b(4000, 80)) {
            ledger.send(if forth { "a" } else { "b" }, &packet, &rules);
        }
        let (there, rules) = (family.a_to_b(4001, 5300), ["a egress 1", "b ingress 1"]);
        for length in [0, 1, 999] {
            ledger.send("a", &there.udp_with(&vec![1; length]), &rules);
            ledger.send("b", &there.back().udp_with(&vec![2; 2 * length]), &rules);
        }
        for _ in 0..3 {
            // Denied at the first end: the other is not asked.
            let denied = family.a_to_b(4002, 99).udp();
            assert!(!ledger.send("a", &denied, &["a egress 2"]).passed());
            // Allowed at the first, denied at the other.
            let denied = family.a_to_b(4003, 81).tcp("S");
            let rules = ["a egress 3", "b ingress 2"];
            assert!(!ledger.send("a", &denied, &rules).passed());
        }
    }
}

#[test]
fn counters_equal_packets_sent_to_and_from_outside_and_the_host() {
    let mut ledger = ledger();
    for family in families() {
        for (forth, packet) in connection(family.a_to_far(4000, 80)) {
            if forth {
                ledger.send("a", &packet, &["a egress 0"]);
            } else {
                ledger.receive("a", &packet, Origin::Remote, &["a egress 0"]);
            }
        }
        for (forth, packet) in connection(family.far_to_a(4000, 22)) {
            if forth {
                ledger.receive("a", &packet, Origin::Remote, &["a ingress 0"]);
            } else {
                ledger.send("a", &packet, &["a ingress 0"]);
            }
        }
        for (forth, packet) in connection(family.a_to_host(4000, 80)) {
            if forth {
                ledger.send("a", &packet, &["a egress 0"]);
            } else {
                ledger.receive("a", &packet, Origin::Host, &["a egress 0"]);
            }
        }
        // What the host opens is allowed by no rule, nor are the answers.
        for (forth, packet) in connection(family.a_to_host(22, 4000).back()) {
            if forth {
                ledger.receive("a", &packet, Origin::Host, &[]);
            } else {
                ledger.send("a", &packet, &[]);
            }
        }
        let denied = Path::new((family.far, 4001), (family.b, 81));
        for packet in [denied.tcp("S"), denied.udp()] {
            let ran = ledger.receive("b", &packet, Origin::Remote, &["b ingress 2"]);
            assert!(!ran.passed());
        }
    }
}

#[test]
fn counters_equal_packets_sent_by_way_of_floating_addresses() {
    let mut ledger = ledger();
    for family in families() {
        let there = Path::new((family.far, 4000), (external(&family), 80));
        let inside = Path::new((family.far, 4000), (family.b, 80));
        for ((forth, outer), (_, inner)) in connection(there).into_iter().zip(connection(inside)) {
            if forth {
                ledger.receive("b", &outer, Origin::Remote, &["b ingress 0"]);
            } else {
                ledger.send("b", &inner, &["b ingress 0"]);
            }
        }
        let there = Path::new((family.a, 4000), (external(&family), 80));
        let inside = Path::new((family.a, 4000), (family.b, 80));
        let rules = ["a egress 0", "b ingress 0"];
        for ((forth, outer), (_, inner)) in connection(there).into_iter().zip(connection(inside)) {
            if forth {
                ledger.send("a", &outer, &rules);
            } else {
                ledger.send("b", &inner, &rules);
            }
        }
        // To the fixed address from the same port: the second flow gets another one.
        for length in [5, 50] {
            ledger.send("a", &inside.tcp(if length == 5 { "S" } else { "A" }), &rules);
        }
    }
}
