//! The kernel's coarse clock, in which flows are dated.
//!
//! `jiffies64` and its rate are in no interface meant for programs. `/proc/timer_list` tells the count and the
//! monotonic time, and from both the rate follows: the count starts at 2^32 minus 300 seconds (`INITIAL_JIFFIES`,
//! include/linux/jiffies.h), so only one of the rates that a kernel can be built with fits.

use std::fs;

/// Rates that `CONFIG_HZ` offers.
const RATES: [u64; 4] = [100, 250, 300, 1000];

/// One reading of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// `jiffies64` at the reading.
    pub jiffies: u64,
    /// Jiffies to a second.
    pub rate: u64,
}

impl Clock {
    /// Reads the clock; `None` where the kernel does not tell.
    pub fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/timer_list").ok()?)
    }

    /// Returns the whole seconds from `then` (`jiffies64`) to the reading; 0 for the future.
    pub fn seconds_since(self, then: u64) -> u64 {
        self.jiffies.saturating_sub(then) / self.rate
    }

    fn parse(text: &str) -> Option<Self> {
        let after = |prefix: &str| {
            let numbers = text.lines().filter_map(|line| line.strip_prefix(prefix));
            numbers
                .filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
                .max()
        };
        let nanoseconds = after("now at ")?;
        let jiffies = after("jiffies: ")?;
        let distance = |rate: u64| {
            let start = (1_u64 << 32) - 300 * rate;
            let expected = u128::from(start) + u128::from(nanoseconds) * u128::from(rate) / 1_000_000_000;
            expected.abs_diff(u128::from(jiffies))
        };
        let rate = RATES.into_iter().min_by_key(|rate| distance(*rate))?;
        Some(Self { jiffies, rate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_from_count_and_time() {
        for rate in RATES {
            let jiffies = (1_u64 << 32) - 300 * rate + 4000 * rate + 3;
            let text = format!(
                "now at 4000012345678 nsecs\n  .last_jiffies   : 1\njiffies: {}\njiffies: {jiffies}\n",
                7
            );
            assert_eq!(Clock::parse(&text), Some(Clock { jiffies, rate }));
        }
    }

    #[test]
    fn spans_are_whole_seconds_and_never_negative() {
        let clock = Clock {
            jiffies: 10_000,
            rate: 250,
        };
        assert_eq!(clock.seconds_since(9_000), 4);
        assert_eq!(clock.seconds_since(20_000), 0);
    }

    #[test]
    fn other_texts_have_no_clock() {
        assert_eq!(Clock::parse("Timer List Version: v0.10\n"), None);
    }
}
