//! ICMP errors about packets that were translated: both ends recognise what they sent.

use calico_ebpf_common::moved_port::moved_port;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::allow_everything;
use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::programs::{Dataplane, Origin};

use crate::nat::{SECOND, arrives, external, like, with_floating};
use crate::scene::{Family, families, under};

fn floating() -> Dataplane {
    with_floating(under(&[allow_everything()]))
}

/// Unreachable port, time exceeded, too big.
fn errors(family: &Family) -> [[u8; 2]; 3] {
    if family.a.is_ipv4() {
        [[3, 3], [11, 0], [3, 4]]
    } else {
        [[1, 4], [3, 0], [2, 0]]
    }
}

/// An error about `offender`, which was quoted with the transport header's first eight bytes.
fn error(from: std::net::IpAddr, to: std::net::IpAddr, offender: &Packet, kind: [u8; 2]) -> Packet {
    let least = if from.is_ipv4() { 28 } else { 48 };
    Path::new((from, 0), (to, 0)).error_about(offender, kind, least)
}

/// What a quoted TCP segment looks like on either side of the translation: its ports and sequence number are the
/// same, its checksum is beyond the quotation.
fn offenders(outer: Path, inner: Path) -> [Packet; 2] {
    [outer.tcp("SA"), inner.tcp("SA")]
}

#[test]
fn an_error_about_an_answer_reaches_the_workload_behind_the_floating_address() {
    let mut dataplane = floating();
    for family in families() {
        let there = Path::new((family.far, 4000), (external(&family), 80));
        let inside = Path::new((family.far, 4000), (family.b, 80));
        let [outer, inner] = offenders(there.back(), inside.back());
        for kind in errors(&family) {
            let sent = error(family.host, external(&family), &outer, kind);
            dataplane.clear_flows();
            dataplane
                .to_workload("b", &sent, Origin::Remote)
                .expect_drop(DropReason::IcmpUnrelated);
            dataplane.to_workload("b", &there.tcp("S"), Origin::Remote);
            let expected = error(family.host, family.b, &inner, kind);
            // From a router, and from the host itself, whose uplink may be too narrow.
            dataplane
                .to_workload("b", &sent, Origin::Remote)
                .expect_pass_as(PassReason::FromRemote, &expected);
            dataplane
                .to_workload("b", &sent, Origin::Host)
                .expect_pass_as(PassReason::FromHost, &expected);
        }
    }
}

#[test]
fn an_error_of_the_workload_behind_a_floating_address_comes_from_there() {
    let mut dataplane = floating();
    for family in families() {
        let there = Path::new((family.far, 4000), (external(&family), 80));
        let inside = Path::new((family.far, 4000), (family.b, 80));
        dataplane.to_workload("b", &there.tcp("S"), Origin::Remote);
        for kind in errors(&family) {
            let sent = error(family.b, family.far, &inside.tcp("S"), kind);
            dataplane.from_workload("b", &sent).expect_pass_as(
                PassReason::Remote,
                &error(external(&family), family.far, &there.tcp("S"), kind),
            );
        }
    }
}

#[test]
fn errors_between_workloads_are_translated_both_ways() {
    let mut dataplane = floating();
    let [a, b] = ["a", "b"].map(|name| dataplane.named(name));
    for family in families() {
        let there = Path::new((family.a, 4000), (external(&family), 80));
        let inside = family.a_to_b(4000, 80);
        dataplane.from_workload("a", &there.tcp("S"));
        dataplane.from_workload("b", &inside.back().tcp("SA"));
        for kind in errors(&family) {
            let ran = dataplane.from_workload("b", &error(family.b, family.a, &inside.tcp("S"), kind));
            ran.expect_redirect_to("a");
            let expected = error(external(&family), family.a, &there.tcp("S"), kind)
                .with_hop_limit(63)
                .to_mac(a.mac)
                .from_mac(a.tap_mac);
            assert_eq!(ran.packet, expected.bytes());

            let sent = error(family.a, external(&family), &there.back().tcp("SA"), kind);
            let ran = dataplane.from_workload("a", &sent);
            ran.expect_redirect_to("b");
            let expected = error(family.a, family.b, &inside.back().tcp("SA"), kind)
                .with_hop_limit(63)
                .to_mac(b.mac)
                .from_mac(b.tap_mac);
            assert_eq!(ran.packet, expected.bytes());
        }
    }
}

