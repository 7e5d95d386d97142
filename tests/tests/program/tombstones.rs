//! TCP of workloads whose other end was a workload of this host that is gone.

use calico_ebpf_common::flow::{FLOW_ORIGIN_ANY_MAC, ORIGIN, RESPONDER, STATE_RESET};
use calico_ebpf_common::port::protocol::{TCP, UDP};
use calico_ebpf_common::tombstone::{RESETS, Tombstone, WAITS};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{
    Object, allow_all_egress, allow_everything, allow_tcp, network_policy, only_from,
};
use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::programs::{Dataplane, Ran, by_fall_back};
use serde_json::json;

use crate::answers::{expect_answer, reset, segment};
use crate::conntrack::establish;
use crate::nat::{external, floating};
use crate::scene::{families, open, under};

/// Opens TCP from a to b, or from b to a. `from_a` leads from a to b.
fn open_tcp(dataplane: &mut Dataplane, from_a: Path, opened_by_a: bool) {
    if opened_by_a {
        establish(dataplane, from_a);
        return;
    }
    let there = from_a.back();
    for (name, target, packet) in [
        ("b", "a", there.tcp("S")),
        ("a", "b", from_a.tcp("SA")),
        ("b", "a", there.tcp("A")),
    ] {
        dataplane.from_workload(name, &packet).expect_redirect_to(target);
    }
}

/// Takes workload b away, as the agent does it; returns its slot and what its tombstone becomes when the wait is over.
fn take_b_away(dataplane: &mut Dataplane) -> (u16, Tombstone) {
    let (slot, tombstone) = dataplane.tombstone_of("b", WAITS);
    dataplane.set_tombstone((slot, tombstone));
    dataplane.remove_workload("b");
    let effect = RESETS;
    (slot, Tombstone { effect, ..tombstone })
}

#[track_caller]
fn expect_reset(ran: &Ran, from_a: Path) {
    expect_answer(
        ran,
        DropReason::WorkloadGone,
        &reset(from_a.back(), 0x1234_5678, None),
    );
}

fn data(from_a: Path) -> Packet {
    segment(from_a, "A", &[1; 100])
}

#[test]
fn scenario_70_tcp_to_a_workload_that_is_gone_is_answered_with_a_reset() {
    for opened_by_a in [true, false] {
        let mut dataplane = open();
        let paths = families().map(|family| family.a_to_b(4000, 80));
        for from_a in paths {
            open_tcp(&mut dataplane, from_a, opened_by_a);
        }
        let resets = take_b_away(&mut dataplane);
        dataplane.set_tombstone(resets);
        for from_a in paths {
            expect_reset(&dataplane.from_workload("a", &data(from_a)), from_a);
            let ended = dataplane.flow(&from_a, TCP).expect("a flow");
            assert_ne!(ended.state & STATE_RESET, 0);
            // A reset may be lost.
            expect_reset(&dataplane.from_workload("a", &data(from_a)), from_a);
            // Which is not answered by a reset.
            dataplane
                .from_workload("a", &segment(from_a, "R", &[]))
                .expect_drop(DropReason::WorkloadGone);
        }
        // When it has fallen, what is left is judged as what it is: a packet to outside.
        let (slot, tombstone) = resets;
        let until = dataplane.read_clock().jiffies;
        dataplane.set_tombstone((slot, Tombstone { until, ..tombstone }));
        for from_a in paths {
            dataplane
                .from_workload("a", &data(from_a))
                .expect_pass(PassReason::Remote);
        }
    }
}

#[test]
fn scenario_70_while_it_waits_policy_judges_and_the_flow_stays_known() {
    for opened_by_a in [true, false] {
        let mut dataplane = open();
        for family in families() {
            let from_a = family.a_to_b(4000, 80);
            open_tcp(&mut dataplane, from_a, opened_by_a);
        }
        let end = if opened_by_a { RESPONDER } else { ORIGIN };
        let (slot, tombstone) = take_b_away(&mut dataplane);
        for family in families() {
            let from_a = family.a_to_b(4000, 80);
            for _ in 0..2 {
                dataplane
                    .from_workload("a", &data(from_a))
                    .expect_pass(PassReason::Remote);
                let flow = dataplane.flow(&from_a, TCP).expect("a flow");
                assert_eq!(flow.slot[end], slot);
                assert!((tombstone.first..=tombstone.last).contains(&flow.generation[end]));
                assert_eq!(flow.state & STATE_RESET, 0);
            }
        }
        dataplane.set_tombstone((slot, tombstone));
        for family in families() {
            let from_a = family.a_to_b(4000, 80);
            expect_reset(&dataplane.from_workload("a", &data(from_a)), from_a);
        }
    }
}

