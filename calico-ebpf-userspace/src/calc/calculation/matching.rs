//! Which selectors select which labels, followed as both come and go.
//!
//! Equal labels are one group and equal selectors are one, so a pair is looked at once, and only when labels have what
//! the selector cannot do without.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::keys::{KeyIndex, LabelKey, keys_of, required_keys};
use crate::model::labels::Labels;
use crate::model::selector::Selector;

/// A distinct set of labels. Never used again for another.
pub(super) type GroupId = u64;
/// A distinct selector. Never used again for another.
pub(super) type SelectorId = u64;

/// Labels and selectors, and who selects whom.
#[derive(Debug, Default)]
pub(super) struct Matching {
    last_id: u64,
    groups: HashMap<GroupId, Group>,
    group_ids: HashMap<Arc<Labels>, GroupId>,
    groups_by_key: KeyIndex,
    selectors: HashMap<SelectorId, Watched>,
    selector_ids: HashMap<Selector, SelectorId>,
    selectors_by_key: KeyIndex,
    /// Selectors that may select labels whatever they have.
    anywhere: BTreeSet<SelectorId>,
    evaluated: u64,
}

#[derive(Debug)]
struct Group {
    labels: Arc<Labels>,
    users: usize,
    selectors: BTreeSet<SelectorId>,
}

#[derive(Debug)]
struct Watched {
    selector: Selector,
    users: usize,
    /// Where it is in the index, `None`: in `anywhere`.
    keys: Option<Vec<(String, Option<String>)>>,
    groups: BTreeSet<GroupId>,
}

