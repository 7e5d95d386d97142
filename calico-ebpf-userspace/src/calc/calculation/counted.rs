//! A set that counts how many have each address: it stays until the last of them is gone.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::calc::effective::{SetId, SetMembers};

/// Addresses, and how many have each.
pub(super) type Counts = BTreeMap<IpNet, u32>;

/// Whether somebody comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Comes,
    Goes,
}

/// Counts one who comes or goes with an address.
pub(super) fn count(counts: &mut Counts, net: IpNet, step: Step) {
    match step {
        Step::Comes => *counts.entry(net).or_default() += 1,
        Step::Goes => {
            if let Some(count) = counts.get_mut(&net) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&net);
                }
            }
        }
    }
}

/// A set, and what of it was told last.
#[derive(Debug)]
pub(super) struct CountedSet {
    pub(super) id: SetId,
    counts: Counts,
    /// May differ from what was told.
    touched: BTreeSet<IpNet>,
    told: SetMembers,
}

impl CountedSet {
    /// Returns a set without members.
    pub(super) fn new(id: SetId) -> Self {
        Self {
            id,
            counts: Counts::new(),
            touched: BTreeSet::new(),
            told: SetMembers::default(),
        }
    }

    /// Counts one who comes or goes with an address.
    pub(super) fn count(&mut self, net: IpNet, step: Step) {
        count(&mut self.counts, net, step);
        self.touched.insert(net);
    }

    /// Adds all addresses of a group of members.
    pub(super) fn add(&mut self, counts: &Counts) {
        for (net, count) in counts {
            *self.counts.entry(*net).or_default() += count;
            self.touched.insert(*net);
        }
    }

    /// Returns whether nobody has any address.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Returns the members: the same memory as last time where they are the same.
    pub(super) fn tell(&mut self) -> SetMembers {
        let (counts, told) = (&self.counts, &self.told);
        self.touched
            .retain(|net| counts.contains_key(net) != told.contains(net));
        if self.touched.len() > self.told.len() / 2 {
            self.told = self.counts.keys().copied().collect();
            self.touched.clear();
        }
        for net in std::mem::take(&mut self.touched) {
            if !self.told.remove(&net) {
                self.told.insert(net);
            }
        }
        self.told.clone()
    }
}
