//! What a packet looks like when it goes on.

use calico_ebpf_common::maps::{DEFAULT_MARK, settings};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::allow_everything;
use calico_ebpf_tests::packets::{ETHERNET_BYTES, udp};
use calico_ebpf_tests::programs::Origin;

use crate::scene::{families, open, under_with};

#[test]
fn scenario_80_and_81_a_redirected_packet_has_new_macs_and_one_hop_less_and_is_else_the_same() {
    let mut dataplane = open();
    let b = dataplane.named("b");
    for family in families() {
        let there = family.a_to_b(4000, 80);
        for packet in [
            there.udp(),
            there.tcp("S"),
            there.tcp("A"),
            there.echo_request(7),
            there.udp().with_hop_limit(2),
            there.udp().with_hop_limit(255),
        ] {
            let limit = if packet.is_ipv4() { 8 } else { 7 };
            let limit = packet.bytes()[ETHERNET_BYTES + limit];
            // The second packet takes the flow.
            for _ in 0..2 {
                let ran = dataplane.from_workload("a", &packet);
                ran.expect_redirect_to("b");
                let expected = packet
                    .clone()
                    .with_hop_limit(limit - 1)
                    .to_mac(b.mac)
                    .from_mac(b.tap_mac);
                assert_eq!(ran.packet, expected.bytes());
                let arrived = dataplane.follow(&ran);
                arrived.expect_pass_by_mark();
                assert_eq!(arrived.packet, expected.bytes());
            }
        }
    }
}

#[test]
fn scenario_80_the_checksum_stays_right_when_it_wraps() {
    let mut dataplane = open();
    let packet = udp("10.0.0.1:1 -> 10.0.0.2:2");
    let b = dataplane.named("b");
    let mut tried = 0;
    for id in 0..=u16::MAX {
        let packet = packet
            .clone()
            .with(ETHERNET_BYTES + 4, &id.to_be_bytes())
            .with_header_checksum();
        let checksum = &packet.bytes()[ETHERNET_BYTES + 10..ETHERNET_BYTES + 12];
        let borders = [
            [0, 0],
            [0, 1],
            [0xfe, 0xfe],
            [0xfe, 0xff],
            [0xff, 0],
            [0xff, 1],
            [0xff, 0xfe],
        ];
        if !borders.iter().any(|border| border == checksum) && id % 4096 != 0 {
            continue;
        }
        tried += 1;
        let ran = dataplane.from_workload("a", &packet);
        let expected = packet.with_hop_limit(63).to_mac(b.mac).from_mac(b.tap_mac);
        assert_eq!(ran.packet, expected.bytes());
    }
    assert!(tried >= 16 + 6, "{tried}");
}

#[test]
fn scenario_80_a_packet_without_hops_goes_to_the_host_as_it_is() {
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_b(4000, 80);
        for limit in [0, 1] {
            for _ in 0..2 {
                dataplane
                    .from_workload("a", &there.udp().with_hop_limit(limit))
                    .expect_pass(PassReason::TtlExceeded);
            }
        }
        // What the host forwards by itself, it answers by itself.
        dataplane
            .from_workload("a", &family.a_to_far(4000, 80).udp().with_hop_limit(1))
            .expect_pass(PassReason::Remote);
    }
}

#[test]
fn scenario_78_a_packet_longer_than_the_targets_tap_takes_goes_to_the_host() {
    let mut dataplane = open();
    for family in families() {
        dataplane.set_mtu("b", 1400);
        let there = family.a_to_b(4000, 80);
        let headers = there.udp_with(&[]).bytes().len() - ETHERNET_BYTES;
        for (length, fits) in [(1400, true), (1401, false), (1500, false)] {
            let packet = there.udp_with(&vec![1; length - headers]);
            let ran = dataplane.from_workload("a", &packet);
            if fits {
                ran.expect_redirect_to("b");
            } else {
                ran.expect_pass(PassReason::PacketTooBig);
                assert_eq!(ran.packet[ETHERNET_BYTES..], packet.bytes()[ETHERNET_BYTES..]);
            }
        }
        // Without a local target the host's stack compares by itself.
        dataplane
            .from_workload("a", &family.a_to_far(4000, 80).udp_with(&[1; 1400]))
            .expect_pass(PassReason::Remote);
        // The tap's MTU may change.
        dataplane.set_mtu("b", 1500);
        dataplane
            .from_workload("a", &there.udp_with(&vec![1; 1500 - headers]))
            .expect_redirect_to("b");
    }
}

