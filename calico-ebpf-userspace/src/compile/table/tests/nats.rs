//! External addresses in the table.

use calico_ebpf_common::nat::{MAX_ENDPOINT_NATS, NAT_LOWEST, Nat, Wanted, nat_at, nat_line, tag_of};

use super::*;

fn with_nats(interface: &str, networks: &[&str], nats: &[(&str, &str)]) -> EffectiveEndpoint {
    let nat = |(external, internal): &(&str, &str)| IpNat {
        external: external.parse().unwrap(),
        internal: internal.parse().unwrap(),
    };
    EffectiveEndpoint {
        ip_nats: nats.iter().map(nat).collect(),
        ..endpoint(interface, networks)
    }
}

fn nat_of(built: &BuiltTable, external: &str) -> Option<Nat> {
    nat_at(&built.lines[..], &root_of(built), slot_of(built, external)).copied()
}

fn halves(address: &str) -> [u64; 2] {
    match address.parse().unwrap() {
        IpAddr::V4(address) => [0, u64::from(address.to_bits())],
        IpAddr::V6(address) => words(address.to_bits()),
    }
}

fn texts(built: &BuiltTable) -> Vec<&str> {
    built
        .endpoint_problems
        .iter()
        .map(|problem| problem.1.as_str())
        .collect()
}

#[test]
fn an_external_address_leads_to_the_internal_one_and_its_endpoint() {
    let case = host(vec![
        endpoint("tap1", &["10.0.0.1/32"]),
        with_nats(
            "tap2",
            &["10.0.0.2/32", "fd00::2/128"],
            &[("172.24.4.2", "10.0.0.2"), ("2001:db8::2", "fd00::2")],
        ),
    ]);
    let built = build(&case.input(0), &mut RuleIds::new()).unwrap();
    for (external, internal) in [("172.24.4.2", "10.0.0.2"), ("2001:db8::2", "fd00::2")] {
        let nat = nat_of(&built, external).unwrap();
        assert_eq!((nat.external, nat.internal), (halves(external), halves(internal)));
        assert_eq!(
            (nat.slot, nat.tag, nat.flags),
            (2, tag_of(nat.external), NAT_LOWEST)
        );
        let endpoint = endpoint_of(&built, 2);
        let line = |wanted| {
            nat_line(
                &built.lines[..],
                endpoint.nats,
                endpoint.nat_count,
                nat.internal,
                wanted,
            )
        };
        let found: &Nat = built.lines[line(Wanted::Tagged(nat.tag)).unwrap() as usize].read_as();
        assert_eq!(found, &nat);
        assert_eq!(line(Wanted::Lowest), line(Wanted::Tagged(nat.tag)));
        assert_eq!(line(Wanted::Tagged(nat.tag ^ 1)), None);
    }
    assert!(endpoint_of(&built, 2).has_nats() && !endpoint_of(&built, 1).has_nats());
    assert_eq!(nat_of(&built, "10.0.0.2"), None);
    assert!(built.endpoint_problems.is_empty());
}

#[test]
fn an_external_address_asked_for_twice_goes_to_the_lowest_internal_one() {
    let case = host(vec![
        with_nats("tap1", &["10.0.0.9/32"], &[("172.24.4.2", "10.0.0.9")]),
        with_nats("tap2", &["10.0.0.10/32"], &[("172.24.4.2", "10.0.0.10")]),
    ]);
    let built = build(&case.input(0), &mut RuleIds::new()).unwrap();
    assert_eq!(nat_of(&built, "172.24.4.2").unwrap().slot, 2, "lowest as text");
    assert!(!endpoint_of(&built, 1).has_nats());
    assert_eq!(
        texts(&built),
        ["floating address 172.24.4.2 is not translated to 10.0.0.9: it leads to 10.0.0.10"]
    );
}

#[test]
fn the_lowest_external_address_of_an_internal_one_is_marked() {
    let case = host(vec![with_nats(
        "tap1",
        &["10.0.0.1/32"],
        &[("172.24.4.3", "10.0.0.1"), ("172.24.4.2", "10.0.0.1")],
    )]);
    let built = build(&case.input(0), &mut RuleIds::new()).unwrap();
    let endpoint = endpoint_of(&built, 1);
    assert_eq!(endpoint.nat_count, 2);
    let lowest = nat_line(
        &built.lines[..],
        endpoint.nats,
        endpoint.nat_count,
        halves("10.0.0.1"),
        Wanted::Lowest,
    );
    let lowest: &Nat = built.lines[lowest.unwrap() as usize].read_as();
    assert_eq!(lowest.external, halves("172.24.4.2"));
    assert_eq!(nat_of(&built, "172.24.4.3").unwrap().flags, 0);
}

#[test]
fn an_address_of_the_host_or_of_a_port_is_not_translated() {
    let nats = [("192.0.2.1", "10.0.0.1"), ("10.0.0.2", "10.0.0.1")];
    let mut case = host(vec![
        with_nats("tap1", &["10.0.0.1/32"], &nats),
        endpoint("tap2", &["10.0.0.2/32"]),
    ]);
    case.host.host_addresses.insert("192.0.2.1".parse().unwrap());
    let built = build(&case.input(0), &mut RuleIds::new()).unwrap();
    assert_eq!(slot_of(&built, "192.0.2.1"), SLOT_HOST);
    assert_eq!(slot_of(&built, "10.0.0.2"), 2);
    assert_eq!(root_of(&built).nat_count, 0);
    assert_eq!(texts(&built).len(), 2);
}

#[test]
fn external_addresses_beyond_the_limit_are_told() {
    let addresses: Vec<String> = (0..=MAX_ENDPOINT_NATS)
        .map(|number| format!("172.24.4.{number}"))
        .collect();
    let nats: Vec<(&str, &str)> = addresses
        .iter()
        .map(|address| (address.as_str(), "10.0.0.1"))
        .collect();
    let case = host(vec![with_nats("tap1", &["10.0.0.1/32"], &nats)]);
    let built = build(&case.input(0), &mut RuleIds::new()).unwrap();
    assert_eq!(endpoint_of(&built, 1).nat_count, MAX_ENDPOINT_NATS);
    assert_eq!(texts(&built), ["floating address 172.24.4.9 has no place"]);
}
