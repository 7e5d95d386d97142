//! Opens endpoints, last of all: settings of their taps, neighbours and routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use ipnet::IpNet;

use super::apply::{Dataplane, Outcome, Part};
use super::interfaces::Interface;
use super::neighbors::{self, NeighborTable};
use super::routes::{self, RoutePlace, RouteTable};
use super::sysctls::Gate;
use crate::calc::effective::EffectiveEndpoint;
use crate::model::name::ResourceKey;

/// Endpoints of the table in force by the name of their interface.
type Placed = BTreeMap<String, (ResourceKey, Arc<EffectiveEndpoint>)>;

impl Dataplane {
    pub(super) fn write_settings(&mut self, parts: &BTreeSet<Part>, outcome: &mut Outcome) {
        let again = parts.contains(&Part::Settings);
        if again {
            let written =
                self.sysctls
                    .apply_host(&self.config, &self.interfaces, &self.names, &mut self.state);
            match written {
                Ok(written) if written.is_empty() => {}
                Ok(written) => tracing::info!(settings = ?written, "settings of the host written"),
                Err(error) => outcome.dirty.push(format!("settings of the host: {error}")),
            }
        }
        if let Err(error) = self
            .sysctls
            .apply_new_interfaces(&self.interfaces, &self.names, &mut self.state)
        {
            outcome.dirty.push(format!("settings of new interfaces: {error}"));
        }
        let endpoints = self.endpoints_by_interface();
        for tap in self.workload_interfaces() {
            let gate = self.gate_of(&tap, &endpoints);
            if !again
                && self
                    .taps
                    .get(tap.ifindex)
                    .is_some_and(|known| known.gate == Some(gate))
            {
                continue;
            }
            match self.sysctls.apply_tap(&self.config, &tap, gate, &mut self.state) {
                Ok(()) => self.taps.note_gate(tap.ifindex, Some(gate)),
                Err(error) => {
                    outcome.dirty.push(format!("settings of {}: {error}", tap.name));
                    self.taps.note_gate(tap.ifindex, None);
                    if let Some((key, _)) = endpoints.get(&tap.name) {
                        self.trouble
                            .insert(key.clone(), format!("settings not written: {error}"));
                    }
                }
            }
        }
    }

    fn gate_of(&self, tap: &Interface, endpoints: &Placed) -> Gate {
        let attached = self.is_attached(tap.ifindex);
        match endpoints.get(&tap.name) {
            Some((_, endpoint)) if attached => {
                let spoofs = !endpoint.allow_spoofed_source_prefixes.is_empty();
                if self.config.workload_source_spoofing && spoofs {
                    Gate::OpenToSpoofing
                } else {
                    Gate::Open
                }
            }
            _ => Gate::Closed,
        }
    }

    /// Returns the endpoints of the table in force by the name of their interface.
    fn endpoints_by_interface(&self) -> Placed {
        let Some(in_force) = &self.in_force else {
            return BTreeMap::new();
        };
        let placed = in_force
            .state
            .endpoints
            .iter()
            .filter(|(key, _)| in_force.table.endpoint_sets.contains_key(*key));
        placed
            .map(|(key, endpoint)| {
                (
                    endpoint.interface_name.clone(),
                    (key.clone(), Arc::clone(endpoint)),
                )
            })
            .collect()
    }

    pub(super) async fn write_routes(
        &mut self,
        parts: &BTreeSet<Part>,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let wanted = self.desired_routes();
        if !parts.contains(&Part::Routes) && self.wanted_routes.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let taps: BTreeSet<u32> = self
            .workload_interfaces()
            .iter()
            .map(|interface| interface.ifindex)
            .collect();
        let neighbors = neighbors::reconcile(&self.netlink, &taps, &wanted.1).await;
        let mut dirty = neighbors.context("cannot read the neighbours")?;
        let unfinished = self
            .routes
            .reconcile(&self.netlink, &self.config, &taps, &wanted.0, Instant::now())
            .await
            .context("cannot read the routes")?;
        dirty.extend(unfinished.dirty);
        outcome.again_at = unfinished.again_at;
        self.wanted_routes = (dirty.is_empty() && unfinished.again_at.is_none()).then_some(wanted);
        outcome.dirty.extend(dirty);
        Ok(())
    }

    /// Returns routes and neighbours of every endpoint that is open.
    fn desired_routes(&self) -> (RouteTable, NeighborTable) {
        let endpoints = self.endpoints_by_interface();
        let mut places: Vec<RoutePlace> = Vec::new();
        let mut macs = BTreeMap::new();
        // Asked for twice, an external address leads where the table has it: to the lowest internal one, as text.
        let mut external: BTreeMap<IpAddr, (String, RoutePlace)> = BTreeMap::new();
        for tap in self.interfaces.values().filter(|interface| interface.up) {
            let Some((key, endpoint)) = endpoints.get(&tap.name) else {
                continue;
            };
            let phase = self.phase(key);
            if phase.withholds_routes() {
                continue;
            }
            let gate = self.taps.get(tap.ifindex).and_then(|known| known.gate);
            if !matches!(gate, Some(Gate::Open | Gate::OpenToSpoofing)) {
                continue;
            }
            let place = |prefix: IpNet| RoutePlace {
                prefix,
                ifindex: tap.ifindex,
                elevated: phase.elevates_routes(),
            };
            let served = |address: IpAddr| self.config.ipv6_support || address.is_ipv4();
            let networks = endpoint.ip_networks.iter().filter(|net| served(net.addr()));
            places.extend(networks.map(|net| place(*net)));
            for nat in endpoint.ip_nats.iter().filter(|nat| served(nat.external)) {
                let candidate = (nat.internal.to_string(), place(IpNet::from(nat.external)));
                let chosen = external.entry(nat.external).or_insert_with(|| candidate.clone());
                if candidate.0 < chosen.0 {
                    *chosen = candidate;
                }
            }
            macs.insert(tap.ifindex, endpoint.mac);
        }
        places.extend(external.values().map(|(_, place)| *place));
        let routes = routes::desired_routes(&self.config, places);
        let neighbors = routes
            .keys()
            .filter_map(|key| {
                let address = key.prefix.addr();
                let is_whole = key.prefix.prefix_len() == key.prefix.max_prefix_len();
                if !is_whole || address.is_ipv6() && !external.contains_key(&address) {
                    return None;
                }
                let mac = macs.get(&key.ifindex).copied().flatten()?;
                Some(((key.ifindex, address), mac))
            })
            .collect();
        (routes, neighbors)
    }
}
