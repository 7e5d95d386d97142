//! Time that a thread had the processor, which other processes do not lengthen.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Returns the nanoseconds of processor time that `work` took in this thread.
pub(crate) fn cpu_nanoseconds(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    work()?;
    let end = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    let duration = Duration::from(end).saturating_sub(Duration::from(start));
    Ok(duration.as_secs_f64() * 1e9)
}

/// Keeps this thread, and those that it starts, on the last processor while it lives.
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let last = (0..CpuSet::count()).rfind(|cpu| before.is_set(*cpu).unwrap_or(false));
        let mut only = CpuSet::new();
        only.set(last.unwrap_or(0))?;
        sched_setaffinity(Pid::from_raw(0), &only)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // What the process was allowed before, it is allowed again.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}
