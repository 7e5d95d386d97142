//! Bytes that nobody should have written.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::{MAX_VALUE_SIZE, decode_json, properties};
use super::{object, told};
use crate::model::name::{Kind, ResourceKey};
use crate::model::problem::Consequence;

const OBJECTS: &str = include_str!("../../../../tests/data/neutron-objects.json");

fn key(kind: Kind) -> ResourceKey {
    let namespace = if kind.is_namespaced() { "openstack" } else { "" };
    ResourceKey {
        kind,
        namespace: namespace.to_owned(),
        name: "it".to_owned(),
    }
}

#[test]
fn bytes_that_are_no_json_are_one_problem_of_their_key() {
    let whole = object("Tier", &json!({})).to_string();
    let deep = "[".repeat(100_000);
    let bytes: [&[u8]; 9] = [
        b"",
        b"\0",
        b"\xff\xfe\xfd",
        b"{\"kind\": \"\xff\"}",
        b"kind: Tier",
        b"{}{}",
        b"{\"a\": NaN}",
        &whole.as_bytes()[..whole.len() - 1],
        deep.as_bytes(),
    ];
    for bytes in bytes {
        let decoded = decode_json(bytes, Some(&key(Kind::Tier)));
        assert_eq!(told(&decoded), [("", Consequence::ObjectSkipped)]);
        assert_eq!(
            (decoded.resource, decoded.problems[0].expected.as_str()),
            (None, "a JSON object")
        );
        assert_eq!(decoded.problems[0].object, Some(key(Kind::Tier)));
    }
}

#[test]
fn every_beginning_of_an_object_is_told_and_never_half_an_object() {
    let objects: Vec<serde_json::Value> = serde_json::from_str(OBJECTS).expect("JSON");
    let mut tried = std::collections::BTreeSet::new();
    for object in objects {
        let kind = object["kind"].as_str().and_then(Kind::from_name).expect("a kind");
        if !tried.insert(kind) {
            continue;
        }
        let json = object.to_string();
        for end in 0..json.len() {
            let decoded = decode_json(&json.as_bytes()[..end], Some(&key(kind)));
            assert_eq!(
                told(&decoded),
                [("", Consequence::ObjectSkipped)],
                "{}",
                &json[..end]
            );
        }
        properties::check(json.as_bytes());
    }
    assert!(tried.len() >= 5, "{tried:?}");
}

#[test]
fn a_kind_that_nobody_knows_is_told() {
    for kind in [
        "",
        "Tiers",
        "tier",
        "Tier ",
        "NetworkPolicyList",
        "Pod",
        "\u{0}",
        "BGPPeer",
    ] {
        let decoded = decode_json(object(kind, &json!({})).to_string().as_bytes(), None);
        assert_eq!(told(&decoded), [("kind", Consequence::ObjectSkipped)], "{kind}");
        let decoded = decode_json(
            object(kind, &json!({})).to_string().as_bytes(),
            Some(&key(Kind::Tier)),
        );
        assert_eq!(told(&decoded), [("kind", Consequence::ObjectSkipped)], "{kind}");
    }
}

/// Replaces each value within `object` by each of `wrong` in turn.
fn with_wrong_types(object: &serde_json::Value, wrong: &[serde_json::Value], check: &mut dyn FnMut(&str)) {
    fn paths(value: &serde_json::Value, path: &str, all: &mut Vec<String>) {
        all.push(path.to_owned());
        match value {
            serde_json::Value::Object(map) => {
                for (name, value) in map {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    paths(value, &format!("{path}/{name}"), all);
                }
            }
            serde_json::Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    paths(value, &format!("{path}/{index}"), all);
                }
            }
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => {}
        }
    }
    let mut all = Vec::new();
    paths(object, "", &mut all);
    for path in &all {
        for replacement in wrong {
            let mut changed = object.clone();
            *changed.pointer_mut(path).expect("a path") = replacement.clone();
            check(&changed.to_string());
        }
    }
}

#[test]
fn a_wrong_type_at_any_field_is_survived() {
    let wrong = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("\u{1b}[2J\n"),
        json!([]),
        json!([null, [], {}]),
        json!({}),
        json!({"a": {"b": []}}),
    ];
    let objects: Vec<serde_json::Value> = serde_json::from_str(OBJECTS).expect("JSON");
    let mut kinds = std::collections::BTreeSet::new();
    let mut count = 0;
    for object in &objects {
        if kinds.insert(object["kind"].to_string()) {
            with_wrong_types(object, &wrong, &mut |json| {
                count += 1;
                properties::check_file(json.as_bytes());
            });
        }
    }
    assert!(count > 1000, "{count}");
}

