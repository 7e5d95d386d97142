//! The rules of policies and profiles that are in some list, resolved, and the lists made of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::lists::{ListId, ListKey};
use super::objects::Objects;
use super::sets::{ActiveSets, Hold, Reader};
use crate::calc::effective::{
    DirectionPolicy, EffectivePolicy, EffectivePolicyRules, EffectiveProfile, EffectiveRule, EffectiveTier,
};
use crate::calc::rules::{EGRESS, INGRESS, resolve_policy, resolve_profile};

/// The rules in force, by whose they are.
#[derive(Debug, Default)]
pub(super) struct ActiveRules {
    rules: HashMap<Reader, Rules>,
    /// Not resolved yet.
    new: BTreeSet<Reader>,
    /// May be in no list any more.
    idle: BTreeSet<Reader>,
    resolved: u64,
}

#[derive(Debug)]
struct Rules {
    lists: BTreeSet<ListId>,
    resolved: Resolved,
    holds: Vec<Hold>,
}

/// Egress and ingress.
#[derive(Debug, PartialEq)]
enum Resolved {
    NotYet,
    Policy([Vec<EffectiveRule>; 2]),
    Profile([EffectiveProfile; 2]),
}

impl ActiveRules {
    /// Notes what is in a new list.
    pub(super) fn enter(&mut self, id: ListId, key: &ListKey) {
        for reader in key.readers() {
            let rules = self.rules.entry(reader.clone()).or_insert_with(|| {
                self.new.insert(reader);
                Rules {
                    lists: BTreeSet::new(),
                    resolved: Resolved::NotYet,
                    holds: Vec::new(),
                }
            });
            rules.lists.insert(id);
        }
    }

    /// Notes that a list is gone.
    pub(super) fn leave(&mut self, id: ListId, key: &ListKey) {
        for reader in key.readers() {
            if let Some(rules) = self.rules.get_mut(&reader) {
                rules.lists.remove(&id);
                self.idle.insert(reader);
            }
        }
    }

    /// Returns what [`Self::resolve`] was not called for yet.
    pub(super) fn take_new(&mut self) -> BTreeSet<Reader> {
        std::mem::take(&mut self.new)
    }

    /// Resolves rules anew, if they are in a list. Returns the lists.
    pub(super) fn resolve(
        &mut self,
        reader: &Reader,
        objects: &Objects,
        sets: &mut ActiveSets,
    ) -> BTreeSet<ListId> {
        let Some(rules) = self.rules.get_mut(reader) else {
            return BTreeSet::new();
        };
        if rules.lists.is_empty() {
            return BTreeSet::new();
        }
        self.resolved += 1;
        let mut resolving = sets.resolving(reader);
        rules.resolved = match reader {
            // A policy that is gone is in no list.
            Reader::Policy(key) => objects.policy(key).map_or(Resolved::NotYet, |policy| {
                Resolved::Policy(resolve_policy(policy, &mut resolving))
            }),
            Reader::Profile(name) => {
                Resolved::Profile(resolve_profile(name, objects.profile(name), &mut resolving))
            }
        };
        // What is used still is taken before it is given back, so that its sets live on.
        let holds = std::mem::replace(&mut rules.holds, resolving.into_holds());
        sets.release(reader, holds);
        rules.lists.clone()
    }

    /// Forgets rules that are in no list.
    pub(super) fn drop_idle(&mut self, sets: &mut ActiveSets) {
        for reader in std::mem::take(&mut self.idle) {
            if self
                .rules
                .get(&reader)
                .is_some_and(|rules| rules.lists.is_empty())
                && let Some(rules) = self.rules.remove(&reader)
            {
                sets.release(&reader, rules.holds);
            }
        }
    }

    /// Puts a list together.
    pub(super) fn build(&self, key: &ListKey, objects: &Objects) -> EffectivePolicy {
        EffectivePolicy {
            egress: self.direction(EGRESS, key, objects),
            ingress: self.direction(INGRESS, key, objects),
        }
    }

    /// Returns how many times rules were resolved.
    pub(super) fn resolved(&self) -> u64 {
        self.resolved
    }

    /// Returns whether nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    fn direction(&self, direction: usize, key: &ListKey, objects: &Objects) -> DirectionPolicy {
        let mut tiers: Vec<EffectiveTier> = Vec::new();
        for policy_key in &key.policies {
            let Some(policy) = objects.policy(policy_key) else {
                continue;
            };
            let reader = Reader::Policy(policy_key.clone());
            let resolved = self.rules.get(&reader).map(|rules| &rules.resolved);
            let Some(Resolved::Policy(rules)) = resolved else {
                continue;
            };
            if ![policy.egress_enabled, policy.ingress_enabled][direction] {
                continue;
            }
            let rules = EffectivePolicyRules {
                key: policy_key.clone(),
                rules: rules[direction].clone(),
            };
            match tiers.last_mut().filter(|tier| *tier.name == *policy.tier) {
                Some(tier) => tier.policies.push(rules),
                None => tiers.push(EffectiveTier {
                    name: Arc::from(policy.tier.as_str()),
                    policies: vec![rules],
                    default_pass: objects.tier(&policy.tier).is_some_and(|tier| tier.default_pass),
                }),
            }
        }
        let profiles = key.profiles.iter().filter_map(|name| {
            let rules = self.rules.get(&Reader::Profile(name.clone()))?;
            match &rules.resolved {
                Resolved::Profile(profiles) => Some(profiles[direction].clone()),
                Resolved::Policy(_) | Resolved::NotYet => None,
            }
        });
        let profiles = profiles.collect();
        DirectionPolicy { tiers, profiles }
    }
}
