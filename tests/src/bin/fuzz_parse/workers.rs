//! Cases on every processor, until time is up or one fails.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use calico_ebpf_tests::parsing::{Bed, Chance, Coverage, Difference, Input, Mistake, shrink};

/// Of as many cases one is written to a tap.
pub(crate) const TAP_EVERY: u64 = 24;
const PROGRESS: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) seed: u64,
    pub(crate) time: Duration,
    pub(crate) mistake: Option<Mistake>,
    pub(crate) tells_progress: bool,
}

/// A case that fails, made small.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) case: u64,
    pub(crate) input: Input,
    pub(crate) difference: Difference,
}

/// What came of it.
pub(crate) struct Ended {
    pub(crate) coverage: Coverage,
    pub(crate) found: Option<Found>,
    pub(crate) took: Duration,
}

/// Returns the seed of a case.
fn case_seed(seed: u64, number: u64) -> u64 {
    let mixed = (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// Runs cases until time is up or one fails.
pub(crate) fn run(order: Order) -> Ended {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Coverage::default());
    let found = Mutex::new(None);
    let work = || {
        let mut bed = Bed::new(true);
        bed.mistaken(order.mistake);
        let mut coverage = Coverage::default();
        while !stop.load(Ordering::Relaxed) && started.elapsed() < order.time {
            let case = case_seed(order.seed, next.fetch_add(1, Ordering::Relaxed));
            let input = bed.input(&mut Chance::new(case), TAP_EVERY);
            if let Err(difference) = bed.check(&input, &mut coverage)
                && !stop.swap(true, Ordering::Relaxed)
            {
                let (input, difference) = shrink(&mut bed, &input, difference);
                *locked(&found) = Some(Found {
                    case,
                    input,
                    difference,
                });
            }
            if coverage.cases >= 256 {
                locked(&total).add(&std::mem::take(&mut coverage));
            }
        }
        locked(&total).add(&coverage);
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
    let line = format!(
        "{} s: {} frames, {} read in the kernel, {} on a tap",
        since.as_secs(),
        coverage.cases,
        coverage.kernel_runs,
        coverage.tap_frames
    );
    // A closed terminal is no reason to stop.
    drop(writeln!(std::io::stderr(), "{line}"));
}
