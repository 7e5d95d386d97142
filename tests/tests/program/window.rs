//! TCP sequence windows: what is outside of them passes, and means nothing.

use std::time::Duration;

use calico_ebpf_common::flow::{
    Flow, STATE_ESTABLISHED, STATE_FIN_ORIGIN, STATE_REPLIED, STATE_RESET, STATE_RESET_ORIGIN,
    STATE_RESET_RESPONDER,
};
use calico_ebpf_common::port::protocol::TCP;
use calico_ebpf_tests::packets::{PAYLOAD, Path};
use calico_ebpf_tests::programs::{Dataplane, Origin};
use calico_ebpf_tests::wait;

use crate::conntrack::establish;
use crate::scene::{families, open};

const ESTABLISHED: u8 = STATE_REPLIED | STATE_ESTABLISHED;
/// Far outside of a window that begins at 1 and is 64,000 bytes wide.
const OUTSIDE: [u32; 3] = [1 << 20, 1 << 30, u32::MAX - (1 << 20)];

fn flow(dataplane: &Dataplane, there: &Path) -> Flow {
    dataplane.flow(there, TCP).expect("a flow")
}

/// Lets so much time pass that a packet would be noted.
fn wait_for_a_tick(dataplane: &Dataplane) {
    let begin = dataplane.read_clock().jiffies;
    wait::until("the clock has moved", Duration::from_secs(10), || {
        dataplane.read_clock().jiffies > begin + 140
    });
}

#[test]
fn scenario_60_a_reset_outside_of_the_window_ends_nothing() {
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_b(4000, 80);
        establish(&mut dataplane, there);
        for sequence in OUTSIDE {
            for flags in ["R", "RA", "FA"] {
                dataplane
                    .from_workload("a", &there.tcp_at(sequence, flags, &[]))
                    .expect_redirect_to("b");
                dataplane
                    .from_workload("b", &there.back().tcp_at(sequence, flags, &[]))
                    .expect_redirect_to("a");
                assert_eq!(flow(&dataplane, &there).state, ESTABLISHED, "{sequence} {flags}");
            }
        }
        dataplane
            .from_workload("b", &there.back().tcp_at(2, "R", &[]))
            .expect_redirect_to("a");
        assert_eq!(
            flow(&dataplane, &there).state,
            ESTABLISHED | STATE_RESET_RESPONDER
        );
    }
}

#[test]
fn scenario_60_nobody_moves_the_others_window_by_acknowledging_what_was_never_sent() {
    let mut dataplane = open();
    for family in families() {
        for acknowledged in [1 << 30, u32::MAX >> 1, 1 << 31, u32::MAX] {
            let there = family.a_to_b(4000, 80);
            establish(&mut dataplane, there);
            dataplane
                .from_workload("a", &there.tcp_acknowledging(acknowledged, "A"))
                .expect_redirect_to("b");
            dataplane
                .from_workload("b", &there.back().tcp_at(2, "R", &[]))
                .expect_redirect_to("a");
            assert_eq!(
                flow(&dataplane, &there).state,
                ESTABLISHED | STATE_RESET_RESPONDER,
                "{acknowledged}"
            );
        }
    }
}

#[test]
fn scenario_60_a_connection_that_the_host_opens_again_on_live_ports_has_a_window_of_its_own() {
    let mut dataplane = open();
    for family in families() {
        let there = family.far_to_a(4000, 22);
        for first in [1000, 1 << 30] {
            for (from_a, sequence, flags) in
                [(false, first, "S"), (true, first, "SA"), (false, first + 1, "A")]
            {
                if from_a {
                    dataplane.from_workload("a", &there.back().tcp_at(sequence, flags, &[]));
                } else {
                    dataplane.to_workload("a", &there.tcp_at(sequence, flags, &[]), Origin::Host);
                }
            }
            let flow = flow(&dataplane, &there);
            assert_eq!(flow.window.end, [first + 1; 2]);
            wait_for_a_tick(&dataplane);
        }
    }
}

