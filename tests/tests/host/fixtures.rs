//! The fixtures themselves, with the kernel forwarding and no agent: what the other tests rely on.

use std::net::IpAddr;
use std::time::Duration;

use calico_ebpf_tests::capture::contains;
use calico_ebpf_tests::felix_rules;
use calico_ebpf_tests::frames::{self, Frame};
use calico_ebpf_tests::guest::Guest;
use calico_ebpf_tests::host::{Host, host_address_like, outside_address_like};
use calico_ebpf_tests::probe::{Question, Seen, reach};
use calico_ebpf_tests::snapshot::Snapshot;
use calico_ebpf_tests::traffic::{Server, at, transfer};

/// Longest time a frame may take from one guest to another.
const LIMIT: Duration = Duration::from_secs(5);

fn host_with_two_guests() -> (Host, Guest, Guest) {
    let host = Host::new();
    let (a, b) = (Guest::start(&host, "a", 1), Guest::start(&host, "b", 2));
    host.forward_plainly(&[&a, &b]);
    (host, a, b)
}

#[test]
fn guests_reach_each_other_and_the_outside_when_the_kernel_forwards() {
    let (host, a, b) = host_with_two_guests();
    let _servers = [Server::tcp(b.namespace(), 80), Server::udp(b.namespace(), 53)];
    let _outside = Server::tcp(host.outside(), 443);
    for address in b.vm().addresses() {
        assert_eq!(
            reach(a.namespace(), address, Question::Tcp(80)),
            Seen::Open,
            "{address}"
        );
        assert_eq!(
            reach(a.namespace(), address, Question::Tcp(81)),
            Seen::Refused,
            "{address}"
        );
        assert_eq!(
            reach(a.namespace(), address, Question::Udp(53)),
            Seen::Open,
            "{address}"
        );
        assert_eq!(
            reach(a.namespace(), address, Question::Udp(54)),
            Seen::Refused,
            "{address}"
        );
        assert_eq!(
            reach(a.namespace(), address, Question::Ping),
            Seen::Open,
            "{address}"
        );
        assert_eq!(
            reach(host.namespace(), address, Question::Ping),
            Seen::Open,
            "{address}"
        );
        assert_eq!(
            reach(host.outside(), address, Question::Tcp(80)),
            Seen::Open,
            "{address}"
        );
        let outside = outside_address_like(address);
        assert_eq!(
            reach(a.namespace(), outside, Question::Tcp(443)),
            Seen::Open,
            "{outside}"
        );
        assert_eq!(
            reach(a.namespace(), host_address_like(address), Question::Ping),
            Seen::Open
        );
    }
    let nobody: IpAddr = "10.65.0.99".parse().expect("an address");
    assert_eq!(reach(a.namespace(), nobody, Question::Tcp(80)), Seen::Silent);
}

#[test]
fn transfers_between_guests_are_whole_and_use_super_frames() {
    let (_host, a, b) = host_with_two_guests();
    for address in b.vm().addresses() {
        let outcome = transfer(a.namespace(), b.namespace(), at(address, 9000), 64 << 20).expect("transfer");
        assert!(outcome.is_whole(), "{outcome:?}");
    }
    assert!(b.largest_frame() > 30_000, "largest frame: {}", b.largest_frame());
}

#[test]
fn frames_that_are_written_to_a_tap_are_captured_at_the_other() {
    let (host, a, b) = host_with_two_guests();
    let capture = b.capture();
    for address in b.vm().addresses() {
        let frame = Frame::from(a.vm(), 4000, at(address, 4001)).udp(b"hello");
        a.tap().send(&frame).expect("write a frame");
        let seen = capture
            .wait_for(LIMIT, |frame| contains(frame, b"hello"))
            .expect("the frame arrives");
        assert_eq!(seen.get(..6), Some(&b.vm().mac()[..]));
        assert_eq!(frames::ttl(&seen), Some(63));
    }
    let frame = Frame::from(a.vm(), 4000, at(a.vm().v4(), 4001)).udp(b"elsewhere");
    a.tap().send(&frame).expect("write a frame");
    assert!(
        !capture
            .settle(host.namespace(), &b)
            .iter()
            .any(|frame| contains(frame, b"elsewhere"))
    );
}

#[test]
fn a_new_tap_is_forwarded_for_when_nobody_guards_it() {
    let host = Host::new();
    host.forward_plainly(&[]);
    let server = Server::udp(host.outside(), 4001);
    let stranger = Guest::start(&host, "stranger", 9);
    for address in stranger.vm().addresses() {
        let target = at(outside_address_like(address), 4001);
        stranger
            .tap()
            .send(&Frame::from(stranger.vm(), 4000, target).udp(b"out"))
            .expect("write a frame");
    }
    calico_ebpf_tests::wait::until("both families got out", LIMIT, || server.asked() == 2);
}

#[test]
fn a_guest_is_plugged_out_and_in_again() {
    let (host, a, mut b) = host_with_two_guests();
    b.unplug();
    let before = Snapshot::take(host.namespace());
    b.plug(&host);
    host.forward_plainly(&[&b]);
    assert_ne!(Snapshot::take(host.namespace()).difference(&before), "");
    for address in b.vm().addresses() {
        assert_eq!(
            reach(a.namespace(), address, Question::Ping),
            Seen::Open,
            "{address}"
        );
    }
    b.unplug();
    Snapshot::take(host.namespace()).assert_same_as(&before);
}

#[test]
fn the_iptables_rules_that_are_compared_with_enforce_the_same_policy() {
    let (host, a, b) = host_with_two_guests();
    let _servers = [80, 22].map(|port| Server::tcp(b.namespace(), port));
    felix_rules::apply(host.namespace(), &[(a.vm(), "client"), (b.vm(), "web")]).expect("rules");
    for address in b.vm().addresses() {
        assert_eq!(
            reach(a.namespace(), address, Question::Tcp(80)),
            Seen::Open,
            "{address}"
        );
        assert_eq!(
            reach(a.namespace(), address, Question::Tcp(22)),
            Seen::Silent,
            "{address}"
        );
        assert_eq!(
            reach(host.outside(), address, Question::Tcp(80)),
            Seen::Open,
            "{address}"
        );
    }
}
