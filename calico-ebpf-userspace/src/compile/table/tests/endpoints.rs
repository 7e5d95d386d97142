//! Endpoint, source and interface lines, and who owns an address.

use super::*;

#[test]
fn an_address_on_two_taps_belongs_to_the_newer_one_and_the_hosts_to_the_host() {
    let networks = ["10.0.0.1/32", "fd00::1/128", "192.0.2.1/32", "10.1.0.0/24"];
    let mut case = host(vec![
        endpoint("tap1", &networks),
        endpoint("tap2", &networks),
        endpoint("tap3", &networks),
    ]);
    attach(&mut case, "tap1", 5);
    attach(&mut case, "tap2", 9);
    case.host.host_addresses.insert("192.0.2.1".parse().unwrap());
    let built = build(&case.input(0), &mut RuleIds::new()).unwrap();
    assert_eq!(slot_of(&built, "10.0.0.1"), 2);
    assert_eq!(slot_of(&built, "fd00::1"), 2);
    assert_eq!(slot_of(&built, "192.0.2.1"), SLOT_HOST);
    assert_eq!(slot_of(&built, "10.1.0.1"), SLOT_NONE);
    assert_eq!(slot_of(&built, "10.0.0.2"), SLOT_NONE);
}

#[test]
fn interfaces_lead_to_endpoints_and_absent_ones_to_none() {
    let mut case = host(
        (1..=40)
            .map(|number| endpoint(&format!("tap{number}"), &["10.0.0.1/32"]))
            .collect(),
    );
    // All in one bucket of a small table.
    (1..=39).for_each(|number| attach(&mut case, &format!("tap{number}"), number * 64));
    let built = build(&case.input(0), &mut RuleIds::new()).unwrap();
    let root = root_of(&built);
    for number in 1..=39_u16 {
        let ifindex = u32::from(number) * 64;
        assert_eq!(slot_of_interface(&built.lines[..], &root, ifindex), number);
        assert_eq!(endpoint_of(&built, number).ifindex, ifindex);
    }
    assert_eq!(slot_of_interface(&built.lines[..], &root, 0), SLOT_NONE);
    assert_eq!(slot_of_interface(&built.lines[..], &root, 65), SLOT_NONE);
    assert_eq!(endpoint_of(&built, 40).ifindex, 0);
    assert_eq!(endpoint_of(&built, 1).loose_until, 77);
    assert_eq!(endpoint_of(&built, 1).host_mac, [0xfe, 0, 0, 0, 0, 1]);
    assert_eq!(endpoint_of(&built, 1).mtu, 1450);
    assert!(built.endpoint_problems.is_empty());
}

#[test]
fn sources_are_strict_but_for_pairs_and_spoofed_prefixes() {
    let mut vm = endpoint(
        "tap1",
        &[
            "10.0.0.1/32",
            "fd00::1/128",
            "10.0.0.0/24",
            "10.0.0.1/32",
            "fd01::/64",
        ],
    );
    vm.allowed_ips = nets(&["10.0.0.0/24", "10.0.0.1/32", "fd01::/64"]);
    vm.ip_nats = vec![IpNat {
        internal: "10.0.0.1".parse().unwrap(),
        external: "172.24.4.9".parse().unwrap(),
    }];
    vm.allow_spoofed_source_prefixes = nets(&["192.0.2.0/24"]);
    let mut open = endpoint("tap2", &["10.0.0.2/32"]);
    open.allow_spoofed_source_prefixes = nets(&["0.0.0.0/0", "::/0"]);
    let built = build(&host(vec![vm, open]).input(0), &mut RuleIds::new()).unwrap();
    let lines = &built.lines[..];
    let flags4 = |slot, address: &str| {
        let address: std::net::Ipv4Addr = address.parse().unwrap();
        let endpoint = endpoint_of(&built, slot);
        source4_flags(
            lines,
            endpoint.sources4,
            endpoint.sources4_lines.into(),
            address.to_bits(),
        )
    };
    let flags6 = |slot, address: &str| {
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        let endpoint = endpoint_of(&built, slot);
        source6_flags(
            lines,
            endpoint.sources6,
            endpoint.sources6_lines.into(),
            words(address.to_bits()),
        )
    };
    let any_mac = SOURCE_VALID | SOURCE_ANY_MAC;
    assert_eq!(flags4(1, "10.0.0.1"), SOURCE_VALID, "fixed, though also a pair");
    assert_eq!(flags4(1, "10.0.0.2"), any_mac);
    assert_eq!(flags4(1, "172.24.4.9"), SOURCE_VALID);
    assert_eq!(flags4(1, "192.0.2.200"), any_mac);
    assert_eq!(flags4(1, "10.0.1.1"), 0);
    assert_eq!(flags6(1, "fd00::1"), SOURCE_VALID);
    assert_eq!(flags6(1, "fd01::abcd"), any_mac);
    assert_eq!(flags6(1, "fd00::2"), 0);
    assert_eq!(endpoint_of(&built, 1).flags, 0);
    assert_eq!(endpoint_of(&built, 2).flags, FLAG_ANY_SOURCE);
    assert_eq!(flags4(2, "10.0.0.2"), SOURCE_VALID);
    assert_eq!(flags4(2, "8.8.8.8"), any_mac);
    assert_eq!(flags6(2, "2001:db8::1"), any_mac);
}

#[test]
fn sources_beyond_the_limit_and_missing_macs_are_reported() {
    let networks: Vec<String> = (0..200).map(|number| format!("10.0.0.{number}/32")).collect();
    let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
    let mut vm = endpoint("tap1", &networks);
    vm.mac = None;
    let built = build(&host(vec![vm]).input(0), &mut RuleIds::new()).unwrap();
    let texts: Vec<&str> = built
        .endpoint_problems
        .iter()
        .map(|problem| problem.1.as_str())
        .collect();
    assert_eq!(
        texts,
        [
            "has no MAC address: its packets are dropped",
            "has 40 allowed source addresses too many: these are dropped"
        ]
    );
    let endpoint = endpoint_of(&built, 1);
    let (first, count) = (endpoint.sources4, u32::from(endpoint.sources4_lines));
    assert_ne!(
        source4_flags(&built.lines[..], first, count, 0x0a00_0000 + 159),
        0
    );
    assert_eq!(
        source4_flags(&built.lines[..], first, count, 0x0a00_0000 + 160),
        0
    );
}
