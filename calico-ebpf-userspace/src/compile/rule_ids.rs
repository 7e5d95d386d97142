//! Numbers of rule counters, stable over versions of the table.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use calico_ebpf_common::maps::RULE_ENTRIES;

use super::reference::RuleRef;
use crate::model::rule::Action;

/// What a counter counts. The action is part of it: a rule that turns from allow to deny starts at zero.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    pub rule: RuleRef,
    pub action: Action,
}

/// The numbers given out so far.
///
/// A number is given again only when all others have been, so that a late reader of an old version finds a counter
/// that is quiet, not one of another rule.
#[derive(Clone, Debug)]
pub struct RuleIds {
    numbers: HashMap<RuleKey, u32>,
    released: VecDeque<u32>,
    next: u32,
    limit: u32,
    fresh: BTreeSet<u32>,
}

impl RuleIds {
    /// No rule is counted: all numbers are in use.
    pub const UNCOUNTED: u32 = 0;

    /// Starts with no number given.
    pub fn new() -> Self {
        Self::with_limit(RULE_ENTRIES)
    }

    fn with_limit(limit: u32) -> Self {
        Self {
            numbers: HashMap::new(),
            released: VecDeque::new(),
            next: 1,
            limit,
            fresh: BTreeSet::new(),
        }
    }

    /// Returns the rule's number; gives it one if it has none. [`Self::UNCOUNTED`] if none is left.
    pub fn number(&mut self, key: &RuleKey) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let number = if self.next < self.limit {
            self.next += 1;
            self.next - 1
        } else {
            match self.released.pop_front() {
                Some(number) => number,
                None => return Self::UNCOUNTED,
            }
        };
        self.numbers.insert(key.clone(), number);
        self.fresh.insert(number);
        number
    }

    /// Returns the rule's number if it has one.
    pub fn find(&self, key: &RuleKey) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    /// Returns every numbered rule.
    pub fn iter(&self) -> impl Iterator<Item = (&RuleKey, u32)> {
        self.numbers.iter().map(|(key, number)| (key, *number))
    }

    /// Takes back every number that is not in `used`; returns the numbers in use that were given since the last call,
    /// ascending: their counters hold what an earlier rule left.
    pub fn settle(&mut self, used: &HashSet<u32>) -> Vec<u32> {
        let mut released: Vec<u32> = self
            .numbers
            .values()
            .copied()
            .filter(|number| !used.contains(number))
            .collect();
        released.sort_unstable();
        self.numbers.retain(|_, number| used.contains(number));
        self.released.extend(released);
        std::mem::take(&mut self.fresh)
            .into_iter()
            .filter(|number| used.contains(number))
            .collect()
    }
}

impl Default for RuleIds {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::reference::{Direction, RuleOwner};
    use super::*;

    fn key(name: &str) -> RuleKey {
        let rule = RuleRef {
            direction: Direction::Egress,
            owner: RuleOwner::Profile(Arc::from(name)),
            index: 0,
        };
        RuleKey {
            rule,
            action: Action::Allow,
        }
    }

    #[test]
    fn numbers_stay_while_in_use_and_come_back_last() {
        let mut ids = RuleIds::with_limit(4);
        assert_eq!([ids.number(&key("a")), ids.number(&key("b"))], [1, 2]);
        assert_eq!(ids.settle(&HashSet::from([1, 2])), [1, 2]);
        assert_eq!(ids.number(&key("b")), 2);
        assert!(ids.settle(&HashSet::from([2])).is_empty());
        assert_eq!(ids.number(&key("c")), 3);
        assert_eq!(ids.number(&key("a")), 1, "only now are the others used up");
        assert_eq!(ids.number(&key("d")), RuleIds::UNCOUNTED);
        assert_eq!(ids.settle(&HashSet::from([1, 2, 3])), [1, 3]);
    }

    #[test]
    fn an_action_has_its_own_number() {
        let mut ids = RuleIds::new();
        let deny = RuleKey {
            action: Action::Deny,
            ..key("a")
        };
        assert_ne!(ids.number(&key("a")), ids.number(&deny));
    }
}
