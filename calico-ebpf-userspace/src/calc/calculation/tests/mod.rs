//! The incremental calculation against the plain one.

mod effort;
mod random;
mod sharing;

use super::*;
use crate::calc::fixture::options;
use crate::calc::resolve::resolve;
use crate::model::resource::{Snapshot, apply_changes, changes_between};

/// A calculation, and the snapshot that it should stand for.
struct Followed {
    calculation: Calculation,
    snapshot: Snapshot,
}

impl Followed {
    fn new() -> Self {
        Self {
            calculation: Calculation::new(options()),
            snapshot: Snapshot::new(),
        }
    }

    /// Takes changes and compares with the plain calculation.
    fn follow(&mut self, changes: &Changes) -> Arc<EffectiveState> {
        apply_changes(&mut self.snapshot, changes);
        self.calculation.apply(changes);
        let state = self.calculation.state();
        assert_eq!(*state, resolve(&self.snapshot, &options()));
        state
    }

    /// Takes everything that makes the snapshot another.
    fn move_to(&mut self, target: &Snapshot) -> Arc<EffectiveState> {
        self.follow(&changes_between(&self.snapshot, target))
    }
}
