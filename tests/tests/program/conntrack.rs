//! Flows: opened, continued, judged again, ended.

use calico_ebpf_common::flow::{Flow, STATE_ESTABLISHED, STATE_REPLIED, STATE_RESET};
use calico_ebpf_common::maps::Counter;
use calico_ebpf_common::port::protocol::{ICMP, ICMPV6, TCP, UDP};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{
    Object, allow_all_egress, allow_everything, allow_tcp, global_network_policy, network_policy,
};
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::programs::{Dataplane, Origin};
use serde_json::json;

use crate::scene::{families, fill, open, under};

/// A policy that lets b receive TCP to a port.
pub(crate) fn b_receives(port: u16) -> Object {
    network_policy(&format!("b-receives-{port}"), "name == 'b'")
        .with("types", json!(["Ingress"]))
        .ingress(allow_tcp(port))
}

/// Denies the egress of a before any other policy is asked.
fn deny_a() -> Object {
    global_network_policy("deny-a", "name == 'a'")
        .with("order", 1)
        .egress(json!({"action": "Deny"}))
}

/// Shakes hands between a and b.
pub(crate) fn establish(dataplane: &mut Dataplane, there: Path) -> Flow {
    dataplane
        .from_workload("a", &there.tcp("S"))
        .expect_redirect_to("b");
    dataplane
        .from_workload("b", &there.back().tcp("SA"))
        .expect_redirect_to("a");
    dataplane
        .from_workload("a", &there.tcp("A"))
        .expect_redirect_to("b");
    dataplane.flow(&there, TCP).expect("a flow")
}

#[test]
fn scenario_53_one_judgement_covers_both_local_ends() {
    let mut dataplane = under(&[allow_all_egress(), b_receives(80)]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        for (name, target, packet) in [
            ("a", "b", there.tcp("S")),
            ("b", "a", there.back().tcp("SA")),
            ("a", "b", there.tcp("A")),
            ("b", "a", there.back().tcp("A")),
        ] {
            let ran = dataplane.from_workload(name, &packet);
            ran.expect_redirect_to(target);
            dataplane.follow(&ran).expect_pass_by_mark();
        }
        let flow = dataplane.flow(&there, TCP).expect("a flow");
        assert_eq!(flow.state, STATE_REPLIED | STATE_ESTABLISHED);
        assert!(flow.slot.iter().all(|slot| *slot != 0) && flow.slot[0] != flow.slot[1]);
        assert!(flow.rule.iter().all(|rule| *rule != 0));
        for rule in flow.rule {
            assert!(dataplane.rule_counter(rule).packets >= 1);
        }
    }
    assert_eq!(dataplane.flow_count(), 2);
}

