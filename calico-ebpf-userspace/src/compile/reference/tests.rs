//! The scenarios of policy, from manifests to verdicts: by the reference and by the compiled table.

use serde_json::{Value, json};

use super::*;
use crate::calc::effective::EffectivePolicy;
use crate::calc::fixture::{endpoint, endpoint_key, endpoint_on, global, labelled, options, snapshot, with};
use crate::calc::resolve::resolve;
use crate::compile::input::{HostFacts, TableInput};
use crate::compile::rule_ids::{RuleIds, RuleKey};
use crate::compile::table::{BuiltTable, PlacedLines, build, judge_compiled};

const WEB: [&str; 2] = ["10.0.0.2", "fd00::2"];
const CLIENT: [&str; 2] = ["10.0.0.1", "fd00::1"];

/// The endpoint `web` of this host under some policy, with its table.
struct World {
    state: EffectiveState,
    table: BuiltTable,
    ids: RuleIds,
}

impl World {
    /// `web` is local, `client` on another host; the objects are added.
    fn new(objects: &[Value]) -> Self {
        Self::with_web(endpoint("web", &["10.0.0.2/32", "fd00::2/128"]), objects)
    }

    fn with_web(web: Value, objects: &[Value]) -> Self {
        let mut all = vec![
            web,
            endpoint_on("compute-2", "client", &["10.0.0.1/32", "fd00::1/128"]),
        ];
        all.extend_from_slice(objects);
        Self::of(resolve(&snapshot(&all), &options()))
    }

    fn of(state: EffectiveState) -> Self {
        let key = endpoint_key("web");
        let mut ids = RuleIds::new();
        let host = HostFacts::default();
        let input = TableInput {
            state: &state,
            host: &host,
            generations: &[(key.clone(), 1)].into(),
            slots: &[(key, 1)].into(),
            epoch: 1,
            base_line: 64,
            max_lines: 1 << 20,
        };
        let table = build(&input, &mut ids).unwrap();
        assert!(table.over_budget.is_empty());
        Self { state, table, ids }
    }

    /// Judges a packet from or to `web`; the compiled table must say the same.
    fn judge(&self, facts: &PacketFacts) -> Judgement {
        let web = &self.state.endpoints[&endpoint_key("web")];
        let is_own = |address: IpAddr| web.ip_networks.iter().any(|net| net.contains(&address));
        let lines = PlacedLines {
            lines: &self.table.lines,
            base_line: 64,
        };
        let (judgement, cell) = if is_own(facts.source) {
            let compiled = judge_compiled(&lines, facts, 1, 0).unwrap();
            (
                judge_packet(&self.state, Some(web), None, facts).egress.unwrap(),
                compiled.egress.unwrap(),
            )
        } else {
            let compiled = judge_compiled(&lines, facts, 0, 1).unwrap();
            (
                judge_packet(&self.state, None, Some(web), facts).ingress.unwrap(),
                compiled.ingress.unwrap(),
            )
        };
        assert_eq!(
            (cell.allows(), cell.logs()),
            (judgement.allow, judgement.log),
            "{facts:?}: {judgement:?}"
        );
        let action = if judgement.allow {
            Action::Allow
        } else {
            Action::Deny
        };
        let counter = judgement.decided_by.as_ref().map_or(Some(0), |rule| {
            self.ids.find(&RuleKey {
                rule: rule.clone(),
                action,
            })
        });
        assert_eq!(Some(cell.rule()), counter, "{facts:?}: {judgement:?}");
        judgement
    }

    fn allows(&self, packet: &str) -> bool {
        self.judge(&parse(packet)).allow
    }

    /// Judges the packet between `client` and `web` of both families and in both directions, which must agree.
    fn allows_everywhere(&self, what: &str) -> bool {
        let mut verdicts = Vec::new();
        for family in 0..2 {
            for [source, destination] in [[CLIENT, WEB], [WEB, CLIENT]] {
                let packet = format!("{} > {} {what}", source[family], destination[family]);
                verdicts.push((self.allows(&packet), packet));
            }
        }
        assert!(
            verdicts.iter().all(|verdict| verdict.0 == verdicts[0].0),
            "{verdicts:?}"
        );
        verdicts[0].0
    }