#[test]
fn a_value_over_ten_megabytes_is_refused_by_its_size() {
    let padded = |size: usize| {
        let json = object("Tier", &json!({"order": 1})).to_string();
        format!("{json}{}", " ".repeat(size - json.len()))
    };
    let largest = decode_json(padded(MAX_VALUE_SIZE).as_bytes(), None);
    assert!(largest.resource.is_some(), "{:?}", largest.problems);
    let refused = decode_json(padded(MAX_VALUE_SIZE + 1).as_bytes(), Some(&key(Kind::Tier)));
    assert_eq!(refused.resource, None);
    assert_eq!(
        refused.problems[0].to_string(),
        "Tier(it): found a value of 10485761 bytes, expected at most 10 MiB"
    );
}

#[test]
fn ten_megabytes_of_anything_are_decoded_in_seconds_with_few_problems() {
    let fill = |start: &str, item: &str, end: &str| {
        let room = MAX_VALUE_SIZE - start.len() - end.len() - item.len();
        format!(
            "{start}{}{item}{end}",
            format!("{item},").repeat(room / (item.len() + 1))
        )
    };
    let policy =
        r#"{"apiVersion":"projectcalico.org/v3","kind":"NetworkPolicy","metadata":{"name":"it"},"spec":{"#;
    let endpoint = concat!(
        r#"{"apiVersion":"projectcalico.org/v3","kind":"WorkloadEndpoint","metadata":{"name":"it"},"#,
        r#""spec":{"node":"a","interfaceName":"tap0","ipNetworks":["#
    );
    let values = [
        fill(&format!("{policy}\"ingress\":["), "{}", "]}}"),
        fill(&format!("{policy}\"ingress\":[{{"), "\"x\":1", "}]}}"),
        fill(&format!("{policy}\"ingress\":["), "{\"action\":\"Allow\"}", "]}}"),
        fill(
            &format!("{policy}\"selector\":\""),
            "has(a) || a in {'b'} |",
            "| all()\"}}",
        ),
        fill(
            &format!("{policy}\"selector\":\""),
            "(((((((((((((((((((((",
            "\"}}",
        ),
        fill(endpoint, "\"10.0.0.0/8/32\"", "]}}"),
        fill(endpoint, "\"nothing\"", ",\"10.65.0.1\"]}}"),
        fill(endpoint, "[[[[]]]]", "]}}"),
        fill("[", "0", "]"),
        fill("\"", "x", "\""),
    ];
    let started = Instant::now();
    for value in values {
        assert!((MAX_VALUE_SIZE - 200..=MAX_VALUE_SIZE).contains(&value.len()));
        let decoded = decode_json(value.as_bytes(), None);
        assert!(decoded.problems.len() <= 202, "{}", decoded.problems.len());
        let told: usize = decoded
            .problems
            .iter()
            .map(|problem| problem.to_string().len())
            .sum();
        assert!(told < 1_000_000, "{told}");
    }
    assert!(
        started.elapsed() < Duration::from_mins(2),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn problems_of_one_object_are_limited_and_the_gravest_is_told() {
    let mut rules = vec![json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8/32"]}}); 300];
    rules.push(json!({"action": "Nothing"}));
    let decoded = super::decode_spec("GlobalNetworkPolicy", &json!({"ingress": rules}));
    assert_eq!(super::policy_of(&decoded).ingress.len(), 300);
    assert_eq!(decoded.problems.len(), 201);
    let last = &decoded.problems[200];
    assert_eq!(
        (last.found.as_str(), last.consequence),
        ("101 more problems", Consequence::RuleSkipped)
    );
    let mut spec = json!({"ingress": vec![json!({}); 300]});
    spec["doNotTrack"] = json!("yes");
    let decoded = super::decode_spec("GlobalNetworkPolicy", &spec);
    assert_eq!(decoded.resource, None);
    assert_eq!(
        told(&decoded)[200],
        ("spec.doNotTrack", Consequence::ObjectSkipped)
    );
}
