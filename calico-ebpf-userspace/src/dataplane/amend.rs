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
use crate::compile::amend::{Amendment, NotAmendable, generation};

/// Generations that are remembered at a time as given, so that not every change writes the state file.
const RESERVE: u32 = 1024;

impl Dataplane {
    /// Makes the version in force follow without a new version, whose host is as it has it. Returns whether that was
    /// possible.
    pub(super) fn amend_version(&mut self, desired: &Arc<EffectiveState>) -> bool {
        let Some(InForce { state, table, .. }) = &mut self.in_force else {
            return false;
        };
        let Some(amendable) = &mut table.amendable else {
            return *state == *desired;
        };
        let amended: anyhow::Result<Amendment> = match amendable.amend(state, desired) {
            Ok(amendment) => self.write_amendment(&amendment).map(|()| amendment),
            Err(reason) => Err(reason.into()),
        };
        let Some(InForce { state, table, .. }) = &mut self.in_force else {
            return false;
        };
        match amended {
            Ok(amendment) => {
                *state = Arc::clone(desired);
                self.note_amended(&amendment);
                true
            }
            Err(reason) => {
                // It is not that of the version in force any more.
                table.amendable = None;
                if reason.is::<NotAmendable>() {
                    tracing::debug!(%reason, "the policy table is written anew");
                } else {
                    let error = format!("{reason:#}");
                    tracing::warn!(error, "the version in force could not be amended");
                }
                false
            }
        }
    }

    fn write_amendment(&mut self, amendment: &Amendment) -> anyhow::Result<()> {
        self.policy
            .overwrite(amendment.prepare.iter().chain(&amendment.switch))?;
        self.renew_generations(&amendment.touched)?;
        self.unsettled.extend(&amendment.touched);
        Ok(())
    }

    fn note_amended(&mut self, amendment: &Amendment) {
        if amendment.switch.is_empty() {
            return;
        }
        self.amendments += 1;
        if let Some(InForce { table, .. }) = &mut self.in_force
            && let Some(amendable) = &table.amendable
        {
            table.report.address_classes = u32::try_from(amendable.class_count()).unwrap_or(u32::MAX);
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
        let Some(InForce { table, .. }) = self.in_force.as_ref().filter(|_| !slots.is_empty()) else {
            return Ok(());
        };
        let endpoints = table.endpoints;
        let (next, owned) = self.assignments.renew(slots)?;
        if owned.is_empty() {
            return Ok(());
        }
        if next > self.state.state.generation {
            // Remembered first: a number must not be given twice, whatever happens next.
            self.state.state.generation = next.saturating_add(RESERVE);
            self.state.save()?;
        }
        for slot in owned {
            self.policy.overwrite([&generation(endpoints, slot, next)])?;
        }
        Ok(())
    }
}
