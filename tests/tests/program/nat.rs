//! Floating addresses (contract 3.5): what is translated, into what, and what policy sees of it.

use std::net::IpAddr;

use calico_ebpf_common::flow::{Flow, TRANSLATED};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{Object, allow_all_egress, allow_everything, network_policy};
use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::programs::{Dataplane, Origin};
use serde_json::json;

use crate::scene::{Family, families, under};

/// External addresses of workload b.
pub(crate) const EXTERNAL: [&str; 2] = ["198.51.100.2", "2001:db8:f::2"];
/// More of them, which are higher.
pub(crate) const SECOND: [&str; 2] = ["198.51.100.3", "2001:db8:f::3"];
/// External addresses of workload a.
const OF_A: [&str; 2] = ["198.51.100.1", "2001:db8:f::1"];

pub(crate) fn like(family: &Family, addresses: [&str; 2]) -> IpAddr {
    addresses[usize::from(family.a.is_ipv6())]
        .parse()
        .expect("an address")
}

pub(crate) fn external(family: &Family) -> IpAddr {
    like(family, EXTERNAL)
}

/// Gives workload b its floating addresses.
pub(crate) fn with_floating(mut dataplane: Dataplane) -> Dataplane {
    dataplane.workload_with("b", &["10.0.0.2/32", "fd00::2/128"], |object| {
        object.with(
            "ipNATs",
            json!([
                {"internalIP": "10.0.0.2", "externalIP": EXTERNAL[0]},
                {"internalIP": "10.0.0.2", "externalIP": SECOND[0]},
                {"internalIP": "fd00::2", "externalIP": EXTERNAL[1]},
                {"internalIP": "fd00::2", "externalIP": SECOND[1]},
            ]),
        )
    });
    dataplane
}

pub(crate) fn floating(policies: &[Object]) -> Dataplane {
    with_floating(under(policies))
}

/// A policy of workload b that lets in what a source sends to it.
fn b_takes_from(source: &str, destination: &str) -> Object {
    network_policy("b-takes", "name == 'b'")
        .with("types", json!(["Ingress"]))
        .ingress(json!({
            "action": "Allow",
            "source": {"nets": [source]},
            "destination": {"nets": [destination]},
        }))
}

/// Packets of every protocol whose checksum covers addresses, and of some whose does not.
fn samples(path: Path) -> Vec<Packet> {
    let bare = Path::new((path.source.ip(), 0), (path.target.ip(), 0));
    let mut samples = vec![
        path.tcp("S"),
        path.udp(),
        bare.echo_request(7),
        bare.protocol(47, &[0; 8]),
    ];
    let offset = path.udp().transport();
    if path.source.is_ipv4() {
        // No checksum stays no checksum.
        samples.push(path.udp().with(offset + 6, &[0, 0]));
        samples.push(path.udp().with_ipv4_options(&[1, 1, 1, 0]));
    }
    // SCTP: the checksum does not cover addresses.
    let ports = [path.source.port().to_be_bytes(), path.target.port().to_be_bytes()].concat();
    samples.push(bare.protocol(132, &[&ports[..], &[0xab; 8]].concat()));
    samples
}

/// Fails unless `ran` was redirected to the workload as `expected`, with one hop less.
#[track_caller]
pub(crate) fn arrives(
    dataplane: &mut Dataplane,
    name: &str,
    ran: &calico_ebpf_tests::programs::Ran,
    expected: &Packet,
) {
    ran.expect_redirect_to(name);
    let workload = dataplane.named(name);
    let expected = expected
        .clone()
        .with_hop_limit(63)
        .to_mac(workload.mac)
        .from_mac(workload.tap_mac);
    assert_eq!(ran.packet, expected.bytes());
    dataplane.follow(ran).expect_pass_by_mark();
}

fn translated_flows(dataplane: &Dataplane) -> Vec<Flow> {
    let v4 = dataplane
        .flows4()
        .into_iter()
        .filter(|(key, _)| key.translation == TRANSLATED)
        .map(|(_, flow)| flow);
    let v6 = dataplane
        .flows6()
        .into_iter()
        .filter(|(key, _)| key.translation == TRANSLATED)
        .map(|(_, flow)| flow);
    v4.chain(v6).collect()
}

