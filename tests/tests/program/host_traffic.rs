//! To the host and from it.

use calico_ebpf_common::endpoint::SLOT_HOST;
use calico_ebpf_common::maps::settings;
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{allow_all_egress, allow_everything};
use calico_ebpf_tests::packets::{ETHERNET_BYTES, arp, path, udp};
use calico_ebpf_tests::programs::{Dataplane, Origin};

use crate::scene::{families, open, under, under_with};

const LINK_LOCAL: &str = "fe80::f816:3eff:fe00:1";
const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

#[test]
fn scenario_16_a_dhcp_client_reaches_the_host_whatever_policy_says() {
    let mut dataplane = under(&[]);
    let discover = udp("0.0.0.0:68 -> 255.255.255.255:67").to_mac([0xff; 6]);
    for packet in [
        discover.clone(),
        udp("10.0.0.1:68 -> 255.255.255.255:67"),
        udp("10.0.0.1:68 -> 192.0.2.1:67"),
    ] {
        dataplane
            .from_workload("a", &packet)
            .expect_pass(PassReason::Dhcp);
    }
    dataplane
        .from_workload("a", &discover.from_mac(OTHER_MAC))
        .expect_drop(DropReason::SourceMac);
    dataplane
        .from_workload("a", &udp("10.0.0.2:68 -> 255.255.255.255:67"))
        .expect_drop(DropReason::SourceAddress);
    for (target, reason) in [
        ("10.0.0.2", DropReason::DhcpServer),
        ("192.0.2.9", DropReason::EgressPolicy),
    ] {
        dataplane
            .from_workload("a", &udp(&format!("10.0.0.1:68 -> {target}:67")))
            .expect_drop(reason);
    }
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn scenario_16_without_openstack_dhcp_is_like_any_other_packet() {
    let mut dataplane = under_with(&[(settings::OPENSTACK, 0)], &[allow_everything()]);
    dataplane
        .from_workload("a", &udp("0.0.0.0:68 -> 255.255.255.255:67"))
        .expect_drop(DropReason::SourceAddress);
    dataplane
        .from_workload("a", &udp("10.0.0.1:68 -> 255.255.255.255:67"))
        .expect_drop(DropReason::Multicast);
}

#[test]
fn scenario_17_a_dhcp_server_among_the_workloads_is_dropped() {
    let mut dataplane = open();
    for target in ["255.255.255.255", "10.0.0.2", "192.0.2.9", "192.0.2.1"] {
        dataplane
            .from_workload("a", &udp(&format!("10.0.0.1:67 -> {target}:68")))
            .expect_drop(DropReason::DhcpServer);
    }
    // Nor is anybody asked who is not the host: the answer would go by the flow.
    for text in ["10.0.0.2:68 -> 10.0.0.1:67", "[fd00::2]:546 -> [fd00::1]:547"] {
        dataplane
            .from_workload("b", &udp(text))
            .expect_drop(DropReason::DhcpServer);
    }
    for text in [
        "192.0.2.9:68 -> 10.0.0.1:67",
        "[2001:db8::9]:546 -> [fd00::1]:547",
    ] {
        dataplane
            .to_workload("a", &udp(text), Origin::Remote)
            .expect_drop(DropReason::DhcpServer);
    }
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn scenario_18_a_dhcpv6_client_reaches_the_host_and_a_server_is_dropped() {
    let mut dataplane = under(&[]);
    for text in [
        format!("[{LINK_LOCAL}]:546 -> [ff02::1:2]:547"),
        format!("[{LINK_LOCAL}]:546 -> [fe80::1]:547"),
        "[fd00::1]:546 -> [2001:db8::1]:547".to_owned(),
    ] {
        dataplane
            .from_workload("a", &udp(&text))
            .expect_pass(PassReason::Dhcp);
        dataplane
            .from_workload("a", &udp(&text).from_mac(OTHER_MAC))
            .expect_drop(DropReason::SourceMac);
    }
    dataplane
        .from_workload("a", &udp("[fd00::2]:546 -> [ff02::1:2]:547"))
        .expect_drop(DropReason::SourceAddress);
    for target in ["ff02::1:2", "fd00::2", "fe80::1"] {
        dataplane
            .from_workload("a", &udp(&format!("[{LINK_LOCAL}]:547 -> [{target}]:546")))
            .expect_drop(DropReason::DhcpServer);
    }
}

#[test]
fn scenario_19_dns_to_the_host_passes_whatever_policy_says() {
    let mut dataplane = under_with(&[(settings::ENDPOINT_TO_HOST_ACCEPT, 0)], &[]);
    for family in families() {
        let ask = family.a_to_host(4000, 53);
        for _ in 0..2 {
            dataplane
                .from_workload("a", &ask.udp())
                .expect_pass(PassReason::Host);
            dataplane
                .to_workload("a", &ask.back().udp(), Origin::Host)
                .expect_pass(PassReason::FromHost);
        }
        for packet in [
            ask.tcp("S"),
            family.a_to_far(4000, 53).udp(),
            family.a_to_host(4000, 54).udp(),
        ] {
            dataplane
                .from_workload("a", &packet)
                .expect_drop(DropReason::EgressPolicy);
        }
    }
    let mut plain = under_with(&[(settings::OPENSTACK, 0)], &[]);
    for family in families() {
        plain
            .from_workload("a", &family.a_to_host(4000, 53).udp())
            .expect_drop(DropReason::EgressPolicy);
    }
}

#[test]
fn scenario_52_what_the_host_says_reaches_the_workload_and_its_answer_comes_back() {
    let mut dataplane = under_with(&[(settings::ENDPOINT_TO_HOST_ACCEPT, 0)], &[]);
    for family in families() {
        let there = family.a_to_host(22, 4000).back();
        for _ in 0..2 {
            for flags in ["S", "A"] {
                dataplane
                    .to_workload("a", &there.tcp(flags), Origin::Host)
                    .expect_pass(PassReason::FromHost);
                let answer = if flags == "S" { "SA" } else { "A" };
                dataplane
                    .from_workload("a", &there.back().tcp(answer))
                    .expect_pass(PassReason::Host);
            }
            // A new version of policy does not break it.
            dataplane.put(&allow_all_egress());
        }
        let flow = dataplane.flow(&there, protocol::TCP).expect("a flow");
        assert_eq!(flow.slot[0], SLOT_HOST);
        // The workload may not open a connection of its own that way.
        dataplane.remove(&allow_all_egress());
        dataplane
            .from_workload("a", &there.back().tcp("S"))
            .expect_drop(DropReason::EgressPolicy);
        dataplane
            .to_workload("a", &there.tcp("A"), Origin::Host)
            .expect_pass(PassReason::FromHost);
        dataplane
            .to_workload("a", &there.echo_request(7), Origin::Host)
            .expect_pass(PassReason::FromHost);
        dataplane
            .from_workload("a", &there.back().echo_reply(7))
            .expect_pass(PassReason::Host);
        assert!(!dataplane.from_workload("a", &there.back().echo_reply(8)).passed());
    }
}

#[test]
fn scenario_52_what_a_workload_says_to_the_host_follows_policy_and_then_the_setting() {
    let under_setting =
        |accept: u32, policies: &[_]| under_with(&[(settings::ENDPOINT_TO_HOST_ACCEPT, accept)], policies);
    let check = |mut dataplane: Dataplane, reason: Option<DropReason>| {
        for family in families() {
            let there = family.a_to_host(4000, 22);
            for packet in [there.tcp("S"), there.udp(), there.echo_request(1)] {
                for _ in 0..2 {
                    let ran = dataplane.from_workload("a", &packet);
                    match reason {
                        Some(reason) => ran.expect_drop(reason),
                        None => ran.expect_pass(PassReason::Host),
                    };
                }
            }
        }
        assert_eq!(dataplane.flow_count(), if reason.is_some() { 0 } else { 6 });
    };
    check(under_setting(0, &[]), Some(DropReason::EgressPolicy));
    check(
        under_setting(0, &[allow_everything()]),
        Some(DropReason::EndpointToHost),
    );
    check(under_setting(1, &[]), Some(DropReason::EgressPolicy));
    check(under_setting(1, &[allow_everything()]), None);
}

#[test]
fn the_hosts_arp_passes_but_not_an_answer_for_the_workloads_own_address() {
    let mut dataplane = under(&[]);
    let tap = dataplane.named("a").tap_mac;
    let say = |operation, sender: &str| {
        let wanted = "10.0.0.1".parse().expect("an address");
        arp(operation, tap, sender.parse().expect("an address"), wanted).to_mac([0; 6])
    };
    for packet in [
        say(1, "192.0.2.1"),
        say(2, "10.0.0.254"),
        say(2, "10.0.0.2"),
        say(1, "10.0.0.1"),
    ] {
        dataplane
            .to_workload("a", &packet, Origin::Host)
            .expect_pass(PassReason::FromHost);
    }
    dataplane
        .to_workload("a", &say(2, "10.0.0.1"), Origin::Host)
        .expect_drop(DropReason::ProxyArpOwnAddress);
    dataplane
        .to_workload("a", &say(2, "10.0.0.254"), Origin::Remote)
        .expect_drop(DropReason::ArpSender);
}

#[test]
fn what_the_host_sends_and_cannot_be_tracked_passes_untracked() {
    let mut dataplane = under(&[]);
    let whole = udp("192.0.2.1:1 -> 10.0.0.1:2");
    let fragment = whole
        .clone()
        .with(ETHERNET_BYTES + 6, &[0x20, 0])
        .with_header_checksum();
    let unreachable = path("192.0.2.1 -> 10.0.0.1").error_about(&whole, [3, 1], 28);
    for packet in [fragment, whole.with(12, &[0x88, 0xcc]), unreachable] {
        dataplane
            .to_workload("a", &packet, Origin::Host)
            .expect_pass(PassReason::FromHost);
    }
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn vxlan_and_ipip_of_workloads_are_refused_unless_switched_on() {
    const IPIP: u8 = protocol::IPIP;
    let packets = || {
        families().into_iter().flat_map(|family| {
            [family.a_to_b(4000, 4789), family.a_to_far(4000, 4789)]
                .into_iter()
                .flat_map(|path| [path.udp(), path.protocol(IPIP, &[0x45; 40])])
        })
    };
    let mut dataplane = open();
    for packet in packets() {
        dataplane
            .from_workload("a", &packet)
            .expect_drop(DropReason::Encapsulation);
    }
    assert_eq!(dataplane.flow_count(), 0);
    // TCP to that port, and VXLAN from outside, are like any other packet.
    for family in families() {
        dataplane
            .from_workload("a", &family.a_to_far(4000, 4789).tcp("S"))
            .expect_pass(PassReason::Remote);
        dataplane
            .to_workload("a", &family.far_to_a(4000, 4789).udp(), Origin::Remote)
            .expect_pass(PassReason::FromRemote);
    }
    let both = [(settings::ALLOW_VXLAN, 1), (settings::ALLOW_IPIP, 1)];
    let mut dataplane = under_with(&both, &[allow_everything()]);
    for packet in packets() {
        assert!(dataplane.from_workload("a", &packet).passed());
    }
    let mut dataplane = under_with(&both, &[]);
    for packet in packets() {
        dataplane
            .from_workload("a", &packet)
            .expect_drop(DropReason::EgressPolicy);
    }
}
