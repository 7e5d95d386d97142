mod endpoints;
mod nats;

use std::sync::Arc;

use calico_ebpf_common::endpoint::{
    Endpoint, FLAG_ANY_SOURCE, SLOT_HOST, SOURCE_ANY_MAC, SOURCE_VALID, slot_of_interface, source4_flags,
    source6_flags,
};
use ipnet::IpNet;
use proptest::prelude::*;

use super::super::cells::MAX_CELLS;
use super::super::generate::{Case, Random, case};
use super::super::input::{HostFacts, HostInterface, Limits};
use super::super::reference::{Judgement, judge_packet};
use super::*;
use crate::calc::effective::{
    DirectionPolicy, EffectiveEndpoint, EffectiveEntity, EffectivePolicy, EffectivePolicyRules,
    EffectivePort, EffectiveRule, EffectiveState, EffectiveTier, SetId,
};
use crate::model::name::Kind;
use crate::model::resource::{IpNat, MacAddress};
use crate::model::rule::{Action, Protocol};

fn expected_cell(judgement: &Judgement, ids: &RuleIds) -> Cell {
    let action = if judgement.allow {
        Action::Allow
    } else {
        Action::Deny
    };
    let number = judgement.decided_by.as_ref().map_or(0, |rule| {
        ids.find(&RuleKey {
            rule: rule.clone(),
            action,
        })
        .expect("the rule that decides has a counter")
    });
    Cell::new(judgement.allow, judgement.log, number)
}

fn compare(case: &Case, built: &BuiltTable, ids: &RuleIds, base_line: u32, random: &mut Random) {
    let lines = PlacedLines {
        lines: &built.lines,
        base_line,
    };
    let source = if random.chance(70) {
        case.endpoint(random)
    } else {
        None
    };
    let target = if random.chance(70) || source.is_none() {
        case.endpoint(random)
    } else {
        None
    };
    let Some(mut facts) = case.packet(random, source, target) else {
        return;
    };
    if random.chance(20) {
        // The table does not ask whether an endpoint owns its address.
        let same_family = |address: &&IpAddr| address.is_ipv4() == facts.source.is_ipv4();
        let others: Vec<IpAddr> = case.addresses.iter().filter(same_family).copied().collect();
        (facts.source, facts.destination) = (random.pick(&others), random.pick(&others));
    }
    let endpoint = |key: Option<&ResourceKey>| key.map(|key| &*case.state.endpoints[key]);
    let expected = judge_packet(&case.state, endpoint(source), endpoint(target), &facts);
    let slot = |key: Option<&ResourceKey>| key.map_or(0, |key| case.slots[key]);
    let compiled = judge_compiled(&lines, &facts, slot(source), slot(target)).expect("the tables are whole");
    assert_eq!(
        compiled.allow, expected.allow,
        "{facts:?}: {expected:?}, {compiled:?}"
    );
    assert_eq!(
        compiled.egress,
        expected.egress.as_ref().map(|one| expected_cell(one, ids)),
        "{facts:?}: {expected:?}"
    );
    assert_eq!(
        compiled.ingress,
        expected.ingress.as_ref().map(|one| expected_cell(one, ids)),
        "{facts:?}: {expected:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn compiled_tables_decide_like_the_reference(seed in any::<u64>(), base_line in prop_oneof![Just(0_u32), 1..1_000_000_u32]) {
        let mut random = Random::new(seed);
        let case = case(&mut random);
        let mut ids = RuleIds::new();
        for limits in LIMITS {
            let built = build(&TableInput { limits, ..case.input(base_line) }, &mut ids).unwrap();
            prop_assert!(built.over_budget.is_empty());
            for _ in 0..60 {
                compare(&case, &built, &ids, base_line, &mut random);
            }
        }
    }

    #[test]
    fn fall_back_equals_cells(seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let case = case(&mut random);
        let mut ids = RuleIds::new();
        let by_cells = build(&case.input(0), &mut ids).unwrap();
        let by_fall_back = build(&TableInput { limits: Limits::FALL_BACK, ..case.input(0) }, &mut ids).unwrap();
        prop_assert_eq!(by_cells.report.fall_back, 0);
        prop_assert_eq!(by_fall_back.report.cells, 0);
        let judged = |built: &BuiltTable, facts: &PacketFacts| {
            let lines = PlacedLines { lines: &built.lines, base_line: 0 };
            let both = [judge_compiled(&lines, facts, 1, 0).unwrap(), judge_compiled(&lines, facts, 0, 1).unwrap()];
            both.map(|judged| (judged.egress, judged.ingress, judged.source.slot, judged.destination.slot))
        };
        for _ in 0..200 {
            if let Some(facts) = case.packet(&mut random, None, None) {
                prop_assert_eq!(judged(&by_cells, &facts), judged(&by_fall_back, &facts), "{:?}", facts);
            }
        }
    }
}

