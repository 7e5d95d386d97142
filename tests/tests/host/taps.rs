//! Taps that come, go and come back, and those that belong to nobody.

use aya::programs::TcAttachType;
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::foreign::{ForeignProgram, NEXT, PASS};
use calico_ebpf_tests::frames::{self, Frame};
use calico_ebpf_tests::guest::{GATEWAY_V4, Guest, Vm};
use calico_ebpf_tests::host::{Host, OUTSIDE_V4, OUTSIDE_V6, outside_address_like};
use calico_ebpf_tests::manifests::{
    allow_all_egress, allow_everything, allow_tcp, network_policy, workload_endpoint,
};
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::{Scene, is_in_state};
use calico_ebpf_tests::snapshot::programs_at;
use calico_ebpf_tests::traffic::{Server, at};
use calico_ebpf_tests::wait;

use crate::expect::{LIMIT, expect, expect_both, time_until};

/// Lets a guest write a packet of each family to the outside machine, unasked and without ARP.
fn send_out(guest: &Guest) {
    for address in guest.vm().addresses() {
        let target = at(outside_address_like(address), 4001);
        guest
            .tap()
            .send(&Frame::from(guest.vm(), 4000, target).udp(b"out"))
            .expect("write a frame");
    }
}

/// Expects that nothing which was sent so far got out: what the host itself sends afterwards comes later.
fn expect_nothing_got_out(host: &Host, server: &Server) {
    expect(
        host.namespace(),
        OUTSIDE_V4.into(),
        Question::Udp(4001),
        Seen::Open,
    );
    expect(
        host.namespace(),
        OUTSIDE_V6.into(),
        Question::Udp(4001),
        Seen::Open,
    );
    assert_eq!(server.asked(), 2, "a packet of a guest got out");
}

#[test]
fn scenario_84_a_tap_that_is_made_anew_under_the_same_name_gets_its_policy_back() {
    let mut scene = Scene::new(&["client", "web"]);
    let _servers = [80, 81].map(|port| Server::tcp(scene.guest("web").namespace(), port));
    scene.manifests().put(&allow_all_egress());
    scene
        .manifests()
        .put(&network_policy("web", "name == 'web'").ingress(allow_tcp(80)));
    let mut agent = scene.start_agent();
    let interface = scene.guest("web").vm().interface();
    for _ in 0..3 {
        scene.unplug("web");
        agent.wait_for("the endpoint is down", |report| {
            !is_in_state(report, &interface, "up")
        });
        expect_both(
            scene.guest("client").namespace(),
            scene.guest("web"),
            Question::Tcp(80),
            Seen::Silent,
        );
        scene.plug("web");
        agent.wait_for("the endpoint is up", |report| {
            is_in_state(report, &interface, "up")
        });
        expect_both(
            scene.guest("client").namespace(),
            scene.guest("web"),
            Question::Tcp(80),
            Seen::Open,
        );
        expect_both(
            scene.guest("client").namespace(),
            scene.guest("web"),
            Question::Tcp(81),
            Seen::Silent,
        );
    }
}

#[test]
fn scenario_84_a_tap_that_is_replaced_at_once_gets_its_policy_back() {
    let mut scene = Scene::new(&["client", "web"]);
    let _server = Server::tcp(scene.guest("web").namespace(), 80);
    scene.manifests().put(&allow_everything());
    let _agent = scene.start_agent();
    scene.plug("web");
    scene.plug("client");
    for address in scene.guest("web").vm().addresses() {
        time_until(
            scene.guest("client").namespace(),
            address,
            Question::Tcp(80),
            Seen::Open,
        );
    }
}

#[test]
fn an_endpoint_waits_for_its_tap_and_is_up_when_the_tap_appears() {
    let scene = Scene::new(&["a"]);
    scene.manifests().put(&allow_everything());
    let mut late = Guest::boot(Vm::new("late", 7));
    scene.manifests().put(&workload_endpoint(late.vm()));
    let mut agent = scene.start_agent();
    let interface = late.vm().interface();
    agent.wait_for("the endpoint waits", |report| {
        is_in_state(report, &interface, "waiting") || is_in_state(report, &interface, "down")
    });
    late.plug(scene.host());
    agent.wait_for("the endpoint is up", |report| {
        is_in_state(report, &interface, "up")
    });
    expect_both(scene.guest("a").namespace(), &late, Question::Ping, Seen::Open);
}

