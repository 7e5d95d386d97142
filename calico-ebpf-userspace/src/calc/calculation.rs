//! The incremental calculation: told what changes, it works out anew what that touches, and nothing else.
//!
//! Objects with addresses are members of sets by their labels (`sets`); local ones claim an interface (`claims`), and
//! those in force are judged by a list of policies (`lists`), whose rules (`active`) use sets. What is looked at again
//! follows these ties, through indexes over labels and selectors (`matching`).
//!
//! **Invariant:** the state equals [`super::resolve::resolve`] of the same objects, whatever came before.

mod active;
mod claims;
mod counted;
mod keys;
mod lists;
mod matching;
mod objects;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use self::claims::Claims;
use self::lists::Lists;
use self::matching::GroupId;
use self::objects::Objects;
use self::sets::{ActiveSets, SetChanges};
use super::effective::{EffectiveEndpoint, EffectiveState, MigrationRole, Shared};
use super::endpoints::{
    effective_endpoint, inherited, local_endpoint, member_of, not_enforced, why_incomplete, why_shadowed,
};
use super::migrations::{live_migration, migrations_here};
use super::resolve::CalcOptions;
use crate::model::labels::Labels;
use crate::model::name::{Kind, ResourceKey};
use crate::model::resource::{Changes, Policy, Resource, WorkloadEndpoint};

/// What this host must enforce, kept up to date by changes.
#[derive(Debug)]
pub struct Calculation {
    options: CalcOptions,
    objects: Objects,
    members: HashMap<ResourceKey, Entered>,
    /// Members that name a profile, whether it exists or not.
    by_profile: HashMap<String, BTreeSet<ResourceKey>>,
    claims: Claims,
    sets: ActiveSets,
    lists: Lists,
    not_enforced: BTreeMap<ResourceKey, Vec<&'static str>>,
    not_enforced_is_stale: bool,
    /// Endpoints of this host, in force or not.
    local: BTreeSet<ResourceKey>,
    migrations_are_stale: bool,
    /// Endpoints of this host that must be looked at again.
    touched: BTreeSet<ResourceKey>,
    state: Arc<EffectiveState>,
    endpoints_built: u64,
}

/// What calculation has done since it began: how its cost follows changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// How many times a selector was held against labels.
    pub selectors_evaluated: u64,
    /// How many times the rules of a policy or profile were resolved.
    pub rules_resolved: u64,
    /// How many times a policy list was put together.
    pub lists_built: u64,
    /// How many times an endpoint was put together.
    pub endpoints_built: u64,
}

/// A member as it was taken up.
#[derive(Debug)]
struct Entered {
    group: GroupId,
    resource: Arc<Resource>,
}

/// What has changed in the state; `None`: gone.
#[derive(Default)]
struct StateChanges {
    endpoints: BTreeMap<ResourceKey, Option<Arc<EffectiveEndpoint>>>,
    inactive: BTreeMap<ResourceKey, Option<String>>,
    sets: SetChanges,
}

impl Calculation {
    /// Returns the calculation of an empty datastore.
    pub fn new(options: CalcOptions) -> Self {
        Self {
            options,
            objects: Objects::default(),
            members: HashMap::new(),
            by_profile: HashMap::new(),
            claims: Claims::default(),
            sets: ActiveSets::default(),
            lists: Lists::default(),
            not_enforced: BTreeMap::new(),
            not_enforced_is_stale: false,
            local: BTreeSet::new(),
            migrations_are_stale: false,
            touched: BTreeSet::new(),
            state: Arc::default(),
            endpoints_built: 0,
        }
    }

    /// Returns what was given at the start.
    pub fn options(&self) -> &CalcOptions {
        &self.options
    }

    /// Takes changes of the datastore.
    pub fn apply(&mut self, changes: &Changes) {
        let mut stale_members = BTreeSet::new();
        for (key, new) in changes {
            let old = self.objects.put(key, new.as_ref());
            if old != *new {
                self.note(key, [old.as_deref(), new.as_deref()], &mut stale_members);
            }
        }
        // Behind the loop, when every profile that is there is known.
        for key in stale_members {
            self.refresh_member(&key);
        }
    }

