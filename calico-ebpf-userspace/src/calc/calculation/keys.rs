//! What labels must have for a selector to have a chance, and indexes by that.

use std::collections::{BTreeSet, HashMap};

use crate::model::labels::Labels;
use crate::model::selector::Expression;

/// Something that labels have: a label, or a label with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LabelKey<'a> {
    pub(super) label: &'a str,
    pub(super) value: Option<&'a str>,
}

/// Returns keys of which labels must have at least one to be selected. `None`: labels without any may be selected, too.
/// Where parts of a conjunction offer a choice, the cheapest is taken, and of equals the first.
pub(super) fn required_keys<'a>(
    expression: &'a Expression,
    cost: &impl Fn(LabelKey<'a>) -> usize,
) -> Option<Vec<LabelKey<'a>>> {
    let pair = |label: &'a String, value: &'a String| LabelKey {
        label,
        value: Some(value),
    };
    match expression {
        Expression::Has(label)
        | Expression::Contains(label, _)
        | Expression::StartsWith(label, _)
        | Expression::EndsWith(label, _) => Some(vec![LabelKey { label, value: None }]),
        Expression::Equal(label, value) => Some(vec![pair(label, value)]),
        Expression::In(label, values) => Some(values.iter().map(|value| pair(label, value)).collect()),
        Expression::And(parts) => parts
            .iter()
            .filter_map(|part| required_keys(part, cost))
            .min_by_key(|keys| keys.iter().map(|key| cost(*key)).sum::<usize>()),
        Expression::Or(parts) => {
            let keys: Option<Vec<_>> = parts.iter().map(|part| required_keys(part, cost)).collect();
            keys.map(|keys| keys.concat())
        }
        Expression::All
        | Expression::Global
        | Expression::NotEqual(..)
        | Expression::NotIn(..)
        | Expression::Not(_) => None,
    }
}

/// Numbers by label, and by label and value.
#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    by_label: HashMap<String, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    any: BTreeSet<u64>,
    by_value: HashMap<String, BTreeSet<u64>>,
}

impl KeyIndex {
    /// Adds a number under a key.
    pub(super) fn insert(&mut self, key: LabelKey<'_>, id: u64) {
        let entry = self.by_label.entry(key.label.to_owned()).or_default();
        let ids = match key.value {
            None => &mut entry.any,
            Some(value) => entry.by_value.entry(value.to_owned()).or_default(),
        };
        ids.insert(id);
    }

    /// Takes a number away from a key; nothing is left of a key without numbers.
    pub(super) fn remove(&mut self, key: LabelKey<'_>, id: u64) {
        let Some(entry) = self.by_label.get_mut(key.label) else {
            return;
        };
        match key.value {
            None => {
                entry.any.remove(&id);
            }
            Some(value) => {
                if let Some(ids) = entry.by_value.get_mut(value) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        entry.by_value.remove(value);
                    }
                }
            }
        }
        if entry.any.is_empty() && entry.by_value.is_empty() {
            self.by_label.remove(key.label);
        }
    }

    /// Returns how many numbers a key has.
    pub(super) fn count(&self, key: LabelKey<'_>) -> usize {
        self.at(key).map_or(0, BTreeSet::len)
    }

    /// Returns the numbers under a key, ascending.
    pub(super) fn of_key(&self, key: LabelKey<'_>) -> impl Iterator<Item = u64> {
        self.at(key).into_iter().flatten().copied()
    }

    /// Returns the numbers under any key that the labels have.
    pub(super) fn of_labels(&self, labels: &Labels) -> BTreeSet<u64> {
        let keys = keys_of(labels);
        keys.flat_map(|key| self.of_key(key)).collect()
    }

    /// Returns whether there is nothing in it.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_label.is_empty()
    }

    fn at(&self, key: LabelKey<'_>) -> Option<&BTreeSet<u64>> {
        let entry = self.by_label.get(key.label)?;
        match key.value {
            None => Some(&entry.any),
            Some(value) => entry.by_value.get(value),
        }
    }
}

/// Returns every key that the labels have.
pub(super) fn keys_of(labels: &Labels) -> impl Iterator<Item = LabelKey<'_>> {
    labels.iter().flat_map(|(label, value)| {
        let label = label.as_str();
        [
            LabelKey { label, value: None },
            LabelKey {
                label,
                value: Some(value),
            },
        ]
    })
}
