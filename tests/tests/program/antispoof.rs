//! What a workload may claim to be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{allow_everything, global_network_policy};
use calico_ebpf_tests::packets::{ETHERNET_BYTES, Path, arp, link_layer_option, neighbor, path, tcp, udp};
use calico_ebpf_tests::programs::{Dataplane, Origin};
use serde_json::json;

use crate::scene::{families, open, under};

/// A MAC that VRRP answers from (RFC 9568 section 7.3), and a group's.
const VRRP_MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 7];
const GROUP_MAC: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 1];

const REQUEST: u8 = 1;
const REPLY: u8 = 2;

fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// Workload a with two more addresses, of which any MAC may use the second.
fn with_pair(mut dataplane: Dataplane) -> Dataplane {
    dataplane.workload_with(
        "a",
        &["10.0.0.1/32", "fd00::1/128", "10.0.0.100/32", "fd00::100/128"],
        |object| object.with("allowedIps", json!(["10.0.0.100", "fd00::100"])),
    );
    dataplane
}

#[test]
fn scenario_08_arp_of_the_ports_own_address_reaches_the_host() {
    let mut dataplane = under(&[]);
    let mac = dataplane.named("a").mac;
    for (operation, sender) in [(REQUEST, "10.0.0.1"), (REPLY, "10.0.0.1"), (REQUEST, "0.0.0.0")] {
        dataplane
            .from_workload("a", &arp(operation, mac, v4(sender), v4("10.0.0.254")))
            .expect_pass(PassReason::Neighbor);
    }
}

#[test]
fn scenario_09_arp_with_a_sender_that_is_not_the_port_is_dropped() {
    let mut dataplane = with_pair(under(&[]));
    let (mac, other) = (dataplane.named("a").mac, dataplane.named("b").mac);
    let ask = |mac, sender: &str| arp(REQUEST, mac, v4(sender), v4("10.0.0.254"));
    // The sender's MAC in the ARP header alone is another's.
    let lies = ask(mac, "10.0.0.1").with(ETHERNET_BYTES + 8, &other);
    let of_pair_lies = ask(VRRP_MAC, "10.0.0.100").with(ETHERNET_BYTES + 8, &other);
    for packet in [ask(mac, "10.0.0.2"), ask(mac, "192.0.2.9"), lies, of_pair_lies] {
        dataplane
            .from_workload("a", &packet)
            .expect_drop(DropReason::ArpSender);
    }
    for packet in [
        ask(other, "10.0.0.1"),
        ask(other, "0.0.0.0"),
        ask(GROUP_MAC, "10.0.0.100"),
    ] {
        dataplane
            .from_workload("a", &packet)
            .expect_drop(DropReason::SourceMac);
    }
    let token_ring = ask(mac, "10.0.0.1").with(ETHERNET_BYTES, &[0, 6]);
    dataplane
        .from_workload("a", &token_ring)
        .expect_drop(DropReason::Malformed);
    dataplane
        .from_workload("a", &ask(mac, "10.0.0.1").cut(ETHERNET_BYTES + 27))
        .expect_drop(DropReason::TooShort);
}

#[test]
fn scenario_10_a_fixed_address_comes_from_the_ports_own_mac_only() {
    let mut dataplane = open();
    for family in families() {
        let packet = family.a_to_b(1, 2).udp();
        for mac in [VRRP_MAC, GROUP_MAC, dataplane.named("b").mac] {
            dataplane
                .from_workload("a", &packet.clone().from_mac(mac))
                .expect_drop(DropReason::SourceMac);
        }
        assert_eq!(dataplane.flow_count(), 0);
        dataplane.from_workload("a", &packet).expect_redirect_to("b");
        let flow = dataplane.flow(&family.a_to_b(1, 2), protocol::UDP);
        // The flow is no excuse.
        dataplane
            .from_workload("a", &packet.from_mac(VRRP_MAC))
            .expect_drop(DropReason::SourceMac);
        assert_eq!(dataplane.flow(&family.a_to_b(1, 2), protocol::UDP), flow);
        dataplane.clear_flows();
    }
}

