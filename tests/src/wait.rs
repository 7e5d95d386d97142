//! Waiting for a condition with a limit.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// Returns the first `Some` of `condition`, or `None` after `limit`.
pub fn poll<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(INTERVAL);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
///
/// After `limit`, naming `what` was waited for.
#[track_caller]
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    assert!(
        poll(limit, || condition().then_some(())).is_some(),
        "not within {limit:?}: {what}"
    );
}
