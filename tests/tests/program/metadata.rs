//! The metadata service and what else is always allowed to the host (contract 3.4, 3.5).

use calico_ebpf_common::maps::settings;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{Object, allow_everything};
use calico_ebpf_tests::packets::{Packet, Path, path, tcp, udp};
use calico_ebpf_tests::programs::{Dataplane, Origin};

use crate::scene::{families, under_with};

const LOOPBACK: u32 = 0x7f00_0001;
/// 192.0.2.1, the host.
const HOST: u32 = 0xc000_0201;
/// 192.0.2.9, another host.
const FAR: u32 = 0xc000_0209;

fn with_metadata(address: u32, policies: &[Object]) -> Dataplane {
    under_with(
        &[
            (settings::METADATA_ADDRESS, address),
            (settings::METADATA_PORT, 8775),
            (settings::ENDPOINT_TO_HOST_ACCEPT, 0),
        ],
        policies,
    )
}

#[test]
fn scenario_20_metadata_is_reached_while_everything_is_denied_and_answers_as_itself() {
    for (address, service, origin) in [
        (LOOPBACK, "127.0.0.1", Origin::Host),
        (HOST, "192.0.2.1", Origin::Host),
        (FAR, "192.0.2.9", Origin::Remote),
    ] {
        let mut dataplane = with_metadata(address, &[]);
        let asked = path("10.0.0.1:4000 -> 169.254.169.254:80");
        let served = path(&format!("10.0.0.1:4000 -> {service}:8775"));
        for (flags, answer) in [("S", "SA"), ("A", "A"), ("FA", "FA"), ("A", "A")] {
            dataplane
                .from_workload("a", &asked.tcp(flags))
                .expect_pass_as(PassReason::Metadata, &served.tcp(flags));
            dataplane
                .to_workload("a", &served.back().tcp(answer), origin)
                .expect_pass_as(PassReason::Metadata, &asked.back().tcp(answer));
        }
        assert_eq!(dataplane.flow_count(), 1);
        // The same port again, after it is closed.
        dataplane
            .from_workload("a", &asked.tcp("S"))
            .expect_pass_as(PassReason::Metadata, &served.tcp("S"));
    }
}

#[test]
fn contract_3_4_2_the_metadata_service_itself_is_always_allowed_by_tcp() {
    let mut dataplane = with_metadata(HOST, &[]);
    let direct = path("10.0.0.1:4000 -> 192.0.2.1:8775");
    dataplane
        .from_workload("a", &direct.tcp("S"))
        .expect_pass(PassReason::Host);
    dataplane
        .from_workload("a", &direct.udp())
        .expect_drop(DropReason::EgressPolicy);
    dataplane
        .from_workload("a", &tcp("10.0.0.1:4000 -> 192.0.2.1:8776", "S"))
        .expect_drop(DropReason::EgressPolicy);
}

#[test]
fn contract_3_5_other_ports_and_protocols_are_not_metadata() {
    for policies in [vec![], vec![allow_everything()]] {
        let mut dataplane = with_metadata(LOOPBACK, &policies);
        for packet in [
            tcp("10.0.0.1:4000 -> 169.254.169.254:8775", "S"),
            tcp("10.0.0.1:4000 -> 169.254.169.253:80", "S"),
            udp("10.0.0.1:4000 -> 169.254.169.254:80"),
            path("10.0.0.1 -> 169.254.169.254").echo_request(7),
        ] {
            dataplane
                .from_workload("a", &packet)
                .expect_drop(DropReason::Martian);
        }
    }
}

#[test]
fn contract_3_5_loopback_services_stay_closed_beside_metadata() {
    let mut dataplane = with_metadata(LOOPBACK, &[allow_everything()]);
    dataplane.from_workload("a", &tcp("10.0.0.1:4000 -> 169.254.169.254:80", "S"));
    for port in [8775, 22] {
        for source in [4000, 4001] {
            let direct = path(&format!("10.0.0.1:{source} -> 127.0.0.1:{port}"));
            for packet in [direct.tcp("S"), direct.tcp("A"), direct.udp()] {
                let ran = dataplane.from_workload("a", &packet);
                assert!(!ran.passed(), "{packet:?}");
            }
        }
        dataplane
            .from_workload("a", &tcp(&format!("10.0.0.1:4009 -> 127.0.0.1:{port}"), "S"))
            .expect_drop(DropReason::Martian);
    }
}

#[test]
fn without_a_metadata_service_its_address_is_nobodys() {
    let mut dataplane = under_with(&[], &[allow_everything()]);
    dataplane
        .from_workload("a", &tcp("10.0.0.1:4000 -> 169.254.169.254:80", "S"))
        .expect_drop(DropReason::Martian);
}

