//! Frames, headers and what they must not be mistaken for.

use calico_ebpf_common::maps::settings;
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{allow_everything, allow_udp, network_policy};
use calico_ebpf_tests::packets::{ETHERNET_BYTES, Packet, path, tcp, udp};
use calico_ebpf_tests::programs::{Dataplane, Origin};
use serde_json::json;

use crate::scene::{families, open, under, under_with};

/// Sends each frame through both hooks and expects both to drop it.
#[track_caller]
fn expect_drops_at_both_hooks(dataplane: &mut Dataplane, packets: &[Packet], reason: DropReason) {
    for packet in packets {
        dataplane.from_workload("a", packet).expect_drop(reason);
        dataplane
            .to_workload("b", packet, Origin::Remote)
            .expect_drop(reason);
    }
    assert_eq!(dataplane.flow_count(), 0);
}

const V4: &str = "10.0.0.1:4000 -> 10.0.0.2:53";
const V6: &str = "[fd00::1]:4000 -> [fd00::2]:53";

#[test]
fn scenario_01_headers_that_contradict_themselves_are_dropped() {
    let mut dataplane = open();
    let packets = [
        udp(V4).with(ETHERNET_BYTES, &[0x44]),
        udp(V4).with(ETHERNET_BYTES, &[0x40]),
        udp(V4).with(ETHERNET_BYTES, &[0x65]),
        udp(V6).with(ETHERNET_BYTES, &[0x45]),
        // A header that states more words than the packet has bytes.
        udp(V4).with(ETHERNET_BYTES, &[0x4f]),
        tcp(V4, "S").with(ETHERNET_BYTES + 20 + 12, &[0x40]),
        tcp(V6, "S").with(ETHERNET_BYTES + 40 + 12, &[0x10]),
    ];
    expect_drops_at_both_hooks(&mut dataplane, &packets, DropReason::Malformed);
}

#[test]
fn scenario_02_frames_that_end_before_their_headers_do_are_dropped() {
    let mut dataplane = open();
    // The IP header is right about a length that no transport header fits into. A frame that ends inside its IP header
    // cannot be run: newer kernels refuse it. The host ring sends such frames.
    let mut cut = vec![
        udp(V4)
            .with(ETHERNET_BYTES + 2, &27_u16.to_be_bytes())
            .with_header_checksum(),
        udp(V6).with(ETHERNET_BYTES + 4, &7_u16.to_be_bytes()),
    ];
    cut.push(
        tcp(V4, "S")
            .with(ETHERNET_BYTES + 2, &39_u16.to_be_bytes())
            .with_header_checksum(),
    );
    cut.push(tcp(V6, "S").with(ETHERNET_BYTES + 4, &19_u16.to_be_bytes()));
    for number in [protocol::SCTP, protocol::DCCP] {
        cut.extend([path(V4), path(V6)].map(|path| path.protocol(number, &[0; 11])));
    }
    cut.extend([path(V4), path(V6)].map(|path| path.protocol(protocol::UDPLITE, &[0; 7])));
    cut.push(path(V4).protocol(protocol::ICMP, &[8, 0, 0, 0, 0, 1, 0]));
    cut.push(path(V6).protocol(protocol::ICMPV6, &[128, 0, 0, 0, 0, 1, 0]));
    expect_drops_at_both_hooks(&mut dataplane, &cut, DropReason::TooShort);
}

#[test]
fn scenario_03_lengths_beyond_the_frame_are_dropped() {
    let mut dataplane = open();
    let udp_length = |packet: Packet, length: u16| {
        let offset = packet.transport() + 4;
        packet.with(offset, &length.to_be_bytes())
    };
    let packets = [
        udp(V4).with(ETHERNET_BYTES + 2, &2000_u16.to_be_bytes()),
        udp(V4).with(ETHERNET_BYTES + 2, &19_u16.to_be_bytes()),
        udp(V6).with(ETHERNET_BYTES + 4, &2000_u16.to_be_bytes()),
        udp_length(udp(V4), 16),
        udp_length(udp(V4), 7),
        udp_length(udp(V4), 0),
        udp_length(udp(V6), 0xffff),
    ];
    expect_drops_at_both_hooks(&mut dataplane, &packets, DropReason::Malformed);
}

