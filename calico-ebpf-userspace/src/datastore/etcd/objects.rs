//! What etcd holds, and what of it was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::warn;

use super::entry::Entry;
use crate::model::name::{Kind, ResourceKey};
use crate::model::problem::Problem;
use crate::model::resource::{Changes, Resource, Snapshot, apply_changes};

/// The objects, by key.
#[derive(Debug, Default)]
pub(super) struct Objects {
    held: BTreeMap<Vec<u8>, Held>,
    /// Every valid object now.
    current: Snapshot,
    /// Those that were sent.
    sent: Snapshot,
    /// Objects that may differ between the two.
    touched: BTreeSet<ResourceKey>,
    /// Only keys that have some.
    problems: BTreeMap<Vec<u8>, Vec<Problem>>,
    /// All of them; `None` when they have changed.
    problems_sent: Option<Arc<Vec<Problem>>>,
}

/// What is remembered of a key.
#[derive(Clone, Debug)]
struct Held {
    revision: i64,
    object: Option<ResourceKey>,
}

impl Objects {
    /// Takes a new or changed key.
    pub(super) fn put(&mut self, entry: Entry) {
        let Entry {
            key,
            revision,
            object,
            resource,
            problems,
        } = entry;
        if let Some(object) = &object {
            self.set(object, resource);
        }
        self.set_problems(&key, problems);
        self.held.insert(key, Held { revision, object });
    }

    /// Takes that a key is gone.
    pub(super) fn delete(&mut self, key: &[u8]) {
        self.set_problems(key, Vec::new());
        if let Some(object) = self.held.remove(key).and_then(|held| held.object) {
            self.set(&object, None);
        }
    }

    /// Takes that there is all this, and nothing else.
    pub(super) fn replace(&mut self, entries: Vec<Entry>) {
        let present: BTreeSet<&[u8]> = entries.iter().map(|entry| entry.key.as_slice()).collect();
        let gone: Vec<_> = self
            .held
            .keys()
            .filter(|key| !present.contains(key.as_slice()))
            .cloned()
            .collect();
        for key in gone {
            self.delete(&key);
        }
        for entry in entries {
            self.put(entry);
        }
    }

    /// Returns the key that was written last, and its revision.
    pub(super) fn newest(&self) -> Option<(&[u8], i64)> {
        self.held
            .iter()
            .map(|(key, held)| (key.as_slice(), held.revision))
            .max_by_key(|(_, revision)| *revision)
    }

    /// Tells whether the datastore is ready (contract 1.5).
    ///
    /// # Errors
    /// When it is not, with the reason for people.
    pub(super) fn readiness(&self) -> Result<(), &'static str> {
        let key = ResourceKey {
            kind: Kind::ClusterInformation,
            namespace: String::new(),
            name: "default".to_owned(),
        };
        match self.current.get(&key).map(|resource| &**resource) {
            Some(Resource::ClusterInformation(facts)) if facts.datastore_ready == Some(true) => Ok(()),
            Some(_) => Err("ClusterInformation(default) does not say datastoreReady: true"),
            None => Err("there is no ClusterInformation(default), which says whether the datastore is ready"),
        }
    }

    /// Returns what differs from what was sent, and counts it as sent.
    pub(super) fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::new();
        for key in std::mem::take(&mut self.touched) {
            let (now, before) = (self.current.get(&key), self.sent.get(&key));
            if now != before {
                changes.insert(key, now.cloned());
            }
        }
        apply_changes(&mut self.sent, &changes);
        changes
    }

    /// Returns everything that is wrong now, in order of keys.
    pub(super) fn problems(&mut self) -> Arc<Vec<Problem>> {
        let problems = &self.problems;
        Arc::clone(
            self.problems_sent
                .get_or_insert_with(|| Arc::new(problems.values().flatten().cloned().collect())),
        )
    }

    fn set(&mut self, object: &ResourceKey, resource: Option<Arc<Resource>>) {
        if self.current.get(object) == resource.as_ref() {
            return;
        }
        match resource {
            Some(resource) => self.current.insert(object.clone(), resource),
            None => self.current.remove(object),
        };
        self.touched.insert(object.clone());
    }

    fn set_problems(&mut self, key: &[u8], problems: Vec<Problem>) {
        if self.problems.get(key).map_or(&[][..], Vec::as_slice) == problems {
            return;
        }
        for problem in &problems {
            warn!(consequence = problem.consequence.name(), "{problem}");
        }
        if problems.is_empty() {
            self.problems.remove(key);
        } else {
            self.problems.insert(key.to_vec(), problems);
        }
        self.problems_sent = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(name: &str, order: &str, revision: i64) -> Entry {
        let key = format!("/calico/resources/v3/projectcalico.org/tiers/{name}");
        let value =
            format!(r#"{{"apiVersion":"projectcalico.org/v3","kind":"Tier","spec":{{"order":{order}}}}}"#);
        Entry::decode(Kind::Tier, key.as_bytes(), value.as_bytes(), revision)
    }

    fn ready(value: &str) -> Entry {
        let key = b"/calico/resources/v3/projectcalico.org/clusterinformations/default";
        let value = format!(
            r#"{{"apiVersion":"projectcalico.org/v3","kind":"ClusterInformation","spec":{{"datastoreReady":{value}}}}}"#
        );
        Entry::decode(Kind::ClusterInformation, key, value.as_bytes(), 1)
    }

    fn names(changes: &Changes) -> Vec<(&str, bool)> {
        changes
            .iter()
            .map(|(key, resource)| (key.name.as_str(), resource.is_some()))
            .collect()
    }

    #[test]
    fn only_what_differs_from_what_was_sent_is_a_change() {
        let mut objects = Objects::default();
        objects.replace(vec![tier("a", "1", 1), tier("b", "1", 2)]);
        assert_eq!(names(&objects.take_changes()), [("a", true), ("b", true)]);
        objects.put(tier("a", "2", 3));
        objects.put(tier("a", "1", 4));
        objects.put(tier("c", "1", 5));
        objects.delete(b"/calico/resources/v3/projectcalico.org/tiers/c");
        assert_eq!(names(&objects.take_changes()), []);
        objects.replace(vec![tier("b", "1", 20), tier("d", "1", 21)]);
        assert_eq!(names(&objects.take_changes()), [("a", false), ("d", true)]);
        assert_eq!(objects.newest().map(|(_, revision)| revision), Some(21));
    }

    #[test]
    fn an_object_that_can_no_longer_be_decoded_is_gone_until_it_is_mended() {
        let mut objects = Objects::default();
        objects.put(tier("a", "1", 1));
        objects.take_changes();
        objects.put(tier("a", "\"x\"", 2));
        assert_eq!(names(&objects.take_changes()), [("a", false)]);
        assert_eq!(objects.problems().len(), 1);
        objects.put(tier("a", "1", 3));
        assert_eq!(names(&objects.take_changes()), [("a", true)]);
        assert!(objects.problems().is_empty());
        objects.put(tier("a", "\"x\"", 4));
        objects.delete(b"/calico/resources/v3/projectcalico.org/tiers/a");
        assert!(objects.problems().is_empty());
    }

    #[test]
    fn ready_is_only_what_says_so() {
        let mut objects = Objects::default();
        for (value, is_ready) in [
            ("true", true),
            ("false", false),
            ("null", false),
            ("\"yes\"", false),
        ] {
            objects.put(ready(value));
            assert_eq!(objects.readiness().is_ok(), is_ready, "{value}");
        }
        objects.put(ready("true"));
        objects.replace(Vec::new());
        assert!(objects.readiness().is_err());
    }
}