    /// Returns the name of the rule that decides about a TCP packet from `client` to port 80 of `web`.
    fn decider(&self) -> String {
        let judgement = self.judge(&parse("10.0.0.1 > 10.0.0.2 tcp 80"));
        judgement
            .decided_by
            .map_or_else(|| "nothing".to_owned(), |rule| rule.to_string())
    }
}

/// Reads `SOURCE > DESTINATION PROTOCOL [NUMBERS]`: destination port and source port, or ICMP type and code. `icmp` is
/// the family's own.
fn parse(text: &str) -> PacketFacts {
    let words: Vec<&str> = text.split_whitespace().collect();
    let source: IpAddr = words[0].parse().unwrap();
    let protocol = match words[3] {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        "udplite" => 136,
        "icmp" if source.is_ipv4() => 1,
        "icmp" => 58,
        number => number.parse().unwrap(),
    };
    let number = |index: usize| words.get(index).map_or(0, |word| word.parse::<u16>().unwrap());
    let byte = |index| u8::try_from(number(index)).unwrap();
    let is_icmp = matches!(protocol, 1 | 58);
    PacketFacts {
        source,
        destination: words[2].parse().unwrap(),
        protocol,
        source_port: if is_icmp { 0 } else { number(5) },
        destination_port: if is_icmp { 0 } else { number(4) },
        icmp: is_icmp.then(|| (byte(4), byte(5))),
    }
}

/// A policy for `web` in a tier with the same rules in both directions.
fn policy_in(tier: &str, name: &str, rules: &Value) -> Value {
    let spec = json!({"selector": "role == 'web'", "tier": tier, "ingress": rules, "egress": rules});
    global("GlobalNetworkPolicy", name, spec)
}

fn policy(rules: &Value) -> Value {
    policy_in("default", "p", rules)
}

/// `web` under one policy.
fn under(rules: &Value) -> World {
    World::new(&[policy(rules)])
}

fn tier(name: &str, order: u32, default_action: &str) -> Value {
    global(
        "Tier",
        name,
        json!({"order": order, "defaultAction": default_action}),
    )
}

fn allow() -> Value {
    json!([{"action": "Allow"}])
}

fn deny() -> Value {
    json!([{"action": "Deny"}])
}

fn pass() -> Value {
    json!([{"action": "Pass"}])
}

#[test]
fn scenario_30_no_policy_and_no_profile_denies() {
    let world = World::new(&[]);
    assert!(!world.allows_everywhere("tcp 80"));
    assert_eq!(world.decider(), "nothing");
}

#[test]
fn scenario_31_a_tier_without_a_policy_for_the_endpoint_has_no_effect() {
    let other = global(
        "GlobalNetworkPolicy",
        "other",
        json!({"selector": "role == 'db'", "tier": "first"}),
    );
    let world = World::new(&[tier("first", 1, "Deny"), other, policy(&allow())]);
    assert!(world.allows_everywhere("tcp 80"));
}

#[test]
fn scenario_31_a_policy_for_the_other_direction_does_not_close_a_tier() {
    let out = json!({"selector": "role == 'web'", "tier": "first", "types": ["Egress"]});
    let out = global("GlobalNetworkPolicy", "out", out);
    let world = World::new(&[tier("first", 1, "Deny"), out, policy(&allow())]);
    assert!(world.allows("10.0.0.1 > 10.0.0.2 tcp 80"));
    assert!(!world.allows("10.0.0.2 > 10.0.0.1 tcp 80"));
}

#[test]
fn scenario_32_pass_in_the_last_tier_reaches_the_profiles_then_deny() {
    let web = |profiles: Value| {
        with(
            endpoint("web", &["10.0.0.2/32", "fd00::2/128"]),
            "profiles",
            profiles,
        )
    };
    let profile =
        |name: &str, rules: Value| global("Profile", name, json!({"ingress": rules, "egress": rules}));
    assert!(!World::new(&[policy(&pass())]).allows_everywhere("tcp 80"));
    let objects = [
        policy(&pass()),
        profile("open", allow()),
        profile("empty", json!([])),
        profile("shut", deny()),
    ];
    let allows = |profiles: Value| World::with_web(web(profiles), &objects).allows_everywhere("tcp 80");
    assert!(allows(json!(["open"])));
    assert!(allows(json!(["empty", "open"])));
    assert!(!allows(json!(["empty"])));
    assert!(!allows(json!(["shut", "open"])));
    assert!(!allows(json!(["missing", "open"])), "a missing profile denies");
    assert!(allows(json!(["projectcalico-default-allow"])));
}