#[test]
fn scenario_03_bytes_behind_the_packet_are_let_through_as_padding() {
    let mut dataplane = open();
    for packet in [udp(V4), udp(V6)] {
        let end = packet.bytes().len();
        dataplane
            .from_workload("a", &packet.inserted(end, &[0; 20]))
            .expect_redirect_to("b");
    }
}

#[test]
fn scenario_04_ports_are_found_behind_forty_bytes_of_ipv4_options() {
    let rules = network_policy("dns", "all()")
        .ingress(allow_udp(53))
        .egress(allow_udp(53));
    let mut dataplane = under(&[rules]);
    // No-operation, RFC 791.
    dataplane
        .from_workload("a", &udp(V4).with_ipv4_options(&[1; 40]))
        .expect_redirect_to("b");
    dataplane.clear_flows();
    // Where ports would be without options stands 53.
    let decoy = [0, 53].repeat(20);
    let other_port = udp("10.0.0.1:4000 -> 10.0.0.2:54").with_ipv4_options(&decoy);
    dataplane
        .from_workload("a", &other_port)
        .expect_drop(DropReason::EgressPolicy);
    dataplane
        .to_workload("b", &other_port, Origin::Remote)
        .expect_drop(DropReason::IngressPolicy);
    dataplane
        .to_workload(
            "b",
            &udp("192.0.2.9:4000 -> 10.0.0.2:53").with_ipv4_options(&[1; 40]),
            Origin::Remote,
        )
        .expect_pass(PassReason::FromRemote);
}

#[test]
fn scenario_05_a_tcp_header_cut_in_its_options_is_dropped() {
    let mut dataplane = open();
    let packets = [tcp(V4, "S"), tcp(V6, "S")].map(|packet| {
        let offset = packet.transport() + 12;
        packet.with(offset, &[0x60])
    });
    expect_drops_at_both_hooks(&mut dataplane, &packets, DropReason::TooShort);
    let behind_options = tcp(V4, "S").with_ipv4_options(&[1; 4]);
    let end = behind_options.bytes().len();
    let cut = behind_options
        .cut(end - 1)
        .with(ETHERNET_BYTES + 2, &43_u16.to_be_bytes())
        .with_header_checksum();
    expect_drops_at_both_hooks(&mut dataplane, &[cut], DropReason::TooShort);
}

#[test]
fn scenario_06_other_ethertypes_are_dropped() {
    let mut dataplane = open();
    // LLDP, MPLS, PPPoE, and a length instead of a type (IEEE 802.3).
    let packets = [[0x88, 0xcc], [0x88, 0x47], [0x88, 0x64], [0x00, 0x40]]
        .map(|ethertype| udp(V4).with(12, &ethertype));
    expect_drops_at_both_hooks(&mut dataplane, &packets, DropReason::UnknownEthertype);
}

#[test]
fn scenario_07_a_tag_in_the_data_is_dropped_and_never_parsed_as_untagged() {
    let mut dataplane = open();
    let tag = |packet: Packet, kind: [u8; 2]| packet.inserted(12, &[kind[0], kind[1], 0, 100]);
    let mut packets = Vec::new();
    for packet in [udp(V4), udp(V6)] {
        for kind in [[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]] {
            packets.push(tag(packet.clone(), kind));
            packets.push(tag(tag(packet.clone(), [0x81, 0x00]), kind));
        }
    }
    expect_drops_at_both_hooks(&mut dataplane, &packets, DropReason::Vlan);
}