#[test]
fn metadata_takes_no_spoofed_source_and_no_stream_that_was_not_opened() {
    let mut dataplane = with_metadata(LOOPBACK, &[allow_everything()]);
    dataplane
        .from_workload("a", &tcp("10.0.0.2:4000 -> 169.254.169.254:80", "S"))
        .expect_drop(DropReason::SourceAddress);
    dataplane
        .from_workload(
            "a",
            &tcp("10.0.0.1:4000 -> 169.254.169.254:80", "S").from_mac([2, 0, 0, 0, 0, 9]),
        )
        .expect_drop(DropReason::SourceMac);
    dataplane
        .from_workload("a", &tcp("10.0.0.1:4000 -> 169.254.169.254:80", "A"))
        .expect_drop(DropReason::NoFlow);
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn what_the_metadata_service_sends_unasked_is_not_translated() {
    let mut dataplane = with_metadata(FAR, &[allow_everything()]);
    dataplane
        .to_workload("a", &tcp("192.0.2.9:8775 -> 10.0.0.1:4000", "SA"), Origin::Remote)
        .expect_drop(DropReason::NoFlow);
    dataplane
        .to_workload("a", &tcp("192.0.2.9:8775 -> 10.0.0.1:4000", "S"), Origin::Remote)
        .expect_pass(PassReason::FromRemote);
}

#[test]
fn contract_3_4_4_dns_is_allowed_before_policy_and_action_and_only_to_the_host() {
    let mut dataplane = with_metadata(LOOPBACK, &[]);
    for family in families() {
        dataplane
            .from_workload("a", &family.a_to_host(4000, 53).udp())
            .expect_pass(PassReason::Host);
        for elsewhere in [family.a_to_far(4000, 53), family.a_to_b(4000, 53)] {
            dataplane
                .from_workload("a", &elsewhere.udp())
                .expect_drop(DropReason::EgressPolicy);
        }
    }
}

#[test]
fn contract_3_4_6_the_action_applies_to_what_policy_accepts() {
    for family in families() {
        let to_host = family.a_to_host(4000, 22);
        let mut denied = with_metadata(LOOPBACK, &[]);
        denied
            .from_workload("a", &to_host.tcp("S"))
            .expect_drop(DropReason::EgressPolicy);
        let mut allowed = with_metadata(LOOPBACK, &[allow_everything()]);
        allowed
            .from_workload("a", &to_host.tcp("S"))
            .expect_drop(DropReason::EndpointToHost);
    }
}

#[test]
fn contract_3_4_encapsulation_is_dropped_before_policy_unless_allowed() {
    for family in families() {
        for target in [family.b, family.far, family.host] {
            let vxlan = Path::new((family.a, 4000), (target, 4789)).udp();
            let ipip = Path::new((family.a, 0), (target, 0)).protocol(4, &[0; 20]);
            let mut dataplane = with_metadata(LOOPBACK, &[allow_everything()]);
            for packet in [&vxlan, &ipip] {
                dataplane
                    .from_workload("a", packet)
                    .expect_drop(DropReason::Encapsulation);
            }
            let allow = [(settings::ALLOW_VXLAN, 1), (settings::ALLOW_IPIP, 1)];
            let mut dataplane = under_with(&allow, &[allow_everything()]);
            for packet in [&vxlan, &ipip] {
                assert!(dataplane.from_workload("a", packet).passed());
            }
            let mut dataplane = under_with(&allow, &[]);
            for packet in [&vxlan, &ipip] {
                dataplane
                    .from_workload("a", packet)
                    .expect_drop(DropReason::EgressPolicy);
            }
        }
    }
}

/// An error that quotes the first 28 bytes of `offender`.
fn error(ends: &str, offender: &Packet, kind: [u8; 2]) -> Packet {
    path(ends).error_about(offender, kind, 28)
}

#[test]
fn errors_about_metadata_packets_name_what_each_side_knows() {
    for (address, service, origin) in [
        (HOST, "192.0.2.1", Origin::Host),
        (FAR, "192.0.2.9", Origin::Remote),
    ] {
        let mut dataplane = with_metadata(address, &[]);
        let asked = path("10.0.0.1:4000 -> 169.254.169.254:80");
        let served = path(&format!("10.0.0.1:4000 -> {service}:8775"));
        for kind in [[3, 4], [3, 1], [11, 0]] {
            let of_router = error("192.0.2.77 -> 10.0.0.1", &served.tcp("A"), kind);
            let of_service = error(&format!("{service} -> 10.0.0.1"), &served.tcp("A"), kind);
            let of_workload = error("10.0.0.1 -> 169.254.169.254", &asked.back().tcp("A"), kind);
            dataplane
                .to_workload("a", &of_router, Origin::Remote)
                .expect_drop(DropReason::IcmpUnrelated);
            dataplane
                .from_workload("a", &of_workload)
                .expect_drop(DropReason::IcmpUnrelated);
            dataplane.from_workload("a", &asked.tcp("S"));
            for (sent, heard) in [
                (of_router, error("192.0.2.77 -> 10.0.0.1", &asked.tcp("A"), kind)),
                (
                    of_service,
                    error("169.254.169.254 -> 10.0.0.1", &asked.tcp("A"), kind),
                ),
            ] {
                for origin in [origin, Origin::Remote, Origin::Host] {
                    dataplane
                        .to_workload("a", &sent, origin)
                        .expect_pass_as(PassReason::Metadata, &heard);
                }
            }
            dataplane.from_workload("a", &of_workload).expect_pass_as(
                PassReason::Metadata,
                &error(&format!("10.0.0.1 -> {service}"), &served.back().tcp("A"), kind),
            );
            dataplane.clear_flows();
        }
    }
}

#[test]
fn metadata_and_its_service_from_one_port_are_never_mixed_up() {
    let asked = path("10.0.0.1:4000 -> 169.254.169.254:80");
    let direct = path("10.0.0.1:4000 -> 192.0.2.1:8775");
    let mut dataplane = with_metadata(HOST, &[]);
    for flags in ["S", "A"] {
        dataplane
            .from_workload("a", &asked.tcp(flags))
            .expect_pass_as(PassReason::Metadata, &direct.tcp(flags));
        dataplane
            .from_workload("a", &direct.tcp(flags))
            .expect_drop(DropReason::NatClash);
    }
}

#[test]
fn what_the_host_says_and_nobody_understands_passes_beside_metadata() {
    let mut dataplane = with_metadata(LOOPBACK, &[]);
    let fragment = udp("10.0.0.1:4000 -> 192.0.2.1:53").with(20, &[0, 9]);
    let cut = path("192.0.2.1 -> 10.0.0.1").error_about(&fragment, [3, 1], 28);
    dataplane
        .to_workload("a", &cut, Origin::Host)
        .expect_pass(PassReason::FromHost);
}
