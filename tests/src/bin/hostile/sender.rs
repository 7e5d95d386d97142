//! Writes frames into a tap as fast as the kernel takes them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use calico_ebpf_tests::tap::Tap;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::checks::per;
use crate::mixture::Mixture;

/// Frames between two looks at the clock or at the flag.
const BATCH: u64 = 64;

/// What was sent in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) seconds: f64,
    /// Processor time of the sending thread.
    pub(crate) cpu_seconds: f64,
}

impl Sent {
    pub(crate) fn packets_per_second(&self) -> f64 {
        per(self.packets, self.seconds)
    }

    /// As if the sender had a processor to itself.
    pub(crate) fn packets_per_cpu_second(&self) -> f64 {
        per(self.packets, self.cpu_seconds)
    }

    /// Both together.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            seconds: self.seconds + other.seconds,
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
        }
    }
}

/// When to stop.
pub(crate) enum Until<'a> {
    Passed(Duration),
    Told(&'a AtomicBool),
}

/// Sends the mixture over and over, each round with other ports; `counter` follows. Every frame goes through the host's
/// programs or its stack before the next one is written.
///
/// # Errors
///
/// The tap refuses a frame.
pub(crate) fn send(
    tap: &Tap,
    mixture: &mut Mixture,
    until: &Until<'_>,
    counter: &AtomicU64,
) -> anyhow::Result<Sent> {
    let (start, cpu_start) = (Instant::now(), cpu_time()?);
    let (mut packets, mut failure) = (0_u64, None);
    let mut goes_on = true;
    while goes_on && failure.is_none() {
        mixture.pass(|frame| {
            if packets.is_multiple_of(BATCH) {
                counter.store(packets, Ordering::Relaxed);
                goes_on = match until {
                    Until::Passed(time) => start.elapsed() < *time,
                    Until::Told(flag) => !flag.load(Ordering::Relaxed),
                };
            }
            if goes_on {
                // Without the checks and records of `Tap::write`: this loop is what is measured.
                failure = nix::unistd::write(tap, frame).err();
                packets += u64::from(failure.is_none());
            }
            goes_on && failure.is_none()
        });
    }
    counter.store(packets, Ordering::Relaxed);
    if let Some(error) = failure {
        anyhow::bail!("{} does not take frame {packets}: {error}", tap.name());
    }
    Ok(Sent {
        packets,
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: cpu_time()?.saturating_sub(cpu_start).as_secs_f64(),
    })
}

fn cpu_time() -> nix::Result<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from)
}
