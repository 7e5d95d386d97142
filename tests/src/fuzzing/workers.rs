//! Cases on every processor, until time is up or one fails.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::cases::case_seed;

const PROGRESS: Duration = Duration::from_secs(10);
/// How often a worker tells what it has counted.
const TELLS_EVERY: Duration = Duration::from_millis(200);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub seed: u64,
    pub time: Duration,
    pub tells_progress: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Ended<C, F> {
    pub coverage: C,
    pub found: Option<F>,
    pub took: Duration,
}

/// What is counted.
pub trait Counted: Default + Send {
    /// Adds what another has counted.
    fn add(&mut self, other: &Self);
    /// Returns how far it is, for people.
    fn progress(&self) -> String;
}

/// One case, by its number in the run and by its seed.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub number: u64,
    pub seed: u64,
}

/// Who tries cases: one on each processor, on a thread of its own.
pub trait Worker {
    type Counted: Counted;
    type Failure;
    type Found: Send;

    /// Tries a case.
    ///
    /// # Errors
    /// When it fails.
    fn run(&mut self, case: Case, counted: &mut Self::Counted) -> Result<(), Self::Failure>;

    /// Makes a failure of that case small.
    fn shrink(&mut self, case: Case, failure: Self::Failure) -> Self::Found;
}

/// Runs cases until time is up, from the first worker's being ready on, or one fails. A worker runs one at least.
pub fn run<W: Worker>(order: Order, begin: impl Fn() -> W + Sync) -> Ended<W::Counted, W::Found> {
    // Programs are loaded before: that takes as long as some runs.
    let ready = OnceLock::new();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(W::Counted::default());
    let found = Mutex::new(None);
    let work = || {
        let mut worker = begin();
        let started = *ready.get_or_init(Instant::now);
        let mut counted = W::Counted::default();
        let mut told = Instant::now();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let case = Case {
                number,
                seed: case_seed(order.seed, number),
            };
            if let Err(failure) = worker.run(case, &mut counted)
                && !stop.swap(true, Ordering::Relaxed)
            {
                *locked(&found) = Some(worker.shrink(case, failure));
            }
            if told.elapsed() >= TELLS_EVERY {
                told = Instant::now();
                locked(&total).add(&std::mem::take(&mut counted));
            }
            if stop.load(Ordering::Relaxed) || started.elapsed() >= order.time {
                break;
            }
        }
        locked(&total).add(&counted);
    };
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut told = Instant::now();
        while !threads.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::park_timeout(Duration::from_millis(50));
            if order.tells_progress && told.elapsed() >= PROGRESS {
                told = Instant::now();
                let progress = locked(&total).progress();
                let seconds = ready.get().map_or(0, |ready| ready.elapsed().as_secs());
                // A closed terminal is no reason to stop.
                drop(writeln!(std::io::stderr(), "{seconds} s: {progress}"));
            }
        }
    });
    Ended {
        coverage: total.into_inner().unwrap_or_else(PoisonError::into_inner),
        found: found.into_inner().unwrap_or_else(PoisonError::into_inner),
        took: ready.get().map_or(Duration::ZERO, Instant::elapsed),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
