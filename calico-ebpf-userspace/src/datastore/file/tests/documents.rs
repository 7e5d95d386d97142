use serde_json::{Value, json};

use crate::datastore::file::document::{Document, SyntaxFault, parse_json, parse_yaml};

fn values(documents: Vec<Result<Document, SyntaxFault>>) -> Vec<(u64, Value)> {
    documents
        .into_iter()
        .map(|document| document.unwrap())
        .map(|document| (document.line, document.value))
        .collect()
}

fn yaml_fault(text: &str) -> SyntaxFault {
    parse_yaml(text)
        .into_iter()
        .find_map(Result::err)
        .unwrap_or_else(|| panic!("{text} is fine"))
}

#[test]
fn a_file_holds_several_documents() {
    let text = "--- # the first\n# only comments\n---\n\na: 1\n...\n%YAML 1.2\n---\nb: 2\n--- {c: 3}\n---\n---\n# end\n";
    assert_eq!(
        values(parse_yaml(text)),
        [(5, json!({"a": 1})), (9, json!({"b": 2})), (10, json!({"c": 3}))]
    );
    assert_eq!(
        values(parse_yaml("\u{feff}a: 1\r\n---\r\nb: 2\r\n")),
        [(1, json!({"a": 1})), (3, json!({"b": 2}))]
    );
    assert!(parse_yaml("").is_empty() && parse_yaml("# nothing\n\n---\n").is_empty());
}

#[test]
fn scalars_are_what_yaml_1_2_says() {
    let text = "a: yes\nb: true\nc: 00:61:fe:ed:ca:fe\nd: 11:22:33\n80: 5\ne: 2020-01-01\nf: ~\ng:\nh: 1.5\ni: \"6\"\nj: -1\nk: 8000:8080\n";
    let expected = json!({
        "a": "yes", "b": true, "c": "00:61:fe:ed:ca:fe", "d": "11:22:33", "80": 5, "e": "2020-01-01", "f": null,
        "g": null, "h": 1.5, "i": "6", "j": -1, "k": "8000:8080",
    });
    assert_eq!(values(parse_yaml(text)), [(1, expected)]);
}

#[test]
fn every_field_has_its_line() {
    let text = "---\na: 1\nspec:\n  ingress:\n  - action: Allow\n    protocol: 5\n  - action: Deny\n    destination:\n      \
                ports: [1,\n        2, 3]\nmetadata:\n  labels:\n    a.b/c: d\n    a: e\n";
    let document = parse_yaml(text).remove(0).unwrap();
    for (path, line) in [
        ("", 2),
        ("a", 2),
        ("spec.ingress[0].protocol", 6),
        ("spec.ingress[0].nothing", 5),
        ("spec.ingress[1]", 7),
        ("spec.ingress[1].destination.ports[0]", 9),
        ("spec.ingress[1].destination.ports[1]", 10),
        ("metadata.labels.a.b/c", 13),
        ("metadata.labels.a", 14),
        ("nothing.at.all", 2),
    ] {
        assert_eq!(document.line_of(path), line, "{path}");
    }
    let json = parse_json("{\"a\": {\n\t\"b\": 1}}\n\n {\"c\": [1,\n2]}");
    let lines = json.iter().map(|document| document.as_ref().unwrap());
    let lines: Vec<_> = lines
        .map(|document| (document.line, document.line_of("a.b"), document.line_of("c[1]")))
        .collect();
    assert_eq!(lines, [(1, 2, 1), (4, 4, 5)]);
}

#[test]
fn lists_are_their_items() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- kind: Tier\n  a: 1\n- kind: Node\n  b: 2\n";
    let objects = parse_yaml(text).remove(0).unwrap().into_objects();
    let lines: Vec<_> = objects
        .iter()
        .map(|object| (object.line, object.value["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(lines, [(4, "Tier"), (6, "Node")]);
    assert_eq!(objects[1].line_of("b"), 7);
    assert_eq!(
        parse_yaml("kind: Tier\nitems: []\n")
            .remove(0)
            .unwrap()
            .into_objects()
            .len(),
        1
    );
}

#[test]
fn syntax_errors_have_their_line_in_the_file() {
    for (text, line) in [
        ("a: [1, 2\nb: 3\n", 2),
        ("a: 1\n  b: 2\n", 2),
        ("a: 1\n---\n\nb: \"x\n", 4),
        ("a: 1\na: 2\n", 2),
        ("a: *x\n", 1),
        ("- a\nb: c\n", 2),
        ("---\n---\n}\n", 3),
        ("a: .inf\n", 1),
    ] {
        let fault = yaml_fault(text);
        assert_eq!(fault.line, line, "{text}: {fault:?}");
        assert!(
            !fault.found.is_empty() && !fault.found.contains("at line") && fault.expected == "YAML",
            "{fault:?}"
        );
    }
    assert_eq!(yaml_fault("a: 1\na: 2\n").found, "duplicate mapping key: a");
    let fault = parse_json("{}\n{\"a\": 1,}").pop().unwrap().unwrap_err();
    assert_eq!((fault.line, fault.expected), (2, "JSON"));
}

#[test]
fn a_bad_document_leaves_the_others() {
    let documents = parse_yaml("a: 1\n---\nb: [\n---\nc: 3\n");
    let outcomes: Vec<_> = documents
        .iter()
        .map(|document| document.as_ref().ok().map(|good| good.line))
        .collect();
    assert_eq!(outcomes, [Some(1), None, Some(5)]);
    let documents = parse_json("{\"a\": 1}\n{]\n{\"c\": 3}");
    assert_eq!(
        documents.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, false]
    );
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, before) in ('b'..='h').zip('a'..) {
        let aliases = vec![format!("*{before}"); 10].join(", ");
        bomb += &[
            name.to_string().as_str(),
            ": &",
            &name.to_string(),
            " [",
            &aliases,
            "]\n",
        ]
        .concat();
    }
    let fault = yaml_fault(&bomb);
    assert!(fault.expected.contains("aliases"), "{fault:?}");
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    for text in [
        format!("a: {}{}", "[".repeat(100), "]".repeat(100)),
        format!("{}1{}", "{a: ".repeat(100), "}".repeat(100)),
        "[".repeat(1_000_000),
        "- ".repeat(1_000_000),
        (0..100).map(|depth| " ".repeat(depth) + "a:\n").collect(),
    ] {
        yaml_fault(&text);
    }
    parse_yaml(&format!("a: {}{}", "[".repeat(20), "]".repeat(20)))
        .remove(0)
        .unwrap();
    assert!(parse_json(&"[".repeat(1_000_000)).remove(0).is_err());
}
