//! When a flow is over by itself: what the programs note, what the agent makes of it, and what is deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use bytemuck::{bytes_of, cast};
use calico_ebpf_common::expire::{ExpireEntry, MAX_ENTRIES};
use calico_ebpf_common::flow::{Flow, STATE_RESET};
use calico_ebpf_common::port::protocol::{TCP, UDP};
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::programs::Dataplane;
use calico_ebpf_userspace::config::values::ConntrackTimeouts;
use calico_ebpf_userspace::dataplane::expiry::Expiry;
use calico_ebpf_userspace::dataplane::flows::ticks_per_second;

use crate::conntrack::establish;
use crate::scene::{families, open};

/// Whether a flow would be over after a time without a packet.
fn is_over(timeouts: &ConntrackTimeouts, protocol: u8, flow: &Flow, idle: Duration) -> bool {
    let ticks_per_second = ticks_per_second().expect("a clock");
    let ticks = u64::try_from(idle.as_millis()).expect("a time") * ticks_per_second / 1000;
    let expiry = Expiry {
        timeouts,
        ticks_per_second,
        now: flow.last_seen + ticks,
        gone: &BTreeSet::new(),
    };
    expiry.is_expired(protocol, flow)
}

/// Deletes every flow whose last packet is what it was when the flow was read.
pub(crate) fn delete(dataplane: &Dataplane, seen: impl Fn(&Flow) -> u64) -> u32 {
    let flows4 = dataplane.flows4().into_iter().map(|(key, flow)| {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(bytes_of(&key));
        ExpireEntry {
            key: bytes,
            last_seen: seen(&flow),
        }
    });
    let flows6 = dataplane.flows6().into_iter().map(|(key, flow)| ExpireEntry {
        key: cast(key),
        last_seen: seen(&flow),
    });
    let (flows4, flows6): (Vec<_>, Vec<_>) = (flows4.collect(), flows6.collect());
    let deleted4 = flows4.chunks(MAX_ENTRIES).map(|chunk| dataplane.expire(4, chunk));
    let deleted6 = flows6.chunks(MAX_ENTRIES).map(|chunk| dataplane.expire(6, chunk));
    deleted4.chain(deleted6).sum()
}

#[test]
fn scenario_59_a_flow_that_was_reset_is_over_within_forty_seconds() {
    let timeouts = ConntrackTimeouts::default();
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_b(4000, 80);
        let established = establish(&mut dataplane, there);
        assert!(!is_over(&timeouts, TCP, &established, Duration::from_secs(40)));
        dataplane
            .from_workload("b", &there.back().tcp("R"))
            .expect_redirect_to("a");
        let reset = dataplane.flow(&there, TCP).expect("a flow");
        assert_ne!(reset.state & STATE_RESET, 0);
        assert!(is_over(&timeouts, TCP, &reset, Duration::from_secs(40)));
        // One that the other side never got: its packets still pass.
        dataplane
            .from_workload("a", &there.tcp("A"))
            .expect_redirect_to("b");
    }
}

#[test]
fn scenario_68_an_idle_flow_is_over_after_the_configured_time_and_one_with_packets_is_not() {
    let configured = ConntrackTimeouts {
        udp: Duration::from_secs(5),
        udp_replied: Duration::from_secs(7),
        ..ConntrackTimeouts::default()
    };
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_b(4000, 53);
        for (sender, path, over) in [("a", there, 5), ("b", there.back(), 7)] {
            assert!(dataplane.from_workload(sender, &path.udp()).passed());
            let flow = dataplane.flow(&there, UDP).expect("a flow");
            for (seconds, expected) in [(1, false), (over - 1, false), (over + 1, true)] {
                let idle = Duration::from_secs(seconds);
                assert_eq!(
                    is_over(&configured, UDP, &flow, idle),
                    expected,
                    "{sender} {seconds}"
                );
            }
        }
    }
    // A packet came between reading and deleting.
    assert_eq!(delete(&dataplane, |flow| flow.last_seen - 1), 0);
    assert_eq!(dataplane.flow_count(), 2);
    assert_eq!(delete(&dataplane, |flow| flow.last_seen), 2);
    for family in families() {
        let back: Path = family.a_to_b(4000, 53).back();
        assert_eq!(dataplane.flow(&back, UDP), None);
    }
}
