//! The dataplane in words, for the report.

use super::apply::Dataplane;
use crate::calc::effective::{EffectiveEndpoint, EffectiveState};
use crate::model::name::ResourceKey;
use crate::report::{AgentReport, EndpointReport, FloatingReport};

impl Dataplane {
    /// Fills the parts of the report that the dataplane knows: table, policy sets and endpoints. `desired` is what
    /// should be in force.
    pub fn describe(&self, desired: &EffectiveState, report: &mut AgentReport) {
        if let Some(in_force) = &self.in_force {
            report.epoch = in_force.epoch;
            report.tables = in_force.table.report.clone();
            report.policy_sets.clone_from(&in_force.table.policy_sets);
        }
        let active = desired
            .endpoints
            .iter()
            .map(|(key, endpoint)| self.describe_endpoint(key, endpoint));
        let inactive = desired.inactive.iter().map(|(key, reason)| EndpointReport {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            state: "inactive".to_owned(),
            reason: reason.clone(),
            ..EndpointReport::default()
        });
        report.endpoints = active.chain(inactive).collect();
        report
            .endpoints
            .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    }

    fn describe_endpoint(&self, key: &ResourceKey, endpoint: &EffectiveEndpoint) -> EndpointReport {
        let (state, reason) = self.state_of(key, endpoint);
        let table = self.in_force.as_ref().map(|in_force| &in_force.table);
        let interface = self
            .interfaces
            .values()
            .find(|interface| interface.name == endpoint.interface_name);
        EndpointReport {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            interface: endpoint.interface_name.clone(),
            ifindex: interface.map_or(0, |interface| interface.ifindex),
            slot: self.assignments.slots.get(key).copied().unwrap_or(0),
            mac: endpoint.mac.map(|mac| mac.to_string()),
            addresses: endpoint.ip_networks.iter().map(ToString::to_string).collect(),
            floating: endpoint
                .ip_nats
                .iter()
                .map(|nat| FloatingReport {
                    external: nat.external,
                    internal: nat.internal,
                })
                .collect(),
            state: state.to_owned(),
            reason,
            policy_set: table
                .and_then(|table| table.endpoint_sets.get(key))
                .copied()
                .unwrap_or(0),
            generation: self.assignments.generations.get(key).copied().unwrap_or(0),
            migration: self.phase(key).name().to_owned(),
        }
    }

    fn state_of(&self, key: &ResourceKey, endpoint: &EffectiveEndpoint) -> (&'static str, String) {
        let name = &endpoint.interface_name;
        let Some(interface) = self.interfaces.values().find(|interface| interface.name == *name) else {
            return ("waiting", format!("there is no interface {name}"));
        };
        let Some(tap) = self.taps.get(interface.ifindex).filter(|tap| tap.attached) else {
            return ("down", format!("no programs on {name}"));
        };
        if let Some(reason) = self.trouble.get(key) {
            return ("down", reason.clone());
        }
        let Some(in_force) = &self.in_force else {
            return ("waiting", "no policy table is in force".to_owned());
        };
        if !in_force.table.endpoint_sets.contains_key(key) {
            return ("waiting", "not in the policy table that is in force".to_owned());
        }
        if !interface.up {
            return ("down", format!("{name} is down"));
        }
        if tap.gate.is_none() {
            return ("down", format!("settings of {name} are not written"));
        }
        let problems = &in_force.table.endpoint_problems;
        let reason = problems
            .iter()
            .find(|(other, _)| other == key)
            .map(|(_, problem)| problem.clone());
        ("up", reason.unwrap_or_default())
    }
}
