use super::*;
use crate::model::resource::{Profile, Tier};

#[test]
fn a_bare_policy_governs_both_directions_of_its_namespace_last_in_tier_default() {
    let decoded = decode_spec("NetworkPolicy", &json!({}));
    let policy = policy_of(&decoded);
    assert_eq!(policy.tier, "default");
    assert_eq!(policy.order, None);
    assert!(policy.ingress_enabled && policy.egress_enabled && !policy.host_endpoints_only);
    assert_eq!(
        policy.selector.to_string(),
        "projectcalico.org/namespace == \"openstack\""
    );
    assert_eq!(decoded.problems, []);
}

#[test]
fn a_policy_without_spec_is_a_bare_policy() {
    let without = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": {"name": "it", "namespace": "openstack"},
    });
    let bare = decode_spec("NetworkPolicy", &json!({}));
    assert_eq!(decode(&without, None), bare);
}

#[test]
fn types_choose_the_directions() {
    for (types, directions) in [
        (json!(["Ingress"]), (true, false)),
        (json!(["Egress"]), (false, true)),
        (json!(["Egress", "Ingress"]), (true, true)),
        (json!([]), (true, true)),
        (json!(null), (true, true)),
        (json!(["Sideways", "ingress"]), (true, false)),
        (json!(["Sideways"]), (true, true)),
    ] {
        let decoded = decode_spec("NetworkPolicy", &json!({"types": types}));
        let policy = policy_of(&decoded);
        assert_eq!(
            (policy.ingress_enabled, policy.egress_enabled),
            directions,
            "{types}"
        );
        let misspelt = types.to_string().contains("Sideways");
        assert_eq!(decoded.problems.is_empty(), !misspelt, "{types}");
    }
}

#[test]
fn selectors_of_policies_become_effective() {
    for (kind, spec, selector) in [
        (
            "NetworkPolicy",
            json!({"selector": "has(a)"}),
            "has(a) && projectcalico.org/namespace == \"openstack\"",
        ),
        (
            "NetworkPolicy",
            json!({"selector": "  "}),
            "projectcalico.org/namespace == \"openstack\"",
        ),
        ("GlobalNetworkPolicy", json!({}), "all()"),
        ("GlobalNetworkPolicy", json!({"selector": "has(a)"}), "has(a)"),
        (
            "GlobalNetworkPolicy",
            json!({"namespaceSelector": "all()"}),
            "has(projectcalico.org/namespace)",
        ),
        (
            "GlobalNetworkPolicy",
            json!({"selector": "has(a)", "namespaceSelector": "b == 'c' || has(d)"}),
            "has(a) && (pcns.b == \"c\" || has(pcns.d))",
        ),
        (
            "GlobalNetworkPolicy",
            json!({"namespaceSelector": "global()", "serviceAccountSelector": "has(e)"}),
            "!has(projectcalico.org/namespace) && has(pcsa.e)",
        ),
    ] {
        assert_eq!(
            policy_of(&decode_spec(kind, &spec)).selector.to_string(),
            selector,
            "{kind} {spec}"
        );
    }
}

#[test]
fn a_policy_whose_selector_does_not_parse_is_skipped_as_an_object() {
    for name in ["selector", "namespaceSelector", "serviceAccountSelector"] {
        let decoded = decode_spec("GlobalNetworkPolicy", &json!({name: "role = 'web'"}));
        assert_eq!(decoded.resource, None);
        assert_eq!(
            told(&decoded),
            [(format!("spec.{name}").as_str(), Consequence::ObjectSkipped)]
        );
        assert_eq!(
            only_problem(&decoded),
            format!(
                "GlobalNetworkPolicy(it): spec.{name}: found `= 'web'` at column 6, expected `==`, `!=`, `contains`, \
                 `starts with`, `ends with`, `in` or `not in` after the label"
            )
        );
    }
}

#[test]
fn wrong_types_of_a_policy_skip_it() {
    for (name, value) in [
        ("order", json!("5")),
        ("tier", json!(5)),
        ("selector", json!(5)),
        ("types", json!("Ingress")),
        ("ingress", json!({})),
        ("egress", json!("Allow")),
        ("doNotTrack", json!("yes")),
    ] {
        let decoded = decode_spec("GlobalNetworkPolicy", &json!({name: value}));
        assert_eq!(decoded.resource, None, "{name}");
        assert_eq!(
            told(&decoded),
            [(format!("spec.{name}").as_str(), Consequence::ObjectSkipped)]
        );
    }
}

#[test]
fn untracked_policies_are_for_host_endpoints_only() {
    for name in ["doNotTrack", "preDNAT"] {
        let decoded = decode_spec(
            "GlobalNetworkPolicy",
            &json!({name: true, "applyOnForward": true}),
        );
        assert!(policy_of(&decoded).host_endpoints_only);
        assert_eq!(
            told(&decoded),
            [(format!("spec.{name}").as_str(), Consequence::NotEnforced)]
        );
    }
    let decoded = decode_spec(
        "GlobalNetworkPolicy",
        &json!({"applyOnForward": true, "doNotTrack": false}),
    );
    assert!(!policy_of(&decoded).host_endpoints_only);
}

#[test]
fn order_and_tier_are_read() {
    let decoded = decode_spec("GlobalNetworkPolicy", &json!({"order": -1.5, "tier": "security"}));
    assert_eq!(
        (policy_of(&decoded).order, policy_of(&decoded).tier.as_str()),
        (Some(-1.5), "security")
    );
    assert_eq!(
        policy_of(&decode_spec("NetworkPolicy", &json!({"order": 10, "tier": ""}))).order,
        Some(10.0)
    );
}

#[test]
fn tiers_end_with_deny_unless_told_to_pass() {
    for (spec, order, default_pass) in [
        (json!({}), None, false),
        (json!({"order": 100, "defaultAction": "Pass"}), Some(100.0), true),
        (json!({"defaultAction": "Deny"}), None, false),
        (json!({"defaultAction": "Allow"}), None, false),
    ] {
        let decoded = decode_spec("Tier", &spec);
        assert_eq!(
            decoded.resource,
            Some(Resource::Tier(Tier { order, default_pass })),
            "{spec}"
        );
        let strange = spec["defaultAction"] == "Allow";
        assert_eq!(!decoded.problems.is_empty(), strange);
    }
    assert_eq!(decode_spec("Tier", &json!({"order": []})).resource, None);
}

#[test]
fn profiles_have_labels_and_rules_without_a_namespace() {
    let decoded = decode_spec(
        "Profile",
        &json!({
            "labelsToApply": {"role": "web", "pcns.team": "a", "bad": []},
            "ingress": [{"action": "Allow", "source": {"selector": "has(a)"}}, {"action": "Nothing"}],
        }),
    );
    let Some(Resource::Profile(Profile {
        labels_to_apply,
        ingress,
        egress,
    })) = &decoded.resource
    else {
        panic!("{decoded:?}")
    };
    assert_eq!(labels_to_apply.keys().collect::<Vec<_>>(), ["pcns.team", "role"]);
    assert_eq!((ingress.len(), egress.len()), (1, 0));
    assert_eq!(ingress[0].source.selector.as_ref().unwrap().to_string(), "has(a)");
    assert_eq!(
        told(&decoded),
        [
            ("spec.labelsToApply.bad", Consequence::FieldSkipped),
            ("spec.ingress[1].action", Consequence::RuleSkipped),
        ]
    );
}