#[test]
fn a_new_tap_without_an_endpoint_forwards_nothing() {
    let scene = Scene::new(&["a"]);
    scene.manifests().put(&allow_everything());
    let _agent = scene.start_agent();
    let server = Server::udp(scene.host().outside(), 4001);
    let stranger = Guest::start(scene.host(), "stranger", 9);
    // At once, and when the agent has seen the tap.
    send_out(&stranger);
    wait::until(
        "the tap is seen and its packets are dropped by a program",
        LIMIT,
        || {
            send_out(&stranger);
            scene.launcher().drops(DropReason::UnknownInterface) > 0
        },
    );
    expect_nothing_got_out(scene.host(), &server);
}

#[test]
fn scenario_84_a_new_tap_forwards_nothing_while_the_agent_is_dead() {
    let scene = Scene::new(&["a"]);
    scene.manifests().put(&allow_everything());
    let vm = Vm::new("new", 9);
    scene.manifests().put(&workload_endpoint(&vm));
    let server = Server::udp(scene.host().outside(), 4001);
    scene.start_agent().kill();
    let mut new = Guest::boot(vm);
    new.plug(scene.host());
    send_out(&new);
    expect_nothing_got_out(scene.host(), &server);
}

#[test]
fn a_new_tap_forwards_nothing_while_the_agent_is_dead_and_global_sysctls_are_written_again() {
    let scene = Scene::new(&["a"]);
    let server = Server::udp(scene.host().outside(), 4001);
    let agent = scene.start_agent();
    let host = scene.host().namespace();
    // Under the agent: off and on again resets every default, which it has to notice and repair.
    host.set_sysctls(&[("net/ipv4/ip_forward", "0"), ("net/ipv4/ip_forward", "1")]);
    host.set_sysctls(&[
        ("net/ipv6/conf/all/forwarding", "0"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ]);
    host.set_sysctls(&[("net/ipv6/conf/all/disable_ipv6", "0")]);
    wait::until("the defaults are repaired", LIMIT, || {
        host.sysctl("net/ipv4/conf/default/forwarding") == "0"
            && host.sysctl("net/ipv6/conf/default/disable_ipv6") == "1"
    });
    agent.kill();
    // Without the agent: what `sysctl --system` writes.
    host.set_sysctls(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ]);
    let new = Guest::start(scene.host(), "new", 9);
    send_out(&new);
    expect_nothing_got_out(scene.host(), &server);
}

#[test]
fn a_foreign_program_on_a_tap_runs_after_ours_and_decides_nothing_before_it() {
    let scene = Scene::new(&["a", "b"]);
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    let _server = Server::tcp(b.namespace(), 80);
    let host = scene.host().namespace();
    let early = ForeignProgram::attach(host, &a.vm().interface(), PASS).expect("attach");
    let _agent = scene.start_agent();
    expect_both(a.namespace(), b, Question::Tcp(80), Seen::Silent);
    let late = ForeignProgram::attach(host, &a.vm().interface(), NEXT).expect("attach");
    let tap = a.vm().interface();
    let ours_is_first = || {
        let chain = programs_at(host, &tap, TcAttachType::Ingress);
        chain.len() == 3
            && chain
                .first()
                .is_some_and(|name| name.starts_with("from_workload"))
    };
    wait::until("ours is at the head again", LIMIT, ours_is_first);
    expect_both(a.namespace(), b, Question::Tcp(80), Seen::Silent);
    // ARP goes on to the host's stack, and so to the foreign programs.
    let before = [late.packets().expect("count"), early.packets().expect("count")];
    let capture = a.capture();
    a.tap()
        .send(&frames::arp_request(a.vm().mac(), a.vm().v4(), GATEWAY_V4))
        .expect("write a frame");
    assert!(
        capture
            .wait_for(LIMIT, |frame| frames::arp_reply(frame, GATEWAY_V4).is_some())
            .is_some()
    );
    assert!(late.packets().expect("count") > before[0]);
    assert!(early.packets().expect("count") > before[1]);
}
