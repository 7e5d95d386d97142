//! The objects of the datastore as the calculation was told them.

use std::sync::Arc;

use crate::model::name::{Kind, ResourceKey};
use crate::model::resource::{Policy, Profile, Resource, Snapshot, Tier};

/// Objects by their identity.
#[derive(Debug, Default)]
pub(super) struct Objects(Snapshot);

impl Objects {
    /// Puts an object in place, or removes it; returns what was there.
    pub(super) fn put(
        &mut self,
        key: &ResourceKey,
        resource: Option<&Arc<Resource>>,
    ) -> Option<Arc<Resource>> {
        match resource {
            Some(resource) => self.0.insert(key.clone(), Arc::clone(resource)),
            None => self.0.remove(key),
        }
    }

    /// Returns an object.
    pub(super) fn get(&self, key: &ResourceKey) -> Option<&Arc<Resource>> {
        self.0.get(key)
    }

    /// Returns all objects of a kind.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        let objects = self.0.range(global(kind, "")..);
        objects
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, resource)| &**resource)
    }

    /// Returns a policy.
    pub(super) fn policy(&self, key: &ResourceKey) -> Option<&Policy> {
        if let Resource::Policy(policy) = &**self.get(key)? {
            Some(policy)
        } else {
            None
        }
    }

    /// Returns a tier, if somebody made it.
    pub(super) fn tier(&self, name: &str) -> Option<&Tier> {
        if let Resource::Tier(tier) = &**self.get(&global(Kind::Tier, name))? {
            Some(tier)
        } else {
            None
        }
    }

    /// Returns a profile, if somebody made it.
    pub(super) fn profile(&self, name: &str) -> Option<&Profile> {
        if let Resource::Profile(profile) = &**self.get(&global(Kind::Profile, name))? {
            Some(profile)
        } else {
            None
        }
    }
}

fn global(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey {
        kind,
        namespace: String::new(),
        name: name.to_owned(),
    }
}