#[test]
fn contract_3_5_a_workload_reaches_another_by_its_floating_address_and_is_answered_from_there() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let there = Path::new((family.a, 4000), (external(&family), 80));
        let inside = family.a_to_b(4000, 80);
        for (outer, inner) in samples(there).into_iter().zip(samples(inside)) {
            // The second packet takes the flow.
            for _ in 0..2 {
                let ran = dataplane.from_workload("a", &outer);
                arrives(&mut dataplane, "b", &ran, &inner);
            }
            assert_eq!(translated_flows(&dataplane).len(), 1, "{outer:?}");
            assert_eq!(dataplane.flow_count(), 1);
            dataplane.clear_flows();
        }
        dataplane.from_workload("a", &there.tcp("S"));
        dataplane.from_workload("a", &there.udp());
        dataplane.from_workload("a", &there.echo_request(7));
        for (outer, inner) in [
            (there.back().tcp("SA"), inside.back().tcp("SA")),
            (there.back().tcp("A"), inside.back().tcp("A")),
            (there.back().udp(), inside.back().udp()),
            (there.back().echo_reply(7), inside.back().echo_reply(7)),
        ] {
            for _ in 0..2 {
                let ran = dataplane.from_workload("b", &inner);
                arrives(&mut dataplane, "a", &ran, &outer);
            }
        }
        dataplane.clear_flows();
    }
}

#[test]
fn contract_3_5_who_is_outside_reaches_a_floating_address_and_is_answered_from_there() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        for (origin, outside, pass, answered) in [
            (
                Origin::Remote,
                family.far,
                PassReason::FromRemote,
                PassReason::Remote,
            ),
            (Origin::Host, family.host, PassReason::FromHost, PassReason::Host),
        ] {
            let there = Path::new((outside, 4000), (external(&family), 80));
            let inside = Path::new((outside, 4000), (family.b, 80));
            for (outer, inner) in samples(there).into_iter().zip(samples(inside)) {
                for _ in 0..2 {
                    dataplane
                        .to_workload("b", &outer, origin)
                        .expect_pass_as(pass, &inner);
                }
            }
            for (outer, inner) in [
                (there.back().tcp("SA"), inside.back().tcp("SA")),
                (there.back().udp(), inside.back().udp()),
                (there.back().echo_reply(7), inside.back().echo_reply(7)),
            ] {
                for _ in 0..2 {
                    dataplane
                        .from_workload("b", &inner)
                        .expect_pass_as(answered, &outer);
                }
            }
            dataplane.clear_flows();
        }
    }
}

#[test]
fn contract_3_5_policy_sees_the_internal_address() {
    for family in families() {
        let there = Path::new((family.a, 4000), (external(&family), 80));
        let outside = Path::new((family.far, 4000), (external(&family), 80));
        let [anybody, inside] = if family.a.is_ipv4() {
            ["0.0.0.0/0", "10.0.0.2/32"]
        } else {
            ["::/0", "fd00::2/128"]
        };
        let by_inside = b_takes_from(anybody, inside);
        let mut dataplane = floating(&[allow_all_egress(), by_inside]);
        dataplane.from_workload("a", &there.udp()).expect_redirect_to("b");
        assert!(
            dataplane
                .to_workload("b", &outside.udp(), Origin::Remote)
                .passed()
        );

        let prefix = if family.a.is_ipv4() { 32 } else { 128 };
        let by_outside = b_takes_from(anybody, &format!("{}/{prefix}", external(&family)));
        let mut dataplane = floating(&[allow_all_egress(), by_outside]);
        dataplane
            .from_workload("a", &there.udp())
            .expect_drop(DropReason::IngressPolicy);
        dataplane
            .to_workload("b", &outside.udp(), Origin::Remote)
            .expect_drop(DropReason::IngressPolicy);
        assert_eq!(dataplane.flow_count(), 0);
        // The host is not judged.
        let by_host = Path::new((family.host, 4000), (external(&family), 80));
        assert!(dataplane.to_workload("b", &by_host.udp(), Origin::Host).passed());
    }
}

#[test]
fn contract_3_5_what_a_workload_opens_keeps_its_fixed_address() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let out = Path::new((family.b, 4000), (family.far, 80));
        for packet in [out.tcp("S"), out.udp(), out.echo_request(7)] {
            dataplane
                .from_workload("b", &packet)
                .expect_pass(PassReason::Remote);
        }
        dataplane
            .to_workload("b", &out.back().udp(), Origin::Remote)
            .expect_pass(PassReason::FromRemote);
        assert!(translated_flows(&dataplane).is_empty());
    }
}

