//! `EstablishedFlows`: live flows when policy stops allowing them, judged again (`Rejudge`) or kept (`Keep`).

use calico_ebpf_common::maps::settings::KEEP_FLOWS;
use calico_ebpf_common::port::protocol::{TCP, UDP};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{
    Object, allow_all_egress, allow_tcp, global_network_policy, global_network_set, network_policy, only_from,
};
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::programs::{Dataplane, Origin};
use serde_json::json;

use crate::conntrack::{b_receives, establish};
use crate::nat::{external, with_floating};
use crate::scene::{families, under, under_with};

fn keeping(policies: &[Object]) -> Dataplane {
    under_with(&[(KEEP_FLOWS, 1)], policies)
}

#[test]
fn rejudge_a_member_that_leaves_a_set_loses_its_flows_and_only_changed_policy_sets_are_judged_again() {
    let set = |nets: &[&str]| global_network_set("clients", ("set", "clients"), nets);
    let from_clients = global_network_policy("b", "name == 'b'")
        .with("types", json!(["Ingress"]))
        .ingress(only_from(allow_tcp(80), "set == 'clients'"));
    let members = ["10.0.0.1/32", "fd00::1/128"];
    for member_speaks in [true, false] {
        let mut dataplane = under(&[allow_all_egress(), from_clients.clone(), set(&members)]);
        dataplane.workload("c", &["10.0.0.3/32", "fd00::3/128"]);
        dataplane.put(&network_policy("c", "name == 'c'").ingress(allow_tcp(22)));
        for family in families() {
            let c = if family.a.is_ipv4() { "10.0.0.3" } else { "fd00::3" };
            let there = family.a_to_b(4000, 80);
            let beside = Path::new((c.parse().expect("an address"), 4000), (family.far, 443));
            establish(&mut dataplane, there);
            for _ in 0..2 {
                dataplane
                    .from_workload("c", &beside.udp())
                    .expect_pass(PassReason::Remote);
            }
            let flow = dataplane.flow(&beside, UDP).expect("a flow");
            dataplane.put(&set(&[]));
            let (name, packet) = if member_speaks {
                ("a", there.tcp("A"))
            } else {
                ("b", there.back().tcp("A"))
            };
            dataplane
                .from_workload(name, &packet)
                .expect_drop(DropReason::IngressPolicy);
            assert_eq!(dataplane.flow(&there, TCP), None);
            dataplane
                .from_workload("c", &beside.udp())
                .expect_pass(PassReason::Remote);
            let after = dataplane.flow(&beside, UDP).expect("a flow");
            assert_eq!(after.generation, flow.generation, "judged again without need");
            dataplane.put(&set(&members));
        }
    }
}

#[test]
fn keep_a_flow_goes_on_after_its_rule_is_removed_and_a_new_one_is_refused() {
    for first in ["a", "b"] {
        let mut dataplane = keeping(&[allow_all_egress(), b_receives(80)]);
        for family in families() {
            let there = family.a_to_b(4000, 80);
            let before = establish(&mut dataplane, there);
            assert!(before.rule.iter().all(|rule| *rule != 0));
            dataplane.remove(&b_receives(80));
            let turns = [("a", there), ("b", there.back()), ("a", there)];
            for (name, path) in turns.iter().skip(usize::from(first == "b")) {
                let other = if *name == "a" { "b" } else { "a" };
                dataplane
                    .from_workload(name, &path.tcp("A"))
                    .expect_redirect_to(other);
            }
            let kept = dataplane.flow(&there, TCP).expect("a flow");
            assert_eq!((kept.created, kept.slot), (before.created, before.slot));
            assert_eq!(kept.rule, [before.rule[0], 0], "no rule allows it at b");
            dataplane
                .from_workload("a", &family.a_to_b(4001, 80).tcp("S"))
                .expect_drop(DropReason::IngressPolicy);
            // From its end on it is refused as well.
            for (name, path, flags) in [("a", there, "FA"), ("b", there.back(), "FA")] {
                assert!(dataplane.from_workload(name, &path.tcp(flags)).passed());
            }
            dataplane
                .from_workload("a", &there.tcp("S"))
                .expect_drop(DropReason::IngressPolicy);
            dataplane.put(&b_receives(80));
        }
    }
}

#[test]
fn keep_flows_with_outside_go_on_and_new_ones_are_refused() {
    let outside = |port: u16| {
        network_policy("outside", "name == 'a'")
            .egress(allow_tcp(port))
            .ingress(allow_tcp(port))
    };
    for family in families() {
        for there in [family.a_to_far(4000, 80), family.far_to_a(4000, 80)] {
            let mut dataplane = keeping(&[outside(80)]);
            let send = |dataplane: &mut Dataplane, path: Path, flags: &str| {
                if path.source.ip() == family.a {
                    dataplane.from_workload("a", &path.tcp(flags))
                } else {
                    dataplane.to_workload("a", &path.tcp(flags), Origin::Remote)
                }
            };
            for (path, flags) in [(there, "S"), (there.back(), "SA"), (there, "A")] {
                assert!(send(&mut dataplane, path, flags).passed());
            }
            dataplane.put(&outside(81));
            for (path, flags) in [(there.back(), "A"), (there, "A"), (there, "FA")] {
                assert!(send(&mut dataplane, path, flags).passed());
            }
            let new = Path::new((there.source.ip(), 4001), (there.target.ip(), 80));
            assert!(!send(&mut dataplane, new, "S").passed());
        }
    }
}

