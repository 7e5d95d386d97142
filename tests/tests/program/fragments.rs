//! Fragments: the first one decides, the others follow.

use calico_ebpf_common::fragment::PLACES;
use calico_ebpf_common::port::protocol::UDP;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{Object, allow_all_egress, allow_udp, network_policy};
use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::programs::{Dataplane, Origin};
use serde_json::json;

use crate::scene::{families, open, under};

/// Bytes of payload in each fragment of these tests.
const CUT: usize = 64;

fn b_receives(port: u16) -> Object {
    network_policy("b-receives", "name == 'b'")
        .with("types", json!(["Ingress"]))
        .ingress(allow_udp(port))
}

/// A datagram of four fragments.
fn datagram(path: Path, id: u16) -> Vec<Packet> {
    path.udp_with(&[7; CUT * 3]).fragments(id, CUT)
}

/// A second way for what must hold in both directions: who sends, and what says where it went.
fn expect_passes(dataplane: &mut Dataplane, packet: &Packet, from_outside: bool) {
    if from_outside {
        dataplane
            .to_workload("b", packet, Origin::Remote)
            .expect_pass(PassReason::FromRemote);
    } else {
        dataplane.from_workload("a", packet).expect_redirect_to("b");
    }
}

fn expect_dropped(dataplane: &mut Dataplane, packet: &Packet, from_outside: bool, reason: DropReason) {
    let ran = if from_outside {
        dataplane.to_workload("b", packet, Origin::Remote)
    } else {
        dataplane.from_workload("a", packet)
    };
    ran.expect_drop(reason);
}

/// Paths to port 53 of b: from a, and from outside.
fn paths() -> Vec<(Path, bool)> {
    let ways = |family: crate::scene::Family| {
        [
            (family.a_to_b(4000, 53), false),
            (Path::new((family.far, 4000), (family.b, 53)), true),
        ]
    };
    families().into_iter().flat_map(ways).collect()
}

#[test]
fn scenario_73_the_first_fragment_decides_and_the_rest_follow() {
    let mut dataplane = under(&[allow_all_egress(), b_receives(53)]);
    for (path, from_outside) in paths() {
        for id in [1, 2] {
            let fragments = datagram(path, id);
            assert_eq!(fragments.len(), 4);
            for fragment in &fragments {
                expect_passes(&mut dataplane, fragment, from_outside);
            }
            // The datagram is complete: nothing more belongs to it.
            expect_dropped(
                &mut dataplane,
                &fragments[3],
                from_outside,
                DropReason::FragmentWithoutFirst,
            );
        }
        assert!(dataplane.flow(&path, UDP).is_some());
    }
}

