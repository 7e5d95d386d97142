//! From the state of the datastore to what this host enforces.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::effective::{
    DirectionPolicy, EffectivePolicy, EffectivePolicyRules, EffectiveProfile, EffectiveRule, EffectiveState,
    EffectiveTier,
};
use super::endpoints::{
    Identity, effective_endpoint, local_endpoint, not_enforced, why_incomplete, why_shadowed,
};
use super::members::{GroupId, Population, Sets};
use super::migrations::{live_migration, migrations_here};
use super::order::{OrderedTier, ordered_tiers};
pub use super::rules::DEFAULT_ALLOW_PROFILE;
use super::rules::{EGRESS, INGRESS, resolve_policy, resolve_profile};
use crate::model::name::ResourceKey;
use crate::model::resource::{Policy, Profile, Resource, Snapshot, WorkloadEndpoint};

/// What calculation must know beside the datastore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalcOptions {
    /// `FelixHostname`: endpoints whose node this is are ours.
    pub hostname: String,
    /// Whether `allowSpoofedSourcePrefixes` count (`WorkloadSourceSpoofing=Any`).
    pub workload_source_spoofing: bool,
}

/// Works out what this host must enforce. Equal state gives equal output, whatever was before.
pub fn resolve(snapshot: &Snapshot, options: &CalcOptions) -> EffectiveState {
    let profiles = profiles_by_name(snapshot);
    let population = Population::new(snapshot, &profiles);
    let (winners, inactive) = sort_out_endpoints(snapshot, options);
    let tiers = ordered_tiers(snapshot);
    let mut lists = PolicyLists::new(&population, &tiers, &profiles);
    let mut endpoints = BTreeMap::new();
    for (key, endpoint) in winners {
        // Complete endpoints have a group.
        let Some(group) = population.group_of(key) else {
            continue;
        };
        let policy = lists.of(group, &endpoint.profiles);
        let labels = Arc::clone(population.labels(group));
        let effective = effective_endpoint(endpoint, options, policy, labels);
        endpoints.insert(key.clone(), Arc::new(effective));
    }
    let local = snapshot.iter().filter_map(|(key, resource)| {
        let endpoint = local_endpoint(resource, options)?;
        Some((key, endpoint))
    });
    let migrations = snapshot.values().filter_map(|resource| live_migration(resource));
    let migrations = migrations_here(migrations, local, &options.hostname);
    let whats = |(key, resource): (&ResourceKey, &Arc<Resource>)| {
        let whats = not_enforced(resource, options);
        let key = key.clone();
        whats.into_iter().map(move |what| (key.clone(), what.to_owned()))
    };
    let not_enforced = snapshot.iter().flat_map(whats).collect();
    EffectiveState {
        endpoints: endpoints.into(),
        sets: lists.sets.sets.into(),
        inactive: inactive.into(),
        not_enforced,
        migrations: migrations.into(),
    }
}

fn profiles_by_name(snapshot: &Snapshot) -> HashMap<&str, &Profile> {
    let mut profiles = HashMap::new();
    for (key, resource) in snapshot {
        if let Resource::Profile(profile) = &**resource {
            profiles.insert(key.name.as_str(), profile);
        }
    }
    profiles
}

type Winners<'a> = BTreeMap<&'a ResourceKey, &'a WorkloadEndpoint>;

/// Splits the endpoints of this host into those in force and those that are not, with the reason.
fn sort_out_endpoints<'a>(
    snapshot: &'a Snapshot,
    options: &'a CalcOptions,
) -> (Winners<'a>, BTreeMap<ResourceKey, String>) {
    let mut inactive = BTreeMap::new();
    let mut by_interface: BTreeMap<&str, BTreeMap<Identity, (&ResourceKey, &WorkloadEndpoint)>> =
        BTreeMap::new();
    for (key, resource) in snapshot {
        let Some(endpoint) = local_endpoint(resource, options) else {
            continue;
        };
        if let Some(reason) = why_incomplete(endpoint) {
            inactive.insert(key.clone(), reason.to_owned());
        } else {
            let claims = by_interface.entry(&endpoint.interface_name).or_default();
            claims.insert(Identity::new(key, endpoint), (key, endpoint));
        }
    }
    let mut winners = Winners::new();
    for claims in by_interface.into_values() {
        let mut claims = claims.into_values();
        let Some((winner, endpoint)) = claims.next() else {
            continue;
        };
        winners.insert(winner, endpoint);
        inactive.extend(claims.map(|(key, endpoint)| (key.clone(), why_shadowed(endpoint, winner))));
    }
    (winners, inactive)
}