#[test]
fn scenario_60_a_reset_from_outside_of_the_host_ends_nothing_when_it_is_outside_of_the_window() {
    let mut dataplane = open();
    for family in families() {
        let there = family.far_to_a(4000, 80);
        for (from_a, flags) in [(false, "S"), (true, "SA"), (false, "A")] {
            if from_a {
                dataplane.from_workload("a", &there.back().tcp(flags));
            } else {
                dataplane.to_workload("a", &there.tcp(flags), Origin::Remote);
            }
        }
        assert_eq!(flow(&dataplane, &there).state, ESTABLISHED);
        for sequence in OUTSIDE {
            assert!(
                dataplane
                    .to_workload("a", &there.tcp_at(sequence, "R", &[]), Origin::Remote)
                    .passed()
            );
            assert_eq!(flow(&dataplane, &there).state, ESTABLISHED);
        }
        dataplane.to_workload("a", &there.tcp_at(9, "R", &[]), Origin::Remote);
        assert_eq!(flow(&dataplane, &there).state, ESTABLISHED | STATE_RESET_ORIGIN);
    }
}

#[test]
fn scenario_60_a_segment_outside_of_the_window_keeps_no_flow_alive() {
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_b(4000, 80);
        let before = establish(&mut dataplane, there).last_seen;
        wait_for_a_tick(&dataplane);
        for sequence in OUTSIDE {
            dataplane
                .from_workload("a", &there.tcp_at(sequence, "A", PAYLOAD))
                .expect_redirect_to("b");
            assert_eq!(flow(&dataplane, &there).last_seen, before, "{sequence}");
        }
        dataplane
            .from_workload("a", &there.tcp_at(1, "A", PAYLOAD))
            .expect_redirect_to("b");
        assert!(flow(&dataplane, &there).last_seen > before);
    }
}

#[test]
fn scenario_60_the_window_follows_a_transfer_and_wraps() {
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_b(4000, 80);
        let first = u32::MAX - 500_000;
        for (name, packet) in [
            ("a", there.tcp_at(first, "S", &[])),
            ("b", there.back().tcp_acknowledging(first.wrapping_add(1), "SA")),
            ("a", there.tcp_at(first.wrapping_add(1), "A", &[])),
        ] {
            assert!(dataplane.from_workload(name, &packet).passed());
        }
        let mut next = first.wrapping_add(1);
        for _ in 0..40 {
            for _ in 0..20 {
                assert!(
                    dataplane
                        .from_workload("a", &there.tcp_at(next, "A", &[0; 1400]))
                        .passed()
                );
                next = next.wrapping_add(1400);
            }
            assert!(
                dataplane
                    .from_workload("b", &there.back().tcp_acknowledging(next, "A"))
                    .passed()
            );
        }
        // Where the connection began is far behind by now.
        dataplane.from_workload("a", &there.tcp_at(first.wrapping_add(1), "R", &[]));
        assert_eq!(flow(&dataplane, &there).state, ESTABLISHED);
        dataplane.from_workload("a", &there.tcp_at(next, "FA", &[]));
        assert_eq!(flow(&dataplane, &there).state, ESTABLISHED | STATE_FIN_ORIGIN);
    }
}

#[test]
fn scenario_59_a_reset_is_taken_back_when_its_sender_goes_on() {
    let mut dataplane = open();
    for family in families() {
        let there = family.a_to_b(4000, 80);
        establish(&mut dataplane, there);
        dataplane
            .from_workload("b", &there.back().tcp("R"))
            .expect_redirect_to("a");
        // The other side may not know of it yet.
        dataplane
            .from_workload("a", &there.tcp("A"))
            .expect_redirect_to("b");
        assert_ne!(flow(&dataplane, &there).state & STATE_RESET, 0);
        dataplane
            .from_workload("b", &there.back().tcp("A"))
            .expect_redirect_to("a");
        assert_eq!(flow(&dataplane, &there).state, ESTABLISHED);
    }
}
