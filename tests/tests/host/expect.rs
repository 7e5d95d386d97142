//! Expectations that several modules share.

use std::net::IpAddr;
use std::time::Duration;

use calico_ebpf_tests::guest::Guest;
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{self, Question, Seen, reach};

/// Longest time that anything in the kernel may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);
/// A change of a manifest is in force within this time.
pub(crate) const IN_FORCE: Duration = Duration::from_secs(1);

/// Expects an answer to one question at both addresses of a guest.
#[track_caller]
pub(crate) fn expect_both(from: &Netns, to: &Guest, question: Question, expected: Seen) {
    for address in to.vm().addresses() {
        expect(from, address, question, expected);
    }
}

/// Expects an answer to one question at an address.
#[track_caller]
pub(crate) fn expect(from: &Netns, to: IpAddr, question: Question, expected: Seen) {
    assert_eq!(reach(from, to, question), expected, "{question} at {to}");
}

/// Asks for an address until the answer is as expected and returns how long that took.
#[track_caller]
pub(crate) fn time_until(from: &Netns, to: IpAddr, question: Question, expected: Seen) -> Duration {
    let time = probe::time_until(from, to, question, expected, 3 * IN_FORCE);
    time.unwrap_or_else(|| panic!("{question} at {to} does not become {expected}"))
}