#[test]
fn contract_3_5_a_workload_that_sends_to_its_own_floating_address_hears_from_its_lowest_one() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let lowest = external(&family);
        for asked in [lowest, like(&family, SECOND)] {
            let sent = Path::new((family.b, 4000), (asked, 80));
            let heard = Path::new((lowest, 4000), (family.b, 80));
            let answer = Path::new((family.b, 80), (lowest, 4000));
            let answered = Path::new((asked, 80), (family.b, 4000));
            for (sent, heard) in [
                (sent.tcp("S"), heard.tcp("S")),
                (answer.tcp("SA"), answered.tcp("SA")),
                (sent.tcp("A"), heard.tcp("A")),
                (answer.tcp("A"), answered.tcp("A")),
                (sent.udp(), heard.udp()),
                (answer.udp(), answered.udp()),
                (sent.echo_request(7), heard.echo_request(7)),
                (answer.echo_reply(7), answered.echo_reply(7)),
            ] {
                let ran = dataplane.from_workload("b", &sent);
                arrives(&mut dataplane, "b", &ran, &heard);
            }
            dataplane.clear_flows();
        }
    }
}

#[test]
fn contract_3_5_the_answer_comes_from_the_external_address_that_was_asked() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        for (port, asked) in [(4001, external(&family)), (4002, like(&family, SECOND))] {
            let there = Path::new((family.far, port), (asked, 80));
            let inside = Path::new((family.far, port), (family.b, 80));
            assert!(
                dataplane
                    .to_workload("b", &there.tcp("S"), Origin::Remote)
                    .passed()
            );
            dataplane
                .from_workload("b", &inside.back().tcp("SA"))
                .expect_pass_as(PassReason::Remote, &there.back().tcp("SA"));
        }
    }
}

#[test]
fn contract_3_5_a_translation_that_goes_ends_its_flows() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let outer = Path::new((family.far, 4000), (external(&family), 80));
        let inside = Path::new((family.far, 4000), (family.b, 80));
        dataplane.to_workload("b", &outer.udp(), Origin::Remote);
        dataplane.workload("b", &["10.0.0.2/32", "fd00::2/128"]);
        // Who asked the floating address does not hear from another.
        dataplane
            .from_workload("b", &inside.back().udp())
            .expect_pass(PassReason::Remote);
        assert!(dataplane.flow_count() >= 1);
        dataplane = with_floating(dataplane);
        dataplane.clear_flows();

        dataplane.to_workload("b", &outer.udp(), Origin::Remote);
        let second = like(&family, SECOND);
        let internal = family.b.to_string();
        dataplane.workload_with("b", &["10.0.0.2/32", "fd00::2/128"], |object| {
            let nat = json!({"internalIP": internal, "externalIP": second.to_string()});
            object.with("ipNATs", json!([nat]))
        });
        dataplane
            .from_workload("b", &inside.back().udp())
            .expect_drop(DropReason::NatUnknown);
        assert_eq!(dataplane.flow_count(), 0);
        dataplane = with_floating(dataplane);
    }
}

#[test]
fn contract_3_5_a_change_of_policy_ends_translated_flows() {
    for family in families() {
        let outer = Path::new((family.a, 4000), (external(&family), 80));
        let inside = family.a_to_b(4000, 80);
        let policy = allow_everything();
        for reply in [false, true] {
            let mut dataplane = floating(std::slice::from_ref(&policy));
            dataplane.from_workload("a", &outer.udp());
            dataplane.remove(&policy);
            let ran = if reply {
                dataplane.from_workload("b", &inside.back().udp())
            } else {
                dataplane.from_workload("a", &outer.udp())
            };
            ran.expect_drop(DropReason::EgressPolicy);
            assert_eq!(dataplane.flow_count(), 0);
        }
    }
}