/// Lets b reach a as a member of its group only.
fn a_receives_from_b() -> Object {
    network_policy("a-receives", "name == 'a'")
        .with("types", json!(["Ingress"]))
        .ingress(only_from(allow_tcp(4000), "name == 'b'"))
}

#[test]
fn scenario_70_a_flow_that_only_the_group_of_the_deleted_workload_allowed_is_reset_too() {
    let mut dataplane = under(&[allow_all_egress(), a_receives_from_b()]);
    for family in families() {
        let from_a = family.a_to_b(4000, 80);
        open_tcp(&mut dataplane, from_a, false);
    }
    let resets = take_b_away(&mut dataplane);
    for family in families() {
        let from_a = family.a_to_b(4000, 80);
        dataplane
            .from_workload("a", &data(from_a))
            .expect_drop(DropReason::IngressPolicy);
    }
    dataplane.set_tombstone(resets);
    for family in families() {
        let from_a = family.a_to_b(4000, 80);
        expect_reset(&dataplane.from_workload("a", &data(from_a)), from_a);
    }
}

#[test]
fn scenario_70_a_workload_that_moved_is_not_reset_when_its_tombstone_is_cleared() {
    let mut dataplane = open();
    for family in families() {
        open_tcp(&mut dataplane, family.a_to_b(4000, 80), true);
    }
    let (slot, _) = take_b_away(&mut dataplane);
    for family in families() {
        dataplane
            .from_workload("a", &data(family.a_to_b(4000, 80)))
            .expect_pass(PassReason::Remote);
    }
    dataplane.set_tombstone((slot, Tombstone::default()));
    for family in families() {
        let from_a = family.a_to_b(4000, 80);
        dataplane
            .from_workload("a", &data(from_a))
            .expect_pass(PassReason::Remote);
        let flow = dataplane.flow(&from_a, TCP).expect("a flow");
        assert_eq!((flow.slot[RESPONDER], flow.generation[RESPONDER]), (0, 0));
    }
}

#[test]
fn scenario_70_nothing_but_tcp_of_that_workload_is_reset() {
    let mut dataplane = open();
    for family in families() {
        dataplane
            .from_workload("a", &family.a_to_b(4000, 80).udp())
            .expect_redirect_to("b");
        open_tcp(&mut dataplane, family.a_to_b(4000, 80), true);
        let with_far = family.a_to_far(4000, 80);
        dataplane
            .from_workload("a", &with_far.tcp("S"))
            .expect_pass(PassReason::Remote);
    }
    let resets = take_b_away(&mut dataplane);
    dataplane.set_tombstone(resets);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        dataplane
            .from_workload("a", &there.udp())
            .expect_pass(PassReason::Remote);
        assert!(dataplane.flow(&there, UDP).is_some());
        dataplane
            .from_workload("a", &data(family.a_to_far(4000, 80)))
            .expect_pass(PassReason::Remote);
        // What was never open is refused as ever, and a new connection is judged.
        dataplane
            .from_workload("a", &data(family.a_to_b(4001, 80)))
            .expect_drop(DropReason::NoFlow);
        dataplane
            .from_workload("a", &there.tcp("S"))
            .expect_pass(PassReason::Remote);
        dataplane
            .from_workload("a", &data(there))
            .expect_pass(PassReason::Remote);
    }
}