#[test]
fn keep_flows_by_way_of_floating_addresses_go_on() {
    let mut dataplane = with_floating(keeping(&[allow_all_egress(), b_receives(80)]));
    for family in families() {
        let from_far = Path::new((family.far, 4000), (external(&family), 80));
        let answer = Path::new((family.b, 80), (family.far, 4000));
        let from_a = Path::new((family.a, 4000), (external(&family), 80));
        let answer_to_a = Path::new((family.b, 80), (family.a, 4000));
        let run = |dataplane: &mut Dataplane, flags: [&str; 2]| {
            let passed = [
                dataplane.to_workload("b", &from_far.tcp(flags[0]), Origin::Remote),
                dataplane.from_workload("b", &answer.tcp(flags[1])),
                dataplane.from_workload("a", &from_a.tcp(flags[0])),
                dataplane.from_workload("b", &answer_to_a.tcp(flags[1])),
            ];
            passed.map(|ran| ran.passed())
        };
        assert_eq!(run(&mut dataplane, ["S", "SA"]), [true; 4]);
        assert_eq!(run(&mut dataplane, ["A", "A"]), [true; 4]);
        dataplane.remove(&b_receives(80));
        assert_eq!(run(&mut dataplane, ["A", "A"]), [true; 4]);
        assert_eq!(run(&mut dataplane, ["FA", "A"]), [true; 4]);
        assert_eq!(run(&mut dataplane, ["S", "SA"]), [false; 4]);
        dataplane.put(&b_receives(80));
    }
}

#[test]
fn keep_the_flow_of_an_endpoint_that_is_gone_does_not_become_that_of_who_has_its_slot() {
    let mut dataplane = keeping(&[allow_all_egress(), b_receives(80)]);
    let there = families().map(|family| family.a_to_b(4000, 80));
    let slot = |dataplane: &Dataplane, name: &str| {
        let slots = &dataplane.assignments().slots;
        let found = slots
            .iter()
            .find(|(key, _)| key.name.ends_with(&format!("port{name}")));
        found.map(|(_, slot)| *slot)
    };
    for path in there {
        establish(&mut dataplane, path);
    }
    let of_b = slot(&dataplane, "b");
    dataplane.remove_workload("b");
    // The same addresses and slot, but another endpoint, to whom no policy lets anybody speak.
    dataplane.workload("c", &["10.0.0.2/32", "fd00::2/128"]);
    for path in there {
        dataplane
            .from_workload("a", &path.tcp("A"))
            .expect_drop(DropReason::IngressPolicy);
        assert_eq!(slot(&dataplane, "c"), of_b, "the slot is used again");
        dataplane
            .from_workload("c", &path.back().tcp("A"))
            .expect_drop(DropReason::NoFlow);
    }
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn keep_a_flow_ends_when_its_address_is_taken_from_the_endpoint_or_its_source_is_not_the_ports() {
    let mut dataplane = keeping(&[allow_all_egress(), b_receives(80)]);
    dataplane.workload(
        "a",
        &["10.0.0.1/32", "10.0.0.11/32", "fd00::1/128", "fd00::11/128"],
    );
    for family in families() {
        let second = if family.a.is_ipv4() {
            "10.0.0.11"
        } else {
            "fd00::11"
        };
        let there = Path::new((second.parse().expect("an address"), 4000), (family.b, 80));
        establish(&mut dataplane, there);
        dataplane
            .from_workload("a", &there.tcp("A").from_mac([2, 0, 0, 0, 0, 9]))
            .expect_drop(DropReason::SourceMac);
        dataplane.remove(&b_receives(80));
        dataplane
            .from_workload("a", &there.tcp("A"))
            .expect_redirect_to("b");
        dataplane.put(&b_receives(80));
        establish(&mut dataplane, family.a_to_b(4001, 80));
    }
    dataplane.workload("a", &["10.0.0.1/32", "fd00::1/128"]);
    dataplane.remove(&b_receives(80));
    for family in families() {
        let second = if family.a.is_ipv4() {
            "10.0.0.11"
        } else {
            "fd00::11"
        };
        let there = Path::new((second.parse().expect("an address"), 4000), (family.b, 80));
        dataplane
            .from_workload("a", &there.tcp("A"))
            .expect_drop(DropReason::SourceAddress);
        // Who has other addresses is judged anew altogether.
        dataplane
            .from_workload("a", &family.a_to_b(4001, 80).tcp("A"))
            .expect_drop(DropReason::IngressPolicy);
    }
}

#[test]
fn keep_a_half_open_flow_does_not_go_on_by_what_another_packet_left() {
    let mut dataplane = keeping(&[allow_all_egress()]);
    dataplane.put(&network_policy("c", "name == 'c'").ingress(allow_tcp(80)));
    for family in families() {
        let address = if family.a.is_ipv4() { "10.0.0.3" } else { "fd00::3" };
        let c = address.parse().expect("an address");
        // While nobody here has the address.
        let before = Path::new((family.a, 5000), (c, 53));
        dataplane
            .from_workload("a", &before.udp())
            .expect_pass(PassReason::Remote);
        dataplane.workload(
            "c",
            &[&format!(
                "{address}/{}",
                if family.a.is_ipv4() { 32 } else { 128 }
            )],
        );
        let allowed = Path::new((family.a, 4000), (c, 80));
        for (name, other, packet) in [
            ("a", "c", allowed.tcp("S")),
            ("c", "a", allowed.back().tcp("SA")),
            ("a", "c", allowed.tcp("A")),
        ] {
            dataplane.from_workload(name, &packet).expect_redirect_to(other);
        }
        dataplane.put(&network_policy("other", "name == 'a'").ingress(allow_tcp(22)));
        // Goes on whatever policy says: the slots of both are left behind.
        dataplane
            .from_workload("a", &allowed.tcp("A"))
            .expect_redirect_to("c");
        dataplane
            .from_workload("a", &before.udp())
            .expect_drop(DropReason::IngressPolicy);
        dataplane.remove(&network_policy("other", "name == 'a'"));
    }
}