#[test]
fn the_end_of_a_tier_keeps_profiles_from_deciding() {
    let web = with(
        endpoint("web", &["10.0.0.2/32"]),
        "profiles",
        json!(["projectcalico-default-allow"]),
    );
    assert!(!World::with_web(web.clone(), &[policy(&json!([]))]).allows("10.0.0.1 > 10.0.0.2 tcp 80"));
    assert!(World::with_web(web, &[]).allows("10.0.0.1 > 10.0.0.2 tcp 80"));
}

#[test]
fn scenario_33_pass_reaches_the_next_tier() {
    let tiers = || {
        [
            tier("first", 1, "Deny"),
            tier("second", 2, "Deny"),
            tier("third", 3, "Deny"),
        ]
    };
    let world = |rules: [Value; 3]| {
        let names = ["first", "second", "third"];
        let policies = names
            .iter()
            .zip(&rules)
            .map(|(name, rules)| policy_in(name, name, rules));
        World::new(&tiers().into_iter().chain(policies).collect::<Vec<_>>())
    };
    let passed = world([pass(), allow(), deny()]);
    assert!(passed.allows_everywhere("tcp 80"));
    assert_eq!(passed.decider(), "second/GlobalNetworkPolicy(second) ingress[0]");
    assert!(!world([pass(), deny(), allow()]).allows_everywhere("tcp 80"));
    assert!(!world([pass(), pass(), deny()]).allows_everywhere("tcp 80"));
    assert!(
        world([allow(), deny(), deny()]).allows_everywhere("tcp 80"),
        "later tiers are not asked"
    );
    assert!(
        !world([json!([]), allow(), allow()]).allows_everywhere("tcp 80"),
        "the end of a tier denies"
    );
}

#[test]
fn scenario_33_pass_skips_the_rest_of_its_tier() {
    let objects = [
        tier("first", 1, "Deny"),
        policy_in("first", "a", &pass()),
        policy_in("first", "b", &deny()),
        policy_in("default", "c", &allow()),
    ];
    assert!(World::new(&objects).allows_everywhere("tcp 80"));
}

#[test]
fn a_tier_that_passes_by_default_lets_the_next_one_decide() {
    let first = |default_action: &str| {
        let objects = [
            tier("first", 1, default_action),
            policy_in("first", "a", &json!([])),
            policy_in("default", "b", &allow()),
        ];
        World::new(&objects).allows_everywhere("tcp 80")
    };
    assert!(first("Pass"));
    assert!(!first("Deny"));
}

#[test]
fn an_operators_policy_with_an_order_comes_before_security_groups() {
    let group = labelled(policy_in("default", "ossg.default.a", &allow()), json!({}));
    let world = World::new(&[
        group.clone(),
        with(policy_in("default", "z", &deny()), "order", json!(1_000_000)),
    ]);
    assert_eq!(world.decider(), "default/GlobalNetworkPolicy(z) ingress[0]");
    let world = World::new(&[group, policy_in("default", "z", &deny())]);
    assert_eq!(
        world.decider(),
        "default/GlobalNetworkPolicy(ossg.default.a) ingress[0]"
    );
}

#[test]
fn scenario_34_protocols_by_number_and_name() {
    let by = |field: &str, protocol: Value| under(&json!([{"action": "Allow", field: protocol}]));
    let tcp = by("protocol", json!("TCP"));
    assert!(tcp.allows_everywhere("tcp 80"));
    assert!(!tcp.allows_everywhere("udp 80"));
    let not_tcp = by("notProtocol", json!("tcp"));
    assert!(!not_tcp.allows_everywhere("tcp 80"));
    assert!(not_tcp.allows_everywhere("udp 80"));
    assert!(not_tcp.allows_everywhere("47"));
    for (written, number) in [
        (json!(112), 112),
        (json!(47), 47),
        (json!("132"), 132),
        (json!("UDPLite"), 136),
    ] {
        let world = by("protocol", written);
        assert!(world.allows_everywhere(&number.to_string()), "{number}");
        assert!(
            !world.allows_everywhere("tcp 80") && !world.allows_everywhere("50"),
            "{number}"
        );
    }
    for written in [json!(58), json!("ICMPv6")] {
        let world = by("protocol", written);
        assert!(world.allows("fd00::1 > fd00::2 icmp 128 0"));
        assert!(!world.allows("10.0.0.1 > 10.0.0.2 icmp 8 0"));
    }
}

