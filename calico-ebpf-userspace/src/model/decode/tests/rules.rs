use super::*;
use crate::model::rule::{Action, Entity, IcmpMatch, IpVersion, PortMatch, Protocol, Rule};

/// Decodes one ingress rule of a `GlobalNetworkPolicy`; `Err` holds the field and what was found.
fn rule(rule: &Value) -> Result<Rule, (String, String)> {
    let decoded = decode_spec("GlobalNetworkPolicy", &json!({"ingress": [rule]}));
    match policy_of(&decoded).ingress.as_slice() {
        [rule] => Ok(rule.clone()),
        [] => {
            let problem = decoded.problems.last().expect("a skipped rule is told");
            assert_eq!(problem.consequence, Consequence::RuleSkipped);
            Err((
                problem.field.replace("spec.ingress[0]", ""),
                problem.found.clone(),
            ))
        }
        more => panic!("{more:?}"),
    }
}

fn skipped(value: &Value) -> String {
    rule(value).expect_err(&value.to_string()).0
}

#[test]
fn every_spelling_of_a_protocol_is_its_number() {
    for (spelling, number) in [
        (json!(6), 6),
        (json!("6"), 6),
        (json!("TCP"), 6),
        (json!("tcp"), 6),
        (json!("Tcp"), 6),
        (json!("UDP"), 17),
        (json!(1), 1),
        (json!("ICMP"), 1),
        (json!("ICMPv6"), 58),
        (json!("icmpV6"), 58),
        (json!("IPV6-ICMP"), 58),
        (json!("58"), 58),
        (json!("SCTP"), 132),
        (json!("UDPLite"), 136),
        (json!("UDPLITE"), 136),
        (json!("DCCP"), 33),
        (json!("ESP"), 50),
        (json!("AH"), 51),
        (json!("GRE"), 47),
        (json!("VRRP"), 112),
        (json!("IGMP"), 2),
        (json!("OSPF"), 89),
        (json!("IPIP"), 4),
        (json!("PGM"), 113),
        (json!("RSVP"), 46),
        (json!("EGP"), 8),
        (json!("ipv6-frag"), 44),
        (json!(255), 255),
        (json!("255"), 255),
    ] {
        let parsed = rule(&json!({"action": "Allow", "protocol": spelling})).unwrap();
        assert_eq!(parsed.protocol, Some(Protocol(number)), "{spelling}");
        let parsed = rule(&json!({"action": "Allow", "notProtocol": spelling})).unwrap();
        assert_eq!(
            (parsed.protocol, parsed.not_protocol),
            (None, Some(Protocol(number))),
            "{spelling}"
        );
    }
}

#[test]
fn protocol_zero_and_nonsense_skip_the_rule() {
    for spelling in [
        json!(0),
        json!("0"),
        json!("00"),
        json!("HOPOPT"),
        json!("hopopt"),
        json!("IP"),
        json!("any"),
        json!(256),
        json!("256"),
        json!(-1),
        json!("-1"),
        json!(6.5),
        json!("TCPX"),
        json!(""),
        json!(true),
        json!([6]),
        json!({"number": 6}),
    ] {
        assert_eq!(
            skipped(&json!({"action": "Allow", "protocol": spelling})),
            ".protocol",
            "{spelling}"
        );
        assert_eq!(
            skipped(&json!({"action": "Allow", "notProtocol": spelling})),
            ".notProtocol",
            "{spelling}"
        );
    }
}

#[test]
fn ports_are_numbers_ranges_and_names() {
    let parsed = rule(&json!({
        "action": "Allow", "protocol": 6,
        "source": {"notPorts": ["1:1023"]},
        "destination": {"ports": [22, "80", "8000:8080", "http-alt", 65535]},
    }))
    .unwrap();
    assert_eq!(parsed.source.not_ports, [PortMatch::Range(1, 1023)]);
    assert_eq!(
        parsed.destination.ports.as_deref().unwrap(),
        [
            PortMatch::Range(22, 22),
            PortMatch::Range(80, 80),
            PortMatch::Range(8000, 8080),
            PortMatch::Named("http-alt".to_owned()),
            PortMatch::Range(65535, 65535),
        ]
    );
}

