//! One client's port at a floating and at the fixed address at once: the second flow gets another source port towards
//! the workload, and both are answered (contract 3.5).

use calico_ebpf_common::moved_port::{PLACES, moved_port};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{allow_all_egress, allow_everything, network_policy};
use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::programs::{Dataplane, Origin};
use serde_json::json;

use crate::nat::{SECOND, arrives, external, floating, like};
use crate::scene::{Family, families};

/// The path with its source port at a place.
fn at_place(path: Path, place: u8) -> Path {
    Path::new(
        (path.source.ip(), moved_port(path.source.port(), place)),
        (path.target.ip(), path.target.port()),
    )
}

fn moved(path: Path) -> Path {
    at_place(path, 0)
}

/// A protocol's packets: what opens a flow, its answer, what follows.
type Exchange = [fn(Path) -> Packet; 3];

const TCP: Exchange = [|path| path.tcp("S"), |path| path.tcp("SA"), |path| path.tcp("A")];
const UDP: Exchange = [|path| path.udp(), |path| path.udp(), |path| path.udp()];

/// Pairs of destinations of which the first comes first: fixed and external, external and fixed, two external ones.
fn orders(family: &Family, client: (std::net::IpAddr, u16)) -> [[Path; 2]; 3] {
    let fixed = Path::new(client, (family.b, 80));
    let outer = Path::new(client, (external(family), 80));
    let second = Path::new(client, (like(family, SECOND), 80));
    [[fixed, outer], [outer, fixed], [outer, second]]
}

#[test]
fn contract_3_5_a_workload_speaks_to_two_addresses_of_another_from_one_port() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let inside = family.a_to_b(4000, 80);
        for [first, second] in orders(&family, (family.a, 4000)) {
            for [open, answer, follow] in [TCP, UDP] {
                for packet in [open, follow, follow] {
                    for (asked, heard) in [(first, inside), (second, moved(inside))] {
                        let ran = dataplane.from_workload("a", &packet(asked));
                        arrives(&mut dataplane, "b", &ran, &packet(heard));
                    }
                    for (asked, heard) in [(first, inside), (second, moved(inside))] {
                        let ran = dataplane.from_workload("b", &answer(heard.back()));
                        arrives(&mut dataplane, "a", &ran, &answer(asked.back()));
                    }
                }
                assert_eq!(dataplane.flow_count(), 2);
                dataplane.clear_flows();
            }
        }
    }
}

#[test]
fn contract_3_5_who_is_outside_and_the_host_do_too() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        for (origin, client, passed, answered) in [
            (
                Origin::Remote,
                family.far,
                PassReason::FromRemote,
                PassReason::Remote,
            ),
            (Origin::Host, family.host, PassReason::FromHost, PassReason::Host),
        ] {
            let inside = Path::new((client, 4000), (family.b, 80));
            for [first, second] in orders(&family, (client, 4000)) {
                for [open, answer, follow] in [TCP, UDP] {
                    for packet in [open, follow, follow] {
                        for (asked, heard) in [(first, inside), (second, moved(inside))] {
                            dataplane
                                .to_workload("b", &packet(asked), origin)
                                .expect_pass_as(passed, &packet(heard));
                            dataplane
                                .from_workload("b", &answer(heard.back()))
                                .expect_pass_as(answered, &answer(asked.back()));
                        }
                    }
                    assert_eq!(dataplane.flow_count(), 2);
                    dataplane.clear_flows();
                }
            }
        }
    }
}

#[test]
fn contract_3_5_a_workload_speaks_to_itself_by_two_external_addresses_from_one_port() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let (lowest, higher) = (external(&family), like(&family, SECOND));
        let heard = Path::new((lowest, 4000), (family.b, 80));
        for [first, second] in [[lowest, higher], [higher, lowest]] {
            let [first, second] = [first, second].map(|to| Path::new((family.b, 4000), (to, 80)));
            for [open, answer, follow] in [TCP, UDP] {
                for packet in [open, follow] {
                    for (asked, heard) in [(first, heard), (second, moved(heard))] {
                        let ran = dataplane.from_workload("b", &packet(asked));
                        arrives(&mut dataplane, "b", &ran, &packet(heard));
                        let ran = dataplane.from_workload("b", &answer(heard.back()));
                        arrives(&mut dataplane, "b", &ran, &answer(asked.back()));
                    }
                }
                dataplane.clear_flows();
            }
        }
    }
}