#[test]
fn scenario_10_an_address_of_allowed_ips_comes_from_any_unicast_mac() {
    let mut dataplane = with_pair(open());
    for (pair, b) in [("10.0.0.100", "10.0.0.2"), ("fd00::100", "fd00::2")] {
        let there = Path::new(
            (pair.parse().expect("an address"), 1),
            (b.parse().expect("one"), 2),
        );
        // The second packet takes the flow.
        for mac in [VRRP_MAC, VRRP_MAC, [0; 6]] {
            dataplane
                .from_workload("a", &there.udp().from_mac(mac))
                .expect_redirect_to("b");
        }
        dataplane
            .from_workload("a", &there.udp().from_mac(GROUP_MAC))
            .expect_drop(DropReason::SourceMac);
        // As the one that answers.
        let asked = Path::new(
            (b.parse().expect("an address"), 3),
            (pair.parse().expect("one"), 4),
        );
        dataplane.from_workload("b", &asked.udp()).expect_redirect_to("a");
        for _ in 0..2 {
            dataplane
                .from_workload("a", &asked.back().udp().from_mac(VRRP_MAC))
                .expect_redirect_to("b");
        }
        dataplane
            .from_workload("b", &asked.udp().from_mac(VRRP_MAC))
            .expect_drop(DropReason::SourceMac);
    }
    dataplane
        .from_workload("a", &arp(REQUEST, VRRP_MAC, v4("10.0.0.100"), v4("10.0.0.254")))
        .expect_pass(PassReason::Neighbor);
    let option = link_layer_option(2, VRRP_MAC);
    let advertisement = neighbor(136, v6("fd00::100"), v6("ff02::1"), v6("fd00::100"), &option);
    dataplane
        .from_workload("a", &advertisement.from_mac(VRRP_MAC))
        .expect_pass(PassReason::Neighbor);
}

#[test]
fn scenario_11_gratuitous_arp_of_the_own_address_reaches_the_host() {
    let mut dataplane = under(&[]);
    let mac = dataplane.named("a").mac;
    for operation in [REQUEST, REPLY] {
        dataplane
            .from_workload("a", &arp(operation, mac, v4("10.0.0.1"), v4("10.0.0.1")))
            .expect_pass(PassReason::Neighbor);
    }
}

