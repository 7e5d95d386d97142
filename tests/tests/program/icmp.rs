//! ICMP: queries, answers, errors.

use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{allow_all_egress, allow_everything, global_network_policy};
use calico_ebpf_tests::packets::{ETHERNET_BYTES, Packet, Path};
use calico_ebpf_tests::programs::Origin;
use serde_json::json;

use crate::scene::{Family, families, open, under};

/// Type and code of errors of a family: unreachable, time exceeded, too big.
fn errors(family: &Family) -> [[u8; 2]; 3] {
    if family.a.is_ipv4() {
        [[3, 3], [11, 0], [3, 4]]
    } else {
        [[1, 4], [3, 0], [2, 0]]
    }
}

/// Whole headers and eight bytes behind them.
fn least(family: &Family) -> usize {
    if family.a.is_ipv4() { 28 } else { 48 }
}

#[test]
fn scenario_61_the_answer_with_the_querys_id_passes_and_any_other_is_dropped() {
    let mut dataplane = under(&[allow_all_egress()]);
    for family in families() {
        let there = family.a_to_far(0, 0);
        dataplane
            .from_workload("a", &there.echo_request(7))
            .expect_pass(PassReason::Remote);
        for _ in 0..2 {
            dataplane
                .to_workload("a", &there.back().echo_reply(7), Origin::Remote)
                .expect_pass(PassReason::FromRemote);
        }
        for stray in [
            there.back().echo_reply(8),
            family.a_to_b(0, 0).back().echo_reply(7),
        ] {
            assert!(!dataplane.to_workload("a", &stray, Origin::Remote).passed());
        }
    }
}

