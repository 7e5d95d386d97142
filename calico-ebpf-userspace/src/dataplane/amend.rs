//! Small changes to the version of the policy table that is in force.
//!
//! A new generation makes the flows of an endpoint be judged again. A packet that was on its way while the numbers
//! changed may have read an old class and the new generation, and would have its flow pass by the old verdict for
//! ever. So the generation changes twice: at once, and when every such packet has gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_ebpf_common::endpoint::Slot;

use super::apply::{Dataplane, InForce};
use crate::calc::effective::EffectiveState;
use crate::compile::amend::{Amendable, Amendment, generation};
use crate::compile::input::HostFacts;

/// Generations that are remembered at a time as given, so that not every change writes the state file.
const RESERVE: u32 = 1024;

impl Dataplane {
    /// Makes the version in force follow without a new version. Returns whether that was possible.
    pub(super) fn amend_version(&mut self, desired: &Arc<EffectiveState>, host: &HostFacts) -> bool {
        let Some(in_force) = self.in_force.as_mut().filter(|in_force| in_force.host == *host) else {
            return false;
        };
        // Not put back after an error: then it is not that of the version in force any more.
        let Some(mut amendable) = in_force.table.amendable.take() else {
            return false;
        };
        let amendment = match amendable.amend(&in_force.state, desired) {
            Ok(amendment) => amendment,
            Err(reason) => {
                tracing::debug!(%reason, "the policy table is written anew");
                return false;
            }
        };
        if let Err(error) = self.write_amendment(&amendment) {
            tracing::warn!(
                error = format!("{error:#}"),
                "the version in force could not be amended"
            );
            return false;
        }
        self.note_amended(desired, amendable, &amendment);
        true
    }

    fn write_amendment(&mut self, amendment: &Amendment) -> anyhow::Result<()> {
        self.policy
            .overwrite(amendment.prepare.iter().chain(&amendment.switch))?;
        self.renew_generations(&amendment.touched)?;
        self.unsettled.extend(&amendment.touched);
        Ok(())
    }

    fn note_amended(&mut self, desired: &Arc<EffectiveState>, amendable: Amendable, amendment: &Amendment) {
        self.amendments += 1;
        if let Some(InForce { state, table, .. }) = &mut self.in_force {
            *state = Arc::clone(desired);
            table.report.address_classes = u32::try_from(amendable.class_count()).unwrap_or(u32::MAX);
            table.amendable = Some(amendable);
        }
        tracing::debug!(
            addresses = amendment.switch.len(),
            endpoints = amendment.touched.len(),
            "policy table amended"
        );
    }

    /// Returns the endpoints whose flows must be judged again after a grace period, and forgets them.
    pub fn take_unsettled(&mut self) -> BTreeSet<Slot> {
        std::mem::take(&mut self.unsettled)
    }

    /// Has the flows of these endpoints judged again.
    ///
    /// # Errors
    /// When the generation cannot be written.
    pub fn renew_generations(&mut self, slots: &BTreeSet<Slot>) -> anyhow::Result<()> {
        let owners = self.assignments.owners(slots);
        let Some(endpoints) = self.in_force.as_ref().map(|in_force| in_force.table.endpoints) else {
            return Ok(());
        };
        if owners.is_empty() {
            return Ok(());
        }
        let next = self
            .assignments
            .renew(owners.iter().map(|(key, _)| key.clone()))?;
        if next > self.state.state.generation {
            // Remembered first: a number must not be given twice, whatever happens next.
            self.state.state.generation = next.saturating_add(RESERVE);
            self.state.save()?;
        }
        let writes: Vec<_> = owners
            .iter()
            .map(|(_, slot)| generation(endpoints, *slot, next))
            .collect();
        Ok(self.policy.overwrite(&writes)?)
    }
}