#[test]
fn scenario_24_the_ports_own_addresses_are_allowed_and_all_others_leave_no_flow() {
    let mut dataplane = with_pair(open());
    dataplane.workload_with("c", &["10.0.0.3/32", "fd00::3/128"], |object| {
        object.with(
            "ipNATs",
            json!([{"internalIP": "10.0.0.3", "externalIP": "198.51.100.3"}]),
        )
    });
    for (name, text) in [
        ("a", "10.0.0.1:1 -> 192.0.2.9:2"),
        ("a", "10.0.0.100:1 -> 192.0.2.9:2"),
        ("a", "[fd00::1]:1 -> [2001:db8::9]:2"),
        ("a", "[fd00::100]:1 -> [2001:db8::9]:2"),
        ("c", "198.51.100.3:1 -> 192.0.2.9:2"),
    ] {
        dataplane
            .from_workload(name, &udp(text))
            .expect_pass(PassReason::Remote);
    }
    dataplane
        .from_workload("a", &udp("[fe80::f816:3eff:fe00:1]:1 -> [fe80::1]:2"))
        .expect_pass(PassReason::Host);
    dataplane.clear_flows();
    for text in [
        "10.0.0.2:1 -> 192.0.2.9:2",
        "10.0.0.101:1 -> 192.0.2.9:2",
        "0.0.0.0:1 -> 192.0.2.9:2",
        "127.0.0.1:1 -> 10.0.0.2:2",
        "192.0.2.1:1 -> 10.0.0.2:2",
        "198.51.100.3:1 -> 10.0.0.2:2",
        "[fd00::2]:1 -> [2001:db8::9]:2",
        "[::]:1 -> [2001:db8::9]:2",
        "[::1]:1 -> [fd00::2]:2",
        "[fe80:0:0:1::1]:1 -> [fd00::2]:2",
        "[ff02::1]:1 -> [fd00::2]:2",
    ] {
        for packet in [udp(text), tcp(text, "S"), path(text).echo_request(1)] {
            dataplane
                .from_workload("a", &packet)
                .expect_drop(DropReason::SourceAddress);
        }
    }
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn scenario_24_without_port_security_any_routable_source_is_allowed() {
    let mut dataplane = open();
    dataplane.allow_source_spoofing();
    dataplane.workload_with("a", &["10.0.0.1/32", "fd00::1/128"], |object| {
        object.with("allowSpoofedSourcePrefixes", json!(["0.0.0.0/0", "::/0"]))
    });
    for text in [
        "203.0.113.5:1 -> 192.0.2.9:2",
        "[2001:db8:5::1]:1 -> [2001:db8::9]:2",
    ] {
        for mac in [[0; 6], VRRP_MAC] {
            dataplane
                .from_workload("a", &udp(text).from_mac(mac))
                .expect_pass(PassReason::Remote);
        }
    }
}

#[test]
fn scenario_25_a_prefix_of_a_pair_is_a_source_until_it_is_removed() {
    let mut dataplane = open();
    let own = ["10.0.0.1/32", "fd00::1/128"];
    let pair = ["10.99.0.0/24", "fd99::/64"];
    let inside = [
        "10.99.0.0:1 -> 10.0.0.2:2",
        "10.99.0.255:1 -> 10.0.0.2:2",
        "[fd99::]:1 -> [fd00::2]:2",
        "[fd99::ffff:ffff:ffff:ffff]:1 -> [fd00::2]:2",
    ];
    let outside = [
        "10.98.255.255:1 -> 10.0.0.2:2",
        "10.99.1.0:1 -> 10.0.0.2:2",
        "[fd99:0:0:1::]:1 -> [fd00::2]:2",
    ];
    for _ in 0..2 {
        for text in inside.iter().chain(&outside) {
            dataplane
                .from_workload("a", &udp(text))
                .expect_drop(DropReason::SourceAddress);
        }
        dataplane.workload("a", &[own, pair].concat());
        for text in inside {
            dataplane.from_workload("a", &udp(text)).expect_redirect_to("b");
        }
        for text in outside {
            dataplane
                .from_workload("a", &udp(text))
                .expect_drop(DropReason::SourceAddress);
        }
        // Flows that are open are no excuse.
        dataplane.workload("a", &own);
    }
}

#[test]
fn scenario_26_a_flow_under_a_shared_address_is_its_senders_alone() {
    let silent = global_network_policy("silent", "name == 'b'")
        .with("order", 1)
        .egress(json!({"action": "Deny"}));
    let mut dataplane = under(&[allow_everything(), silent]);
    dataplane.workload("a", &["10.0.0.1/32", "fd00::1/128", "10.0.0.0/24", "fd00::/64"]);
    for family in families() {
        let as_b = Path::new((family.b, 1), (family.far, 2));
        dataplane
            .from_workload("a", &as_b.udp())
            .expect_pass(PassReason::Remote);
        let slots = dataplane.assignments().slots.clone();
        let of_a = slots
            .iter()
            .find(|(key, _)| key.name.ends_with("porta"))
            .expect("a");
        let flow = dataplane.flow(&as_b, protocol::UDP).expect("a flow");
        assert_eq!(flow.slot, [*of_a.1, 0]);
        dataplane
            .from_workload("b", &as_b.udp())
            .expect_drop(DropReason::EgressPolicy);
        dataplane
            .from_workload("a", &as_b.udp())
            .expect_pass(PassReason::Remote);
        // The answer comes to the owner of the address, and is no answer to what the owner sent.
        dataplane
            .to_workload("b", &as_b.back().udp(), Origin::Remote)
            .expect_drop(DropReason::EgressPolicy);
    }
}

#[test]
fn scenario_27_a_foreign_tuple_is_dropped_and_the_victims_flow_goes_on() {
    let mut dataplane = open();
    dataplane.workload("c", &["10.0.0.3/32", "fd00::3/128"]);
    for family in families() {
        for target in [family.b, family.far] {
            let there = Path::new((family.a, 4000), (target, 80));
            dataplane.from_workload("a", &there.tcp("S"));
            if target == family.b {
                dataplane.from_workload("b", &there.back().tcp("SA"));
            } else {
                dataplane.to_workload("a", &there.back().tcp("SA"), Origin::Remote);
            }
            dataplane.from_workload("a", &there.tcp("A"));
            let flow = dataplane.flow(&there, protocol::TCP).expect("a flow");
            for flags in ["A", "R", "FA", "S", "SA"] {
                for packet in [there.tcp(flags), there.back().tcp(flags)] {
                    dataplane
                        .from_workload("c", &packet)
                        .expect_drop(DropReason::SourceAddress);
                    let mac = dataplane.named("a").mac;
                    assert!(!dataplane.from_workload("c", &packet.from_mac(mac)).passed());
                }
            }
            assert_eq!(dataplane.flow(&there, protocol::TCP), Some(flow));
            assert!(dataplane.from_workload("a", &there.tcp("A")).passed());
        }
        dataplane.clear_flows();
    }
}

#[test]
fn an_address_of_the_other_family_never_matches_by_chance() {
    // 10.0.0.1 as the last bytes of an IPv6 address.
    let mut dataplane = open();
    let mapped: IpAddr = "::10.0.0.1".parse().expect("an address");
    let packet = Path::new((mapped, 1), ("fd00::2".parse().expect("one"), 2)).udp();
    dataplane
        .from_workload("a", &packet)
        .expect_drop(DropReason::SourceAddress);
}
