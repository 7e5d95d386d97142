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
    tiers.sort_by(|a, b| {
        // A tier that policies name but nobody made comes after all that exist.
        let missing = a.1.is_none().cmp(&b.1.is_none());
        let orders = by_order(a.1.and_then(|tier| tier.order), b.1.and_then(|tier| tier.order));
        missing.then(orders).then_with(|| a.0.cmp(b.0))
    });
    let ordered = tiers.into_iter().map(|(name, tier, mut policies)| {
        policies.sort_by_cached_key(|(key, policy)| (Order(policy.order), tie_text(key)));
        OrderedTier {
            name,
            default_pass: tier.is_some_and(|tier| tier.default_pass),
            policies,
        }
    });
    ordered.collect()
}

/// Text that orders policies of one order: `name/namespace/kind`.
fn tie_text(key: &ResourceKey) -> String {
    format!("{}/{}/{}", key.name, key.namespace, key.kind.as_str())
}

fn by_order(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY))
}

/// An order that compares: none is last.
#[derive(Clone, Copy)]
struct Order(Option<f64>);

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        by_order(self.0, other.0)
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
