//! The policy lists of the local endpoints, followed as endpoints, policies, tiers and profiles change.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::active::ActiveRules;
use super::matching::{GroupId, Matching, SelectorId};
use super::objects::Objects;
use super::sets::{ActiveSets, Reader};
use crate::calc::effective::EffectivePolicy;
use crate::calc::order::{PolicyPlace, TierPlace};
use crate::model::labels::Labels;
use crate::model::name::ResourceKey;
use crate::model::resource::Policy;
use crate::model::selector::Selector;

/// What makes a list: endpoints with the same share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListKey {
    /// Policies of both directions in order, tier by tier.
    pub(super) policies: Vec<ResourceKey>,
    pub(super) profiles: Vec<String>,
}

/// Number of a list. Never used again for another.
pub(super) type ListId = u64;

/// Local endpoints in force and what selects them.
#[derive(Debug, Default)]
#[expect(clippy::struct_field_names, reason = "`lists` says what the field is")]
pub(super) struct Lists {
    matching: Matching,
    policies: HashMap<ResourceKey, Selecting>,
    by_selector: HashMap<SelectorId, BTreeSet<ResourceKey>>,
    by_tier: HashMap<String, BTreeSet<ResourceKey>>,
    endpoints: HashMap<ResourceKey, Judged>,
    by_group: HashMap<GroupId, BTreeSet<ResourceKey>>,
    last_id: ListId,
    lists: HashMap<ListId, List>,
    ids: HashMap<ListKey, ListId>,
    rules: ActiveRules,
    /// Endpoints that may need another list.
    stale_endpoints: BTreeSet<ResourceKey>,
    /// Whose rules may have changed.
    stale_rules: BTreeSet<Reader>,
    /// Lists that may have lost their last endpoint.
    idle: BTreeSet<ListId>,
    built: u64,
}

/// A policy, as far as it decides whom it selects and where it stands.
#[derive(Debug)]
struct Selecting {
    selector: SelectorId,
    tier: String,
    place: PolicyPlace,
}

#[derive(Debug)]
struct Judged {
    group: GroupId,
    profiles: Vec<String>,
    /// `None`: not found yet.
    list: Option<ListId>,
}

#[derive(Debug)]
struct List {
    key: ListKey,
    users: BTreeSet<ResourceKey>,
    policy: Arc<EffectivePolicy>,
}

impl ListKey {
    /// Returns whose rules are in the list.
    pub(super) fn readers(&self) -> impl Iterator<Item = Reader> {
        let policies = self.policies.iter().cloned().map(Reader::Policy);
        policies.chain(self.profiles.iter().cloned().map(Reader::Profile))
    }
}

impl Lists {
    /// Takes up a policy in place of what it was; `None`: it is gone, or not for workloads.
    pub(super) fn put_policy(&mut self, key: &ResourceKey, policy: Option<&Policy>) {
        self.stale_rules.insert(Reader::Policy(key.clone()));
        let new = policy.map(|policy| Selecting {
            selector: self.watch(key, &policy.selector),
            tier: policy.tier.clone(),
            place: PolicyPlace::new(key, policy),
        });
        if let Some(old) = self.policies.remove(key) {
            let stays = new.as_ref().is_some_and(|new| {
                new.selector == old.selector && new.tier == old.tier && new.place == old.place
            });
            if !stays {
                self.touch_selected(old.selector);
                remove_from(&mut self.by_tier, &old.tier, key);
            }
            if new.as_ref().is_none_or(|new| new.selector != old.selector) {
                remove_from(&mut self.by_selector, &old.selector, key);
            }
            self.matching.unwatch(old.selector);
            if stays {
                self.policies.extend(new.map(|new| (key.clone(), new)));
                return;
            }
        }
        if let Some(new) = new {
            self.touch_selected(new.selector);
            self.by_tier
                .entry(new.tier.clone())
                .or_default()
                .insert(key.clone());
            self.policies.insert(key.clone(), new);
        }
    }

    /// Notes that a tier has changed, come or gone.
    pub(super) fn touch_tier(&mut self, tier: &str) {
        for key in self.by_tier.get(tier).cloned().unwrap_or_default() {
            if let Some(selector) = self.policies.get(&key).map(|policy| policy.selector) {
                self.touch_selected(selector);
            }
            self.stale_rules.insert(Reader::Policy(key));
        }
    }

    /// Notes that a profile has changed, come or gone.
    pub(super) fn touch_profile(&mut self, name: &str) {
        self.stale_rules.insert(Reader::Profile(name.to_owned()));
    }

    /// Takes up an endpoint in force, in place of what it was.
    pub(super) fn enter(&mut self, key: &ResourceKey, labels: &Arc<Labels>, profiles: &[String]) {
        let group = self.matching.enter(labels);
        let list = self.take_out(key);
        self.by_group.entry(group).or_default().insert(key.clone());
        let judged = Judged {
            group,
            profiles: profiles.to_vec(),
            list,
        };
        self.endpoints.insert(key.clone(), judged);
        self.stale_endpoints.insert(key.clone());
    }

    /// Gives an endpoint back, if it is there.
    pub(super) fn leave(&mut self, key: &ResourceKey) {
        if let Some(id) = self.take_out(key) {
            self.leave_list(key, id);
        }
    }

    /// Returns the list of an endpoint in force.
    pub(super) fn policy_of(&self, key: &ResourceKey) -> Option<&Arc<EffectivePolicy>> {
        let id = self.endpoints.get(key)?.list?;
        self.lists.get(&id).map(|list| &list.policy)
    }

