//! What holds for any key at all: for random tests and fuzzing.

use super::entry::Entry;
use super::keys;
use crate::model::name::{Kind, MAX_NAME};

/// Longest message about a key, in bytes.
const MAX_MESSAGE: usize = 4096;

/// Checks bytes as a key, and as the end of a key of each kind: they name the object whose key they are, or are told.
///
/// # Panics
///
/// When something else is true.
pub fn check(bytes: &[u8]) {
    for &kind in Kind::ALL {
        check_key(kind, bytes);
        check_key(kind, &[keys::prefix(kind).as_bytes(), bytes].concat());
    }
}

fn check_key(kind: Kind, key: &[u8]) {
    let entry = Entry::decode(kind, key, b"{}", 1);
    assert_eq!((entry.key.as_slice(), &entry.resource), (key, &None));
    assert_eq!(entry.problems.len(), 1, "{:?}", entry.problems);
    let message = entry.problems[0].to_string();
    assert!(
        message.len() < MAX_MESSAGE && !message.contains(char::is_control),
        "{message:?}"
    );
    let Some(object) = entry.object else {
        return;
    };
    assert_eq!(object.kind, kind);
    assert_eq!(object.namespace.is_empty(), !kind.is_namespaced(), "{object}");
    let path = if object.namespace.is_empty() {
        object.name.clone()
    } else {
        format!("{}/{}", object.namespace, object.name)
    };
    assert_eq!(format!("{}{path}", keys::prefix(kind)).as_bytes(), key);
    assert!((1..=MAX_NAME).contains(&object.name.len()) && object.namespace.len() <= MAX_NAME);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::check;

    proptest! {
        #[test]
        fn any_key_names_its_object_or_is_told(key in "[a-z0-9./%-]{0,40}|.{0,40}|(/calico/resources/v3/projectcalico.org/)?[a-z]{0,9}/.{0,20}") {
            check(key.as_bytes());
        }

        #[test]
        fn any_bytes_are_told(key in prop::collection::vec(any::<u8>(), 0..60)) {
            check(&key);
        }
    }
}