    /// Returns what this host must enforce. What is as it was is the same `Arc` as last time, the whole state included.
    pub fn state(&mut self) -> Arc<EffectiveState> {
        let mut changes = StateChanges::default();
        let mut stale = self.place_touched(&mut changes);
        stale.append(&mut self.lists.settle(&self.objects, &mut self.sets));
        for key in stale {
            if let Some(endpoint) = self.build(&key) {
                self.endpoints_built += 1;
                changes.endpoints.insert(key, Some(Arc::new(endpoint)));
            }
        }
        changes.sets = self.sets.take_changes();
        self.publish(changes);
        Arc::clone(&self.state)
    }

    /// Returns what was done since the calculation began.
    pub fn effort(&self) -> Effort {
        Effort {
            selectors_evaluated: self.sets.evaluated() + self.lists.evaluated(),
            rules_resolved: self.lists.resolved(),
            lists_built: self.lists.built(),
            endpoints_built: self.endpoints_built,
        }
    }

    /// Returns whether nothing is left of what was taken up.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.members.is_empty()
            && self.by_profile.is_empty()
            && self.not_enforced.is_empty()
            && self.local.is_empty()
            && self.touched.is_empty()
            && self.claims.is_empty()
            && self.sets.is_empty()
            && self.lists.is_empty()
    }

    /// Notes what an object's change from one to the other version touches.
    fn note(
        &mut self,
        key: &ResourceKey,
        versions: [Option<&Resource>; 2],
        stale_members: &mut BTreeSet<ResourceKey>,
    ) {
        for resource in versions.iter().flatten() {
            match resource {
                Resource::WorkloadEndpoint(_) | Resource::HostEndpoint(_) | Resource::NetworkSet(_) => {
                    stale_members.insert(key.clone());
                }
                Resource::Profile(_) => {
                    self.lists.touch_profile(&key.name);
                }
                Resource::Tier(_) => self.lists.touch_tier(&key.name),
                Resource::LiveMigration(_) => self.migrations_are_stale = true,
                Resource::Policy(_)
                | Resource::IpPool(_)
                | Resource::Node(_)
                | Resource::FelixConfiguration(_)
                | Resource::ClusterInformation(_) => {}
            }
        }
        let [labels_before, labels_now] = versions.map(labels_to_apply);
        if labels_before != labels_now {
            let named_by = self.by_profile.get(&key.name);
            stale_members.extend(named_by.into_iter().flatten().cloned());
        }
        let [policy_before, policy_now] = versions.map(policy_for_workloads);
        if policy_before.is_some() || policy_now.is_some() {
            self.lists.put_policy(key, policy_now);
        }
        let [before, now] = versions
            .map(|version| version.map_or_else(Vec::new, |resource| not_enforced(resource, &self.options)));
        if now != before {
            self.not_enforced_is_stale = true;
            self.not_enforced.remove(key);
            if !now.is_empty() {
                self.not_enforced.insert(key.clone(), now);
            }
        }
    }

    /// Makes sets and claims follow one object with labels and addresses, or its end.
    fn refresh_member(&mut self, key: &ResourceKey) {
        let new = self.objects.get(key).cloned();
        let old = self.members.remove(key);
        let local = new
            .as_deref()
            .and_then(|resource| local_endpoint(resource, &self.options));
        match local {
            Some(endpoint) if why_incomplete(endpoint).is_none() => {
                self.claims.put(key, endpoint, &mut self.touched);
            }
            _ => self.claims.remove(key, &mut self.touched),
        }
        let was_local = if local.is_some() {
            !self.local.insert(key.clone())
        } else {
            self.local.remove(key)
        };
        if local.is_some() || was_local {
            self.touched.insert(key.clone());
            self.migrations_are_stale = true;
        }
        // The new version first, so that what both have does not come and go.
        if let Some(resource) = &new
            && let Some(member) = member_of(resource)
        {
            let labels = inherited(member.labels, member.profiles, |name| self.objects.profile(name));
            let labels = self.sets.share(labels);
            let entered = Entered {
                group: self.sets.enter(&labels, &member),
                resource: Arc::clone(resource),
            };
            self.members.insert(key.clone(), entered);
        }
        if let Some(old) = old
            && let Some(member) = member_of(&old.resource)
        {
            self.sets.leave(old.group, &member);
            for profile in member.profiles {
                if let Some(members) = self.by_profile.get_mut(profile) {
                    members.remove(key);
                    if members.is_empty() {
                        self.by_profile.remove(profile);
                    }
                }
            }
        }
        if let Some(resource) = &new
            && let Some(member) = member_of(resource)
        {
            for profile in member.profiles {
                let members = self.by_profile.entry(profile.clone()).or_default();
                members.insert(key.clone());
            }
        }
    }

    /// Finds out which of the touched endpoints are in force. Returns those.
    fn place_touched(&mut self, changes: &mut StateChanges) -> BTreeSet<ResourceKey> {
        let mut in_force = BTreeSet::new();
        for key in std::mem::take(&mut self.touched) {
            let endpoint = self.local(&key);
            let reason = endpoint.and_then(|endpoint| self.why_inactive(&key, endpoint));
            if let Some(endpoint) = endpoint.filter(|_| reason.is_none())
                && let Some(entered) = self.members.get(&key)
            {
                let labels = self.sets.labels(entered.group);
                let profiles = endpoint.profiles.clone();
                self.lists.enter(&key, &labels, &profiles);
                in_force.insert(key.clone());
            } else {
                self.lists.leave(&key);
                changes.endpoints.insert(key.clone(), None);
            }
            changes.inactive.insert(key, reason);
        }
        in_force
    }

    fn local(&self, key: &ResourceKey) -> Option<&WorkloadEndpoint> {
        local_endpoint(self.objects.get(key)?, &self.options)
    }

    fn why_inactive(&self, key: &ResourceKey, endpoint: &WorkloadEndpoint) -> Option<String> {
        if let Some(reason) = why_incomplete(endpoint) {
            return Some(reason.to_owned());
        }
        let winner = self.claims.winner(&endpoint.interface_name)?;
        (winner != key).then(|| why_shadowed(endpoint, winner))
    }

    /// Puts an endpoint in force together.
    fn build(&self, key: &ResourceKey) -> Option<EffectiveEndpoint> {
        let endpoint = self.local(key)?;
        let policy = Arc::clone(self.lists.policy_of(key)?);
        let labels = self.sets.labels(self.members.get(key)?.group);
        Some(effective_endpoint(endpoint, &self.options, policy, labels))
    }

    fn migrations(&self) -> BTreeMap<ResourceKey, MigrationRole> {
        let local = self.local.iter().filter_map(|key| Some((key, self.local(key)?)));
        let migrations = self
            .objects
            .of_kind(Kind::LiveMigration)
            .filter_map(live_migration);
        migrations_here(migrations, local, &self.options.hostname)
    }

    /// Changes the state where it differs.
    fn publish(&mut self, mut changes: StateChanges) {
        let now = &self.state;
        changes
            .endpoints
            .retain(|key, new| now.endpoints.get(key) != new.as_ref());
        changes
            .inactive
            .retain(|key, new| now.inactive.get(key) != new.as_ref());
        changes.sets.retain(|id, new| now.sets.get(id) != new.as_ref());
        let nothing = changes.endpoints.is_empty() && changes.inactive.is_empty() && changes.sets.is_empty();
        let migrations = std::mem::take(&mut self.migrations_are_stale).then(|| self.migrations());
        let migrations = migrations.filter(|migrations| *migrations != *now.migrations);
        if nothing && !self.not_enforced_is_stale && migrations.is_none() {
            return;
        }
        let state = Arc::make_mut(&mut self.state);
        put_all(&mut state.endpoints, changes.endpoints);
        put_all(&mut state.inactive, changes.inactive);
        put_all(&mut state.sets, changes.sets);
        if let Some(migrations) = migrations {
            state.migrations = migrations.into();
        }
        if std::mem::take(&mut self.not_enforced_is_stale) {
            let whats = self.not_enforced.iter();
            let whats =
                whats.flat_map(|(key, whats)| whats.iter().map(|what| (key.clone(), (*what).to_owned())));
            state.not_enforced = whats.collect();
        }
    }
}

fn policy_for_workloads(version: Option<&Resource>) -> Option<&Policy> {
    if let Some(Resource::Policy(policy)) = version
        && !policy.host_endpoints_only
    {
        Some(policy)
    } else {
        None
    }
}

fn labels_to_apply(version: Option<&Resource>) -> Option<&Labels> {
    if let Some(Resource::Profile(profile)) = version {
        Some(&profile.labels_to_apply)
    } else {
        None
    }
}

fn put_all<Key: Ord + Clone, Value: Clone>(
    map: &mut Shared<BTreeMap<Key, Value>>,
    changes: BTreeMap<Key, Option<Value>>,
) {
    if changes.is_empty() {
        // What is only looked at stays shared.
        return;
    }
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}
