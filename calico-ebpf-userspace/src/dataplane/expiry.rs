//! When a flow that no packet touches has lived long enough.

use std::collections::BTreeSet;
use std::time::Duration;

use calico_ebpf_common::endpoint::{SLOT_HOST, SLOT_NONE, Slot};
use calico_ebpf_common::flow::{
    Flow, STATE_ESTABLISHED, STATE_FIN_ORIGIN, STATE_FIN_RESPONDER, STATE_REPLIED, STATE_RESET,
};
use calico_ebpf_common::port::protocol;

use crate::config::values::ConntrackTimeouts;

/// Timeouts in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry<'a> {
    pub timeouts: &'a ConntrackTimeouts,
    pub ticks_per_second: u64,
    /// `jiffies64`.
    pub now: u64,
    /// Slots that nobody has any more.
    pub gone: &'a BTreeSet<Slot>,
}

impl Expiry<'_> {
    /// Returns whether a flow of this protocol has been without a packet for too long.
    pub fn is_expired(&self, protocol: u8, flow: &Flow) -> bool {
        let milliseconds = u64::try_from(self.timeout(protocol, flow.state).as_millis()).unwrap_or(u64::MAX);
        let ticks = milliseconds.saturating_mul(self.ticks_per_second) / 1000;
        self.now.saturating_sub(flow.last_seen) > ticks || self.is_left_over(flow)
    }

    /// Returns whether every end that the flow had on this host is gone. While one is there, the other may have moved to
    /// another host, and go on with its connection.
    fn is_left_over(&self, flow: &Flow) -> bool {
        let here = || {
            flow.slot
                .iter()
                .filter(|slot| **slot != SLOT_NONE && **slot != SLOT_HOST)
        };
        here().next().is_some() && here().all(|slot| self.gone.contains(slot))
    }

    fn timeout(&self, protocol: u8, state: u8) -> Duration {
        match protocol {
            protocol::TCP if state & STATE_RESET != 0 => self.timeouts.tcp_reset,
            protocol::TCP if state & (STATE_FIN_ORIGIN | STATE_FIN_RESPONDER) != 0 => self.timeouts.tcp_fin,
            protocol::TCP if state & STATE_ESTABLISHED != 0 => self.timeouts.tcp_established,
            protocol::TCP => self.timeouts.tcp_unreplied,
            protocol::UDP if state & STATE_REPLIED != 0 => self.timeouts.udp_replied,
            protocol::UDP => self.timeouts.udp,
            protocol::ICMP | protocol::ICMPV6 => self.timeouts.icmp,
            _ => self.timeouts.generic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 10_000_000;

    fn is_expired(protocol: u8, state: u8, idle_seconds: u64) -> bool {
        let timeouts = ConntrackTimeouts::default();
        let expiry = Expiry {
            timeouts: &timeouts,
            ticks_per_second: 250,
            now: NOW,
            gone: &BTreeSet::new(),
        };
        expiry.is_expired(
            protocol,
            &Flow {
                last_seen: NOW - idle_seconds * 250,
                state,
                ..Flow::default()
            },
        )
    }

    #[test]
    fn flows_expire_when_every_end_that_they_had_here_is_gone() {
        let expiry = Expiry {
            timeouts: &ConntrackTimeouts::default(),
            ticks_per_second: 250,
            now: NOW,
            gone: &BTreeSet::from([3, 4]),
        };
        let is_expired = |slot| {
            let flow = Flow {
                last_seen: NOW,
                slot,
                ..Flow::default()
            };
            expiry.is_expired(protocol::TCP, &flow)
        };
        for slots in [[3, SLOT_NONE], [SLOT_HOST, 4], [3, 4]] {
            assert!(is_expired(slots), "{slots:?}");
        }
        for slots in [[3, 5], [5, 4], [5, 6], [SLOT_HOST, SLOT_NONE], [SLOT_NONE, 5]] {
            assert!(!is_expired(slots), "{slots:?}");
        }
    }

    #[test]
    fn idle_udp_expires_at_its_timeout_and_answered_udp_later() {
        assert!(!is_expired(protocol::UDP, 0, 30));
        assert!(is_expired(protocol::UDP, 0, 31));
        assert!(!is_expired(protocol::UDP, STATE_REPLIED, 31));
        assert!(is_expired(protocol::UDP, STATE_REPLIED, 121));
    }

    #[test]
    fn tcp_expires_by_its_state() {
        let established = STATE_REPLIED | STATE_ESTABLISHED;
        assert!(!is_expired(protocol::TCP, established, 3600));
        assert!(is_expired(protocol::TCP, 0, 121));
        assert!(is_expired(protocol::TCP, established | STATE_FIN_ORIGIN, 121));
        assert!(!is_expired(protocol::TCP, established | STATE_RESET, 10));
        assert!(is_expired(protocol::TCP, established | STATE_RESET, 11));
    }

    #[test]
    fn other_protocols_have_the_generic_timeout() {
        assert!(!is_expired(47, STATE_REPLIED, 600));
        assert!(is_expired(47, STATE_REPLIED, 601));
        assert!(is_expired(protocol::ICMPV6, 0, 31));
    }

    #[test]
    fn flow_touched_after_the_clock_was_read_is_alive() {
        let timeouts = ConntrackTimeouts::default();
        let expiry = Expiry {
            timeouts: &timeouts,
            ticks_per_second: 1000,
            now: NOW,
            gone: &BTreeSet::new(),
        };
        assert!(!expiry.is_expired(
            protocol::UDP,
            &Flow {
                last_seen: NOW + 1,
                ..Flow::default()
            }
        ));
    }
}
