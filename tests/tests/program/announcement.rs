//! What a workload says when it begins to run on this host, which ends the wait of a live migration.

use std::net::{Ipv4Addr, Ipv6Addr};

use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::packets::{Packet, arp, link_layer_option, neighbor};

use crate::scene::open;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ADVERTISEMENT: u8 = 136;
/// Flags of an advertisement in the first octet behind its checksum (RFC 4861 section 4.4).
const FLAGS: usize = 4;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// QEMU's announcement: a reverse request for the MAC itself, without addresses (RFC 903).
fn rarp(mac: [u8; 6]) -> Packet {
    arp(3, mac, v4("0.0.0.0"), v4("0.0.0.0")).with(12, &[0x80, 0x35])
}

fn advertisement(flags: u8, target: &str, about: &str, mac: [u8; 6]) -> Packet {
    let packet = neighbor(
        ADVERTISEMENT,
        v6("fd00::1"),
        v6(target),
        v6(about),
        &link_layer_option(2, mac),
    );
    let offset = packet.transport() + FLAGS;
    packet.with(offset, &[flags])
}

#[test]
fn scenario_11_gratuitous_arp_in_both_forms_is_noted_for_its_sender_alone() {
    for operation in [REQUEST, REPLY] {
        let mut dataplane = open();
        let mac = dataplane.named("a").mac;
        let packet = arp(operation, mac, v4("10.0.0.1"), v4("10.0.0.1"));
        dataplane
            .from_workload("a", &packet)
            .expect_pass(PassReason::Neighbor);
        assert!(dataplane.has_announced("a"));
        assert!(!dataplane.has_announced("b"));
    }
}

#[test]
fn reverse_arp_is_dropped_and_noted() {
    let mut dataplane = open();
    let mac = dataplane.named("a").mac;
    dataplane
        .from_workload("a", &rarp(mac))
        .expect_drop(DropReason::UnknownEthertype);
    assert!(dataplane.has_announced("a"));
}

#[test]
fn scenario_11_an_unsolicited_advertisement_is_noted() {
    for (target, about) in [
        ("ff02::1", "fd00::1"),
        ("ff02::1", "fe80::f816:3eff:fe00:1"),
        ("fe80::1", "fd00::1"),
    ] {
        let mut dataplane = open();
        let mac = dataplane.named("a").mac;
        dataplane
            .from_workload("a", &advertisement(OVERRIDE, target, about, mac))
            .expect_pass(PassReason::Neighbor);
        assert!(dataplane.has_announced("a"), "{about} to {target}");
    }
}

#[test]
fn what_announces_nothing_is_not_noted() {
    let mut dataplane = open();
    let mac = dataplane.named("a").mac;
    let packets = [
        // A question for a neighbour, an answer to one, and a probe for an address (RFC 5227 section 2.1.1).
        arp(REQUEST, mac, v4("10.0.0.1"), v4("10.0.0.254")),
        arp(REPLY, mac, v4("10.0.0.1"), v4("10.0.0.254")),
        arp(REQUEST, mac, v4("0.0.0.0"), v4("10.0.0.1")),
        arp(REQUEST, mac, v4("0.0.0.0"), v4("0.0.0.0")),
        advertisement(SOLICITED | OVERRIDE, "fe80::1", "fd00::1", mac),
        neighbor(135, v6("::"), v6("ff02::1:ff00:1"), v6("fd00::1"), &[]),
    ];
    for packet in &packets {
        dataplane
            .from_workload("a", packet)
            .expect_pass(PassReason::Neighbor);
        assert!(!dataplane.has_announced("a"), "{packet:?}");
    }
}

#[test]
fn scenario_11_announcements_that_are_somebody_elses_are_dropped_and_not_noted() {
    let mut dataplane = open();
    let [mac, other] = ["a", "b"].map(|name| dataplane.named(name).mac);
    let packets = [
        (
            arp(REPLY, mac, v4("10.0.0.2"), v4("10.0.0.2")),
            DropReason::ArpSender,
        ),
        (
            arp(REPLY, other, v4("10.0.0.1"), v4("10.0.0.1")),
            DropReason::SourceMac,
        ),
        (rarp(other), DropReason::SourceMac),
        (
            advertisement(OVERRIDE, "ff02::1", "fd00::2", mac),
            DropReason::NeighborSender,
        ),
        // Not of this link: a router would have to forward it.
        (
            advertisement(OVERRIDE, "2001:db8::9", "fd00::1", mac),
            DropReason::NeighborSender,
        ),
    ];
    for (packet, reason) in &packets {
        dataplane.from_workload("a", packet).expect_drop(*reason);
        assert!(!dataplane.has_announced("a"), "{packet:?}");
        assert!(!dataplane.has_announced("b"), "{packet:?}");
    }
}