#[test]
fn scenario_61_an_answer_that_nobody_asked_for_is_dropped_whatever_policy_says() {
    let mut dataplane = open();
    for family in families() {
        dataplane
            .to_workload("a", &family.far_to_a(0, 0).echo_reply(7), Origin::Remote)
            .expect_drop(DropReason::NoFlow);
        for path in [family.a_to_far(0, 0), family.a_to_b(0, 0), family.a_to_host(0, 0)] {
            dataplane
                .from_workload("a", &path.echo_reply(7))
                .expect_drop(DropReason::NoFlow);
        }
    }
    for kind in [14, 16, 18] {
        let stray = families()[0].a_to_far(0, 0).icmp(kind, 0, 7, &[0; 12]);
        dataplane
            .from_workload("a", &stray)
            .expect_drop(DropReason::NoFlow);
    }
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn scenario_61_local_workloads_answer_each_other() {
    let mut dataplane = under(&[allow_all_egress(), {
        let rule = |version: u8, protocol: &str| json!({"action": "Allow", "ipVersion": version, "protocol": protocol});
        global_network_policy("ping", "name == 'b'")
            .ingress(rule(4, "ICMP"))
            .ingress(rule(6, "ICMPv6"))
    }]);
    for family in families() {
        let there = family.a_to_b(0, 0);
        for _ in 0..2 {
            dataplane
                .from_workload("a", &there.echo_request(7))
                .expect_redirect_to("b");
            dataplane
                .from_workload("b", &there.back().echo_reply(7))
                .expect_redirect_to("a");
        }
        assert!(!dataplane.from_workload("b", &there.back().echo_reply(8)).passed());
    }
    // Timestamp and its answer (RFC 792).
    let there = families()[0].a_to_b(0, 0);
    dataplane
        .from_workload("a", &there.icmp(13, 0, 7, &[0; 12]))
        .expect_redirect_to("b");
    dataplane
        .from_workload("b", &there.back().icmp(14, 0, 7, &[0; 12]))
        .expect_redirect_to("a");
}

#[test]
fn scenario_62_a_query_the_other_way_is_judged_by_policy() {
    let mut dataplane = under(&[allow_all_egress()]);
    for family in families() {
        let there = family.a_to_far(0, 0);
        dataplane
            .from_workload("a", &there.echo_request(7))
            .expect_pass(PassReason::Remote);
        dataplane
            .to_workload("a", &there.back().echo_reply(7), Origin::Remote)
            .expect_pass(PassReason::FromRemote);
        dataplane
            .to_workload("a", &there.back().echo_request(7), Origin::Remote)
            .expect_drop(DropReason::IngressPolicy);
    }
}

#[test]
fn scenario_63_an_error_about_a_live_flow_passes_towards_its_sender() {
    let mut dataplane = under(&[allow_all_egress()]);
    for family in families() {
        let there = family.a_to_far(4000, 53);
        let router = Path::new((family.host, 0), (family.a, 0));
        for offender in [there.udp(), there.tcp("S"), there.echo_request(7)] {
            for error in errors(&family) {
                let packet = router.error_about(&offender, error, least(&family));
                dataplane
                    .to_workload("a", &packet, Origin::Remote)
                    .expect_drop(DropReason::IcmpUnrelated);
            }
            dataplane
                .from_workload("a", &offender)
                .expect_pass(PassReason::Remote);
            for error in errors(&family) {
                for length in [least(&family), 1000] {
                    let packet = router.error_about(&offender, error, length);
                    dataplane
                        .to_workload("a", &packet, Origin::Remote)
                        .expect_pass(PassReason::FromRemote);
                    dataplane
                        .to_workload("b", &packet, Origin::Remote)
                        .expect_drop(DropReason::IcmpUnrelated);
                }
            }
        }
    }
}

#[test]
fn scenario_63_a_workloads_error_about_what_it_received_passes() {
    let everybody = global_network_policy("everybody", "name == 'b'")
        .ingress(json!({"action": "Allow"}))
        .with("types", json!(["Ingress"]));
    let from_a = global_network_policy("from-a", "name == 'a'").egress(json!({"action": "Allow"}));
    let mut dataplane = under(&[everybody, from_a]);
    for family in families() {
        let from_far = Path::new((family.far, 4000), (family.b, 80));
        let from_a = family.a_to_b(4000, 80);
        for error in errors(&family) {
            let about = |path: Path| path.back().error_about(&path.udp(), error, least(&family));
            for path in [from_far, from_a] {
                dataplane
                    .from_workload("b", &about(path))
                    .expect_drop(DropReason::IcmpUnrelated);
            }
            dataplane
                .to_workload("b", &from_far.udp(), Origin::Remote)
                .expect_pass(PassReason::FromRemote);
            dataplane
                .from_workload("a", &from_a.udp())
                .expect_redirect_to("b");
            dataplane
                .from_workload("b", &about(from_far))
                .expect_pass(PassReason::Remote);
            let ran = dataplane.from_workload("b", &about(from_a));
            ran.expect_redirect_to("a");
            dataplane.follow(&ran).expect_pass_by_mark();
            dataplane.clear_flows();
        }
    }
}

#[test]
fn scenario_63_an_error_that_a_workload_makes_up_is_dropped() {
    let mut dataplane = open();
    dataplane.workload("c", &["10.0.0.3/32", "fd00::3/128"]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        let outside = family.a_to_far(4000, 80);
        dataplane.from_workload("a", &there.udp());
        dataplane.from_workload("a", &outside.udp());
        let c = if family.a.is_ipv4() { "10.0.0.3" } else { "fd00::3" };
        let c = c.parse().expect("an address");
        for error in errors(&family) {
            let made_up = [
                // About a flow of others, to either end.
                Path::new((c, 0), (family.a, 0)).error_about(&there.udp(), error, 60),
                Path::new((c, 0), (family.b, 0)).error_about(&there.back().udp(), error, 60),
                Path::new((c, 0), (family.far, 0)).error_about(&outside.back().udp(), error, 60),
            ];
            for packet in made_up {
                dataplane
                    .from_workload("c", &packet)
                    .expect_drop(DropReason::IcmpUnrelated);
            }
            // About its own packet, to the other end.
            dataplane
                .from_workload("a", &there.error_about(&there.udp(), error, 60))
                .expect_drop(DropReason::IcmpUnrelated);
            dataplane
                .from_workload("c", &there.back().error_about(&there.udp(), error, 60))
                .expect_drop(DropReason::SourceAddress);
        }
        dataplane.clear_flows();
    }
}

#[test]
fn scenario_64_and_65_an_error_whose_quotation_is_cut_is_dropped() {
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_far(4000, 53);
        dataplane.from_workload("a", &there.udp());
        let router = Path::new((family.host, 0), (family.a, 0));
        for error in errors(&family) {
            for length in [0, 1, 8, 19, 20, 27, 39, 40, 47] {
                if length < least(&family) {
                    dataplane
                        .to_workload(
                            "a",
                            &router.error_about(&there.udp(), error, length),
                            Origin::Remote,
                        )
                        .expect_drop(DropReason::IcmpUnrelated);
                }
            }
            let quoting = |offender: Packet| router.error_about(&offender, error, 60);
            let wrong_version = there.udp().with(ETHERNET_BYTES, &[0x50]);
            let nested = there.error_about(&there.udp(), error, 60);
            let mut wrong = vec![wrong_version, nested];
            if family.a.is_ipv4() {
                wrong.push(there.udp().with(ETHERNET_BYTES + 6, &[0, 1]));
                wrong.push(there.udp().with(ETHERNET_BYTES, &[0x44]));
                wrong.push(there.udp().with(ETHERNET_BYTES, &[0x4f]));
            }
            for offender in wrong {
                dataplane
                    .to_workload("a", &quoting(offender), Origin::Remote)
                    .expect_drop(DropReason::IcmpUnrelated);
            }
        }
    }
}

