//! Which case is which.

use std::num::ParseIntError;
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the seed of a case.
pub fn case_seed(seed: u64, number: u64) -> u64 {
    let mixed = (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// Reads a case as a failure names it.
///
/// # Errors
/// When it is no number.
pub fn parse_case(text: &str) -> Result<u64, ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

/// Returns a seed that is another one every time.
pub fn seed_of_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros() & 0xffff_ffff).unwrap_or(0)
}
