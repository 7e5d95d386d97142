//! From the state of the datastore to what this host enforces.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::effective::{
    DirectionPolicy, EffectiveEndpoint, EffectivePolicy, EffectivePolicyRules, EffectiveProfile,
    EffectiveRule, EffectiveState, EffectiveTier,
};
use super::members::{GroupId, Population, Sets, is_complete};
use super::migrations::migrations_here;
use super::order::{OrderedTier, ordered_tiers};
use super::rules::resolve_rules;
use crate::model::name::ResourceKey;
use crate::model::resource::{Policy, Profile, Resource, Snapshot, WorkloadEndpoint};
use crate::model::rule::{Action, Entity, Rule};

/// The profile that allows everything. It is in no datastore, and one of that name would not count.
pub const DEFAULT_ALLOW_PROFILE: &str = "projectcalico-default-allow";

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
        let spoofed = if options.workload_source_spoofing {
            endpoint.allow_spoofed_source_prefixes.clone()
        } else {
            Vec::new()
        };
        let effective = EffectiveEndpoint {
            interface_name: endpoint.interface_name.clone(),
            mac: endpoint.mac,
            ip_networks: endpoint.ip_networks.clone(),
            allowed_ips: endpoint.allowed_ips.clone(),
            allow_spoofed_source_prefixes: spoofed,
            ip_nats: endpoint.ip_nats.clone(),
            policy: lists.of(group, &endpoint.profiles),
            labels: Arc::clone(population.labels(group)),
        };
        endpoints.insert(key.clone(), Arc::new(effective));
    }
    let not_enforced = list_not_enforced(snapshot, options);
    EffectiveState {
        endpoints,
        sets: lists.sets.sets,
        inactive,
        not_enforced,
        migrations: migrations_here(snapshot, &options.hostname),
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

fn local_endpoints<'a>(
    snapshot: &'a Snapshot,
    options: &'a CalcOptions,
) -> impl Iterator<Item = (&'a ResourceKey, &'a WorkloadEndpoint)> {
    snapshot.iter().filter_map(|(key, resource)| match &**resource {
        Resource::WorkloadEndpoint(endpoint) if endpoint.node == options.hostname => Some((key, endpoint)),
        Resource::WorkloadEndpoint(_)
        | Resource::HostEndpoint(_)
        | Resource::Policy(_)
        | Resource::Tier(_)
        | Resource::Profile(_)
        | Resource::NetworkSet(_)
        | Resource::IpPool(_)
        | Resource::Node(_)
        | Resource::LiveMigration(_)
        | Resource::FelixConfiguration(_)
        | Resource::ClusterInformation(_) => None,
    })
}

type Winners<'a> = BTreeMap<&'a ResourceKey, &'a WorkloadEndpoint>;

/// Splits the endpoints of this host into those in force and those that are not, with the reason.
fn sort_out_endpoints<'a>(
    snapshot: &'a Snapshot,
    options: &'a CalcOptions,
) -> (Winners<'a>, BTreeMap<ResourceKey, String>) {
    let mut inactive = BTreeMap::new();
    let mut by_interface: BTreeMap<&str, Vec<(&ResourceKey, &WorkloadEndpoint)>> = BTreeMap::new();
    for (key, endpoint) in local_endpoints(snapshot, options) {
        if is_complete(endpoint) {
            by_interface
                .entry(&endpoint.interface_name)
                .or_default()
                .push((key, endpoint));
        } else if endpoint.interface_name.is_empty() {
            inactive.insert(key.clone(), "has no interface name".to_owned());
        } else {
            inactive.insert(key.clone(), "has no addresses".to_owned());
        }
    }
    let mut winners = Winners::new();
    for (interface, mut claims) in by_interface {
        // Felix's identity of an endpoint; its workload is `namespace/device`.
        claims.sort_by_cached_key(|(key, endpoint)| {
            let workload = format!("{}/{}", key.namespace, endpoint.workload);
            (
                endpoint.orchestrator.clone(),
                workload,
                endpoint.endpoint.clone(),
                *key,
            )
        });
        let mut claims = claims.into_iter();
        let Some((winner, endpoint)) = claims.next() else {
            continue;
        };
        winners.insert(winner, endpoint);
        for (key, _) in claims {
            inactive.insert(key.clone(), format!("interface {interface} belongs to {winner}"));
        }
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

/// Index of egress in pairs of directions.
const EGRESS: usize = 0;
/// Index of ingress in pairs of directions.
const INGRESS: usize = 1;

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

    /// A direction that the policy does not govern has no rules: its selectors make no sets.
    fn rules_of(&mut self, tier: usize, index: usize, policy: &Policy) -> &[Vec<EffectiveRule>; 2] {
        let sets = &mut self.sets;
        self.rules.entry((tier, index)).or_insert_with(|| {
            let mut resolve = |governed: bool, rules: &[Rule]| {
                if governed {
                    resolve_rules(rules, sets)
                } else {
                    Vec::new()
                }
            };
            [
                resolve(policy.egress_enabled, &policy.egress),
                resolve(policy.ingress_enabled, &policy.ingress),
            ]
        })
    }

    fn profile(&mut self, name: &str) -> &[EffectiveProfile; 2] {
        let sets = &mut self.sets;
        let known = self.profiles.get(name);
        self.profile_rules.entry(name.to_owned()).or_insert_with(|| {
            let rules = if name == DEFAULT_ALLOW_PROFILE {
                let allow = resolve_rules(&[allow_all()], sets);
                [Some(allow.clone()), Some(allow)]
            } else {
                let mut resolve = |rules: &[Rule]| resolve_rules(rules, sets);
                match known {
                    Some(profile) => [Some(resolve(&profile.egress)), Some(resolve(&profile.ingress))],
                    None => [None, None],
                }
            };
            rules.map(|rules| EffectiveProfile {
                name: Arc::from(name),
                rules,
            })
        })
    }
}

fn allow_all() -> Rule {
    Rule {
        action: Action::Allow,
        ip_version: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Entity::default(),
        destination: Entity::default(),
        index: 0,
    }
}

/// Returns what concerns this host and is not enforced, in order of the keys.
fn list_not_enforced(snapshot: &Snapshot, options: &CalcOptions) -> Vec<(ResourceKey, String)> {
    let mut list = Vec::new();
    for (key, resource) in snapshot {
        let mut add = |what: &str| list.push((key.clone(), what.to_owned()));
        match &**resource {
            Resource::HostEndpoint(endpoint) if endpoint.node == options.hostname => add("host endpoint"),
            Resource::WorkloadEndpoint(endpoint) if endpoint.node == options.hostname => {
                if endpoint.has_qos_controls {
                    add("qosControls");
                }
                if !endpoint.ip_nats.is_empty() {
                    add("ipNATs");
                }
            }
            Resource::IpPool(pool) if pool.nat_outgoing => add("natOutgoing"),
            Resource::HostEndpoint(_)
            | Resource::WorkloadEndpoint(_)
            | Resource::IpPool(_)
            | Resource::Policy(_)
            | Resource::Tier(_)
            | Resource::Profile(_)
            | Resource::NetworkSet(_)
            | Resource::Node(_)
            | Resource::LiveMigration(_)
            | Resource::FelixConfiguration(_)
            | Resource::ClusterInformation(_) => {}
        }
    }
    list
}

#[cfg(test)]
mod tests;
