//! How many flows an endpoint may have: half open, and confirmed.

use calico_ebpf_common::flow::{FlowKey4, FlowKey6};
use calico_ebpf_common::port::protocol::TCP;
use calico_ebpf_common::quota::{FlowLimits, Kind, Quota};
use calico_ebpf_common::verdict::PassReason;
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::programs::{Dataplane, Origin};
use serde_json::json;

use crate::conntrack::establish;
use crate::expiry::delete;
use crate::scene::{Family, families, open};

fn half_open(dataplane: &Dataplane, family: &Family) -> usize {
    count(dataplane, family, Kind::HalfOpen)
}

fn confirmed(dataplane: &Dataplane, family: &Family) -> usize {
    count(dataplane, family, Kind::Confirmed)
}

fn count(dataplane: &Dataplane, family: &Family, kind: Kind) -> usize {
    if family.a.is_ipv4() {
        dataplane.flows_of::<FlowKey4>(kind).len()
    } else {
        dataplane.flows_of::<FlowKey6>(kind).len()
    }
}

#[test]
fn a_flow_is_half_open_until_its_handshake_is_complete_or_its_second_packet() {
    for family in families() {
        let mut dataplane = open();
        let tcp = family.a_to_b(4000, 80);
        for (name, packet, expected) in [
            ("a", tcp.tcp("S"), [1, 0]),
            ("a", tcp.tcp("S"), [1, 0]),
            ("b", tcp.back().tcp("SA"), [1, 0]),
            ("a", tcp.tcp("A"), [0, 1]),
            ("b", tcp.back().tcp("A"), [0, 1]),
        ] {
            let target = if name == "a" { "b" } else { "a" };
            dataplane.from_workload(name, &packet).expect_redirect_to(target);
            assert_eq!(
                [half_open(&dataplane, &family), confirmed(&dataplane, &family)],
                expected
            );
        }
        let udp = family.a_to_b(4001, 53);
        for expected in [[1, 1], [0, 2]] {
            dataplane.from_workload("a", &udp.udp()).expect_redirect_to("b");
            assert_eq!(
                [half_open(&dataplane, &family), confirmed(&dataplane, &family)],
                expected
            );
        }
    }
}

#[test]
fn a_connection_that_is_refused_never_becomes_a_confirmed_flow() {
    for family in families() {
        let mut dataplane = open();
        let there = family.a_to_b(4000, 81);
        dataplane
            .from_workload("a", &there.tcp("S"))
            .expect_redirect_to("b");
        dataplane
            .from_workload("b", &there.back().tcp("RA"))
            .expect_redirect_to("a");
        dataplane
            .from_workload("a", &there.tcp("A"))
            .expect_redirect_to("b");
        assert_eq!(half_open(&dataplane, &family), 1);
        assert_eq!(confirmed(&dataplane, &family), 0);
    }
}

#[test]
fn scenario_67_half_open_flows_of_one_vm_take_no_room_of_another() {
    for family in families() {
        let mut dataplane = open();
        dataplane.limit_flows(FlowLimits {
            half_open: 8,
            confirmed: 100,
        });
        for port in 0..20 {
            let flood = family.a_to_b(5000 + port, 80);
            let ran = dataplane.from_workload("a", &flood.tcp("S"));
            if port < 8 {
                ran.expect_redirect_to("b");
            } else {
                ran.expect_redirect("b", PassReason::Untracked);
            }
        }
        let quota = dataplane.quota("a");
        assert_eq!((quota.half_open, quota.refused), (8, 12));
        assert_eq!(half_open(&dataplane, &family), 8);
        // Without a flow, answers pass by rules alone: b may send what it likes here, but nothing that is no first packet.
        let flood = family.a_to_b(5019, 80);
        assert!(!dataplane.from_workload("b", &flood.back().tcp("SA")).passed());
        let other = family.a_to_b(1, 1);
        let from_b = other.back();
        dataplane
            .from_workload("b", &from_b.tcp("S"))
            .expect_redirect_to("a");
        assert_eq!(dataplane.quota("b").half_open, 1);
        assert_eq!(dataplane.quota("b").refused, 0);
    }
}