#[test]
fn scenario_70_who_gets_the_addresses_of_a_workload_that_is_gone_is_not_reset() {
    let mut dataplane = open();
    for family in families() {
        open_tcp(&mut dataplane, family.a_to_b(4000, 80), true);
    }
    let resets = take_b_away(&mut dataplane);
    dataplane.set_tombstone(resets);
    dataplane.workload("c", &["10.0.0.2/32", "fd00::2/128"]);
    for family in families() {
        dataplane
            .from_workload("a", &data(family.a_to_b(4000, 80)))
            .expect_redirect_to("c");
    }
}

#[test]
fn scenario_70_an_answer_to_what_came_by_a_floating_address_is_reset_too() {
    // Here b has the floating address, and a is who goes.
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let there = Path::new((family.a, 4000), (external(&family), 80));
        let back = family.a_to_b(4000, 80).back();
        for (name, target, packet) in [
            ("a", "b", there.tcp("S")),
            ("b", "a", back.tcp("SA")),
            ("a", "b", there.tcp("A")),
        ] {
            dataplane.from_workload(name, &packet).expect_redirect_to(target);
        }
    }
    let (slot, tombstone) = dataplane.tombstone_of("a", WAITS);
    dataplane.set_tombstone((slot, tombstone));
    dataplane.remove_workload("a");
    for family in families() {
        let back = family.a_to_b(4000, 80).back();
        assert!(dataplane.from_workload("b", &data(back)).passed());
    }
    let effect = RESETS;
    dataplane.set_tombstone((slot, Tombstone { effect, ..tombstone }));
    for family in families() {
        let back = family.a_to_b(4000, 80).back();
        expect_reset(&dataplane.from_workload("b", &data(back)), back);
    }
}

#[test]
fn scenario_70_flows_of_an_older_owner_of_the_slot_are_not_reset() {
    let mut dataplane = open();
    for family in families() {
        open_tcp(&mut dataplane, family.a_to_b(4000, 80), true);
    }
    dataplane.remove_workload("b");
    dataplane.workload("c", &["10.0.0.3/32", "fd00::3/128"]);
    dataplane.switch_to("a");
    let (slot, tombstone) = dataplane.tombstone_of("c", RESETS);
    for family in families() {
        let flow = dataplane
            .flow(&family.a_to_b(4000, 80), TCP)
            .expect("not judged yet");
        assert_eq!(flow.slot[RESPONDER], slot, "the slot is used again");
    }
    dataplane.set_tombstone((slot, tombstone));
    dataplane.remove_workload("c");
    for family in families() {
        dataplane
            .from_workload("a", &data(family.a_to_b(4000, 80)))
            .expect_pass(PassReason::Remote);
    }
}

#[test]
fn scenario_70_flows_of_a_prefix_that_others_may_serve_are_not_reset() {
    let mut dataplane = open();
    let pairs = ["10.0.0.128/25", "fd00::200/120"];
    dataplane.workload_with(
        "b",
        &["10.0.0.2/32", "fd00::2/128", pairs[0], pairs[1]],
        |object| object.with("allowedIps", json!(pairs)),
    );
    let paths = families().map(|family| {
        let pair = if family.a.is_ipv4() {
            "10.0.0.200"
        } else {
            "fd00::200"
        };
        Path::new((family.a, 4000), (pair.parse().expect("an address"), 80))
    });
    for from_a in paths {
        dataplane
            .from_workload("b", &from_a.back().tcp("S"))
            .expect_redirect_to("a");
        let flow = dataplane.flow(&from_a, TCP).expect("a flow");
        assert_eq!(flow.slot[ORIGIN], dataplane.slot("b"));
        assert_ne!(flow.flags & FLOW_ORIGIN_ANY_MAC, 0);
    }
    let resets = take_b_away(&mut dataplane);
    dataplane.set_tombstone(resets);
    for from_a in paths {
        dataplane
            .from_workload("a", &data(from_a))
            .expect_pass(PassReason::Remote);
    }
}

#[test]
fn tombstones_are_followed_alike_by_the_fall_back() {
    for scenario in [
        scenario_70_tcp_to_a_workload_that_is_gone_is_answered_with_a_reset as fn(),
        scenario_70_while_it_waits_policy_judges_and_the_flow_stays_known,
        scenario_70_a_flow_that_only_the_group_of_the_deleted_workload_allowed_is_reset_too,
    ] {
        by_fall_back(scenario);
    }
}
