//! The smallest change from what is in the kernel to what should be.

use std::collections::BTreeMap;

/// What must be written and what removed.
#[derive(Debug, PartialEq, Eq)]
pub struct Delta<K, V> {
    pub put: Vec<(K, V)>,
    pub remove: Vec<K>,
}

/// Returns the smallest change that turns `actual` into `desired`.
pub fn diff<K: Ord + Clone, V: PartialEq + Clone>(
    desired: &BTreeMap<K, V>,
    actual: &BTreeMap<K, V>,
) -> Delta<K, V> {
    let put = desired
        .iter()
        .filter(|(key, value)| actual.get(key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let remove = actual
        .keys()
        .filter(|key| !desired.contains_key(key))
        .cloned()
        .collect();
    Delta { put, remove }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_already_right_are_not_touched() {
        let desired = BTreeMap::from([(1, 'a'), (2, 'b')]);
        assert_eq!(
            diff(&desired, &desired),
            Delta {
                put: vec![],
                remove: vec![]
            }
        );
    }

    #[test]
    fn missing_and_wrong_entries_are_put_and_the_rest_removed() {
        let desired = BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c')]);
        let actual = BTreeMap::from([(2, 'x'), (3, 'c'), (4, 'd')]);
        assert_eq!(
            diff(&desired, &actual),
            Delta {
                put: vec![(1, 'a'), (2, 'b')],
                remove: vec![4]
            }
        );
    }
}