#[test]
fn an_impossible_port_skips_the_rule() {
    for port in [
        json!(0),
        json!("0"),
        json!(65536),
        json!("65536"),
        json!(-1),
        json!(80.5),
        json!("8:0"),
        json!("9:8"),
        json!("0:8"),
        json!("1:65536"),
        json!(":80"),
        json!("80:"),
        json!(":"),
        json!("1:2:3"),
        json!("+1:2"),
        json!(""),
        json!("a b"),
        json!(null),
        json!(true),
        json!([80]),
    ] {
        let field =
            skipped(&json!({"action": "Allow", "protocol": 6, "destination": {"ports": [443, port]}}));
        assert_eq!(field, ".destination.ports[1]", "{port}");
        let field = skipped(&json!({"action": "Allow", "protocol": 6, "source": {"notPorts": [port]}}));
        assert_eq!(field, ".source.notPorts[0]", "{port}");
    }
    assert_eq!(
        skipped(&json!({"action": "Allow", "protocol": 6, "destination": {"ports": 80}})),
        ".destination.ports"
    );
}

#[test]
fn ports_need_a_protocol_that_has_them() {
    for protocol in [6, 17, 33, 132, 136] {
        rule(&json!({"action": "Allow", "protocol": protocol, "destination": {"ports": [1]}})).unwrap();
    }
    for entity in [
        json!({"ports": [80]}),
        json!({"notPorts": ["1:2"]}),
        json!({"ports": ["http"]}),
    ] {
        for side in ["source", "destination"] {
            for protocol in [json!(1), json!("ESP"), json!("58"), json!(null)] {
                let written = json!({"action": "Allow", "protocol": protocol, side: entity});
                assert!(skipped(&written).starts_with(&format!(".{side}.")), "{written}");
            }
            let written = json!({"action": "Allow", "notProtocol": 6, side: entity});
            assert_eq!(rule(&written).unwrap_err().1, "ports without protocol");
        }
    }
    rule(&json!({"action": "Allow", "protocol": 1, "destination": {"ports": [], "notPorts": []}})).unwrap();
}

#[test]
fn icmp_type_and_code_zero_are_values() {
    let parsed =
        rule(&json!({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 0, "code": 0}})).unwrap();
    assert_eq!(
        parsed.icmp,
        Some(IcmpMatch {
            kind: 0,
            code: Some(0)
        })
    );
    let parsed = rule(&json!({"action": "Deny", "protocol": "58", "notICMP": {"type": 254}})).unwrap();
    assert_eq!(
        (parsed.icmp, parsed.not_icmp),
        (
            None,
            Some(IcmpMatch {
                kind: 254,
                code: None
            })
        )
    );
    let parsed = rule(&json!({"action": "Allow", "protocol": "TCP", "icmp": {}})).unwrap();
    assert_eq!(parsed.icmp, None);
}

#[test]
fn impossible_icmp_skips_the_rule() {
    for (icmp, field) in [
        (json!({"type": 255}), ".icmp.type"),
        (json!({"type": -1}), ".icmp.type"),
        (json!({"type": "8"}), ".icmp.type"),
        (json!({"type": 8, "code": 256}), ".icmp.code"),
        (json!({"code": 0}), ".icmp.type"),
        (json!(8), ".icmp"),
    ] {
        assert_eq!(
            skipped(&json!({"action": "Allow", "protocol": "ICMP", "icmp": icmp})),
            field,
            "{icmp}"
        );
    }
    for protocol in [json!("TCP"), json!(null)] {
        let written = json!({"action": "Allow", "protocol": protocol, "icmp": {"type": 8}});
        assert_eq!(skipped(&written), ".protocol");
        let written = json!({"action": "Allow", "protocol": protocol, "notICMP": {"type": 8}});
        assert_eq!(skipped(&written), ".protocol");
    }
}

