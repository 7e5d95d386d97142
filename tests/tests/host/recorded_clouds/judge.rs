//! What the plain evaluator says about packets at a state of the cloud.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_ebpf_userspace::calc::effective::{EffectiveState, PacketFacts};
use calico_ebpf_userspace::calc::resolve::{CalcOptions, resolve};
use calico_ebpf_userspace::compile::reference::judge_packet;
use calico_ebpf_userspace::model::decode::decode;
use calico_ebpf_userspace::model::name::ResourceKey;
use serde_json::Value;

/// The evaluator with a state of the datastore, on one host.
pub(super) struct Judge {
    state: EffectiveState,
    by_interface: BTreeMap<String, ResourceKey>,
}

impl Judge {
    pub(super) fn new<'a>(objects: impl IntoIterator<Item = &'a Value>, hostname: &str) -> Self {
        let mut snapshot = BTreeMap::new();
        for object in objects {
            let decoded = decode(object, None);
            if let (Some(key), Some(resource)) = (decoded.key, decoded.resource) {
                snapshot.insert(key, Arc::new(resource));
            }
        }
        let options = CalcOptions {
            hostname: hostname.to_owned(),
            ..CalcOptions::default()
        };
        let state = resolve(&snapshot, &options);
        let by_interface = state
            .endpoints
            .iter()
            .map(|(key, endpoint)| (endpoint.interface_name.clone(), key.clone()))
            .collect();
        Self { state, by_interface }
    }

    /// Returns whether a packet passes from one tap to another; `None` is an end that is not on this host.
    pub(super) fn allows(&self, from: Option<&str>, to: Option<&str>, facts: &PacketFacts) -> bool {
        let endpoint = |interface: Option<&str>| {
            let key = &self.by_interface[interface?];
            Some(&*self.state.endpoints[key])
        };
        judge_packet(&self.state, endpoint(from), endpoint(to), facts).allow
    }
}
