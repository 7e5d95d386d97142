//! Waits until the packets that were on their way during a change have gone.

use std::collections::BTreeSet;

use calico_ebpf_common::endpoint::Slot;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::dataplane::bpf_syscall::wait_for_grace_period;

/// Endpoints whose flows are judged again after a grace period. What is added while one runs waits for the next.
#[derive(Debug, Default)]
pub(super) struct Settling {
    next: BTreeSet<Slot>,
    waited_for: BTreeSet<Slot>,
    grace_period: Option<JoinHandle<()>>,
}

impl Settling {
    /// Has endpoints wait for a grace period from now on.
    pub(super) fn add(&mut self, slots: BTreeSet<Slot>) {
        self.next.extend(slots);
        self.begin();
    }

    /// Returns those for which a grace period has passed; waits for ever when there are none. Cancel-safe.
    pub(super) async fn settled(&mut self) -> BTreeSet<Slot> {
        match &mut self.grace_period {
            // The wait has nothing that could panic.
            Some(grace_period) => drop(grace_period.await),
            None => std::future::pending().await,
        }
        self.grace_period = None;
        let settled = std::mem::take(&mut self.waited_for);
        self.begin();
        settled
    }

    fn begin(&mut self) {
        if self.grace_period.is_none() && !self.next.is_empty() {
            self.waited_for = std::mem::take(&mut self.next);
            self.grace_period = Some(spawn_blocking(wait_for_grace_period));
        }
    }
}
