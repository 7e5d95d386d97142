//! Classes as one direction of one policy sees them.

use std::collections::{BTreeSet, HashMap};

use super::bits::Bits;
use super::lower::{LoweredDirection, LoweredRule, PortList, PortTests, Tests};
use crate::compile::classes::AddressPredicates;
use crate::compile::reference::Direction;

fn of_tests(tests: &Tests) -> impl Iterator<Item = u32> {
    tests.all.iter().chain(&tests.none).copied()
}

fn lists(tests: Option<&PortTests>) -> impl Iterator<Item = &PortList> {
    tests
        .into_iter()
        .flat_map(|tests| tests.any.iter().chain([&tests.none]))
}

fn member_sets(tests: Option<&PortTests>) -> impl Iterator<Item = u32> {
    lists(tests).flat_map(|list| list.members.iter().map(|member| member.set))
}

/// Returns the address predicates that the rules ask of the peer.
pub(super) fn remote_predicates(lowered: &LoweredDirection) -> BTreeSet<u32> {
    let mut predicates: BTreeSet<u32> = BTreeSet::new();
    for rule in &lowered.rules {
        predicates.extend(of_tests(&rule.remote));
        predicates.extend(member_sets(match lowered.direction {
            Direction::Egress => rule.destination.as_ref(),
            Direction::Ingress => rule.source.as_ref(),
        }));
        if rule.ports[0] != rule.ports[1] {
            predicates.insert(AddressPredicates::V4);
        }
    }
    predicates
}

/// Returns the address predicates that the rules ask of the endpoint itself.
pub(super) fn local_predicates(lowered: &LoweredDirection) -> BTreeSet<u32> {
    let mut predicates: BTreeSet<u32> = BTreeSet::new();
    for rule in &lowered.rules {
        predicates.extend(of_tests(&rule.local));
        predicates.extend(member_sets(match lowered.direction {
            Direction::Egress => rule.source.as_ref(),
            Direction::Ingress => rule.destination.as_ref(),
        }));
    }
    predicates
}

/// Returns the predicates that the rules ask of protocol and destination port.
pub(super) fn column_predicates(rules: &[LoweredRule]) -> BTreeSet<u32> {
    let mut predicates: BTreeSet<u32> = BTreeSet::new();
    for rule in rules {
        predicates.extend(rule.ports.iter().flatten().flat_map(of_tests));
        for list in lists(rule.destination.as_ref()) {
            predicates.extend(list.ranges);
            predicates.extend(
                list.members
                    .iter()
                    .flat_map(|member| [member.protocol, member.port]),
            );
        }
        for list in lists(rule.source.as_ref()) {
            predicates.extend(list.members.iter().map(|member| member.protocol));
        }
    }
    predicates
}

/// Returns the predicates that the rules ask of the source port.
pub(super) fn source_predicates(rules: &[LoweredRule]) -> BTreeSet<u32> {
    let lists = rules.iter().flat_map(|rule| lists(rule.source.as_ref()));
    lists
        .flat_map(|list| {
            list.ranges
                .into_iter()
                .chain(list.members.iter().map(|member| member.port))
        })
        .collect()
}

/// Classes seen through some of the predicates only.
#[derive(Debug)]
pub(super) struct Projection {
    /// Distinct signature of each class.
    pub(super) index: Vec<usize>,
    signatures: Vec<Vec<u32>>,
    pub(super) predicates: BTreeSet<u32>,
}

