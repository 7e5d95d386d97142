//! Cases on every processor, until time is up or one fails.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use calico_ebpf_tests::programs::Hooks;
use calico_ebpf_userspace::compile::generate::MOST_ENDPOINTS;

use crate::coverage::Coverage;
use crate::history;
use crate::shrink::{Reproduction, shrink};

/// Of as many cases one is for the kernel, too: each of its versions waits for a grace period.
const KERNEL_EVERY: u64 = 12;
const PROGRESS: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) seed: u64,
    pub(crate) time: Duration,
    pub(crate) with_kernel: bool,
    pub(crate) tells_progress: bool,
}

/// What came of it.
pub(crate) struct Ended {
    pub(crate) coverage: Coverage,
    pub(crate) found: Option<Reproduction>,
    pub(crate) took: Duration,
}

/// Returns the seed of a case.
pub(crate) fn case_seed(seed: u64, number: u64) -> u64 {
    let mixed = (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// Returns hooks for the calling thread, which ends with them.
pub(crate) fn hooks() -> Hooks {
    Hooks::in_own_namespace(u32::from(MOST_ENDPOINTS))
}

/// Runs cases until time is up or one fails.
pub(crate) fn run(order: Order) -> Ended {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Coverage::default());
    let found = Mutex::new(None);
    let work = || {
        let mut hooks = order.with_kernel.then(hooks);
        while !stop.load(Ordering::Relaxed) && started.elapsed() < order.time {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let seed = case_seed(order.seed, number);
            let mut hooks = hooks.as_mut().filter(|_| number.is_multiple_of(KERNEL_EVERY));
            let mut coverage = Coverage::default();
            let failed = history::run(seed, &BTreeSet::new(), hooks.as_deref_mut(), &mut coverage);
            locked(&total).add(&coverage);
            if let Err(failure) = failed
                && !stop.swap(true, Ordering::Relaxed)
            {
                *locked(&found) = Some(shrink(seed, failure, hooks));
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut told = Instant::now();
        while !threads.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::park_timeout(Duration::from_millis(50));
            if order.tells_progress && told.elapsed() >= PROGRESS {
                told = Instant::now();
                tell(&locked(&total), started.elapsed());
            }
        }
    });
    Ended {
        coverage: total.into_inner().unwrap_or_else(PoisonError::into_inner),
        found: found.into_inner().unwrap_or_else(PoisonError::into_inner),
        took: started.elapsed(),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(coverage: &Coverage, since: Duration) {
    let seconds = since.as_secs();
    let line = format!(
        "{seconds} s: {} cases, {} changes, {} packets, {} of them in the kernel",
        coverage.cases,
        coverage.steps,
        coverage.packets + coverage.kernel_packets,
        coverage.kernel_packets
    );
    // A closed terminal is no reason to stop.
    drop(writeln!(std::io::stderr(), "{line}"));
}