#[test]
fn scenario_54_what_the_target_denies_leaves_no_flow_and_no_way_back() {
    let mut dataplane = under(&[allow_all_egress()]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        for packet in [there.tcp("S"), there.udp(), there.echo_request(1)] {
            for _ in 0..2 {
                dataplane
                    .from_workload("a", &packet)
                    .expect_drop(DropReason::IngressPolicy);
            }
        }
        dataplane
            .from_workload("b", &there.back().udp())
            .expect_drop(DropReason::IngressPolicy);
        dataplane
            .from_workload("b", &there.back().tcp("SA"))
            .expect_drop(DropReason::NoFlow);
    }
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn scenario_55_the_answer_passes_without_ingress_and_nothing_else_of_that_peer() {
    let mut dataplane = under(&[allow_all_egress()]);
    for family in families() {
        let there = family.a_to_far(4000, 53);
        dataplane
            .from_workload("a", &there.udp())
            .expect_pass(PassReason::Remote);
        for _ in 0..2 {
            dataplane
                .to_workload("a", &there.back().udp(), Origin::Remote)
                .expect_pass(PassReason::FromRemote);
        }
        for other in [
            family.far_to_a(53, 4001),
            family.far_to_a(54, 4000),
            family.far_to_a(4000, 53),
        ] {
            dataplane
                .to_workload("a", &other.udp(), Origin::Remote)
                .expect_drop(DropReason::IngressPolicy);
        }
        dataplane
            .to_workload("a", &there.back().tcp("S"), Origin::Remote)
            .expect_drop(DropReason::IngressPolicy);
    }
}

#[test]
fn scenario_56_every_syn_is_judged() {
    let mut dataplane = under(&[allow_all_egress(), b_receives(80)]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        dataplane
            .from_workload("a", &there.tcp("S"))
            .expect_redirect_to("b");
        let rule = dataplane.flow(&there, TCP).expect("a flow").rule[1];
        let before = dataplane.rule_counter(rule);
        let ran = dataplane.from_workload("a", &there.tcp("S"));
        ran.expect_redirect_to("b");
        let expected = Counter {
            packets: before.packets + 1,
            bytes: before.bytes + ran.sent.len() as u64,
        };
        assert_eq!(dataplane.rule_counter(rule), expected);
        dataplane.from_workload("a", &there.udp());
        dataplane.put(&deny_a());
        dataplane
            .from_workload("a", &there.tcp("S"))
            .expect_drop(DropReason::EgressPolicy);
        assert_eq!(dataplane.flow(&there, TCP), None);
        dataplane.remove(&deny_a());
    }
}

#[test]
fn scenario_56_a_syn_of_the_answering_side_is_judged_by_itself_and_leaves_the_flow() {
    let mut dataplane = under(&[allow_all_egress(), b_receives(80)]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        let flow = establish(&mut dataplane, there);
        dataplane
            .from_workload("b", &there.back().tcp("S"))
            .expect_drop(DropReason::IngressPolicy);
        assert_eq!(dataplane.flow(&there, TCP), Some(flow));
        dataplane
            .from_workload("a", &there.tcp("A"))
            .expect_redirect_to("b");
        let outside = family.a_to_far(4000, 80);
        dataplane.from_workload("a", &outside.tcp("S"));
        dataplane.to_workload("a", &outside.back().tcp("SA"), Origin::Remote);
        let flow = dataplane.flow(&outside, TCP);
        dataplane
            .to_workload("a", &outside.back().tcp("S"), Origin::Remote)
            .expect_drop(DropReason::IngressPolicy);
        assert_eq!(dataplane.flow(&outside, TCP), flow);
    }
}

#[test]
fn scenario_57_tcp_in_mid_stream_without_a_flow_is_dropped() {
    let mut dataplane = open();
    for family in families() {
        for flags in ["SA", "A", "R", "RA", "FA", "F", "SF", "SR", ""] {
            for path in [family.a_to_b(1, 2), family.a_to_far(1, 2), family.a_to_host(1, 2)] {
                dataplane
                    .from_workload("a", &path.tcp(flags))
                    .expect_drop(DropReason::NoFlow);
            }
            dataplane
                .to_workload("a", &family.far_to_a(1, 2).tcp(flags), Origin::Remote)
                .expect_drop(DropReason::NoFlow);
        }
    }
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn scenario_57_shortly_after_an_end_appeared_mid_stream_is_judged_as_new() {
    let mut dataplane = under(&[allow_all_egress(), b_receives(80)]);
    let now = dataplane.read_clock().jiffies;
    dataplane.set_loose_until("b", now + 1_000_000);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        for flags in ["R", "RA", "F", ""] {
            dataplane
                .from_workload("a", &there.tcp(flags))
                .expect_drop(DropReason::NoFlow);
        }
        dataplane
            .from_workload("a", &there.tcp("A"))
            .expect_redirect_to("b");
        dataplane
            .from_workload("b", &there.back().tcp("A"))
            .expect_redirect_to("a");
        let from_far = Path::new((family.far, 4000), (family.b, 80));
        dataplane
            .to_workload("b", &from_far.tcp("A"), Origin::Remote)
            .expect_pass(PassReason::FromRemote);
        // Policy is asked: as new means that the packet goes the way of the first.
        dataplane
            .from_workload("a", &family.a_to_b(4000, 81).tcp("A"))
            .expect_drop(DropReason::IngressPolicy);
        dataplane
            .from_workload("a", &family.a_to_far(4000, 80).tcp("A"))
            .expect_drop(DropReason::NoFlow);
    }
    dataplane.clear_flows();
    dataplane.set_loose_until("b", 1);
    for family in families() {
        dataplane
            .from_workload("a", &family.a_to_b(4000, 80).tcp("A"))
            .expect_drop(DropReason::NoFlow);
    }
}

#[test]
fn scenario_58_a_closed_tuple_is_opened_again_by_policy() {
    let mut dataplane = under(&[allow_all_egress(), b_receives(80)]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        let established = establish(&mut dataplane, there);
        dataplane
            .from_workload("a", &there.tcp("FA"))
            .expect_redirect_to("b");
        dataplane
            .from_workload("b", &there.back().tcp("FA"))
            .expect_redirect_to("a");
        dataplane
            .from_workload("a", &there.tcp("A"))
            .expect_redirect_to("b");
        let closed = dataplane.flow(&there, TCP).expect("a flow");
        assert!(closed.is_closed() && !established.is_closed());
        dataplane
            .from_workload("a", &there.tcp("S"))
            .expect_redirect_to("b");
        assert_eq!(dataplane.flow(&there, TCP).expect("a flow").state, 0);
        // Closed again, and now the other side opens: by its own policy.
        dataplane.from_workload("b", &there.back().tcp("RA"));
        assert!(dataplane.flow(&there, TCP).expect("a flow").is_closed());
        dataplane
            .from_workload("b", &there.back().tcp("S"))
            .expect_drop(DropReason::IngressPolicy);
        assert_eq!(dataplane.flow(&there, TCP), None);
    }
}

#[test]
fn scenario_59_a_reset_is_recorded() {
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_b(4000, 80);
        establish(&mut dataplane, there);
        dataplane
            .from_workload("b", &there.back().tcp("R"))
            .expect_redirect_to("a");
        let flow = dataplane.flow(&there, TCP).expect("a flow");
        assert_ne!(flow.state & STATE_RESET, 0);
        assert!(flow.is_closed());
    }
}

