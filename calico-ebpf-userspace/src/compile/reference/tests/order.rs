//! Tiers, policies, profiles and actions.

use super::*;

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