impl Matching {
    /// Returns the labels, as the same `Arc` that an equal group has.
    pub(super) fn share(&self, labels: Cow<'_, Labels>) -> Arc<Labels> {
        match self.group_ids.get_key_value(&*labels) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::new(labels.into_owned()),
        }
    }

    /// Takes up labels, once more if they are there. Each call needs a [`Self::leave`].
    pub(super) fn enter(&mut self, labels: &Arc<Labels>) -> GroupId {
        if let Some(id) = self.group_ids.get(labels) {
            if let Some(group) = self.groups.get_mut(id) {
                group.users += 1;
            }
            return *id;
        }
        let id = self.next_id();
        let mut selectors = self.selectors_by_key.of_labels(labels);
        selectors.extend(&self.anywhere);
        self.evaluated += selectors.len() as u64;
        selectors.retain(|selector| match self.selectors.get_mut(selector) {
            Some(watched) if watched.selector.matches(labels) => watched.groups.insert(id),
            _ => false,
        });
        for key in keys_of(labels) {
            self.groups_by_key.insert(key, id);
        }
        self.group_ids.insert(Arc::clone(labels), id);
        let group = Group {
            labels: Arc::clone(labels),
            users: 1,
            selectors,
        };
        self.groups.insert(id, group);
        id
    }

    /// Gives labels back. Returns whether that was the last time.
    pub(super) fn leave(&mut self, id: GroupId) -> bool {
        let Some(group) = self.groups.get_mut(&id) else {
            return false;
        };
        group.users -= 1;
        if group.users > 0 {
            return false;
        }
        if let Some(group) = self.groups.remove(&id) {
            for selector in &group.selectors {
                if let Some(watched) = self.selectors.get_mut(selector) {
                    watched.groups.remove(&id);
                }
            }
            for key in keys_of(&group.labels) {
                self.groups_by_key.remove(key, id);
            }
            self.group_ids.remove(&group.labels);
        }
        true
    }

    /// Takes up a selector, once more if it is there. Each call needs an [`Self::unwatch`].
    pub(super) fn watch(&mut self, selector: &Selector) -> SelectorId {
        if let Some(id) = self.selector_ids.get(selector) {
            if let Some(watched) = self.selectors.get_mut(id) {
                watched.users += 1;
            }
            return *id;
        }
        let id = self.next_id();
        let groups = self.select(id, selector);
        // The least crowded key, so that labels which everybody has (the namespace) do not collect all selectors.
        let crowd = |key: LabelKey<'_>| self.selectors_by_key.count(key);
        let keys = required_keys(selector.expression(), &crowd);
        match &keys {
            Some(keys) => keys.iter().for_each(|key| self.selectors_by_key.insert(*key, id)),
            None => {
                self.anywhere.insert(id);
            }
        }
        let own = |key: &LabelKey<'_>| (key.label.to_owned(), key.value.map(ToOwned::to_owned));
        let watched = Watched {
            selector: selector.clone(),
            users: 1,
            keys: keys.map(|keys| keys.iter().map(own).collect()),
            groups,
        };
        self.selector_ids.insert(selector.clone(), id);
        self.selectors.insert(id, watched);
        id
    }

    /// Gives a selector back. Returns whether that was the last time.
    pub(super) fn unwatch(&mut self, id: SelectorId) -> bool {
        let Some(watched) = self.selectors.get_mut(&id) else {
            return false;
        };
        watched.users -= 1;
        if watched.users > 0 {
            return false;
        }
        if let Some(watched) = self.selectors.remove(&id) {
            for group in &watched.groups {
                if let Some(group) = self.groups.get_mut(group) {
                    group.selectors.remove(&id);
                }
            }
            match &watched.keys {
                Some(keys) => {
                    for (label, value) in keys {
                        let value = value.as_deref();
                        self.selectors_by_key.remove(LabelKey { label, value }, id);
                    }
                }
                None => {
                    self.anywhere.remove(&id);
                }
            }
            self.selector_ids.remove(&watched.selector);
        }
        true
    }

    /// Returns the selectors that select the labels, ascending.
    pub(super) fn selectors_of(&self, group: GroupId) -> impl Iterator<Item = SelectorId> {
        let group = self.groups.get(&group);
        group
            .into_iter()
            .flat_map(|group| group.selectors.iter().copied())
    }

    /// Returns the labels that the selector selects, ascending.
    pub(super) fn groups_of(&self, selector: SelectorId) -> impl Iterator<Item = GroupId> {
        let watched = self.selectors.get(&selector);
        watched
            .into_iter()
            .flat_map(|watched| watched.groups.iter().copied())
    }

    /// Returns the labels themselves.
    pub(super) fn labels(&self, group: GroupId) -> Arc<Labels> {
        let group = self.groups.get(&group);
        group.map_or_else(Arc::default, |group| Arc::clone(&group.labels))
    }

    /// Returns how many times a selector was held against labels.
    pub(super) fn evaluated(&self) -> u64 {
        self.evaluated
    }

    /// Returns whether nothing is left, in the indexes neither.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let indexes = [&self.groups_by_key, &self.selectors_by_key];
        indexes.iter().all(|index| index.is_empty())
            && self.groups.is_empty()
            && self.group_ids.is_empty()
            && self.selectors.is_empty()
            && self.selector_ids.is_empty()
            && self.anywhere.is_empty()
    }

    /// Finds what a new selector selects.
    fn select(&mut self, id: SelectorId, selector: &Selector) -> BTreeSet<GroupId> {
        let crowd = |key: LabelKey<'_>| self.groups_by_key.count(key);
        let mut groups: BTreeSet<GroupId> = match required_keys(selector.expression(), &crowd) {
            Some(keys) => keys
                .into_iter()
                .flat_map(|key| self.groups_by_key.of_key(key))
                .collect(),
            None => self.groups.keys().copied().collect(),
        };
        self.evaluated += groups.len() as u64;
        groups.retain(|group| match self.groups.get_mut(group) {
            Some(group) if selector.matches(&group.labels) => group.selectors.insert(id),
            _ => false,
        });
        groups
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Arc<Labels> {
        let own = |(label, value): &(&str, &str)| ((*label).to_owned(), (*value).to_owned());
        Arc::new(pairs.iter().map(own).collect())
    }

    fn selector(text: &str) -> Selector {
        Selector::parse(text).unwrap()
    }

    #[test]
    fn every_form_of_selector_finds_its_labels_whoever_comes_first() {
        let texts = [
            "all()",
            "!global()",
            "has(a)",
            "!has(a)",
            "a == 'x'",
            "a != 'x'",
            "a in {'x', 'y'}",
            "a in {}",
            "a not in {'x'}",
            "a contains 'x'",
            "a starts with 'x'",
            "a ends with 'x'",
            "has(a) && b == 'y'",
            "has(a) || b == 'y'",
            "has(a) || !has(b)",
            "!(has(a) && has(b))",
            "a == 'x' && !has(b) && a != 'y'",
            "(has(b) || a == 'y') && (has(c) || a in {'x', 'y'})",
        ];
        let groups = [
            labels(&[]),
            labels(&[("a", "x")]),
            labels(&[("a", "y")]),
            labels(&[("a", "")]),
            labels(&[("b", "y")]),
            labels(&[("a", "x"), ("b", "y")]),
            labels(&[("a", "y"), ("c", "")]),
        ];
        let expected = |text: &str| -> Vec<Arc<Labels>> {
            let selected = groups.iter().filter(|labels| selector(text).matches(labels));
            selected.cloned().collect()
        };
        for selectors_first in [true, false] {
            let mut matching = Matching::default();
            let (mut watched, mut entered) = (Vec::new(), Vec::new());
            for step in [selectors_first, !selectors_first] {
                if step {
                    watched = texts.iter().map(|text| matching.watch(&selector(text))).collect();
                } else {
                    entered = groups.iter().map(|labels| matching.enter(labels)).collect();
                }
            }
            for (id, text) in watched.iter().zip(texts) {
                let found: Vec<_> = matching
                    .groups_of(*id)
                    .map(|group| matching.labels(group))
                    .collect();
                assert_eq!(
                    found,
                    expected(text),
                    "{text}, selectors first: {selectors_first}"
                );
            }
            for (group, labels) in entered.iter().zip(&groups) {
                let count = texts.iter().filter(|text| selector(text).matches(labels)).count();
                assert_eq!(matching.selectors_of(*group).count(), count, "{labels:?}");
            }
            assert!(watched.iter().all(|id| matching.unwatch(*id)));
            assert!(entered.iter().all(|id| matching.leave(*id)));
            assert!(matching.is_empty(), "{matching:?}");
        }
    }

    #[test]
    fn equal_labels_and_equal_selectors_are_one_and_live_as_long_as_the_last_user() {
        let mut matching = Matching::default();
        let group = matching.enter(&labels(&[("a", "x")]));
        assert_eq!(matching.enter(&labels(&[("a", "x")])), group);
        let id = matching.watch(&selector("has(a)"));
        assert_eq!(matching.watch(&selector(" has(a) ")), id);
        assert_eq!(matching.evaluated(), 1);
        assert!(!matching.leave(group) && !matching.unwatch(id));
        assert_eq!(matching.groups_of(id).collect::<Vec<_>>(), [group]);
        assert!(matching.leave(group) && matching.unwatch(id));
        assert!(matching.is_empty());
    }

    #[test]
    fn a_label_that_everybody_has_does_not_collect_the_selectors() {
        let mut matching = Matching::default();
        for number in 0..100 {
            let text = format!("ns == 'openstack' && has(group-{number})");
            matching.watch(&selector(&text));
        }
        let group = matching.enter(&labels(&[("ns", "openstack"), ("group-7", "")]));
        assert_eq!(matching.selectors_of(group).count(), 1);
        assert!(matching.evaluated() <= 2, "{}", matching.evaluated());
    }
}
