//! A case: a history of policies, tried without and with the kernel.

use std::collections::BTreeSet;

use calico_ebpf_tests::fuzzing::workers::{self, Case, Order, Worker};
use calico_ebpf_tests::programs::Hooks;
use calico_ebpf_userspace::compile::generate::MOST_ENDPOINTS;

use crate::coverage::Coverage;
use crate::history::{self, Failure};
use crate::shrink::{Reproduction, shrink};

/// Of as many cases one is for the kernel, too: each of its versions waits for a grace period.
const KERNEL_EVERY: u64 = 12;

/// What came of a run.
pub(crate) type Ended = workers::Ended<Coverage, Reproduction>;

struct Histories {
    hooks: Option<Hooks>,
}

impl Histories {
    fn hooks_for(&mut self, case: Case) -> Option<&mut Hooks> {
        self.hooks
            .as_mut()
            .filter(|_| case.number.is_multiple_of(KERNEL_EVERY))
    }
}

impl Worker for Histories {
    type Counted = Coverage;
    type Failure = Box<Failure>;
    type Found = Reproduction;

    fn run(&mut self, case: Case, coverage: &mut Coverage) -> Result<(), Box<Failure>> {
        history::run(case.seed, &BTreeSet::new(), self.hooks_for(case), coverage)
    }

    fn shrink(&mut self, case: Case, failure: Box<Failure>) -> Reproduction {
        shrink(case.seed, failure, self.hooks_for(case))
    }
}

/// Returns hooks for the calling thread, which ends with them.
pub(crate) fn hooks() -> Hooks {
    Hooks::in_own_namespace(u32::from(MOST_ENDPOINTS))
}

/// Runs cases until time is up or one fails.
pub(crate) fn run(order: Order, with_kernel: bool) -> Ended {
    workers::run(order, || Histories {
        hooks: with_kernel.then(hooks),
    })
}
