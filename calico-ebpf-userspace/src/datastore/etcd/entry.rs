//! One key of etcd and what its value means.

use std::sync::Arc;

use super::keys;
use crate::model::decode::decode_json;
use crate::model::name::{Kind, ResourceKey};
use crate::model::problem::{Consequence, Problem};
use crate::model::resource::Resource;

/// Longest piece of a bad key in a message, in characters.
const MAX_QUOTE: usize = 200;

/// A key with its value, decoded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    /// The revision that wrote it.
    pub(super) revision: i64,
    /// The object that the key names, if it names one.
    pub(super) object: Option<ResourceKey>,
    /// `None`: treated as absent.
    pub(super) resource: Option<Arc<Resource>>,
    pub(super) problems: Vec<Problem>,
}

impl Entry {
    /// Decodes a value. The identity comes from the key; what cannot be decoded is treated as absent.
    pub(super) fn decode(kind: Kind, key: &[u8], value: &[u8], revision: i64) -> Self {
        let object = keys::parse(kind, key);
        let (resource, problems) = match &object {
            None => (None, vec![bad_key(kind, key)]),
            Some(object) => {
                let decoded = decode_json(value, Some(object));
                (decoded.resource, decoded.problems)
            }
        };
        Self {
            key: key.to_vec(),
            revision,
            object,
            resource: resource.map(Arc::new),
            problems,
        }
    }
}

fn bad_key(kind: Kind, key: &[u8]) -> Problem {
    let text: String = String::from_utf8_lossy(key)
        .escape_debug()
        .take(MAX_QUOTE)
        .collect();
    Problem {
        object: None,
        field: String::new(),
        found: format!("the key {text}"),
        expected: keys::pattern(kind),
        consequence: Consequence::ObjectSkipped,
        place: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decode::MAX_VALUE_SIZE;

    const KEY: &[u8] = b"/calico/resources/v3/projectcalico.org/tiers/a";

    fn decoded(value: &[u8]) -> Entry {
        Entry::decode(Kind::Tier, KEY, value, 7)
    }

    fn told(entry: &Entry) -> Vec<String> {
        entry.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_value_is_an_object_under_the_name_of_its_key() {
        let entry = decoded(
            br#"{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"b"},"spec":{"order":1}}"#,
        );
        assert!(entry.resource.is_some());
        assert_eq!(entry.object.as_ref().map(|key| key.name.as_str()), Some("a"));
        assert_eq!(entry.revision, 7);
        assert_eq!(
            told(&entry),
            ["Tier(a): metadata.name: found \"b\", expected a, as in the key"]
        );
    }

    #[test]
    fn what_is_no_object_is_absent_and_told_with_key_and_place() {
        let cases: [(&[u8], &str); 6] = [
            (
                b"",
                "Tier(a): found EOF while parsing a value at line 1 column 0, expected a JSON object",
            ),
            (
                br#"{"apiVersion":"projectcalico.org/v3","kind":"Ti"#,
                "Tier(a): found EOF while parsing a string at line 1 column 47, expected a JSON object",
            ),
            (
                b"\xff\xfe",
                "Tier(a): found expected value at line 1 column 1, expected a JSON object",
            ),
            (
                b"7",
                "Tier(a): found 7, expected an object with apiVersion projectcalico.org/v3 and kind",
            ),
            (
                br#"{"apiVersion":"projectcalico.org/v3","kind":"Profile","metadata":{"name":"a"}}"#,
                "Tier(a): kind: found \"Profile\", expected Tier",
            ),
            (
                br#"{"apiVersion":"projectcalico.org/v3","kind":"Tier","spec":{"order":"first"}}"#,
                "Tier(a): spec.order: found \"first\", expected a number",
            ),
        ];
        for (value, text) in cases {
            let entry = decoded(value);
            assert_eq!(entry.resource, None);
            assert_eq!(told(&entry), [text]);
            assert_eq!(entry.problems[0].consequence, Consequence::ObjectSkipped);
        }
    }

    #[test]
    fn a_huge_value_is_refused_without_a_look() {
        let entry = decoded(&vec![b' '; MAX_VALUE_SIZE + 1]);
        assert_eq!(
            told(&entry),
            ["Tier(a): found a value of 10485761 bytes, expected at most 10 MiB"]
        );
    }

    #[test]
    fn deep_nesting_is_refused() {
        let entry = decoded("[".repeat(100_000).as_bytes());
        assert!(told(&entry)[0].contains("recursion limit"), "{:?}", told(&entry));
    }

    #[test]
    fn a_key_that_names_nothing_is_told() {
        let entry = Entry::decode(Kind::NetworkPolicy, b"/calico/x/a\x1b", b"{}", 1);
        assert_eq!(
            told(&entry),
            ["found the key /calico/x/a\\u{1b}, expected \
                 /calico/resources/v3/projectcalico.org/networkpolicies/<namespace>/<name>"]
        );
        assert_eq!((entry.object, entry.resource), (None, None));
    }
}