#[test]
fn scenario_66_protocols_without_ports_are_tracked_by_their_addresses() {
    let mut dataplane = under(&[allow_all_egress()]);
    for family in families() {
        for number in [47, 50, 112, 253] {
            let there = family.a_to_far(0, 0);
            let packet = there.protocol(number, &[0; 24]);
            let answer = there.back().protocol(number, &[1; 24]);
            dataplane
                .to_workload("a", &answer, Origin::Remote)
                .expect_drop(DropReason::IngressPolicy);
            dataplane
                .from_workload("a", &packet)
                .expect_pass(PassReason::Remote);
            dataplane
                .to_workload("a", &answer, Origin::Remote)
                .expect_pass(PassReason::FromRemote);
            dataplane
                .to_workload(
                    "a",
                    &Path::new((family.b, 0), (family.a, 0)).protocol(number, &[1; 24]),
                    Origin::Remote,
                )
                .expect_drop(DropReason::IngressPolicy);
        }
    }
}

#[test]
fn scenario_67_with_a_full_table_new_flows_pass_by_policy_alone_and_old_ones_stay() {
    const ROOM: u16 = 16;
    let policies = [allow_all_egress(), b_receives(80)];
    let mut dataplane = fill(Dataplane::load(&[], u32::from(ROOM)), &policies);
    for family in families() {
        for port in 1..=ROOM {
            dataplane
                .from_workload("a", &family.a_to_b(port, 80).tcp("S"))
                .expect_redirect_to("b");
        }
        let before = (dataplane.flows4(), dataplane.flows6());
        let there = family.a_to_b(4000, 80);
        for _ in 0..2 {
            dataplane
                .from_workload("a", &there.tcp("S"))
                .expect_redirect("b", PassReason::Untracked);
        }
        // No flow, no way back but by policy.
        dataplane
            .from_workload("b", &there.back().tcp("SA"))
            .expect_drop(DropReason::NoFlow);
        dataplane
            .from_workload("a", &family.a_to_b(4000, 81).tcp("S"))
            .expect_drop(DropReason::IngressPolicy);
        dataplane
            .from_workload("a", &family.a_to_far(4000, 53).udp())
            .expect_pass(PassReason::Untracked);
        let from_far = Path::new((family.far, 4000), (family.b, 80));
        dataplane
            .to_workload("b", &from_far.tcp("S"), Origin::Remote)
            .expect_pass(PassReason::Untracked);
        dataplane
            .to_workload("a", &family.a_to_host(1, 2).back().udp(), Origin::Host)
            .expect_pass(PassReason::FromHost);
        assert_eq!((dataplane.flows4(), dataplane.flows6()), before);
        dataplane
            .from_workload("b", &family.a_to_b(1, 80).back().tcp("SA"))
            .expect_redirect_to("a");
        // Room again: tracked again.
        dataplane.clear_flows();
        dataplane
            .from_workload("a", &there.tcp("S"))
            .expect_redirect_to("b");
        dataplane.clear_flows();
    }
}