#[test]
fn actions_and_versions_are_checked() {
    for (text, action) in [
        ("Allow", Action::Allow),
        ("Deny", Action::Deny),
        ("Log", Action::Log),
        ("Pass", Action::Pass),
        ("allow", Action::Allow),
        ("next-tier", Action::Pass),
    ] {
        assert_eq!(rule(&json!({"action": text})).unwrap().action, action);
    }
    assert_eq!(
        rule(&json!({})),
        Err((".action".to_owned(), "nothing".to_owned()))
    );
    assert_eq!(skipped(&json!({"action": null})), ".action");
    assert_eq!(skipped(&json!({"action": "Accept"})), ".action");
    assert_eq!(skipped(&json!({"action": 1})), ".action");
    assert_eq!(skipped(&json!("Allow")), "");
    assert_eq!(
        rule(&json!({"action": "Allow", "ipVersion": 4}))
            .unwrap()
            .ip_version,
        Some(IpVersion::V4)
    );
    assert_eq!(
        rule(&json!({"action": "Allow", "ipVersion": 6}))
            .unwrap()
            .ip_version,
        Some(IpVersion::V6)
    );
    assert_eq!(
        rule(&json!({"action": "Allow", "ipVersion": null}))
            .unwrap()
            .ip_version,
        None
    );
    for version in [json!(5), json!("4"), json!(0)] {
        assert_eq!(
            skipped(&json!({"action": "Allow", "ipVersion": version})),
            ".ipVersion"
        );
    }
}

#[test]
fn nets_are_masked_and_single_addresses_are_prefixes() {
    let parsed = rule(&json!({"action": "Allow", "source": {
        "nets": ["10.65.0.7/24", "192.0.2.1", "fd5f:5d21:845::5/48", "::1"],
        "notNets": ["10.65.0.9/28"],
    }}))
    .unwrap();
    let text: Vec<String> = parsed
        .source
        .nets
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        text,
        ["10.65.0.0/24", "192.0.2.1/32", "fd5f:5d21:845::/48", "::1/128"]
    );
    assert_eq!(parsed.source.not_nets, ["10.65.0.0/28".parse().unwrap()]);
    assert_eq!(parsed.destination, Entity::default());
}

#[test]
fn empty_lists_are_no_condition() {
    let written = json!({"action": "Allow", "source": {"nets": [], "notNets": [], "ports": [], "selector": ""}, "destination": {}});
    let parsed = rule(&written).unwrap();
    assert_eq!(
        (parsed.source, parsed.destination),
        (Entity::default(), Entity::default())
    );
}

