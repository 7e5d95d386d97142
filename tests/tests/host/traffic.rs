//! What guests may say to each other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::manifests::{
    allow_all_egress, allow_everything, allow_ping, allow_tcp, allow_udp, network_policy, only_from,
};
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Amount, Server, Transfer, at, transfer};
use calico_ebpf_tests::wait;

use crate::expect::{LIMIT, expect, expect_both, time_until};

#[test]
fn scenario_30_without_any_policy_guests_reach_nothing_and_each_drop_is_counted() {
    let scene = Scene::new(&["a", "b"]);
    let _servers = [
        Server::tcp(scene.guest("b").namespace(), 80),
        Server::udp(scene.guest("b").namespace(), 53),
    ];
    let _agent = scene.start_agent();
    let (a, b) = (scene.guest("a").namespace(), scene.guest("b"));
    for question in [
        Question::Tcp(80),
        Question::Tcp(81),
        Question::Udp(53),
        Question::Ping,
    ] {
        expect_both(a, b, question, Seen::Silent);
    }
    // A SYN may have been sent twice.
    assert!(scene.launcher().drops(DropReason::EgressPolicy) >= 8);
}

#[test]
fn tcp_udp_and_ping_between_guests_pass_where_policy_allows_and_nowhere_else() {
    let scene = Scene::new(&["client", "web"]);
    let web = scene.guest("web");
    let _servers = [80, 81].map(|port| {
        (
            Server::tcp(web.namespace(), port),
            Server::udp(web.namespace(), port),
        )
    });
    scene.manifests().put(&allow_all_egress());
    let [ping4, ping6] = allow_ping();
    scene.manifests().put(
        &network_policy("web", "name == 'web'")
            .ingress(allow_tcp(80))
            .ingress(allow_udp(81))
            .ingress(ping4)
            .ingress(ping6),
    );
    let _agent = scene.start_agent();
    let client = scene.guest("client").namespace();
    expect_both(client, web, Question::Tcp(80), Seen::Open);
    expect_both(client, web, Question::Tcp(81), Seen::Silent);
    expect_both(client, web, Question::Udp(81), Seen::Open);
    expect_both(client, web, Question::Udp(80), Seen::Silent);
    expect_both(client, web, Question::Ping, Seen::Open);
    // Nothing opens the other direction.
    expect_both(
        web.namespace(),
        scene.guest("client"),
        Question::Ping,
        Seen::Silent,
    );
}

#[test]
fn a_port_that_is_allowed_and_not_served_is_refused_by_the_guest_itself() {
    let scene = Scene::new(&["client", "web"]);
    scene.manifests().put(&allow_everything());
    let _agent = scene.start_agent();
    let client = scene.guest("client").namespace();
    expect_both(client, scene.guest("web"), Question::Tcp(4), Seen::Refused);
    // The ICMP error quotes a live flow.
    expect_both(client, scene.guest("web"), Question::Udp(4), Seen::Refused);
}

#[test]
fn a_member_of_a_group_reaches_what_its_group_may() {
    let scene = Scene::new(&["web", "db", "client"]);
    let db = scene.guest("db");
    let _server = Server::tcp(db.namespace(), 5432);
    scene.manifests().put(&allow_all_egress());
    let rule = only_from(allow_tcp(5432), "name == 'web'");
    scene
        .manifests()
        .put(&network_policy("db", "name == 'db'").ingress(rule));
    let _agent = scene.start_agent();
    expect_both(
        scene.guest("web").namespace(),
        db,
        Question::Tcp(5432),
        Seen::Open,
    );
    expect_both(
        scene.guest("client").namespace(),
        db,
        Question::Tcp(5432),
        Seen::Silent,
    );
}

#[test]
fn scenario_79_large_transfers_arrive_whole_as_super_frames() {
    let scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    let _agent = scene.start_agent();
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    for address in b.vm().addresses() {
        let outcome = transfer(a.namespace(), b.namespace(), at(address, 9000), 64 << 20).expect("transfer");
        assert!(outcome.is_whole(), "{outcome:?}");
    }
    assert!(b.largest_frame() > 30_000, "largest frame: {}", b.largest_frame());
}

#[test]
fn guests_and_the_outside_reach_each_other_where_policy_allows() {
    let scene = Scene::new(&["a"]);
    let a = scene.guest("a");
    let outside = scene.host().outside();
    let _servers = [
        Server::tcp(a.namespace(), 80),
        Server::tcp(a.namespace(), 81),
        Server::tcp(outside, 443),
    ];
    scene.manifests().put(&allow_all_egress());
    scene
        .manifests()
        .put(&network_policy("a", "name == 'a'").ingress(allow_tcp(80)));
    let _agent = scene.start_agent();
    for address in a.vm().addresses() {
        let target = calico_ebpf_tests::host::outside_address_like(address);
        expect(a.namespace(), target, Question::Tcp(443), Seen::Open);
        expect(outside, address, Question::Tcp(80), Seen::Open);
        expect(outside, address, Question::Tcp(81), Seen::Silent);
    }
}

#[test]
fn scenario_71_a_flow_that_policy_no_longer_allows_stops_and_others_go_on() {
    let scene = Scene::new(&["a", "b"]);
    let (a, b) = (scene.guest("a").namespace(), scene.guest("b"));
    let kept = network_policy("kept", "name == 'b'").ingress(allow_tcp(9000));
    let doomed = network_policy("doomed", "name == 'b'").ingress(allow_tcp(9001));
    scene.manifests().put(&allow_all_egress());
    scene.manifests().put(&kept);
    scene.manifests().put(&doomed);
    let _agent = scene.start_agent();
    for address in b.vm().addresses() {
        let [goes_on, stops] = [9000, 9001].map(|port| {
            let end = Arc::default();
            let amount = Amount::Until(Arc::clone(&end));
            let transfer = Transfer::start(a, b.namespace(), at(address, port), amount).expect("transfer");
            wait::until("the transfer is under way", LIMIT, || {
                transfer.arrived() > 1 << 20
            });
            (transfer, end)
        });
        scene.manifests().remove(&doomed);
        time_until(a, address, Question::Tcp(9001), Seen::Silent);
        // What had passed before may still be on its way into the receiver.
        let mut last = stops.0.arrived();
        wait::until("the flow stops", LIMIT, || {
            let other = goes_on.0.arrived();
            wait::until("the other flow goes on", LIMIT, || {
                goes_on.0.arrived() > other + (4 << 20)
            });
            let now = stops.0.arrived();
            std::mem::replace(&mut last, now) == now
        });
        goes_on.1.store(true, Ordering::Relaxed);
        let outcome = goes_on.0.finish().expect("the other transfer ends well");
        assert!(outcome.is_whole(), "{address}: {outcome:?}");
        assert_eq!(stops.0.arrived(), last, "{address}");
        stops.1.store(true, Ordering::Relaxed);
        scene.manifests().put(&doomed);
        time_until(a, address, Question::Tcp(9001), Seen::Refused);
    }
}

#[test]
fn pings_as_large_as_the_mtu_are_answered() {
    let scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    let _agent = scene.start_agent();
    let (a, b) = (scene.guest("a").namespace(), scene.guest("b"));
    for address in b.vm().addresses() {
        let size = if address.is_ipv4() { "1472" } else { "1452" };
        let target = address.to_string();
        let answer = a.stdout(
            "ping",
            &[
                "-n", "-q", "-c", "20", "-i", "0.002", "-s", size, "-W", "2", &target,
            ],
        );
        assert!(answer.contains(" 0% packet loss"), "{answer}");
    }
}