#[test]
fn the_second_flow_keeps_its_port_when_the_first_is_over_and_a_new_first_finds_its_own() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let inside = family.a_to_b(4000, 80);
        for [first, second] in orders(&family, (family.a, 4000)) {
            dataplane.from_workload("a", &first.tcp("S"));
            dataplane.from_workload("a", &second.tcp("S"));
            dataplane.from_workload("a", &first.tcp("R"));
            for flags in ["A", "S"] {
                let ran = dataplane.from_workload("a", &second.tcp(flags));
                arrives(&mut dataplane, "b", &ran, &moved(inside).tcp(flags));
            }
            let ran = dataplane.from_workload("a", &first.tcp("S"));
            arrives(&mut dataplane, "b", &ran, &inside.tcp("S"));
            let ran = dataplane.from_workload("a", &second.tcp("A"));
            arrives(&mut dataplane, "b", &ran, &moved(inside).tcp("A"));
            dataplane.clear_flows();
        }
    }
}

#[test]
fn policy_sees_the_port_that_the_client_has() {
    let of_port = network_policy("of-port", "name == 'b'")
        .with("types", json!(["Ingress"]))
        .ingress(json!({"action": "Allow", "protocol": "UDP", "source": {"ports": [4000]}}));
    for family in families() {
        let inside = family.a_to_b(4000, 80);
        for [first, second] in orders(&family, (family.a, 4000)) {
            let mut dataplane = floating(&[allow_all_egress(), of_port.clone()]);
            dataplane.from_workload("a", &first.udp()).expect_redirect_to("b");
            let ran = dataplane.from_workload("a", &second.udp());
            arrives(&mut dataplane, "b", &ran, &moved(inside).udp());
            // Judged again, by an answer.
            dataplane.remove(&of_port);
            dataplane
                .from_workload("b", &moved(inside).back().udp())
                .expect_drop(DropReason::IngressPolicy);
            dataplane
                .from_workload("a", &second.udp())
                .expect_drop(DropReason::IngressPolicy);
        }
    }
}

#[test]
fn what_has_no_port_that_can_be_moved_is_dropped_while_the_first_flow_lives() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        for [first, second] in orders(&family, (family.a, 4000)) {
            let bare = |path: Path| Path::new((path.source.ip(), 0), (path.target.ip(), 0));
            let ports = [4000_u16.to_be_bytes(), 80_u16.to_be_bytes()].concat();
            let sctp = |path: Path| bare(path).protocol(132, &[&ports[..], &[0; 8]].concat());
            let ping = |path: Path| bare(path).echo_request(7);
            let packets: [[Packet; 2]; 2] = [[sctp(first), sctp(second)], [ping(first), ping(second)]];
            for [first, second] in packets {
                dataplane.from_workload("a", &first).expect_redirect_to("b");
                dataplane
                    .from_workload("a", &second)
                    .expect_drop(DropReason::NatClash);
                dataplane.from_workload("a", &first).expect_redirect_to("b");
            }
            dataplane.clear_flows();
        }
    }
}

/// Has a's other flows to b take every place of port 4000 but those from `left` on.
fn take_places(dataplane: &mut Dataplane, family: &Family, left: u8) {
    for place in 0..left {
        let other = at_place(family.a_to_b(4000, 80), place);
        dataplane.from_workload("a", &other.udp()).expect_redirect_to("b");
    }
}

#[test]
fn a_taken_place_is_passed_over_and_without_any_the_second_flow_is_dropped() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let inside = family.a_to_b(4000, 80);
        for [first, second] in orders(&family, (family.a, 4000)) {
            for left in 0..=PLACES {
                take_places(&mut dataplane, &family, left);
                dataplane.from_workload("a", &first.udp()).expect_redirect_to("b");
                let ran = dataplane.from_workload("a", &second.udp());
                if left < PLACES {
                    arrives(&mut dataplane, "b", &ran, &at_place(inside, left).udp());
                } else {
                    ran.expect_drop(DropReason::NatClash);
                }
                dataplane.clear_flows();
            }
        }
    }
}

#[test]
fn who_has_the_port_that_a_flow_was_moved_to_is_moved_as_well() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let inside = family.a_to_b(4000, 80);
        for [first, second] in orders(&family, (family.a, 4000)) {
            dataplane.from_workload("a", &first.udp());
            dataplane.from_workload("a", &second.udp());
            let own = moved(inside);
            for _ in 0..2 {
                let ran = dataplane.from_workload("a", &own.udp());
                arrives(&mut dataplane, "b", &ran, &at_place(own, 1).udp());
            }
            let ran = dataplane.from_workload("b", &at_place(own, 1).back().udp());
            arrives(&mut dataplane, "a", &ran, &own.back().udp());
            dataplane.clear_flows();
        }
    }
}