#[test]
fn scenario_35_nets_and_their_negation_up_to_the_borders() {
    let by = |field: &str, nets: &[&str]| {
        let ingress = json!([{"action": "Allow", "source": {field: nets}}]);
        let egress = json!([{"action": "Allow", "destination": {field: nets}}]);
        let spec = json!({"selector": "role == 'web'", "ingress": ingress, "egress": egress});
        World::new(&[global("GlobalNetworkPolicy", "p", spec)])
    };
    let check = |world: &World, address: &str, expected: bool| {
        let web = if address.contains(':') { WEB[1] } else { WEB[0] };
        for packet in [
            format!("{address} > {web} tcp 80"),
            format!("{web} > {address} tcp 80"),
        ] {
            assert_eq!(world.allows(&packet), expected, "{packet}");
        }
    };
    // Nets, addresses inside, addresses outside.
    let cases: [(&[&str], &[&str], &[&str]); 7] = [
        (&["0.0.0.0/0"], &["0.0.0.1", "255.255.255.255", "10.0.0.9"], &[]),
        (
            &["::/0"],
            &["::2", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            &[],
        ),
        (
            &["128.0.0.0/1"],
            &["128.0.0.0", "255.255.255.255"],
            &["127.255.255.255", "0.0.0.1"],
        ),
        (
            &["8000::/1"],
            &["8000::", "ffff::"],
            &["7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
        ),
        (
            &["10.0.0.5/32", "192.0.2.0/31"],
            &["10.0.0.5", "192.0.2.1"],
            &["10.0.0.4", "10.0.0.6", "192.0.2.2"],
        ),
        (
            &["fd00::5/128", "2001:db8::/64"],
            &["fd00::5", "2001:db8::ffff:0:0:1"],
            &["fd00::4", "2001:db8:0:1::"],
        ),
        (
            &["10.65.0.7/24"],
            &["10.65.0.0", "10.65.0.255"],
            &["10.64.255.255", "10.65.1.0"],
        ),
    ];
    for (nets, inside, outside) in cases {
        let positive = by("nets", nets);
        let negative = by("notNets", nets);
        for address in inside {
            check(&positive, address, true);
            check(&negative, address, false);
        }
        for address in outside {
            check(&positive, address, false);
            check(&negative, address, true);
        }
    }
    // Nets of one version say nothing positive about the other, and exclude nothing there.
    check(&by("nets", &["0.0.0.0/0"]), "fd00::9", false);
    check(&by("notNets", &["0.0.0.0/0"]), "fd00::9", true);
}

#[test]
fn scenario_36_ports_up_to_the_borders() {
    let by = |field: &str, ports: Value| {
        under(&json!([{"action": "Allow", "protocol": "TCP", "destination": {field: ports}}]))
    };
    let check = |world: &World, allowed: &[u16], denied: &[u16]| {
        for port in allowed {
            assert!(world.allows_everywhere(&format!("tcp {port} 4000")), "{port}");
        }
        for port in denied {
            assert!(!world.allows_everywhere(&format!("tcp {port} 4000")), "{port}");
        }
    };
    check(&by("ports", json!(["1:80"])), &[1, 80], &[0, 81, 65535]);
    check(&by("ports", json!(["80:65535"])), &[80, 65535], &[0, 79]);
    check(
        &by("ports", json!([22, "80:81", 443])),
        &[22, 80, 81, 443],
        &[21, 23, 79, 82, 442, 444],
    );
    check(
        &by("notPorts", json!([22, "80:81"])),
        &[0, 21, 23, 79, 82, 65535],
        &[22, 80, 81],
    );
    assert!(!by("ports", json!([80])).allows_everywhere("udp 80"));
}

#[test]
fn scenario_36_port_zero_is_a_port() {
    let mut state = World::new(&[policy(&json!([{"action": "Allow", "protocol": "TCP"}]))]).state;
    let web = state.endpoints.get_mut(&endpoint_key("web")).unwrap();
    let mut policy = EffectivePolicy::clone(&web.policy);
    for direction in [&mut policy.egress, &mut policy.ingress] {
        direction.tiers[0].policies[0].rules[0].destination.ports = Some(vec![EffectivePort::Range(0, 80)]);
    }
    web.policy = Arc::new(policy);
    let world = World::of(state);
    assert!(world.allows_everywhere("tcp 0") && world.allows_everywhere("tcp 80"));
    assert!(!world.allows_everywhere("tcp 81"));
}

#[test]
fn scenario_36_a_rule_with_ports_never_matches_a_protocol_without() {
    for field in ["ports", "notPorts"] {
        let world = under(&json!([{"action": "Deny", "protocol": "UDP"},
            {"action": "Deny", "protocol": "TCP", "destination": {field: [80]}}, {"action": "Allow"}]));
        let mut state = world.state;
        let web = state.endpoints.get_mut(&endpoint_key("web")).unwrap();
        let mut policy = EffectivePolicy::clone(&web.policy);
        for direction in [&mut policy.egress, &mut policy.ingress] {
            // Without a protocol the rule is about every protocol with ports.
            direction.tiers[0].policies[0].rules[1].protocol = None;
        }
        web.policy = Arc::new(policy);
        let world = World::of(state);
        assert!(world.allows_everywhere("47") && world.allows_everywhere("icmp 8 0"));
        let denied = if field == "ports" { 80 } else { 81 };
        for protocol in ["tcp", "sctp", "udplite", "33"] {
            assert!(
                !world.allows_everywhere(&format!("{protocol} {denied}")),
                "{protocol}"
            );
            assert!(
                world.allows_everywhere(&format!("{protocol} {}", 161 - denied)),
                "{protocol}"
            );
        }
    }
}

#[test]
fn scenario_36_source_ports() {
    let rules = json!([{"action": "Allow", "protocol": "UDP", "source": {"ports": ["1000:1023"]}, "destination": {"ports": [53]}}]);
    let world = under(&rules);
    assert!(world.allows_everywhere("udp 53 1000") && world.allows_everywhere("udp 53 1023"));
    assert!(!world.allows_everywhere("udp 53 999") && !world.allows_everywhere("udp 53 1024"));
    assert!(!world.allows_everywhere("udp 54 1000") && !world.allows_everywhere("tcp 53 1000"));
}

/// Rules about the peer by selectors, for both directions.
fn about_peer(entity: &Value) -> Value {
    let ingress = json!([{"action": "Allow", "source": entity}]);
    let egress = json!([{"action": "Allow", "destination": entity}]);
    global(
        "GlobalNetworkPolicy",
        "p",
        json!({"selector": "role == 'web'", "ingress": ingress, "egress": egress}),
    )
}

#[test]
fn scenario_37_an_empty_set_matches_nothing_and_its_negation_everything() {
    let world = World::new(&[about_peer(&json!({"selector": "role == 'nobody'"}))]);
    assert!(!world.allows_everywhere("tcp 80"));
    let world = World::new(&[about_peer(&json!({"notSelector": "role == 'nobody'"}))]);
    assert!(world.allows_everywhere("tcp 80"));
    assert!(world.allows("192.0.2.9 > 10.0.0.2 tcp 80"));
}

#[test]
fn scenario_38_a_member_added_is_allowed_and_a_member_removed_denied() {
    let rule = about_peer(&json!({"selector": "role == 'friend'"}));
    let peer = |role: &str| {
        labelled(
            endpoint_on("compute-3", "peer", &["10.0.0.7/32"]),
            json!({"role": role}),
        )
    };
    let allows = |role: &str| World::new(&[rule.clone(), peer(role)]).allows("10.0.0.7 > 10.0.0.2 tcp 80");
    assert!(!allows("stranger"));
    assert!(allows("friend"));
}

#[test]
fn scenario_38_a_network_set_has_members_by_prefix() {
    let set = labelled(
        global(
            "GlobalNetworkSet",
            "s",
            json!({"nets": ["192.0.2.0/24", "192.0.2.64/26"]}),
        ),
        json!({"role": "friend"}),
    );
    let world = World::new(&[about_peer(&json!({"selector": "role == 'friend'"})), set]);
    assert!(world.allows("192.0.2.0 > 10.0.0.2 tcp 80") && world.allows("10.0.0.2 > 192.0.2.255 tcp 80"));
    assert!(!world.allows("192.0.3.0 > 10.0.0.2 tcp 80"));
}

#[test]
fn scenario_39_sets_and_negated_sets_of_one_side_must_all_hold() {
    let peers = [
        labelled(
            endpoint_on("compute-3", "x", &["10.0.0.7/32"]),
            json!({"role": "x", "a": "", "b": ""}),
        ),
        labelled(
            endpoint_on("compute-3", "y", &["10.0.0.8/32"]),
            json!({"role": "y", "a": ""}),
        ),
    ];
    let world = |entity: Value| World::new(&[peers[0].clone(), peers[1].clone(), about_peer(&entity)]);
    let negated = world(json!({"selector": "has(a)", "notSelector": "has(b)"}));
    assert!(!negated.allows("10.0.0.7 > 10.0.0.2 tcp 80"));
    assert!(negated.allows("10.0.0.8 > 10.0.0.2 tcp 80"));
    assert!(!negated.allows("10.0.0.9 > 10.0.0.2 tcp 80"));
    let with_nets = world(json!({"selector": "has(a)", "nets": ["10.0.0.8/30"]}));
    assert!(!with_nets.allows("10.0.0.7 > 10.0.0.2 tcp 80"));
    assert!(with_nets.allows("10.0.0.8 > 10.0.0.2 tcp 80"));

    let mut state = world(json!({"selector": "has(a)", "notSelector": "has(b)"})).state;
    let web = state.endpoints.get_mut(&endpoint_key("web")).unwrap();
    let mut policy = EffectivePolicy::clone(&web.policy);
    let source = &mut policy.ingress.tiers[0].policies[0].rules[0].source;
    source.sets.append(&mut source.not_sets);
    web.policy = Arc::new(policy);
    let both = World::of(state);
    assert!(both.allows("10.0.0.7 > 10.0.0.2 tcp 80"));
    assert!(!both.allows("10.0.0.8 > 10.0.0.2 tcp 80"));
}

#[test]
fn scenario_40_named_ports_beside_numbers() {
    let ports = json!([{"name": "http", "protocol": "TCP", "port": 8080}]);
    let web = || {
        with(
            endpoint("web", &["10.0.0.2/32", "fd00::2/128"]),
            "ports",
            ports.clone(),
        )
    };
    let world = |field: &str| {
        let rules = json!([{"action": "Allow", "protocol": "TCP", "destination": {field: ["http", 22]}}]);
        let spec = json!({"selector": "role == 'web'", "ingress": rules, "egress": rules});
        World::with_web(web(), &[global("GlobalNetworkPolicy", "p", spec)])
    };
    for [client, web] in [[CLIENT[0], WEB[0]], [CLIENT[1], WEB[1]]] {
        let to_web = |world: &World, what: &str| world.allows(&format!("{client} > {web} {what}"));
        let to_client = |world: &World, what: &str| world.allows(&format!("{web} > {client} {what}"));
        let positive = world("ports");
        assert!(to_web(&positive, "tcp 8080") && to_web(&positive, "tcp 22"));
        assert!(!to_web(&positive, "tcp 80") && !to_web(&positive, "udp 8080"));
        assert!(!to_client(&positive, "tcp 8080"), "the client has no such port");
        assert!(to_client(&positive, "tcp 22"));
        let negative = world("notPorts");
        assert!(!to_web(&negative, "tcp 8080") && !to_web(&negative, "tcp 22"));
        assert!(to_web(&negative, "tcp 80"));
        assert!(to_client(&negative, "tcp 8080"));
    }
}

#[test]
fn scenario_41_icmp_type_and_code() {
    let by = |field: &str, icmp: Value| {
        let rule = |version: u8, protocol: &str| json!({"action": "Allow", "ipVersion": version, "protocol": protocol, field: icmp.clone()});
        under(&json!([rule(4, "ICMP"), rule(6, "ICMPv6")]))
    };
    let kind = by("icmp", json!({"type": 8}));
    assert!(kind.allows_everywhere("icmp 8 0") && kind.allows_everywhere("icmp 8 255"));
    assert!(!kind.allows_everywhere("icmp 9 0") && !kind.allows_everywhere("tcp 8"));
    let coded = by("icmp", json!({"type": 3, "code": 4}));
    assert!(coded.allows_everywhere("icmp 3 4"));
    assert!(!coded.allows_everywhere("icmp 3 0") && !coded.allows_everywhere("icmp 4 4"));
    let zero = by("icmp", json!({"type": 0, "code": 0}));
    assert!(zero.allows_everywhere("icmp 0 0"));
    assert!(!zero.allows_everywhere("icmp 0 1") && !zero.allows_everywhere("icmp 8 0"));
    let not_kind = by("notICMP", json!({"type": 8}));
    assert!(!not_kind.allows_everywhere("icmp 8 0"));
    assert!(not_kind.allows_everywhere("icmp 0 0"));
    assert!(!not_kind.allows_everywhere("tcp 80"), "still a rule about ICMP");
    let not_coded = by("notICMP", json!({"type": 0, "code": 0}));
    assert!(!not_coded.allows_everywhere("icmp 0 0"));
    assert!(not_coded.allows_everywhere("icmp 0 1") && not_coded.allows_everywhere("icmp 1 0"));
}

#[test]
fn scenario_44_log_goes_on_with_the_next_rule() {
    let world = under(&json!([{"action": "Log", "protocol": "TCP"}, {"action": "Allow"}]));
    let judgement = world.judge(&parse("10.0.0.1 > 10.0.0.2 tcp 80"));
    assert!(judgement.log && judgement.allow);
    let judgement = world.judge(&parse("10.0.0.1 > 10.0.0.2 udp 80"));
    assert!(!judgement.log && judgement.allow);
    let judgement = under(&json!([{"action": "Log"}])).judge(&parse("10.0.0.1 > 10.0.0.2 tcp 80"));
    assert!(judgement.log && !judgement.allow);
}

#[test]
fn rules_about_the_endpoints_own_side_look_at_the_address_in_the_packet() {
    let rules = json!([{"action": "Allow", "destination": {"nets": ["10.0.0.2/32"]}}]);
    let web = endpoint("web", &["10.0.0.2/32", "10.0.0.3/32"]);
    let world = World::with_web(web, &[policy(&rules)]);
    assert!(world.allows("10.0.0.1 > 10.0.0.2 tcp 80"));
    assert!(!world.allows("10.0.0.1 > 10.0.0.3 tcp 80"));
}

#[test]
fn scenario_42_twelve_thousand_rules_over_250_policies_on_one_port() {
    let mut objects = Vec::new();
    for number in 0..250_u16 {
        let rules: Vec<Value> = (0..50)
            .map(|rule| {
                let index = number * 50 + rule;
                let action = if index % 3 == 0 { "Deny" } else { "Allow" };
                let net = format!("10.{}.{}.0/24", index / 256, index % 256);
                json!({"action": action, "protocol": "TCP",
                    "source": {"nets": [net, "172.16.0.0/12"]}, "destination": {"ports": [1 + index % 50]}})
            })
            .collect();
        let spec = json!({"selector": "role == 'web'", "order": number, "ingress": rules});
        objects.push(global("GlobalNetworkPolicy", &format!("p{number:03}"), spec));
    }
    let started = std::time::Instant::now();
    let world = World::new(&objects);
    println!(
        "12,500 rules, with reading: {:?}, {:?}",
        started.elapsed(),
        world.table.report
    );
    let decider = |packet: &str| world.judge(&parse(packet)).decided_by.unwrap().to_string();
    assert_eq!(
        decider("10.1.0.9 > 10.0.0.2 tcp 7"),
        "default/GlobalNetworkPolicy(p005) ingress[6]"
    );
    assert_eq!(
        decider("172.16.0.1 > 10.0.0.2 tcp 7"),
        "default/GlobalNetworkPolicy(p000) ingress[6]"
    );
    assert!(!world.allows("10.1.0.9 > 10.0.0.2 tcp 8"));
    assert_eq!(
        world
            .judge(&parse("10.48.211.9 > 10.0.0.2 tcp 50"))
            .decided_by
            .unwrap()
            .index,
        49
    );
}

#[test]
fn scenario_43_a_rule_with_a_thousand_nets_and_a_thousand_ranges() {
    let nets: Vec<String> = (0..1_000)
        .map(|number| format!("10.{}.{}.0/25", number / 256 + 1, number % 256))
        .collect();
    let ports: Vec<String> = (0..1_000)
        .map(|number| format!("{}:{}", number * 50 + 10, number * 50 + 20))
        .collect();
    let rules = json!([{"action": "Allow", "protocol": "UDP", "source": {"nets": nets}, "destination": {"ports": ports}}]);
    let world = under(&rules);
    assert!(world.allows("10.1.7.127 > 10.0.0.2 udp 49970"));
    assert!(!world.allows("10.1.7.128 > 10.0.0.2 udp 49970"));
    assert!(!world.allows("10.1.7.127 > 10.0.0.2 udp 49971"));
    assert!(world.table.report.cells < 100, "the lists are one predicate each");
}
