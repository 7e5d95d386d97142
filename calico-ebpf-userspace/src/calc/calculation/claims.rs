//! Who claims which interface: of several endpoints the lowest has it, and the next when that one goes (contract 3.1).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::calc::endpoints::Identity;
use crate::model::name::ResourceKey;
use crate::model::resource::WorkloadEndpoint;

/// Complete endpoints of this host by their interface.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_interface: HashMap<String, BTreeSet<Identity>>,
    claims: BTreeMap<ResourceKey, (String, Identity)>,
}

impl Claims {
    /// Takes up an endpoint, in place of what it was before. Whoever has that interface or had it is `touched`.
    pub(super) fn put(
        &mut self,
        key: &ResourceKey,
        endpoint: &WorkloadEndpoint,
        touched: &mut BTreeSet<ResourceKey>,
    ) {
        let claim = (endpoint.interface_name.clone(), Identity::new(key, endpoint));
        if self.claims.get(key) == Some(&claim) {
            return;
        }
        self.remove(key, touched);
        let rivals = self.by_interface.entry(claim.0.clone()).or_default();
        rivals.insert(claim.1.clone());
        touched.extend(rivals.iter().map(|rival| rival.key.clone()));
        self.claims.insert(key.clone(), claim);
    }

    /// Gives an endpoint back, if it is there. Whoever has its interface is `touched`.
    pub(super) fn remove(&mut self, key: &ResourceKey, touched: &mut BTreeSet<ResourceKey>) {
        let Some((interface, identity)) = self.claims.remove(key) else {
            return;
        };
        if let Some(rivals) = self.by_interface.get_mut(&interface) {
            rivals.remove(&identity);
            touched.extend(rivals.iter().map(|rival| rival.key.clone()));
            if rivals.is_empty() {
                self.by_interface.remove(&interface);
            }
        }
    }

    /// Returns the endpoint that has the interface.
    pub(super) fn winner(&self, interface: &str) -> Option<&ResourceKey> {
        let rivals = self.by_interface.get(interface)?;
        rivals.first().map(|rival| &rival.key)
    }

    /// Returns whether nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_interface.is_empty() && self.claims.is_empty()
    }
}
