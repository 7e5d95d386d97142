//! Follows live migrations: reads who has announced itself, and where an earlier run had ended.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Context;

use super::apply::Dataplane;
use super::migration::{Migrations, Phase};
use super::routes;
use crate::calc::effective::EffectiveState;
use crate::model::name::ResourceKey;

impl Dataplane {
    /// Goes on with the migrations that `desired` names. Before the table is written: a workload that runs elsewhere
    /// still is reached by the host's routes, also from workloads here.
    pub(super) async fn follow_migrations(&mut self, desired: &EffectiveState) -> anyhow::Result<()> {
        let roles = || {
            desired
                .endpoints
                .keys()
                .map(|key| (key, desired.migrations.get(key).copied()))
        };
        let (now, convergence) = (Instant::now(), self.config.live_migration_route_convergence_time);
        let Some(mut migrations) = self.migrations.take() else {
            let elevated = self.taps_with_elevated_routes().await?;
            let is_elevated = |key: &ResourceKey| {
                let endpoint = &desired.endpoints[key];
                elevated.contains(endpoint.interface_name.as_str())
            };
            self.migrations = Some(Migrations::resume(roles(), is_elevated, now + convergence));
            return Ok(());
        };
        let moves = migrations.follow(roles(), |key| self.has_announced(key), now, convergence);
        self.migrations = Some(migrations);
        for key in &moves.expected {
            if let Some(slot) = self.assignments.slots.get(key) {
                self.programs.forget_announcement(*slot)?;
            }
        }
        for (key, phase) in &moves.changed {
            tracing::info!(endpoint = %key, phase = phase.name(), "live migration");
        }
        Ok(())
    }

    /// Returns whether no endpoint of this host is in any phase of a migration.
    pub(super) fn nobody_migrates(&self, desired: &EffectiveState) -> bool {
        desired.migrations.is_empty() && self.migrations.as_ref().is_some_and(Migrations::is_empty)
    }

    /// Returns whether somebody whose workload is expected has announced itself: then there is something to do.
    pub fn has_arrivals(&self) -> bool {
        self.expected().any(|key| self.has_announced(key))
    }

    /// Returns whether a workload is expected here.
    pub fn expects_arrivals(&self) -> bool {
        self.expected().next().is_some()
    }

    pub(super) fn expected(&self) -> impl Iterator<Item = &ResourceKey> {
        self.migrations.iter().flat_map(Migrations::expected)
    }

    /// Returns how far an endpoint's migration is.
    pub(super) fn phase(&self, key: &ResourceKey) -> Phase {
        self.migrations
            .as_ref()
            .map_or(Phase::Settled, |migrations| migrations.of(key))
    }

    fn has_announced(&self, key: &ResourceKey) -> bool {
        let Some(slot) = self.assignments.slots.get(key) else {
            return false;
        };
        self.programs.has_announced(*slot).unwrap_or_else(|error| {
            tracing::error!(endpoint = %key, error = format!("{error:#}"), "announcements cannot be read");
            false
        })
    }

    /// Returns the names of the taps that have routes of ours with the elevated metric.
    async fn taps_with_elevated_routes(&self) -> anyhow::Result<BTreeSet<String>> {
        let taps = self.workload_interfaces();
        let numbers = taps.iter().map(|tap| tap.ifindex).collect();
        let table = routes::read_back(&self.netlink, &numbers)
            .await
            .context("cannot read the routes")?;
        let elevated: BTreeSet<u32> = table
            .iter()
            .filter(|(key, body)| routes::is_elevated(&self.config, key, body))
            .map(|(key, _)| key.ifindex)
            .collect();
        let names = taps
            .into_iter()
            .filter(|tap| elevated.contains(&tap.ifindex))
            .map(|tap| tap.name);
        Ok(names.collect())
    }
}
