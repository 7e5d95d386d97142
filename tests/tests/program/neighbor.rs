//! Neighbour discovery and MLD of a workload.

use std::net::Ipv6Addr;

use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::packets::{Packet, Path, link_layer_option, neighbor};
use calico_ebpf_tests::programs::Origin;

use crate::scene::{open, under};

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const OWN_LINK_LOCAL: &str = "fe80::f816:3eff:fe00:1";

/// MLD behind a router alert (RFC 3810 section 5).
fn listener_report(kind: u8, source: Ipv6Addr) -> Packet {
    let message = Path::new((source.into(), 0), (v6("ff02::16").into(), 0)).icmp(kind, 0, 0, &[0; 16]);
    let message = message.bytes()[message.transport()..].to_vec();
    let path = Path::new((source.into(), 0), (v6("ff02::16").into(), 0));
    path.behind(&[(0, vec![0, 0, 5, 2, 0, 0, 1, 0])], protocol::ICMPV6, &message)
}

#[test]
fn scenario_21_solicitations_advertisements_and_mld_reach_the_host_only() {
    let mut dataplane = under(&[]);
    let mac = dataplane.named("a").mac;
    let own = link_layer_option(1, mac);
    let group = v6("ff02::1:ff00:2");
    let allowed = [
        neighbor(
            ROUTER_SOLICITATION,
            v6(OWN_LINK_LOCAL),
            v6("ff02::2"),
            v6("::"),
            &[],
        ),
        neighbor(ROUTER_SOLICITATION, v6("::"), v6("ff02::2"), v6("::"), &[]),
        neighbor(SOLICITATION, v6("fd00::1"), group, v6("fd00::2"), &own),
        neighbor(
            SOLICITATION,
            v6(OWN_LINK_LOCAL),
            v6("fe80::1"),
            v6("fe80::1"),
            &own,
        ),
        neighbor(
            SOLICITATION,
            v6("fd00::1"),
            v6("2001:db8::1"),
            v6("2001:db8::1"),
            &own,
        ),
        // Duplicate address detection (RFC 4862 section 5.4.2).
        neighbor(SOLICITATION, v6("::"), group, v6("fd00::1"), &[]),
        neighbor(
            ADVERTISEMENT,
            v6("fd00::1"),
            v6("ff02::1"),
            v6("fd00::1"),
            &link_layer_option(2, mac),
        ),
        neighbor(
            ADVERTISEMENT,
            v6(OWN_LINK_LOCAL),
            v6("fe80::1"),
            v6(OWN_LINK_LOCAL),
            &[],
        ),
        listener_report(143, v6(OWN_LINK_LOCAL)),
        listener_report(143, v6("::")),
        listener_report(131, v6(OWN_LINK_LOCAL)),
        listener_report(132, v6(OWN_LINK_LOCAL)),
    ];
    for packet in &allowed {
        dataplane
            .from_workload("a", packet)
            .expect_pass(PassReason::Neighbor);
        // Nothing forwards it to a tap; what the host itself says is let through.
        dataplane
            .to_workload("b", packet, Origin::Remote)
            .expect_drop(DropReason::NeighborSender);
        dataplane
            .to_workload("b", packet, Origin::Host)
            .expect_pass(PassReason::FromHost);
    }
    for target in ["fd00::2", "2001:db8::9"] {
        dataplane
            .from_workload(
                "a",
                &neighbor(SOLICITATION, v6("fd00::1"), v6(target), v6(target), &own),
            )
            .expect_drop(DropReason::NeighborSender);
    }
    assert_eq!(dataplane.flow_count(), 0);
}

#[test]
fn scenario_22_router_advertisements_and_redirects_are_dropped_whatever_policy_says() {
    let mut dataplane = open();
    for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
        for target in ["ff02::1", "fe80::1", "fd00::2"] {
            dataplane
                .from_workload(
                    "a",
                    &neighbor(kind, v6(OWN_LINK_LOCAL), v6(target), v6("::"), &[]),
                )
                .expect_drop(DropReason::RouterAdvertisement);
        }
    }
}

#[test]
fn scenario_23_an_advertisement_of_another_workloads_address_is_dropped() {
    let mut dataplane = open();
    let (mac, other) = (dataplane.named("a").mac, dataplane.named("b").mac);
    let own = link_layer_option(2, mac);
    let (all, me) = (v6("ff02::1"), v6("fd00::1"));
    for (packet, reason) in [
        (
            neighbor(ADVERTISEMENT, me, all, v6("fd00::2"), &own),
            DropReason::NeighborSender,
        ),
        (
            neighbor(ADVERTISEMENT, v6("fd00::2"), all, v6("fd00::2"), &own),
            DropReason::NeighborSender,
        ),
        (
            neighbor(SOLICITATION, v6("fd00::2"), all, v6("fd00::1"), &own),
            DropReason::NeighborSender,
        ),
        (
            neighbor(ADVERTISEMENT, me, all, me, &own).from_mac(other),
            DropReason::SourceMac,
        ),
        (
            neighbor(SOLICITATION, v6("::"), all, me, &[]).from_mac(other),
            DropReason::SourceMac,
        ),
        (
            neighbor(ADVERTISEMENT, me, all, me, &own).with_hop_limit(254),
            DropReason::Malformed,
        ),
        (
            neighbor(SOLICITATION, me, all, me, &own).with_hop_limit(1),
            DropReason::Malformed,
        ),
    ] {
        dataplane.from_workload("a", &packet).expect_drop(reason);
    }
}

#[test]
fn scenario_23_link_layer_options_name_the_frames_own_source() {
    let mut dataplane = open();
    let (mac, other) = (dataplane.named("a").mac, dataplane.named("b").mac);
    let (all, me) = (v6("ff02::1"), v6("fd00::1"));
    let nonce = vec![14, 1, 1, 2, 3, 4, 5, 6];
    for kind in [SOLICITATION, ADVERTISEMENT] {
        let with = |options: &[Vec<u8>]| neighbor(kind, me, all, me, &options.concat());
        for option in [1, 2] {
            let (right, wrong) = (link_layer_option(option, mac), link_layer_option(option, other));
            let six_right = vec![right.clone(); 6];
            for options in [&[][..], &six_right, &[nonce.clone(), right.clone()]] {
                dataplane
                    .from_workload("a", &with(options))
                    .expect_pass(PassReason::Neighbor);
            }
            for options in [
                &[wrong.clone()][..],
                &[right.clone(), wrong.clone()],
                &[nonce.clone(), wrong.clone()],
                &[vec![14, 2], vec![0; 14], wrong.clone()],
            ] {
                dataplane
                    .from_workload("a", &with(options))
                    .expect_drop(DropReason::NeighborSender);
            }
            let behind_too_many = [vec![nonce.clone(); 6], vec![wrong]].concat();
            let endless = [vec![14, 0, 0, 0, 0, 0, 0, 0], right].concat();
            for options in [&behind_too_many[..], &[endless]] {
                dataplane
                    .from_workload("a", &with(options))
                    .expect_drop(DropReason::Malformed);
            }
        }
    }
}
