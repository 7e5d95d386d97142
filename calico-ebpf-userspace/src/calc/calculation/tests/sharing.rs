//! What is as it was is the same `Arc`.

use serde_json::{Value, json};

use super::*;
use crate::calc::effective::{SetId, SetMembers};
use crate::calc::fixture::{endpoint, endpoint_key, endpoint_on, global, labelled, snapshot, with};

fn policy(name: &str, group: &str) -> Value {
    let selector = format!("has({group})");
    let rules = json!([{"action": "Allow", "source": {"selector": &selector}}]);
    global(
        "GlobalNetworkPolicy",
        name,
        json!({"selector": &selector, "ingress": rules}),
    )
}

fn base() -> Vec<Value> {
    vec![
        labelled(endpoint("a", &["10.0.0.1/32"]), json!({"web": ""})),
        labelled(endpoint("b", &["10.0.0.2/32"]), json!({"web": ""})),
        labelled(endpoint("c", &["10.0.0.3/32"]), json!({"db": ""})),
        labelled(
            endpoint_on("compute-2", "d", &["10.0.0.4/32"]),
            json!({"web": ""}),
        ),
        policy("web", "web"),
        policy("db", "db"),
    ]
}

/// States before and after one object is put in place or added.
fn change(object: Value) -> [Arc<EffectiveState>; 2] {
    let mut followed = Followed::new();
    let mut objects = base();
    let before = followed.move_to(&snapshot(&objects));
    objects.push(object);
    [before, followed.move_to(&snapshot(&objects))]
}

fn set<'a>(state: &'a EffectiveState, selector: &str) -> &'a SetMembers {
    &state.sets[&SetId(Arc::from(selector))]
}

fn assert_same_endpoints(states: &[Arc<EffectiveState>; 2], names: &[&str]) {
    for name in names {
        let [before, after] = states
            .each_ref()
            .map(|state| &state.endpoints[&endpoint_key(name)]);
        assert!(Arc::ptr_eq(before, after), "{name}");
    }
}

#[test]
fn what_touches_nothing_here_leaves_the_very_same_state() {
    for object in [
        labelled(
            endpoint_on("compute-2", "e", &["10.0.0.5/32"]),
            json!({"other": ""}),
        ),
        labelled(
            endpoint_on("compute-2", "d", &["10.0.0.4/32"]),
            json!({"web": "", "other": ""}),
        ),
        labelled(
            endpoint_on("compute-2", "e", &["10.0.0.1/32"]),
            json!({"web": ""}),
        ),
        policy("elsewhere", "other"),
        global("Tier", "unused", json!({"order": 1})),
        global("Profile", "unused", json!({"labelsToApply": {"web": ""}})),
    ] {
        let [before, after] = change(object);
        assert!(Arc::ptr_eq(&before, &after));
    }
}

#[test]
fn a_new_member_changes_its_set_only() {
    let member = labelled(
        endpoint_on("compute-2", "e", &["10.0.0.5/32"]),
        json!({"web": ""}),
    );
    let states = change(member);
    assert_same_endpoints(&states, &["a", "b", "c"]);
    let [before, after] = &states;
    assert!(set(before, "has(db)").is(set(after, "has(db)")));
    assert_eq!(
        (set(before, "has(web)").len(), set(after, "has(web)").len()),
        (3, 4)
    );
}

#[test]
fn a_changed_policy_changes_those_it_selects_and_they_share_the_new_list() {
    let mut changed = policy("web", "web");
    changed["spec"]["ingress"] = json!([{"action": "Deny"}]);
    let states = change(changed);
    assert_same_endpoints(&states, &["c"]);
    let [before, after] = states
        .each_ref()
        .map(|state| ["a", "b"].map(|name| &state.endpoints[&endpoint_key(name)].policy));
    assert!(Arc::ptr_eq(before[0], before[1]) && Arc::ptr_eq(after[0], after[1]));
    assert_ne!(before[0], after[0]);
    assert_eq!(states[1].sets.len(), 1);
}

#[test]
fn a_changed_endpoint_keeps_its_list() {
    let moved = labelled(endpoint("a", &["10.0.0.9/32"]), json!({"web": ""}));
    let states = change(with(moved, "mac", json!("fa:16:3e:00:00:09")));
    assert_same_endpoints(&states, &["b", "c"]);
    let [before, after] = states
        .each_ref()
        .map(|state| &state.endpoints[&endpoint_key("a")]);
    assert!(Arc::ptr_eq(&before.policy, &after.policy) && Arc::ptr_eq(&before.labels, &after.labels));
    assert_ne!(before, after);
}