#[test]
fn scenario_12_ipv6_of_a_workload_is_dropped_when_it_is_switched_off() {
    let mut dataplane = under_with(&[(settings::IPV6, 0)], &[allow_everything()]);
    dataplane
        .from_workload("a", &udp(V6))
        .expect_drop(DropReason::Ipv6Disabled);
    dataplane.from_workload("a", &udp(V4)).expect_redirect_to("b");
}

/// Hop-by-hop options or destination options: only padding (RFC 8200 section 4.2), `words` times eight bytes.
fn options(kind: u8, words: u8) -> (u8, Vec<u8>) {
    let mut header = vec![0; usize::from(words) * 8];
    header[1] = words - 1;
    header[2] = 1;
    header[3] = words * 8 - 4;
    (kind, header)
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

#[test]
fn scenario_13_udp_is_found_behind_hop_by_hop_and_destination_options() {
    let rules = network_policy("dns", "all()")
        .ingress(allow_udp(53))
        .egress(allow_udp(53));
    let mut dataplane = under(&[rules]);
    let behind = |text: &str| path(text).udp_behind(&[options(HOP_BY_HOP, 1), options(DESTINATION, 3)]);
    dataplane.from_workload("a", &behind(V6)).expect_redirect_to("b");
    dataplane
        .from_workload("a", &behind("[fd00::1]:4000 -> [fd00::2]:54"))
        .expect_drop(DropReason::EgressPolicy);
    dataplane
        .to_workload("b", &behind("[2001:db8::9]:4000 -> [fd00::2]:53"), Origin::Remote)
        .expect_pass(PassReason::FromRemote);
    assert!(dataplane.flow(&path(V6), protocol::UDP).is_some());
}

#[test]
fn scenario_13_open_routing_headers_and_misplaced_options_are_dropped() {
    let mut dataplane = open();
    // Segments left: 1.
    let routed = path(V6).udp_behind(&[(ROUTING, vec![0, 0, 4, 1, 0, 0, 0, 0])]);
    expect_drops_at_both_hooks(&mut dataplane, &[routed], DropReason::ExtensionHeaders);
    // Hop-by-hop options not first (RFC 8200 section 4.1), and a header longer than the packet.
    let misplaced = path(V6).udp_behind(&[options(DESTINATION, 1), options(HOP_BY_HOP, 1)]);
    let long = path(V6).udp_behind(&[(DESTINATION, vec![0, 200, 1, 4, 0, 0, 0, 0])]);
    expect_drops_at_both_hooks(&mut dataplane, &[misplaced, long], DropReason::Malformed);
}

#[test]
fn scenario_14_an_authentication_header_is_a_protocol_and_not_walked() {
    const AH: u8 = 51;
    let ah_with_udp_inside = |text: &str| {
        let datagram = udp(text);
        path(text).behind(
            &[(AH, vec![0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1])],
            17,
            &datagram.bytes()[datagram.transport()..],
        )
    };
    let dns_only = network_policy("dns", "all()")
        .ingress(allow_udp(53))
        .egress(allow_udp(53));
    let mut dataplane = under(&[dns_only]);
    dataplane
        .from_workload("a", &ah_with_udp_inside(V6))
        .expect_drop(DropReason::EgressPolicy);
    let rule = json!({"action": "Allow", "protocol": AH});
    dataplane.put(&network_policy("ah", "all()").ingress(rule.clone()).egress(rule));
    dataplane
        .from_workload("a", &ah_with_udp_inside(V6))
        .expect_redirect_to("b");
    assert!(
        dataplane
            .flow(&path("fd00::1 -> fd00::2"), AH)
            .is_some_and(|flow| flow.state == 0)
    );
}

#[test]
fn scenario_14_eight_extension_headers_are_walked_and_nine_are_dropped() {
    let mut dataplane = open();
    let chain = |count: usize| path(V6).udp_behind(&vec![options(DESTINATION, 1); count]);
    dataplane.from_workload("a", &chain(8)).expect_redirect_to("b");
    dataplane.clear_flows();
    expect_drops_at_both_hooks(&mut dataplane, &[chain(9)], DropReason::ExtensionHeaders);
}

#[test]
fn scenario_14_extension_headers_of_more_than_1024_bytes_are_dropped_however_few_they_are() {
    let mut dataplane = open();
    let header = |bytes: usize| {
        let mut header = vec![0; bytes];
        header[1] = u8::try_from(bytes / 8 - 1).expect("at most 2,048 bytes");
        (DESTINATION, header)
    };
    let chain = |sizes: &[usize]| path(V6).udp_behind(&sizes.iter().copied().map(header).collect::<Vec<_>>());
    for sizes in [&[1024][..], &[512, 512]] {
        dataplane
            .from_workload("a", &chain(sizes))
            .expect_redirect_to("b");
        dataplane.clear_flows();
    }
    for sizes in [&[1032][..], &[512, 520], &[2048]] {
        expect_drops_at_both_hooks(&mut dataplane, &[chain(sizes)], DropReason::ExtensionHeaders);
    }
}

#[test]
fn an_extension_header_behind_the_packet_is_not_read() {
    let mut dataplane = open();
    for segments_left in [0, 1] {
        // The packet ends with its own header; what looks like a routing header is padding.
        let packet = udp(V6)
            .with(ETHERNET_BYTES + 4, &[0, 0, ROUTING])
            .with(ETHERNET_BYTES + 40, &[17, 0, 0, segments_left]);
        expect_drops_at_both_hooks(&mut dataplane, &[packet], DropReason::Malformed);
    }
}

#[test]
fn scenario_15_an_unknown_protocol_whose_payload_looks_like_an_extension_header_is_judged_as_itself() {
    let tcp_only = json!({"action": "Allow", "protocol": "TCP"});
    let mut dataplane = under(&[network_policy("tcp", "all()")
        .ingress(tcp_only.clone())
        .egress(tcp_only)]);
    let syn = tcp(V6, "S");
    let mut payload = vec![0x06, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(&syn.bytes()[syn.transport()..]);
    let packet = path(V6).protocol(253, &payload);
    dataplane
        .from_workload("a", &packet)
        .expect_drop(DropReason::EgressPolicy);
    dataplane
        .to_workload("b", &packet, Origin::Remote)
        .expect_drop(DropReason::IngressPolicy);
    let rule = json!({"action": "Allow", "protocol": 253});
    dataplane.put(
        &network_policy("other", "all()")
            .ingress(rule.clone())
            .egress(rule),
    );
    dataplane.from_workload("a", &packet).expect_redirect_to("b");
    assert!(dataplane.flow(&path("fd00::1 -> fd00::2"), 253).is_some());
}

#[test]
fn martian_and_multicast_destinations_are_dropped() {
    let mut dataplane = open();
    let a = families().map(|family| family.a);
    for (reason, targets) in [
        (
            DropReason::Martian,
            &[
                "127.0.0.1",
                "127.255.255.255",
                "0.0.0.0",
                "0.1.2.3",
                "169.254.1.1",
                "240.0.0.1",
                "255.255.255.254",
                "::1",
                "::",
                "::10.0.0.2",
                "::ffff:10.0.0.2",
                "fe80::99",
                "fe80:1::1",
                "febf::1",
            ][..],
        ),
        (
            DropReason::Multicast,
            &[
                "224.0.0.1",
                "239.255.255.255",
                "255.255.255.255",
                "ff02::1",
                "ff0e::1",
            ][..],
        ),
    ] {
        for target in targets {
            let source = if target.contains(':') { a[1] } else { a[0] };
            for packet in [
                path(&format!("{source} -> {target}")).udp(),
                path(&format!("{source} -> {target}")).echo_request(7),
            ] {
                dataplane.from_workload("a", &packet).expect_drop(reason);
            }
        }
    }
    assert_eq!(dataplane.flow_count(), 0);
    // Link-local of the host itself.
    dataplane
        .from_workload("a", &udp("[fd00::1]:1 -> [fe80::1]:2"))
        .expect_pass(PassReason::Host);
}