#[test]
fn a_bad_net_is_left_out_alone_and_a_rule_without_nets_left_never_matches() {
    let decoded = decode_spec(
        "GlobalNetworkPolicy",
        &json!({"egress": [{"action": "Allow", "destination": {"nets": ["10.0.0.0/33", "10.1.0.0/16/32", "10.2.0.0/16"]}}]}),
    );
    let nets = policy_of(&decoded).egress[0].destination.nets.clone().unwrap();
    assert_eq!(
        nets,
        ["10.1.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap()]
    );
    assert_eq!(
        told(&decoded),
        [
            ("spec.egress[0].destination.nets[0]", Consequence::FieldSkipped),
            ("spec.egress[0].destination.nets[1]", Consequence::Reinterpreted),
        ]
    );
    let parsed = rule(&json!({"action": "Allow", "source": {"nets": ["here", 7, "1.2.3.4/24/24"]}})).unwrap();
    assert_eq!(parsed.source.nets, Some(Vec::new()));
}

#[test]
fn a_bad_exception_skips_the_rule_because_it_would_match_more() {
    assert_eq!(
        skipped(&json!({"action": "Allow", "source": {"notNets": ["10.0.0.0/8", "x"]}})),
        ".source.notNets[1]"
    );
    assert_eq!(
        skipped(&json!({"action": "Allow", "source": {"notSelector": "a =="}})),
        ".source.notSelector"
    );
}

#[test]
fn rules_that_cannot_be_enforced_are_skipped() {
    assert_eq!(
        skipped(&json!({"action": "Allow", "http": {"methods": ["GET"]}})),
        ".http"
    );
    let services = json!({"action": "Allow", "destination": {"services": {"name": "dns"}}});
    assert_eq!(skipped(&services), ".destination.services");
    assert_eq!(
        skipped(&json!({"action": "Allow", "source": {"selector": 5}})),
        ".source.selector"
    );
    assert_eq!(
        skipped(&json!({"action": "Allow", "source": "10.0.0.0/8"})),
        ".source"
    );
    let (field, found) =
        rule(&json!({"action": "Allow", "destination": {"selector": "role == web"}})).unwrap_err();
    assert_eq!(
        (field.as_str(), found.as_str()),
        (".destination.selector", "`web` at column 9")
    );
}

#[test]
fn a_skipped_rule_leaves_a_gap_and_the_others_their_positions() {
    let decoded = decode_spec(
        "NetworkPolicy",
        &json!({"ingress": [{"action": "Allow"}, {"action": "Allow", "protocol": 0}, {"action": "Deny"}]}),
    );
    let positions: Vec<u32> = policy_of(&decoded)
        .ingress
        .iter()
        .map(|rule| rule.index)
        .collect();
    assert_eq!(positions, [0, 2]);
    assert_eq!(
        only_problem(&decoded),
        "NetworkPolicy(openstack/it): spec.ingress[1].protocol: found 0, expected a protocol from 1 to 255 or a \
         name such as TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, ESP"
    );
}

#[test]
fn misspelt_conditions_are_told() {
    let decoded = decode_spec(
        "NetworkPolicy",
        &json!({"ingress": [{"action": "Allow", "protcol": 6, "destination": {"port": [80]}, "metadata": {"annotations": {}}}]}),
    );
    assert_eq!(policy_of(&decoded).ingress.len(), 1);
    assert_eq!(
        told(&decoded),
        [
            ("spec.ingress[0].protcol", Consequence::FieldSkipped),
            ("spec.ingress[0].destination.port", Consequence::FieldSkipped),
        ]
    );
}

#[test]
fn rule_selectors_are_rewritten_as_their_namespace_demands() {
    let own = "projectcalico.org/namespace == \"openstack\"";
    for (kind, entity, selector) in [
        (
            "GlobalNetworkPolicy",
            json!({"selector": "has(a)"}),
            Some("has(a)".to_owned()),
        ),
        ("GlobalNetworkPolicy", json!({"notSelector": "has(a)"}), None),
        ("GlobalNetworkPolicy", json!({"nets": ["10.0.0.0/8"]}), None),
        ("NetworkPolicy", json!({"nets": ["10.0.0.0/8"]}), None),
        ("NetworkPolicy", json!({}), None),
        (
            "NetworkPolicy",
            json!({"selector": "has(a) || has(b)"}),
            Some(format!("{own} && (has(a) || has(b))")),
        ),
        (
            "NetworkPolicy",
            json!({"selector": "all()"}),
            Some(own.to_owned()),
        ),
        (
            "NetworkPolicy",
            json!({"notSelector": "has(a)"}),
            Some(own.to_owned()),
        ),
        (
            "NetworkPolicy",
            json!({"namespaceSelector": "a == 'b'"}),
            Some("pcns.a == \"b\"".to_owned()),
        ),
        (
            "NetworkPolicy",
            json!({"namespaceSelector": "all()", "selector": "has(a)"}),
            Some("has(projectcalico.org/namespace) && has(a)".to_owned()),
        ),
        (
            "GlobalNetworkPolicy",
            json!({"namespaceSelector": "global()", "selector": "has(a)"}),
            Some("!has(projectcalico.org/namespace) && has(a)".to_owned()),
        ),
        (
            "NetworkPolicy",
            json!({"serviceAccounts": {"names": ["x", "y"], "selector": "has(r)"}, "selector": "has(a)"}),
            Some(format!(
                "{own} && projectcalico.org/serviceaccount in {{\"x\", \"y\"}} && has(pcsa.r) && has(a)"
            )),
        ),
    ] {
        let decoded = decode_spec(
            kind,
            &json!({"egress": [{"action": "Allow", "destination": entity}]}),
        );
        let entity_read = &policy_of(&decoded).egress[0].destination;
        assert_eq!(
            entity_read.selector.as_ref().map(ToString::to_string),
            selector,
            "{kind} {entity}"
        );
        let not_selector = entity_read.not_selector.as_ref().map(ToString::to_string);
        assert_eq!(not_selector.is_some(), entity.get("notSelector").is_some());
    }
}