/// Cells for all, for some, and for nobody.
const LIMITS: [Limits; 4] = [
    Limits {
        cells: MAX_CELLS,
        address_classes: 65_535,
    },
    Limits {
        cells: 12,
        address_classes: 65_535,
    },
    Limits {
        cells: MAX_CELLS,
        address_classes: 6,
    },
    Limits::FALL_BACK,
];

#[test]
fn equal_input_gives_equal_lines() {
    let case = case(&mut Random::new(7));
    let first = build(&case.input(1000), &mut RuleIds::new()).unwrap();
    let second = build(&case.input(1000), &mut RuleIds::new()).unwrap();
    assert_eq!(first.lines, second.lines);
}

/// A host with endpoints named by number, and nothing else.
fn host(endpoints: Vec<EffectiveEndpoint>) -> Case {
    let mut case = Case {
        state: EffectiveState::default(),
        host: HostFacts::default(),
        generations: BTreeMap::new(),
        slots: BTreeMap::new(),
        addresses: Vec::new(),
    };
    for (endpoint, number) in endpoints.into_iter().zip(1_u16..) {
        let key = key(number);
        case.generations.insert(key.clone(), u32::from(number));
        case.slots.insert(key.clone(), number);
        case.state.endpoints.insert(key, Arc::new(endpoint));
    }
    case
}