    /// Makes lists follow everything noted. Returns the endpoints with another list than before.
    pub(super) fn settle(&mut self, objects: &Objects, sets: &mut ActiveSets) -> BTreeSet<ResourceKey> {
        let mut stale_lists = BTreeSet::new();
        let mut changed = self.find_lists(objects, &mut stale_lists);
        let mut stale_rules = std::mem::take(&mut self.stale_rules);
        stale_rules.append(&mut sets.take_stale_readers());
        stale_rules.append(&mut self.rules.take_new());
        self.drop_idle_lists();
        for reader in stale_rules {
            stale_lists.extend(self.rules.resolve(&reader, objects, sets));
        }
        self.rules.drop_idle(sets);
        for id in stale_lists {
            if let Some(list) = self.lists.get_mut(&id) {
                self.built += 1;
                let policy = self.rules.build(&list.key, objects);
                if *list.policy != policy {
                    list.policy = Arc::new(policy);
                    changed.extend(list.users.iter().cloned());
                }
            }
        }
        changed
    }

    /// Returns how many times a selector was held against labels.
    pub(super) fn evaluated(&self) -> u64 {
        self.matching.evaluated()
    }

    /// Returns how many times rules were resolved.
    pub(super) fn resolved(&self) -> u64 {
        self.rules.resolved()
    }

    /// Returns how many times a list was put together.
    pub(super) fn built(&self) -> u64 {
        self.built
    }

    /// Returns whether nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.matching.is_empty()
            && self.policies.is_empty()
            && self.by_selector.is_empty()
            && self.by_tier.is_empty()
            && self.endpoints.is_empty()
            && self.by_group.is_empty()
            && self.lists.is_empty()
            && self.ids.is_empty()
            && self.rules.is_empty()
    }

    fn watch(&mut self, key: &ResourceKey, selector: &Selector) -> SelectorId {
        let id = self.matching.watch(selector);
        self.by_selector.entry(id).or_default().insert(key.clone());
        id
    }

    fn touch_selected(&mut self, selector: SelectorId) {
        let groups = self.matching.groups_of(selector);
        let endpoints = groups.filter_map(|group| self.by_group.get(&group)).flatten();
        self.stale_endpoints.extend(endpoints.cloned());
    }

    /// Takes an endpoint out of its group. Returns its list.
    fn take_out(&mut self, key: &ResourceKey) -> Option<ListId> {
        let judged = self.endpoints.remove(key)?;
        remove_from(&mut self.by_group, &judged.group, key);
        self.matching.leave(judged.group);
        judged.list
    }

    /// Gives stale endpoints the list that is theirs. Returns those that had another.
    fn find_lists(&mut self, objects: &Objects, stale_lists: &mut BTreeSet<ListId>) -> BTreeSet<ResourceKey> {
        let mut changed = BTreeSet::new();
        let mut policies_of: HashMap<GroupId, Vec<ResourceKey>> = HashMap::new();
        for key in std::mem::take(&mut self.stale_endpoints) {
            let Some(judged) = self.endpoints.get(&key) else {
                continue;
            };
            let policies = policies_of
                .entry(judged.group)
                .or_insert_with(|| self.ordered_policies(judged.group, objects));
            let list_key = ListKey {
                policies: policies.clone(),
                profiles: judged.profiles.clone(),
            };
            let before = judged.list;
            let id = self.list(list_key, stale_lists);
            if before == Some(id) {
                continue;
            }
            if let Some(before) = before {
                self.leave_list(&key, before);
            }
            if let Some(list) = self.lists.get_mut(&id) {
                list.users.insert(key.clone());
            }
            if let Some(judged) = self.endpoints.get_mut(&key) {
                judged.list = Some(id);
            }
            changed.insert(key);
        }
        changed
    }

    /// Returns the policies that select a group, in order.
    fn ordered_policies(&self, group: GroupId, objects: &Objects) -> Vec<ResourceKey> {
        let selectors = self.matching.selectors_of(group);
        let keys = selectors.filter_map(|id| self.by_selector.get(&id)).flatten();
        let mut policies: Vec<_> = keys
            .filter_map(|key| {
                let policy = self.policies.get(key)?;
                let tier = TierPlace::new(&policy.tier, objects.tier(&policy.tier));
                Some((tier, &policy.place, key))
            })
            .collect();
        policies.sort();
        policies.into_iter().map(|(_, _, key)| key.clone()).collect()
    }

    fn list(&mut self, key: ListKey, stale_lists: &mut BTreeSet<ListId>) -> ListId {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        self.last_id += 1;
        let id = self.last_id;
        self.rules.enter(id, &key);
        self.ids.insert(key.clone(), id);
        let list = List {
            key,
            users: BTreeSet::new(),
            policy: Arc::default(),
        };
        self.lists.insert(id, list);
        stale_lists.insert(id);
        id
    }

    fn leave_list(&mut self, key: &ResourceKey, id: ListId) {
        if let Some(list) = self.lists.get_mut(&id) {
            list.users.remove(key);
            self.idle.insert(id);
        }
    }

    fn drop_idle_lists(&mut self) {
        for id in std::mem::take(&mut self.idle) {
            if self.lists.get(&id).is_some_and(|list| list.users.is_empty())
                && let Some(list) = self.lists.remove(&id)
            {
                self.ids.remove(&list.key);
                self.rules.leave(id, &list.key);
            }
        }
    }
}

/// Takes a key away from one of several sets; nothing is left of an empty one.
fn remove_from<Index: Eq + std::hash::Hash>(
    sets: &mut HashMap<Index, BTreeSet<ResourceKey>>,
    index: &Index,
    key: &ResourceKey,
) {
    if let Some(set) = sets.get_mut(index) {
        set.remove(key);
        if set.is_empty() {
            sets.remove(index);
        }
    }
}
