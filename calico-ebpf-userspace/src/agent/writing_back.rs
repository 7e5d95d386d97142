//! Status for Neutron, where the datastore has a place for it.

use std::time::Instant;

use crate::config::Config;
use crate::etcd::Etcd;
use crate::model::name::{Kind, ResourceKey};
use crate::model::resource::{Resource, Snapshot};
use crate::report::{AgentReport, StatusReport};
use crate::status::{EndpointId, EndpointState, EndpointStates, StatusWriter};

/// What writes status, if anything does. It lives as long as the process: work that starts anew in place changes neither
/// uptime nor keys.
#[derive(Debug)]
pub(super) struct WritingBack(Option<StatusWriter>);

impl WritingBack {
    /// Writes to `etcd`, in a process that began at `started`.
    pub(super) fn start(config: &Config, etcd: Option<Etcd>, started: Instant) -> Self {
        if etcd.is_none() {
            tracing::debug!("the file datastore has no place for status, none is written");
        }
        Self(etcd.map(|etcd| StatusWriter::start(config, etcd, started)))
    }

    /// Takes another configuration.
    pub(super) fn configure(&self, config: &Config) {
        if let Some(writer) = &self.0 {
            writer.configure(config);
        }
    }

    /// Tells what a pass of the dataplane has led to.
    pub(super) fn tell(&self, report: &AgentReport, snapshot: &Snapshot) {
        if let Some(writer) = &self.0 {
            writer.tell(endpoint_states(report, snapshot));
        }
    }

    /// Waits for another [`Self::report`].
    pub(super) async fn changed(&mut self) {
        match &mut self.0 {
            Some(writer) => writer.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Returns what was written and what went wrong.
    pub(super) fn report(&mut self) -> StatusReport {
        self.0.as_mut().map_or_else(
            || StatusReport {
                reason: "the file datastore has no place for it".to_owned(),
                ..StatusReport::default()
            },
            StatusWriter::report,
        )
    }
}

/// Returns the state of each endpoint of this host. While no policy is in force, nothing is known of any.
fn endpoint_states(report: &AgentReport, snapshot: &Snapshot) -> EndpointStates {
    let state_of = |state: &str| match state {
        _ if report.epoch == 0 => EndpointState::Unknown,
        "up" => EndpointState::Up,
        _ => EndpointState::Down,
    };
    let endpoints = report.endpoints.iter().filter_map(|endpoint| {
        let key = ResourceKey {
            kind: Kind::WorkloadEndpoint,
            namespace: endpoint.namespace.clone(),
            name: endpoint.name.clone(),
        };
        let Resource::WorkloadEndpoint(resource) = &**snapshot.get(&key)? else {
            return None;
        };
        let id = EndpointId {
            orchestrator: resource.orchestrator.clone(),
            namespace: key.namespace,
            workload: resource.workload.clone(),
            endpoint: resource.endpoint.clone(),
        };
        Some((id, state_of(&endpoint.state)))
    });
    endpoints.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::model::decode::decode;
    use crate::report::EndpointReport;

    fn snapshot() -> Snapshot {
        let value = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
            "metadata": {"namespace": "openstack", "name": "h-openstack-vm-p"},
            "spec": {"orchestrator": "openstack", "workload": "vm", "endpoint": "p", "node": "h",
                     "interfaceName": "tapp", "ipNetworks": ["10.0.0.1/32"]},
        });
        let decoded = decode(&value, None);
        Snapshot::from([(decoded.key.unwrap(), Arc::new(decoded.resource.unwrap()))])
    }

    fn report(epoch: u32, states: &[(&str, &str)]) -> AgentReport {
        let endpoint = |(name, state): &(&str, &str)| EndpointReport {
            namespace: "openstack".to_owned(),
            name: (*name).to_owned(),
            state: (*state).to_owned(),
            ..EndpointReport::default()
        };
        AgentReport {
            epoch,
            endpoints: states.iter().map(endpoint).collect(),
            ..AgentReport::default()
        }
    }

    #[test]
    fn states_are_told_by_the_names_that_neutron_knows() {
        let id = EndpointId {
            orchestrator: "openstack".to_owned(),
            namespace: "openstack".to_owned(),
            workload: "vm".to_owned(),
            endpoint: "p".to_owned(),
        };
        for (epoch, state, expected) in [
            (1, "up", EndpointState::Up),
            (1, "down", EndpointState::Down),
            (1, "waiting", EndpointState::Down),
            (1, "inactive", EndpointState::Down),
            (0, "waiting", EndpointState::Unknown),
        ] {
            let states = endpoint_states(&report(epoch, &[("h-openstack-vm-p", state)]), &snapshot());
            assert_eq!(states, EndpointStates::from([(id.clone(), expected)]), "{state}");
        }
    }

    #[test]
    fn an_endpoint_that_the_datastore_no_longer_has_is_not_told() {
        let states = endpoint_states(&report(1, &[("h-openstack-vm-gone", "up")]), &snapshot());
        assert_eq!(states, EndpointStates::new());
    }
}
