//! The order of tiers, and of policies within a tier (contract 4.3).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::model::name::ResourceKey;
use crate::model::resource::{Policy, Resource, Snapshot, Tier};

/// A tier with its policies in order.
pub(super) struct OrderedTier<'a> {
    pub(super) name: &'a str,
    pub(super) default_pass: bool,
    pub(super) policies: Vec<(&'a ResourceKey, &'a Policy)>,
}

/// Where a tier stands among tiers: those that exist by order, then by name; behind them those that only policies name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TierPlace {
    is_missing: bool,
    order: Order,
    name: String,
}

impl TierPlace {
    /// Returns the place of a tier; `None`: nobody made it.
    pub(super) fn new(name: &str, tier: Option<&Tier>) -> Self {
        Self {
            is_missing: tier.is_none(),
            order: Order(tier.and_then(|tier| tier.order)),
            name: name.to_owned(),
        }
    }
}

/// Where a policy stands in its tier: by order, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PolicyPlace {
    order: Order,
    /// `name/namespace/kind`.
    tie: String,
}

impl PolicyPlace {
    /// Returns the place of a policy.
    pub(super) fn new(key: &ResourceKey, policy: &Policy) -> Self {
        Self {
            order: Order(policy.order),
            tie: format!("{}/{}/{}", key.name, key.namespace, key.kind.as_str()),
        }
    }
}

/// Returns the tiers in order, each with its policies for workloads in order; tiers without any are left out.
pub(super) fn ordered_tiers(snapshot: &Snapshot) -> Vec<OrderedTier<'_>> {
    let mut known: BTreeMap<&str, &Tier> = BTreeMap::new();
    let mut policies: BTreeMap<&str, Vec<(&ResourceKey, &Policy)>> = BTreeMap::new();
    for (key, resource) in snapshot {
        if let Resource::Tier(tier) = &**resource {
            known.insert(&key.name, tier);
        }
        if let Resource::Policy(policy) = &**resource
            && !policy.host_endpoints_only
        {
            policies.entry(&policy.tier).or_default().push((key, policy));
        }
    }
    let mut tiers: Vec<_> = policies
        .into_iter()
        .map(|(name, list)| (name, known.get(name).copied(), list))
        .collect();
    tiers.sort_by_cached_key(|(name, tier, _)| TierPlace::new(name, *tier));
    let ordered = tiers.into_iter().map(|(name, tier, mut policies)| {
        policies.sort_by_cached_key(|(key, policy)| PolicyPlace::new(key, policy));
        OrderedTier {
            name,
            default_pass: tier.is_some_and(|tier| tier.default_pass),
            policies,
        }
    });
    ordered.collect()
}

/// An order that compares: none is last.
#[derive(Clone, Copy, Debug)]
struct Order(Option<f64>);

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        let value = |order: &Self| order.0.unwrap_or(f64::INFINITY);
        value(self).total_cmp(&value(other))
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Order {}