#[test]
fn contract_3_5_two_workloads_with_floating_addresses_speak_both_ways() {
    let mut dataplane = floating(&[allow_everything()]);
    dataplane.workload_with("a", &["10.0.0.1/32", "fd00::1/128"], |object| {
        object.with(
            "ipNATs",
            json!([
                {"internalIP": "10.0.0.1", "externalIP": OF_A[0]},
                {"internalIP": "fd00::1", "externalIP": OF_A[1]},
            ]),
        )
    });
    for family in families() {
        let to_b = Path::new((family.a, 4000), (external(&family), 80));
        let to_a = Path::new((family.b, 5000), (like(&family, OF_A), 80));
        let ran = dataplane.from_workload("a", &to_b.tcp("S"));
        arrives(&mut dataplane, "b", &ran, &family.a_to_b(4000, 80).tcp("S"));
        let ran = dataplane.from_workload("b", &family.a_to_b(4000, 80).back().tcp("SA"));
        arrives(&mut dataplane, "a", &ran, &to_b.back().tcp("SA"));
        let inside = Path::new((family.b, 5000), (family.a, 80));
        let ran = dataplane.from_workload("b", &to_a.tcp("S"));
        arrives(&mut dataplane, "a", &ran, &inside.tcp("S"));
        let ran = dataplane.from_workload("a", &inside.back().tcp("SA"));
        arrives(&mut dataplane, "b", &ran, &to_a.back().tcp("SA"));
        dataplane.clear_flows();
    }
}

#[test]
fn contract_3_5_a_workload_that_has_its_external_address_itself_is_answered_there() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let out = Path::new((external(&family), 4000), (family.far, 80));
        dataplane
            .from_workload("b", &out.udp())
            .expect_pass(PassReason::Remote);
        dataplane
            .to_workload("b", &out.back().udp(), Origin::Remote)
            .expect_pass(PassReason::FromRemote);
        let across = Path::new((external(&family), 4000), (family.a, 80));
        dataplane
            .from_workload("b", &across.udp())
            .expect_redirect_to("a");
        let ran = dataplane.from_workload("a", &across.back().udp());
        arrives(&mut dataplane, "b", &ran, &across.back().udp());
    }
}

#[test]
fn a_floating_address_without_hops_left_goes_to_the_host_as_it_is() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let there = Path::new((family.a, 4000), (external(&family), 80));
        for _ in 0..2 {
            dataplane
                .from_workload("a", &there.udp().with_hop_limit(1))
                .expect_pass(PassReason::TtlExceeded);
        }
    }
}

#[test]
fn a_spoofed_packet_to_a_floating_address_is_dropped_and_leaves_no_flow() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let there = Path::new((family.far, 4000), (external(&family), 80));
        dataplane
            .from_workload("a", &there.udp())
            .expect_drop(DropReason::SourceAddress);
        let own = Path::new((family.a, 4000), (external(&family), 80));
        dataplane
            .from_workload("a", &own.udp().from_mac([2, 0, 0, 0, 0, 9]))
            .expect_drop(DropReason::SourceMac);
        let (client, server) = if family.a.is_ipv4() { (68, 67) } else { (546, 547) };
        for ports in [(client, server), (server, client)] {
            let dhcp = Path::new((family.a, ports.0), (external(&family), ports.1));
            dataplane
                .from_workload("a", &dhcp.udp())
                .expect_drop(DropReason::DhcpServer);
        }
        assert_eq!(dataplane.flow_count(), 0);
    }
}

#[test]
fn without_room_for_a_flow_nothing_goes_to_a_floating_address() {
    let mut dataplane = with_floating(crate::scene::fill(Dataplane::load(&[], 1), &[allow_everything()]));
    for family in families() {
        // A table for one has a few spare entries.
        let ran: Vec<_> = (0..64)
            .map(|port| {
                let there = Path::new((family.far, 4000 + port), (external(&family), 80));
                dataplane.to_workload("b", &there.udp(), Origin::Remote)
            })
            .collect();
        ran.last().expect("some").expect_drop(DropReason::FlowTableFull);
    }
}

#[test]
fn checksums_stay_right_for_every_pair_of_addresses_that_is_tried() {
    // 0xffff and 0 are one number to the checksum and two to the eye.
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        for port in 0..300 {
            let there = Path::new((family.far, 40_000 + port), (external(&family), 80));
            let inside = Path::new((family.far, 40_000 + port), (family.b, 80));
            dataplane
                .to_workload("b", &there.udp(), Origin::Remote)
                .expect_pass_as(PassReason::FromRemote, &inside.udp());
        }
    }
}