#[test]
fn errors_about_plain_flows_pass_beside_translated_ones() {
    let mut dataplane = floating();
    for family in families() {
        let out = Path::new((family.b, 4000), (family.far, 80));
        dataplane.from_workload("b", &out.udp());
        for kind in errors(&family) {
            dataplane
                .to_workload(
                    "b",
                    &error(family.host, family.b, &out.udp(), kind),
                    Origin::Remote,
                )
                .expect_pass(PassReason::FromRemote);
            let stray = Path::new((family.b, 4001), (family.far, 80));
            dataplane
                .to_workload(
                    "b",
                    &error(family.host, family.b, &stray.udp(), kind),
                    Origin::Remote,
                )
                .expect_drop(DropReason::IcmpUnrelated);
        }
    }
}

#[test]
fn an_error_that_a_workload_makes_up_about_a_translated_flow_is_dropped() {
    let mut dataplane = floating();
    dataplane.workload("c", &["10.0.0.3/32", "fd00::3/128"]);
    for family in families() {
        let there = Path::new((family.a, 4000), (external(&family), 80));
        dataplane.from_workload("a", &there.udp());
        let c = if family.a.is_ipv4() { "10.0.0.3" } else { "fd00::3" };
        let c = c.parse().expect("an address");
        for kind in errors(&family) {
            for made_up in [
                error(c, external(&family), &there.back().udp(), kind),
                error(c, family.a, &there.udp(), kind),
                error(c, family.b, &family.a_to_b(4000, 80).back().udp(), kind),
            ] {
                dataplane
                    .from_workload("c", &made_up)
                    .expect_drop(DropReason::IcmpUnrelated);
            }
        }
    }
}

#[test]
fn an_error_of_a_workload_about_what_it_told_itself_is_heard_from_where_that_was_sent_to() {
    let mut dataplane = floating();
    for family in families() {
        let lowest = external(&family);
        for asked in [lowest, like(&family, SECOND)] {
            let sent = Path::new((family.b, 4000), (asked, 80));
            let heard = Path::new((lowest, 4000), (family.b, 80));
            dataplane.from_workload("b", &sent.tcp("S"));
            for kind in errors(&family) {
                let error_about_what_came = error(family.b, lowest, &heard.tcp("S"), kind);
                let ran = dataplane.from_workload("b", &error_about_what_came);
                arrives(
                    &mut dataplane,
                    "b",
                    &ran,
                    &error(asked, family.b, &sent.tcp("S"), kind),
                );
                // About the answer, by who asked.
                let answer = Path::new((family.b, 80), (lowest, 4000)).tcp("SA");
                let ran = dataplane.from_workload("b", &error(family.b, asked, &sent.back().tcp("SA"), kind));
                arrives(&mut dataplane, "b", &ran, &error(lowest, family.b, &answer, kind));
            }
            dataplane.clear_flows();
        }
        for kind in errors(&family) {
            let stray = Path::new((lowest, 4001), (family.b, 80));
            dataplane
                .from_workload("b", &error(family.b, lowest, &stray.tcp("S"), kind))
                .expect_drop(DropReason::IcmpUnrelated);
        }
    }
}

/// Has a client open two flows from one port; the second is to the external address, and its port is moved.
fn open_both(dataplane: &mut Dataplane, paths: [Path; 2]) {
    for path in paths {
        assert!(
            dataplane
                .to_workload("b", &path.tcp("S"), Origin::Remote)
                .passed()
        );
    }
}

#[test]
fn errors_about_a_flow_whose_port_was_moved_name_the_port_that_each_side_knows() {
    let mut dataplane = floating();
    for family in families() {
        let fixed = Path::new((family.far, 4000), (family.b, 80));
        let outer = Path::new((family.far, 4000), (external(&family), 80));
        let moved = Path::new((family.far, moved_port(4000, 0)), (family.b, 80));
        for [first, second] in [[fixed, outer], [outer, fixed]] {
            open_both(&mut dataplane, [first, second]);
            let asked = second.target.ip();
            for kind in errors(&family) {
                // Of the workload, about what came.
                dataplane
                    .from_workload("b", &error(family.b, family.far, &moved.tcp("S"), kind))
                    .expect_pass_as(
                        PassReason::Remote,
                        &error(asked, family.far, &second.tcp("S"), kind),
                    );
                // Of a router, about the answer.
                for (origin, passed) in [
                    (Origin::Remote, PassReason::FromRemote),
                    (Origin::Host, PassReason::FromHost),
                ] {
                    let about_answer = error(family.host, asked, &second.back().tcp("SA"), kind);
                    dataplane.to_workload("b", &about_answer, origin).expect_pass_as(
                        passed,
                        &error(family.host, family.b, &moved.back().tcp("SA"), kind),
                    );
                    let about_first = error(family.host, first.target.ip(), &first.back().tcp("SA"), kind);
                    dataplane.to_workload("b", &about_first, origin).expect_pass_as(
                        passed,
                        &error(family.host, family.b, &fixed.back().tcp("SA"), kind),
                    );
                }
            }
            dataplane.clear_flows();
        }
    }
}