impl Projection {
    pub(super) fn new<'a>(classes: impl Iterator<Item = &'a [u32]>, predicates: BTreeSet<u32>) -> Self {
        let mut known: HashMap<Vec<u32>, usize> = HashMap::new();
        let mut signatures = Vec::new();
        let mut index = Vec::new();
        for class in classes {
            let seen: Vec<u32> = class
                .iter()
                .copied()
                .filter(|id| predicates.contains(id))
                .collect();
            let next = signatures.len();
            index.push(*known.entry(seen).or_insert_with_key(|seen| {
                signatures.push(seen.clone());
                next
            }));
        }
        Self {
            index,
            signatures,
            predicates,
        }
    }

    /// Sees a single class, and all of it.
    pub(super) fn single(class: Vec<u32>) -> Self {
        Self {
            index: vec![0],
            signatures: vec![class],
            predicates: BTreeSet::new(),
        }
    }

    /// Returns the row of each signature, by `merge` from rows to merged ones.
    pub(super) fn keys(&self, merge: impl Fn(usize) -> u16) -> RowKeys {
        let signatures = self.signatures.iter().cloned().enumerate();
        RowKeys {
            predicates: self.predicates.clone(),
            rows: signatures
                .map(|(row, signature)| (signature, merge(row)))
                .collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.signatures.len()
    }

    /// Returns the indices at which each predicate holds.
    pub(super) fn holders(&self) -> HashMap<u32, Bits> {
        let none = || Bits::none(self.len());
        let mut holders: HashMap<u32, Bits> = self.predicates.iter().map(|id| (*id, none())).collect();
        for (index, signature) in self.signatures.iter().enumerate() {
            for id in signature {
                holders.entry(*id).or_insert_with(none).insert(index);
            }
        }
        holders
    }

    pub(super) fn holds(&self, index: usize, predicate: u32) -> bool {
        self.signatures[index].binary_search(&predicate).is_ok()
    }
}

/// The rows of one axis, by what they tell apart: for addresses that come later.
#[derive(Clone, Debug)]
pub(super) struct RowKeys {
    predicates: BTreeSet<u32>,
    rows: HashMap<Vec<u32>, u16>,
}

impl RowKeys {
    /// An axis with a single row.
    pub(super) fn single() -> Self {
        Self {
            predicates: BTreeSet::new(),
            rows: HashMap::from([(Vec::new(), 0)]),
        }
    }

    pub(super) fn predicates(&self) -> impl Iterator<Item = &u32> {
        self.predicates.iter()
    }

    /// Returns whether no class can come that has no row yet.
    pub(super) fn tell_only_families_apart(&self) -> bool {
        self.predicates
            .iter()
            .all(|predicate| *predicate <= AddressPredicates::V6)
    }

    /// Returns the row of a class.
    pub(super) fn row(&self, class: &[u32]) -> Option<u16> {
        self.rows.get(&self.seen(class)).copied()
    }

    /// Gives a class, and all that look like it, a row.
    pub(super) fn insert(&mut self, class: &[u32], row: u16) {
        self.rows.insert(self.seen(class), row);
    }

    /// Returns the rows before they were merged, in any order.
    pub(super) fn projection(&self) -> Projection {
        Projection::new(self.rows.keys().map(Vec::as_slice), self.predicates.clone())
    }

    /// Returns the merged row of a row of [`Self::projection`].
    pub(super) fn merged(&self, projection: &Projection, row: usize) -> Option<u16> {
        self.rows.get(&projection.signatures[row]).copied()
    }

    fn seen(&self, class: &[u32]) -> Vec<u32> {
        class
            .iter()
            .copied()
            .filter(|id| self.predicates.contains(id))
            .collect()
    }
}

/// Returns, for each row, the rules whose address tests hold there.
pub(super) fn rules_by_row(
    rules: &[LoweredRule],
    rows: &Projection,
    tests: impl Fn(&LoweredRule) -> &Tests,
) -> Vec<Bits> {
    let holders = rows.holders();
    let mut by_row = vec![Bits::none(rules.len()); rows.len()];
    for (number, rule) in rules.iter().enumerate() {
        where_all_hold(tests(rule), &holders, rows.len()).for_each(|row| by_row[row].insert(number));
    }
    by_row
}

/// Returns the indices below `bound` at which the tests hold.
pub(super) fn where_all_hold(tests: &Tests, holders: &HashMap<u32, Bits>, bound: usize) -> Bits {
    let mut bits = Bits::all(bound);
    for id in &tests.all {
        bits.keep(&holders[id]);
    }
    for id in &tests.none {
        bits.remove(&holders[id]);
    }
    bits
}
