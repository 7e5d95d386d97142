//! Flows whose policy or whose workload goes.

use calico_ebpf_common::port::protocol::TCP;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{allow_all_egress, allow_tcp, network_policy};
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::programs::{Dataplane, Origin, by_fall_back};

use crate::conntrack::{b_receives, establish};
use crate::scene::{families, open, under};

#[test]
fn scenario_70_the_flows_of_a_workload_that_is_gone_reach_nobody() {
    let mut dataplane = open();
    for family in families() {
        dataplane
            .from_workload("a", &family.a_to_b(4000, 80).udp())
            .expect_redirect_to("b");
    }
    let slot = |dataplane: &Dataplane, name: &str| {
        let slots = &dataplane.assignments().slots;
        slots
            .iter()
            .find(|(key, _)| key.name.ends_with(&format!("port{name}")))
            .map(|(_, slot)| *slot)
    };
    let of_b = slot(&dataplane, "b");
    dataplane.remove_workload("b");
    dataplane.workload("c", &["10.0.0.3/32", "fd00::3/128"]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        dataplane
            .from_workload("a", &there.udp())
            .expect_pass(PassReason::Remote);
        assert_eq!(slot(&dataplane, "c"), of_b, "the slot is used again");
        dataplane
            .from_workload("c", &there.back().udp())
            .expect_drop(DropReason::SourceAddress);
        dataplane
            .to_workload("c", &there.udp(), Origin::Remote)
            .expect_pass(PassReason::FromRemote);
    }
}

#[test]
fn scenario_71_a_change_of_policy_stops_established_flows_whichever_side_speaks_first() {
    for first in ["a", "b"] {
        let mut dataplane = under(&[allow_all_egress(), b_receives(80), b_receives(22)]);
        for family in families() {
            let (web, shell) = (family.a_to_b(4000, 80), family.a_to_b(4000, 22));
            establish(&mut dataplane, web);
            let kept = establish(&mut dataplane, shell);
            dataplane.remove(&b_receives(80));
            if first == "a" {
                dataplane
                    .from_workload("a", &web.tcp("A"))
                    .expect_drop(DropReason::IngressPolicy);
            }
            let back = dataplane.from_workload("b", &web.back().tcp("A"));
            back.expect_drop(if first == "a" {
                DropReason::NoFlow
            } else {
                DropReason::IngressPolicy
            });
            assert_eq!(dataplane.flow(&web, TCP), None);
            if first == "a" {
                dataplane
                    .from_workload("a", &shell.tcp("A"))
                    .expect_redirect_to("b");
            }
            dataplane
                .from_workload("b", &shell.back().tcp("A"))
                .expect_redirect_to("a");
            let now = dataplane.flow(&shell, TCP).expect("a flow");
            assert_eq!(
                (now.created, now.flags, now.state, now.slot),
                (kept.created, kept.flags, kept.state, kept.slot)
            );
            assert!(now.generation[1] > kept.generation[1]);
            dataplane.put(&b_receives(80));
        }
    }
}

#[test]
fn scenario_71_a_change_of_policy_stops_flows_to_and_from_outside() {
    let outside = |port: u16| {
        network_policy("outside", "name == 'a'")
            .egress(allow_tcp(port))
            .ingress(allow_tcp(port))
    };
    for family in families() {
        for first_is_a in [true, false] {
            for opened_by_a in [true, false] {
                let mut dataplane = under(&[outside(80)]);
                let there = if opened_by_a {
                    family.a_to_far(4000, 80)
                } else {
                    family.far_to_a(4000, 80)
                };
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
                // The same rules again: the flow goes on.
                dataplane.put(&outside(80).with("order", 7));
                assert!(send(&mut dataplane, there, "A").passed());
                assert!(send(&mut dataplane, there.back(), "A").passed());
                dataplane.put(&outside(81));
                let first = if first_is_a == opened_by_a {
                    there
                } else {
                    there.back()
                };
                let reason = if opened_by_a {
                    DropReason::EgressPolicy
                } else {
                    DropReason::IngressPolicy
                };
                send(&mut dataplane, first, "A").expect_drop(reason);
                send(&mut dataplane, first.back(), "A").expect_drop(DropReason::NoFlow);
                assert_eq!(dataplane.flow_count(), 0);
            }
        }
    }
}

#[test]
fn flows_end_alike_by_the_fall_back() {
    for scenario in [
        scenario_70_the_flows_of_a_workload_that_is_gone_reach_nobody,
        scenario_71_a_change_of_policy_stops_established_flows_whichever_side_speaks_first,
        scenario_71_a_change_of_policy_stops_flows_to_and_from_outside,
    ] {
        by_fall_back(scenario);
    }
}