#[test]
fn scenario_79_a_packet_to_be_cut_into_segments_passes_whole_if_the_segments_fit() {
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_b(4000, 80);
        dataplane
            .from_workload("a", &there.tcp("S"))
            .expect_redirect_to("b");
        dataplane
            .from_workload("b", &there.back().tcp("SA"))
            .expect_redirect_to("a");
        let tcp = there.tcp_with("A", &[1; 3000]);
        let udp = there.udp_with(&[1; 3000]);
        for (packet, headers) in [(tcp, 20), (udp, 8)] {
            let ip = u32::try_from(packet.transport() - ETHERNET_BYTES).expect("a short header");
            let fits = 1500 - ip - headers;
            dataplane
                .from_workload_in_segments("a", &packet, fits)
                .expect_redirect_to("b");
            dataplane
                .from_workload_in_segments("a", &packet, fits + 1)
                .expect_pass(PassReason::PacketTooBig);
        }
    }
}

#[test]
fn scenario_81_the_answers_of_an_open_flow_are_redirected_too() {
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_b(4000, 80);
        for _ in 0..3 {
            dataplane.from_workload("a", &there.udp()).expect_redirect_to("b");
            dataplane
                .from_workload("b", &there.back().udp())
                .expect_redirect_to("a");
        }
    }
}

#[test]
fn scenario_82_nothing_is_sent_to_a_tap_whose_programs_are_missing() {
    let mut dataplane = open();
    for family in families() {
        dataplane
            .from_workload("a", &family.a_to_b(1, 2).udp())
            .expect_redirect_to("b");
    }
    dataplane.detach("b");
    for family in families() {
        // The open flow and a new one.
        for port in [2, 3] {
            for _ in 0..2 {
                dataplane
                    .from_workload("a", &family.a_to_b(1, port).udp())
                    .expect_drop(DropReason::TargetNotReady);
            }
        }
    }
}

#[test]
fn the_mark_is_a_setting_and_other_bits_stay() {
    const OTHER: u32 = 0x0080_0001;
    const MARK: u32 = 0x0100_0000;
    let mut dataplane = under_with(&[(settings::MARK, MARK)], &[allow_everything()]);
    for family in families() {
        let there = family.a_to_b(1, 2);
        let ran = dataplane.from_workload_marked("a", &there.udp(), OTHER);
        assert_eq!(ran.mark, OTHER | MARK);
        assert!(ran.redirected_to.is_some());
        dataplane.follow(&ran).expect_pass_by_mark();
    }
}

#[test]
fn a_mark_that_the_packet_brought_along_judges_nothing() {
    let mut dataplane = crate::scene::under(&[]);
    for family in families() {
        dataplane
            .from_workload_marked("a", &family.a_to_b(1, 2).udp(), DEFAULT_MARK)
            .expect_drop(DropReason::EgressPolicy);
    }
    let mut dataplane = open();
    for family in families() {
        let ran = dataplane.from_workload_marked("a", &family.a_to_far(1, 2).udp(), DEFAULT_MARK);
        ran.expect_pass(PassReason::Remote);
        assert_eq!(ran.mark, 0);
        // Routed to a workload after all, its ingress is still to be judged.
        dataplane
            .to_workload_marked("b", &family.a_to_far(1, 2).udp(), Origin::Remote, ran.mark)
            .expect_pass(PassReason::FromRemote);
    }
}