#[test]
fn scenario_73_a_refused_first_fragment_lets_no_other_pass() {
    let mut dataplane = under(&[allow_all_egress(), b_receives(54)]);
    for (path, from_outside) in paths() {
        let fragments = datagram(path, 1);
        expect_dropped(
            &mut dataplane,
            &fragments[0],
            from_outside,
            DropReason::IngressPolicy,
        );
        for later in &fragments[1..] {
            expect_dropped(
                &mut dataplane,
                later,
                from_outside,
                DropReason::FragmentWithoutFirst,
            );
        }
    }
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn scenario_74_a_later_fragment_before_its_first_is_dropped_for_a_reason_of_its_own() {
    let mut dataplane = open();
    for (path, from_outside) in paths() {
        let fragments = datagram(path, 1);
        expect_dropped(
            &mut dataplane,
            &fragments[1],
            from_outside,
            DropReason::FragmentWithoutFirst,
        );
        expect_passes(&mut dataplane, &fragments[0], from_outside);
        // Another datagram's, whatever it has in common with this one.
        let other = datagram(path, 2);
        expect_dropped(
            &mut dataplane,
            &other[1],
            from_outside,
            DropReason::FragmentWithoutFirst,
        );
        expect_passes(&mut dataplane, &fragments[1], from_outside);
    }
}

#[test]
fn scenario_75_tiny_and_overlapping_fragments_are_dropped() {
    let mut dataplane = open();
    for (path, from_outside) in paths() {
        let whole = path.udp_with(&[7; 200]);
        let tcp = path.tcp_with("S", &[7; 200]);
        let tcp_header = &tcp.bytes()[tcp.transport()..];
        // The ports alone, and a TCP header without its flags (RFC 1858 section 3).
        for tiny in [
            tcp.fragment(1, 0, true, &tcp_header[..8]),
            tcp.fragment(1, 0, true, &tcp_header[..16]),
        ] {
            expect_dropped(&mut dataplane, &tiny, from_outside, DropReason::TooShort);
        }
        // A second fragment that begins inside the first one, at the flags or behind the header.
        let first = tcp.fragment(2, 0, true, &tcp_header[..64]);
        for offset in [8, 56] {
            expect_passes(&mut dataplane, &first, from_outside);
            let over = tcp.fragment(2, offset, false, &[0; 16]);
            expect_dropped(&mut dataplane, &over, from_outside, DropReason::FragmentOverlap);
            // The whole datagram is given up.
            let rest = tcp.fragment(2, 64, false, &[0; 16]);
            expect_dropped(
                &mut dataplane,
                &rest,
                from_outside,
                DropReason::FragmentWithoutFirst,
            );
        }
        // A first fragment that claims to be all, one whose length is no multiple of eight, one behind the longest
        // datagram, and one with nothing in it.
        let payload = &whole.bytes()[whole.transport()..];
        for malformed in [
            whole.fragment(3, 0, true, &payload[..61]),
            whole.fragment(3, 65_528, false, &payload[..16]),
            whole.fragment(3, 64, false, &[]),
        ] {
            expect_dropped(&mut dataplane, &malformed, from_outside, DropReason::Malformed);
        }
    }
}

#[test]
fn scenario_77_a_first_fragment_is_judged_as_the_packet_would_be() {
    let rules = [
        network_policy("a-sends", "name == 'a'")
            .with("types", json!(["Egress"]))
            .egress(allow_udp(53)),
        b_receives(53),
    ];
    let mut dataplane = under(&rules);
    for family in families() {
        for (port, allowed) in [(53, true), (54, false)] {
            let path = family.a_to_b(4000, port);
            let whole = path.udp_with(&[7; CUT * 3]);
            let fragments = whole.fragments(1, CUT);
            if allowed {
                dataplane
                    .from_workload("a", &fragments[0])
                    .expect_redirect_to("b");
                dataplane
                    .from_workload("a", &fragments[1])
                    .expect_redirect_to("b");
                dataplane.from_workload("a", &whole).expect_redirect_to("b");
            } else {
                for packet in [&fragments[0], &whole] {
                    dataplane
                        .from_workload("a", packet)
                        .expect_drop(DropReason::EgressPolicy);
                }
            }
        }
        // The answer goes by the flow, in fragments too.
        for fragment in datagram(family.a_to_b(4000, 53).back(), 9) {
            dataplane.from_workload("b", &fragment).expect_redirect_to("a");
        }
        // An echo request that is too long for one packet, and its answer.
        let dataplane = &mut open();
        let ping = Path::new((family.a, 0), (family.b, 0));
        for (sender, target, packet) in [
            (
                "a",
                "b",
                ping.icmp(if ping.source.is_ipv4() { 8 } else { 128 }, 0, 7, &[1; 200]),
            ),
            (
                "b",
                "a",
                ping.back()
                    .icmp(if ping.source.is_ipv4() { 0 } else { 129 }, 0, 7, &[1; 200]),
            ),
        ] {
            for fragment in packet.fragments(3, CUT) {
                dataplane
                    .from_workload(sender, &fragment)
                    .expect_redirect_to(target);
            }
        }
    }
}

#[test]
fn scenario_77_an_atomic_fragment_is_judged_as_a_packet() {
    let mut dataplane = under(&[allow_all_egress(), b_receives(53)]);
    for (path, from_outside) in paths() {
        let whole = path.udp_with(&[7; 40]);
        let atomic = whole.fragment(1, 0, false, &whole.bytes()[whole.transport()..]);
        expect_passes(&mut dataplane, &atomic, from_outside);
        let path = Path::new((path.source.ip(), 4000), (path.target.ip(), 54));
        let whole = path.udp_with(&[7; 40]);
        let atomic = whole.fragment(1, 0, false, &whole.bytes()[whole.transport()..]);
        expect_dropped(&mut dataplane, &atomic, from_outside, DropReason::IngressPolicy);
    }
}

#[test]
fn scenario_77_headers_behind_the_fragment_header_are_walked() {
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let fragment = |offset: u16, more: bool| {
        let bits = (offset | u16::from(more)).to_be_bytes();
        (FRAGMENT, vec![0, 0, bits[0], bits[1], 0, 0, 0, 9])
    };
    let options = || (DESTINATION, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let mut dataplane = under(&[allow_all_egress(), b_receives(53)]);
    let path = families()[1].a_to_b(4000, 53);
    let datagram = path.udp_with(&[7; 40]);
    let payload = &datagram.bytes()[datagram.transport()..];
    let first = path.behind(&[options(), fragment(0, true), options()], UDP, payload);
    dataplane.from_workload("a", &first).expect_redirect_to("b");
    let later = path.behind(&[options(), fragment(56, false)], DESTINATION, payload);
    dataplane.from_workload("a", &later).expect_redirect_to("b");
    // Two fragment headers, and a first fragment that ends inside its headers (RFC 7112).
    let twice = path.behind(&[fragment(0, true), fragment(0, true)], UDP, payload);
    dataplane
        .from_workload("a", &twice)
        .expect_drop(DropReason::Malformed);
    let cut = path.behind(&[fragment(0, true)], DESTINATION, &[17, 4, 1, 4, 0, 0, 0, 0]);
    dataplane
        .from_workload("a", &cut)
        .expect_drop(DropReason::Malformed);
}

#[test]
fn scenario_73_fragments_are_let_pass_by_the_policy_in_force_and_from_their_sender_only() {
    let mut dataplane = under(&[allow_all_egress(), b_receives(53)]);
    for family in families() {
        let fragments = datagram(family.a_to_b(4000, 53), 5);
        dataplane
            .from_workload("a", &fragments[0])
            .expect_redirect_to("b");
        // b sends with a's address: no fragment of b's.
        dataplane
            .from_workload("b", &fragments[1])
            .expect_drop(DropReason::FragmentWithoutFirst);
        dataplane
            .from_workload("a", &fragments[1].clone().from_mac([2, 9, 9, 9, 9, 9]))
            .expect_drop(DropReason::FragmentWithoutFirst);
        let later = &datagram(family.a_to_b(4000, 53), 6);
        dataplane.from_workload("a", &later[0]).expect_redirect_to("b");
        dataplane.from_workload("a", &later[1]).expect_redirect_to("b");
        dataplane.put(&b_receives(54));
        dataplane
            .from_workload("a", &later[2])
            .expect_drop(DropReason::FragmentWithoutFirst);
        dataplane.put(&b_receives(53));
    }
}

#[test]
fn datagrams_of_one_endpoint_push_out_their_own_only() {
    let mut dataplane = open();
    let [v4, _] = families();
    let of_b = datagram(v4.a_to_b(4000, 53).back(), 1);
    dataplane.from_workload("b", &of_b[0]).expect_redirect_to("a");
    for id in 0..10 * u16::from(PLACES) {
        let first = &datagram(v4.a_to_b(4000, 53), id)[0];
        dataplane.from_workload("a", first).expect_redirect_to("b");
    }
    assert!(dataplane.datagram_count() <= usize::from(PLACES) + 1);
    dataplane.from_workload("b", &of_b[1]).expect_redirect_to("a");
}

#[test]
fn what_the_host_sends_in_fragments_passes_and_is_answered() {
    let mut dataplane = under(&[]);
    for family in families() {
        let path = family.a_to_host(0, 0).back();
        let request = path.icmp(if path.source.is_ipv4() { 8 } else { 128 }, 0, 7, &[1; 200]);
        for fragment in request.fragments(3, CUT) {
            dataplane
                .to_workload("a", &fragment, Origin::Host)
                .expect_pass(PassReason::FromHost);
        }
        let back = path.back();
        let answer = back.icmp(if path.source.is_ipv4() { 0 } else { 129 }, 0, 7, &[1; 200]);
        for fragment in answer.fragments(4, CUT) {
            dataplane
                .from_workload("a", &fragment)
                .expect_pass(PassReason::Host);
        }
    }
}

#[test]
fn fragments_of_what_must_be_seen_whole_are_dropped() {
    let mut dataplane = open();
    for family in families() {
        let path = Path::new((family.a, 0), (family.b, 0));
        let offender = path.back().udp_with(&[1; 100]);
        let kind = if path.source.is_ipv4() { [3, 4] } else { [2, 0] };
        let error = path.error_about(&offender, kind, 120);
        dataplane
            .from_workload("a", &error.fragments(1, CUT)[0])
            .expect_drop(DropReason::Fragment);
        let (from, to) = if path.source.is_ipv4() {
            (67, 68)
        } else {
            (547, 546)
        };
        let server = family.a_to_b(from, to).udp_with(&[1; 100]);
        dataplane
            .from_workload("a", &server.fragments(1, CUT)[0])
            .expect_drop(DropReason::DhcpServer);
    }
    let [_, v6] = families();
    let advertisement = Path::new((v6.a, 0), (v6.b, 0)).icmp(136, 0, 0, &[0; 100]);
    dataplane
        .from_workload("a", &advertisement.fragments(1, CUT)[0])
        .expect_drop(DropReason::Fragment);
}