#[test]
fn scenario_69_each_packet_is_counted_once_whatever_hooks_it_meets() {
    let mut dataplane = under(&[allow_all_egress(), b_receives(80)]);
    let mut expected = Counter::default();
    for family in families() {
        let there = family.a_to_b(4000, 80);
        for (name, packet) in [
            ("a", there.tcp("S")),
            ("b", there.back().tcp("SA")),
            ("a", there.tcp("A")),
            ("a", family.a_to_b(1, 2).udp()),
            ("a", family.a_to_far(1, 2).udp()),
            ("b", family.a_to_far(1, 2).udp()),
            ("a", there.tcp("FA").with(12, &[0x88, 0xcc])),
        ] {
            let ran = dataplane.from_workload(name, &packet);
            expected.packets += 1;
            expected.bytes += ran.sent.len() as u64;
            if ran.redirected_to.is_some() {
                dataplane.follow(&ran).expect_pass_by_mark();
            }
        }
        for origin in [Origin::Host, Origin::Remote] {
            for port in [80, 81] {
                let packet = Path::new((family.far, 4000), (family.b, port)).tcp("S");
                let ran = dataplane.to_workload("b", &packet, origin);
                expected.packets += 1;
                expected.bytes += ran.sent.len() as u64;
            }
        }
    }
    let mut sum = Counter::default();
    for counter in dataplane.counters().values() {
        sum.packets += counter.packets;
        sum.bytes += counter.bytes;
    }
    assert_eq!(sum, expected);
}

#[test]
fn a_flow_says_who_opened_it_and_when() {
    let mut dataplane = under(&[allow_everything()]);
    for family in families() {
        for there in [family.a_to_b(1, 2), family.a_to_b(1, 2).back()] {
            let name = if there.source.ip() == family.a { "a" } else { "b" };
            let before = dataplane.read_clock().jiffies;
            dataplane.from_workload(name, &there.udp());
            dataplane.from_workload(name, &there.tcp("S"));
            let icmp = if family.a.is_ipv4() { ICMP } else { ICMPV6 };
            dataplane.from_workload(name, &there.echo_request(9));
            let after = dataplane.read_clock().jiffies;
            let echo = Path::new(
                (there.source.ip(), 9),
                (there.target.ip(), if icmp == ICMP { 0xff08 } else { 0xff80 }),
            );
            for flow in [
                dataplane.flow(&there, UDP),
                dataplane.flow(&there, TCP),
                dataplane.flow(&echo, icmp),
            ] {
                let flow = flow.expect("a flow");
                assert_eq!((flow.state, flow.created), (0, flow.last_seen));
                assert!((before..=after).contains(&flow.created));
            }
            dataplane.clear_flows();
        }
    }
}
