//! The report that this agent lives: when it is due and what it says (contract 2).

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// From the start of the process to the first report: a process that dies at once must not count as alive.
const FIRST_AFTER: Duration = Duration::from_secs(10);

/// Liveness of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Liveness {
    started: Instant,
    written: Option<Instant>,
}

#[derive(Serialize)]
struct Value {
    time: String,
    /// Seconds.
    uptime: f64,
    first_update: bool,
}

impl Liveness {
    /// Begins with the process.
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            written: None,
        }
    }

    /// Returns when the next report is due: 10 s after the start, then each `interval`; never for zero.
    pub(super) fn due_at(&self, interval: Duration) -> Option<Instant> {
        if interval.is_zero() {
            return None;
        }
        Some(
            self.written
                .map_or(self.started + FIRST_AFTER, |at| at + interval),
        )
    }

    /// Returns the report as JSON: time in whole seconds, `first_update` until one was written.
    pub(super) fn value(&self, now: Instant, clock: SystemTime) -> String {
        let time = OffsetDateTime::from(clock);
        let time = time.replace_nanosecond(0).unwrap_or(time);
        let tenths = now.saturating_duration_since(self.started).as_millis() / 100;
        let value = Value {
            time: time.format(&Rfc3339).unwrap_or_default(),
            uptime: f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0,
            first_update: self.written.is_none(),
        };
        serde_json::to_string(&value).unwrap_or_default()
    }

    /// Notes that a report was written.
    pub(super) fn note_written(&mut self, now: Instant) {
        self.written = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_report_says_so_until_one_was_written() {
        let start = Instant::now();
        let clock = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_455_169_987);
        let mut liveness = Liveness::new(start);
        assert_eq!(
            liveness.value(start + Duration::from_secs(10), clock),
            r#"{"time":"2026-11-23T17:32:49Z","uptime":10.0,"first_update":true}"#
        );
        assert_eq!(
            liveness.value(start + Duration::from_millis(20_049), clock),
            r#"{"time":"2026-11-23T17:32:49Z","uptime":20.0,"first_update":true}"#
        );
        liveness.note_written(start + seconds(21));
        assert_eq!(
            liveness.value(start + Duration::from_millis(51_150), clock + seconds(31)),
            r#"{"time":"2026-11-23T17:33:20Z","uptime":51.1,"first_update":false}"#
        );
    }

    #[test]
    fn reports_come_ten_seconds_after_the_start_and_then_at_the_interval() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert_eq!(liveness.due_at(seconds(30)), Some(start + seconds(10)));
        liveness.note_written(start + seconds(12));
        assert_eq!(liveness.due_at(seconds(30)), Some(start + seconds(42)));
        assert_eq!(liveness.due_at(seconds(5)), Some(start + seconds(17)));
        assert_eq!(liveness.due_at(Duration::ZERO), None);
    }
}
