use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::datastore::file::document::{parse_json, parse_yaml};
use crate::datastore::file::properties;

const OBJECTS: &[&str] = &[
    "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a}\nspec: {order: 1}\n",
    "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: p\nspec:\n  ingress:\n  - action: Allow\n  - {}\n",
    "apiVersion: v1\nkind: List\nitems:\n- kind: Tier\n- kind: Node\n",
    "{\"apiVersion\": \"projectcalico.org/v3\", \"kind\": \"Node\", \"metadata\": {\"name\": \"n\"}}",
    "---\n",
    "...\n",
    "# comment\n",
    "%YAML 1.2\n",
    "kind: BGPPeer\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_text_is_read_or_told(text in "[ -~\\n\\t\\r\u{85}\u{fc}]{0,60}") {
        properties::check(&text);
    }

    #[test]
    fn any_mixture_of_documents_is_read_or_told(
        parts in prop::collection::vec(
            prop_oneof![4 => prop::sample::select(OBJECTS).prop_map(str::to_owned), 1 => "[-a-z:{}\\[\\]&*!|>'\" \n]{0,20}"],
            0..8,
        ),
        cut in any::<prop::sample::Index>(),
    ) {
        let text = parts.concat();
        properties::check(&text);
        if let Some(beginning) = text.get(..cut.index(text.len() + 1)) {
            properties::check(beginning);
        }
    }
}

/// Quadratic time would take minutes.
#[test]
fn a_file_of_very_many_documents_is_read_to_a_limit() {
    let started = Instant::now();
    for (documents, line) in [
        (parse_json(&"{}\n".repeat(300_000)), 100_001),
        (parse_yaml(&"--- 1\n".repeat(300_000)), 100_001),
        (parse_yaml(&"--- }\n".repeat(300_000)), 100_001),
    ] {
        assert_eq!(documents.len(), 100_001);
        let fault = documents[100_000].as_ref().unwrap_err();
        assert_eq!(
            (fault.line, fault.expected),
            (line, "a file of at most 100000 documents")
        );
    }
    assert_eq!(parse_json(&"1 ".repeat(100_000)).len(), 100_000);
    assert!(
        started.elapsed() < Duration::from_mins(1),
        "{:?}",
        started.elapsed()
    );
}