#[test]
fn scenario_65_packet_too_big_passes_to_the_sender_of_the_flow_that_it_quotes_and_to_nobody_else() {
    const TOO_BIG: [u8; 2] = [2, 0];
    let [_, v6] = families();
    let mut dataplane = under(&[allow_all_egress()]);
    let there = v6.a_to_far(4000, 80);
    let router = Path::new((v6.host, 0), (v6.a, 0));
    let about = |there: Path, length| router.error_about(&there.tcp_with("A", &[0; 1400]), TOO_BIG, length);
    dataplane
        .to_workload("a", &about(there, 1232), Origin::Remote)
        .expect_drop(DropReason::IcmpUnrelated);
    dataplane
        .from_workload("a", &there.tcp("S"))
        .expect_pass(PassReason::Remote);
    // As much as fits into the smallest MTU (RFC 4443 section 3.2), and as little as has the ports.
    for length in [1232, 48] {
        dataplane
            .to_workload("a", &about(there, length), Origin::Remote)
            .expect_pass(PassReason::FromRemote);
    }
    for stray in [
        about(there, 47),
        about(v6.a_to_far(4001, 80), 1232),
        about(there.back(), 1232),
    ] {
        dataplane
            .to_workload("a", &stray, Origin::Remote)
            .expect_drop(DropReason::IcmpUnrelated);
    }
    // b was not asked anything by that flow, and cannot say so to its sender.
    let to_b = Path::new((v6.host, 0), (v6.b, 0)).error_about(&there.tcp("A"), TOO_BIG, 60);
    dataplane
        .to_workload("b", &to_b, Origin::Remote)
        .expect_drop(DropReason::IcmpUnrelated);
    let made_up = v6.a_to_b(0, 0).back().error_about(&there.tcp("A"), TOO_BIG, 60);
    dataplane
        .from_workload("b", &made_up)
        .expect_drop(DropReason::IcmpUnrelated);
}

#[test]
fn scenario_63_the_error_passes_also_where_policy_would_deny_its_type() {
    let deny =
        |version: u8, protocol: &str| json!({"action": "Deny", "ipVersion": version, "protocol": protocol});
    let no_icmp = global_network_policy("no-icmp", "all()")
        .with("order", 1)
        .ingress(deny(4, "ICMP"))
        .ingress(deny(6, "ICMPv6"))
        .egress(deny(4, "ICMP"))
        .egress(deny(6, "ICMPv6"));
    let mut dataplane = under(&[no_icmp, allow_everything()]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        dataplane.from_workload("a", &there.udp()).expect_redirect_to("b");
        let error = there
            .back()
            .error_about(&there.udp(), errors(&family)[0], least(&family));
        dataplane.from_workload("b", &error).expect_redirect_to("a");
        dataplane
            .from_workload("a", &there.echo_request(1))
            .expect_drop(DropReason::EgressPolicy);
    }
}