/// Indices of policies, by tier.
type ActivePolicies = Vec<Vec<usize>>;

/// The policy lists of endpoints; equal ones are made once.
struct PolicyLists<'a> {
    population: &'a Population<'a>,
    tiers: &'a [OrderedTier<'a>],
    profiles: &'a HashMap<&'a str, &'a Profile>,
    sets: Sets<'a>,
    /// By group: for each tier, the policies that select it.
    active: HashMap<GroupId, ActivePolicies>,
    /// By policies and profiles.
    lists: HashMap<(ActivePolicies, Vec<String>), Arc<EffectivePolicy>>,
    /// Resolved rules by tier and policy: egress, ingress.
    rules: HashMap<(usize, usize), [Vec<EffectiveRule>; 2]>,
    profile_rules: HashMap<String, [EffectiveProfile; 2]>,
}

impl<'a> PolicyLists<'a> {
    fn new(
        population: &'a Population<'a>,
        tiers: &'a [OrderedTier<'a>],
        profiles: &'a HashMap<&'a str, &'a Profile>,
    ) -> Self {
        Self {
            population,
            tiers,
            profiles,
            sets: Sets::new(population),
            active: HashMap::new(),
            lists: HashMap::new(),
            rules: HashMap::new(),
            profile_rules: HashMap::new(),
        }
    }

    /// Returns the list of the endpoints with the labels of `group` and these profiles.
    fn of(&mut self, group: GroupId, profiles: &[String]) -> Arc<EffectivePolicy> {
        let labels = self.population.labels(group);
        let tiers = self.tiers;
        let active = self.active.entry(group).or_insert_with(|| {
            let selects = |policy: &Policy| policy.selector.matches(labels);
            let of_tier = |tier: &OrderedTier<'_>| {
                let selecting = tier
                    .policies
                    .iter()
                    .enumerate()
                    .filter(|(_, (_, policy))| selects(policy));
                selecting.map(|(index, _)| index).collect()
            };
            tiers.iter().map(of_tier).collect()
        });
        let key = (active.clone(), profiles.to_vec());
        if let Some(list) = self.lists.get(&key) {
            return Arc::clone(list);
        }
        let list = Arc::new(EffectivePolicy {
            egress: self.direction(EGRESS, &key.0, profiles),
            ingress: self.direction(INGRESS, &key.0, profiles),
        });
        self.lists.insert(key, Arc::clone(&list));
        list
    }

    fn direction(&mut self, direction: usize, active: &[Vec<usize>], profiles: &[String]) -> DirectionPolicy {
        let mut tiers = Vec::new();
        for (tier_index, (tier, active)) in self.tiers.iter().zip(active).enumerate() {
            let mut policies = Vec::new();
            for index in active {
                let (key, policy) = tier.policies[*index];
                if [policy.egress_enabled, policy.ingress_enabled][direction] {
                    let rules = self.rules_of(tier_index, *index, policy)[direction].clone();
                    policies.push(EffectivePolicyRules {
                        key: key.clone(),
                        rules,
                    });
                }
            }
            if !policies.is_empty() {
                tiers.push(EffectiveTier {
                    name: Arc::from(tier.name),
                    policies,
                    default_pass: tier.default_pass,
                });
            }
        }
        let profiles = profiles
            .iter()
            .map(|name| self.profile(name)[direction].clone())
            .collect();
        DirectionPolicy { tiers, profiles }
    }

    fn rules_of(&mut self, tier: usize, index: usize, policy: &Policy) -> &[Vec<EffectiveRule>; 2] {
        let sets = &mut self.sets;
        self.rules
            .entry((tier, index))
            .or_insert_with(|| resolve_policy(policy, sets))
    }

    fn profile(&mut self, name: &str) -> &[EffectiveProfile; 2] {
        let sets = &mut self.sets;
        let known = self.profiles.get(name).copied();
        self.profile_rules
            .entry(name.to_owned())
            .or_insert_with(|| resolve_profile(name, known, sets))
    }
}

#[cfg(test)]
mod tests;