#[test]
fn scenario_67_what_comes_from_outside_takes_the_room_of_whom_it_is_for() {
    for family in families() {
        let mut dataplane = open();
        dataplane.limit_flows(FlowLimits {
            half_open: 4,
            confirmed: 100,
        });
        for port in 0..5 {
            let reason = if port < 3 {
                PassReason::FromRemote
            } else {
                PassReason::Untracked
            };
            dataplane
                .to_workload("a", &family.far_to_a(6000 + port, 80).tcp("S"), Origin::Remote)
                .expect_pass(reason);
        }
        assert_eq!(dataplane.quota("a").half_open, 3);
        dataplane
            .from_workload("b", &family.a_to_b(1, 1).back().tcp("S"))
            .expect_redirect_to("a");
        // A quarter is left for what it opens itself: the answer comes by the flow.
        let own = family.a_to_b(7000, 80);
        dataplane
            .from_workload("a", &own.tcp("S"))
            .expect_redirect_to("b");
        assert_eq!(dataplane.quota("a").half_open, 4);
        dataplane
            .from_workload("b", &own.back().tcp("SA"))
            .expect_redirect_to("a");
    }
}

#[test]
fn scenario_67_flows_beyond_the_quota_of_confirmed_ones_go_on_half_open() {
    for family in families() {
        let mut dataplane = open();
        dataplane.limit_flows(FlowLimits {
            half_open: 100,
            confirmed: 2,
        });
        for port in 0..4 {
            establish(&mut dataplane, family.a_to_b(4000 + port, 80));
        }
        assert_eq!(confirmed(&dataplane, &family), 2);
        assert_eq!(half_open(&dataplane, &family), 2);
        assert_eq!(dataplane.quota("a").refused, 2);
        for port in 0..4 {
            let there = family.a_to_b(4000 + port, 80);
            dataplane
                .from_workload("b", &there.back().tcp("A"))
                .expect_redirect_to("a");
            dataplane
                .from_workload("a", &there.tcp("A"))
                .expect_redirect_to("b");
        }
        assert_eq!(confirmed(&dataplane, &family), 2);
    }
}

#[test]
fn quotas_are_what_the_tables_hold_whatever_opened_and_ended_flows() {
    let mut dataplane = open();
    for family in families() {
        for port in 0..5 {
            establish(&mut dataplane, family.a_to_b(4000 + port, 80));
            dataplane
                .from_workload("a", &family.a_to_b(4100 + port, 81).tcp("S"))
                .expect_redirect_to("b");
            dataplane
                .to_workload("a", &family.far_to_a(1, 1).tcp("S"), Origin::Remote)
                .expect_pass(PassReason::FromRemote);
        }
        let reset = family.a_to_b(4000, 80);
        dataplane
            .from_workload("b", &reset.back().tcp("R"))
            .expect_redirect_to("a");
        // Opened again on the same ports.
        dataplane
            .from_workload("a", &reset.tcp("S"))
            .expect_redirect_to("b");
        assert!(dataplane.flow(&reset, TCP).is_some());
    }
    let numbers = |quota: Quota| (quota.half_open, quota.confirmed);
    let count = |kind: Kind| {
        let flows4 = dataplane.flows_of::<FlowKey4>(kind).len();
        i64::try_from(flows4 + dataplane.flows_of::<FlowKey6>(kind).len()).expect("few")
    };
    assert_eq!(count(Kind::Confirmed), 10);
    assert_eq!(
        numbers(dataplane.quota("a")),
        (count(Kind::HalfOpen), count(Kind::Confirmed))
    );
    let ended = delete(&dataplane, |flow| flow.last_seen);
    assert_eq!(usize::try_from(ended).expect("few"), 22);
    assert_eq!(dataplane.flow_count(), 0);
    assert_eq!(numbers(dataplane.quota("a")), (0, 0));
}

#[test]
fn a_flow_that_another_sender_of_its_address_confirms_is_given_back_to_who_opened_it() {
    let mut dataplane = open();
    let shared = ["10.0.0.100", "fd00::100"];
    for (name, own) in [
        ("a", ["10.0.0.1/32", "fd00::1/128"]),
        ("c", ["10.0.0.3/32", "fd00::3/128"]),
    ] {
        let addresses = [own[0], own[1], "10.0.0.100/32", "fd00::100/128"];
        dataplane.workload_with(name, &addresses, |object| {
            object.with("allowedIps", json!(shared))
        });
    }
    for (family, address) in families().into_iter().zip(shared) {
        let source = (address.parse().expect("an address"), 4000);
        let shared = Path::new(source, (family.b, 53));
        for (name, expected) in [("a", [(1, 0), (0, 0)]), ("c", [(0, 0), (0, 1)])] {
            dataplane
                .from_workload(name, &shared.udp())
                .expect_redirect_to("b");
            let quotas = ["a", "c"].map(|name| {
                let Quota {
                    half_open, confirmed, ..
                } = dataplane.quota(name);
                (half_open, confirmed)
            });
            assert_eq!(quotas, expected, "after {name}");
        }
        dataplane.clear_flows();
    }
}