fn key(number: u16) -> ResourceKey {
    ResourceKey {
        kind: Kind::WorkloadEndpoint,
        namespace: "openstack".to_owned(),
        name: format!("vm{number:05}"),
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn endpoint(interface_name: &str, networks: &[&str]) -> EffectiveEndpoint {
    EffectiveEndpoint {
        interface_name: interface_name.to_owned(),
        mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
        ip_networks: nets(networks),
        allowed_ips: Vec::new(),
        allow_spoofed_source_prefixes: Vec::new(),
        ip_nats: Vec::new(),
        policy: Arc::new(EffectivePolicy::default()),
        labels: Arc::default(),
    }
}

fn attach(case: &mut Case, name: &str, ifindex: u32) {
    let interface = HostInterface {
        ifindex,
        mac: MacAddress([0xfe, 0, 0, 0, 0, 1]),
        mtu: 1450,
        loose_until: 77,
    };
    case.host.interfaces.insert(name.to_owned(), interface);
}

fn root_of(built: &BuiltTable) -> Root {
    *built.lines[0].read_as()
}

fn endpoint_of(built: &BuiltTable, slot: Slot) -> Endpoint {
    *endpoint_at(&built.lines[..], &root_of(built), slot).unwrap()
}

fn slot_of(built: &BuiltTable, address: &str) -> Slot {
    let root = root_of(built);
    match address.parse().unwrap() {
        IpAddr::V4(address) => {
            address_entry4(&built.lines[..], &root, address.to_bits())
                .unwrap()
                .slot
        }
        IpAddr::V6(address) => {
            address_entry6(&built.lines[..], &root, words(address.to_bits()))
                .unwrap()
                .slot
        }
    }
}

fn rule(index: u32, destination: EffectiveEntity) -> EffectiveRule {
    EffectiveRule {
        action: Action::Allow,
        ip_version: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: EffectiveEntity::default(),
        destination,
        index,
    }
}

fn egress_only(rules: Vec<EffectiveRule>) -> Arc<EffectivePolicy> {
    let key = ResourceKey {
        kind: Kind::GlobalNetworkPolicy,
        namespace: String::new(),
        name: "many".to_owned(),
    };
    let policies = vec![EffectivePolicyRules { key, rules }];
    let tier = EffectiveTier {
        name: Arc::from("default"),
        policies,
        default_pass: false,
    };
    Arc::new(EffectivePolicy {
        egress: DirectionPolicy {
            tiers: vec![tier],
            profiles: Vec::new(),
        },
        ingress: DirectionPolicy::default(),
    })
}

/// Each of `count` rules has an address and a port of its own: as many combinations as its square.
fn square(count: u16) -> Vec<EffectiveRule> {
    let rules = (0..count).map(|number| {
        let net = IpNet::from(IpAddr::V4((0x0a00_0000 + u32::from(number)).into()));
        let ports = Some(vec![EffectivePort::Range(number, number)]);
        let destination = EffectiveEntity {
            nets: Some(vec![net]),
            ports,
            ..EffectiveEntity::default()
        };
        EffectiveRule {
            protocol: Some(Protocol(6)),
            ..rule(u32::from(number), destination)
        }
    });
    rules.collect()
}

fn tcp_to(destination: &str, destination_port: u16) -> PacketFacts {
    PacketFacts {
        source: "10.0.0.1".parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: 6,
        source_port: 4000,
        destination_port,
        icmp: None,
    }
}

#[test]
fn a_direction_that_tells_too_much_apart_is_judged_by_the_fall_back() {
    let mut vm = endpoint("tap1", &["10.0.0.1/32"]);
    vm.policy = egress_only(square(4_000));
    let mut ids = RuleIds::new();
    let built = build(&host(vec![vm]).input(0), &mut ids).unwrap();
    assert_eq!((built.report.over_budget, built.report.fall_back), (0, 1));
    let set = &built.policy_sets[0];
    assert_eq!(
        (set.egress_engine.as_str(), set.ingress_engine.as_str()),
        ("fall-back", "cells")
    );
    let lines = PlacedLines {
        lines: &built.lines,
        base_line: 0,
    };
    let egress = |facts: &PacketFacts| judge_compiled(&lines, facts, 1, 0).unwrap().egress.unwrap();
    let allowed = egress(&tcp_to("10.0.15.159", 3_999));
    assert!(allowed.allows() && allowed.rule() == 4_000, "{allowed:?}");
    assert_eq!(egress(&tcp_to("10.0.15.159", 3_998)), Cell::DENY);
    assert_eq!(egress(&tcp_to("10.0.16.0", 3_999)), Cell::DENY);
}

#[test]
fn a_fall_back_without_room_denies_alone_and_is_named() {
    let (mut vm, mut other) = (
        endpoint("tap1", &["10.0.0.1/32"]),
        endpoint("tap2", &["10.0.0.2/32"]),
    );
    vm.policy = egress_only(square(4_000));
    other.policy = egress_only(square(2));
    let case = host(vec![vm, other]);
    let whole = build(&case.input(0), &mut RuleIds::new()).unwrap();
    let input = TableInput {
        max_lines: whole.report.lines / 2,
        ..case.input(0)
    };
    let built = build(&input, &mut RuleIds::new()).unwrap();
    assert_eq!((built.report.over_budget, built.report.fall_back), (1, 0));
    let over = built.over_budget[0];
    assert_eq!((over.policy_set, over.direction), (1, Direction::Egress));
    assert_eq!(built.policy_sets[0].egress_engine, "over budget");
    let lines = PlacedLines {
        lines: &built.lines,
        base_line: 0,
    };
    let facts = tcp_to("10.0.0.1", 1);
    assert_eq!(
        judge_compiled(&lines, &facts, 1, 0).unwrap().egress,
        Some(Cell::DENY)
    );
    assert!(
        judge_compiled(&lines, &facts, 2, 0)
            .unwrap()
            .egress
            .unwrap()
            .allows()
    );
}

#[test]
fn a_table_without_room_is_refused_and_numbers_are_kept() {
    let case = case(&mut Random::new(3));
    let mut ids = RuleIds::new();
    let roomy = build(&case.input(0), &mut ids).unwrap();
    let without_room_to_grow = TableInput {
        max_lines: roomy.report.lines - 1,
        ..case.input(0)
    };
    let whole = build(&without_room_to_grow, &mut ids).unwrap();
    let before: BTreeMap<RuleKey, u32> = ids.iter().map(|(key, number)| (key.clone(), number)).collect();
    let input = TableInput {
        max_lines: whole.report.lines - 1,
        ..case.input(0)
    };
    let error = build(&input, &mut ids).unwrap_err();
    let lines = u64::from(whole.report.lines);
    assert_eq!(
        error,
        TableError::TooLarge {
            lines,
            max_lines: whole.report.lines - 1
        }
    );
    let after: BTreeMap<RuleKey, u32> = ids.iter().map(|(key, number)| (key.clone(), number)).collect();
    assert_eq!(after, before);
}

#[test]
fn a_thousand_rules_and_a_hundred_thousand_members_compile_quickly() {
    let set = |number: u32| SetId(Arc::from(format!("set {number}")));
    let mut vm = endpoint("tap1", &["10.0.0.1/32"]);
    let rules = (0..1_000_u32).map(|number| {
        let port = u16::try_from(number % 300).unwrap() * 7;
        let destination = EffectiveEntity {
            nets: (number % 2 == 0).then(|| vec![IpNet::new(IpAddr::V4((number << 20).into()), 16).unwrap()]),
            sets: if number % 2 == 1 {
                vec![set(number % 100)]
            } else {
                Vec::new()
            },
            ports: Some(vec![EffectivePort::Range(port, port)]),
            ..EffectiveEntity::default()
        };
        EffectiveRule {
            protocol: Some(Protocol(6)),
            ..rule(number, destination)
        }
    });
    vm.policy = egress_only(rules.collect());
    let mut case = host(vec![vm]);
    for number in 0..100_u32 {
        let members = (0..1_000_u32)
            .map(|member| IpNet::from(IpAddr::V4((0x0b00_0000 + number * 1_000 + member).into())));
        case.state.sets.insert(set(number), members.collect());
    }
    let built = build(&case.input(0), &mut RuleIds::new()).unwrap();
    println!("{:?}", built.report);
    assert!(built.over_budget.is_empty());
    assert!(built.report.exact_addresses > 50_000);
}

#[test]
fn policy_sets_are_described_with_counters_and_endpoints() {
    let destination = EffectiveEntity {
        nets: Some(nets(&["10.0.0.0/8"])),
        not_sets: vec![SetId(Arc::from("has(x)"))],
        ports: Some(vec![
            EffectivePort::Range(80, 80),
            EffectivePort::Range(8000, 8080),
        ]),
        ..EffectiveEntity::default()
    };
    let web = EffectiveRule {
        protocol: Some(Protocol(6)),
        ..rule(3, destination)
    };
    let log = EffectiveRule {
        action: Action::Log,
        ..rule(4, EffectiveEntity::default())
    };
    let (mut one, mut two) = (
        endpoint("tap1", &["10.0.0.1/32"]),
        endpoint("tap2", &["10.0.0.2/32"]),
    );
    one.policy = egress_only(vec![web.clone(), log.clone()]);
    two.policy = egress_only(vec![web, log]);
    let mut case = host(vec![one, two, endpoint("tap3", &["10.0.0.3/32"])]);
    let mut ids = RuleIds::new();
    let built = build(&case.input(0), &mut ids).unwrap();
    assert_eq!(
        built.endpoint_sets.values().copied().collect::<Vec<_>>(),
        [1, 1, 2]
    );
    assert_eq!(
        built.policy_sets[0].endpoints,
        [key(1).to_string(), key(2).to_string()]
    );
    let tiers = &built.policy_sets[0].egress;
    assert_eq!(
        tiers.iter().map(|tier| tier.tier.as_str()).collect::<Vec<_>>(),
        ["default", "profiles"]
    );
    let rules = &tiers[0].policies[0].rules;
    assert_eq!(rules[0].text, "tcp to 10.0.0.0/8 not [has(x)] port 80,8000:8080");
    assert_eq!(
        (rules[0].counter, rules[0].index, rules[0].action.as_str()),
        (1, 3, "allow")
    );
    assert_eq!((rules[1].counter, rules[1].text.as_str()), (0, "any packet"));
    assert_eq!(built.new_rules, [1]);

    let again = build(&case.input(0), &mut ids).unwrap();
    assert!(again.new_rules.is_empty());
    case.state.endpoints.clear();
    build(&case.input(0), &mut ids).unwrap();
    assert_eq!(ids.iter().count(), 0, "numbers out of use are taken back");
}
