//! What guests and their own host may say to each other.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::frames::{
    DHCPV6_SERVERS, Frame, arp_reply, arp_request, dhcp_discover, dhcpv6_solicit,
};
use calico_ebpf_tests::host::{HOST_V4, host_address_like};
use calico_ebpf_tests::manifests::allow_everything;
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Server, at};
use calico_ebpf_tests::wait;
use nix::net::if_::if_nametoindex;

use crate::expect::{LIMIT, expect, expect_both};

#[test]
fn scenario_16_a_dhcp_discover_reaches_the_server_on_the_host_while_everything_is_denied() {
    let scene = Scene::new(&["vm"]);
    let socket = scene
        .host()
        .namespace()
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)))
        .expect("bind");
    let server = Server::udp_on(socket);
    let _agent = scene.start_agent();
    let vm = scene.guest("vm");
    vm.tap().send(&dhcp_discover(vm.vm())).expect("write a frame");
    wait::until("the server has the message", LIMIT, || server.asked() == 1);
}

#[test]
fn scenario_18_a_dhcpv6_solicit_reaches_the_server_on_the_host_while_everything_is_denied() {
    let scene = Scene::new(&["vm"]);
    let vm = scene.guest("vm");
    let _agent = scene.start_agent();
    let socket = scene.host().namespace().run(|| {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 547)).expect("bind");
        let interface = if_nametoindex(vm.vm().interface().as_str()).expect("the tap is there");
        socket
            .join_multicast_v6(&DHCPV6_SERVERS, interface)
            .expect("join the group");
        socket
    });
    let server = Server::udp_on(socket);
    vm.tap().send(&dhcpv6_solicit(vm.vm())).expect("write a frame");
    wait::until("the server has the message", LIMIT, || server.asked() == 1);
}

#[test]
fn scenario_19_dns_of_the_host_answers_while_everything_is_denied() {
    let scene = Scene::new(&["vm"]);
    let _servers = [
        Server::udp(scene.host().namespace(), 53),
        Server::tcp(scene.host().namespace(), 53),
    ];
    let _agent = scene.start_agent();
    let vm = scene.guest("vm");
    for address in vm.vm().addresses() {
        expect(
            vm.namespace(),
            host_address_like(address),
            Question::Udp(53),
            Seen::Open,
        );
        expect(
            vm.namespace(),
            host_address_like(address),
            Question::Tcp(53),
            Seen::Silent,
        );
    }
}

#[test]
fn scenario_52_the_host_reaches_its_guests_while_everything_is_denied() {
    let scene = Scene::new(&["vm"]);
    let vm = scene.guest("vm");
    let _servers = [Server::tcp(vm.namespace(), 22), Server::udp(vm.namespace(), 161)];
    let _agent = scene.start_agent();
    for question in [Question::Tcp(22), Question::Udp(161), Question::Ping] {
        expect_both(scene.host().namespace(), vm, question, Seen::Open);
    }
}

#[test]
fn scenario_52_guests_do_not_reach_the_host_by_default_whatever_their_policy() {
    let scene = Scene::new(&["vm"]);
    scene.manifests().put(&allow_everything());
    let _server = Server::tcp(scene.host().namespace(), 22);
    let _agent = scene.start_agent();
    let vm = scene.guest("vm");
    for address in vm.vm().addresses() {
        expect(
            vm.namespace(),
            host_address_like(address),
            Question::Tcp(22),
            Seen::Silent,
        );
        expect(
            vm.namespace(),
            host_address_like(address),
            Question::Ping,
            Seen::Silent,
        );
    }
    assert!(scene.launcher().drops(DropReason::EndpointToHost) >= 4);
}

#[test]
fn scenario_52_guests_reach_the_host_when_the_action_is_accept_and_policy_allows() {
    let scene = Scene::new(&["vm"]);
    scene.manifests().put(&allow_everything());
    let _server = Server::tcp(scene.host().namespace(), 22);
    let _agent = scene
        .launcher()
        .with("DefaultEndpointToHostAction", "ACCEPT")
        .start(1);
    let vm = scene.guest("vm");
    for address in vm.vm().addresses() {
        expect(
            vm.namespace(),
            host_address_like(address),
            Question::Tcp(22),
            Seen::Open,
        );
    }
}

#[test]
fn guests_never_reach_loopback_services_of_the_host() {
    let scene = Scene::new(&["vm"]);
    scene.manifests().put(&allow_everything());
    let server = Server::udp(scene.host().namespace(), 8775);
    let _agent = scene
        .launcher()
        .with("DefaultEndpointToHostAction", "ACCEPT")
        .start(1);
    let vm = scene.guest("vm");
    let before = scene.launcher().drops(DropReason::Martian);
    for target in [at(Ipv4Addr::LOCALHOST, 8775), at(Ipv6Addr::LOCALHOST, 8775)] {
        vm.tap()
            .send(&Frame::from(vm.vm(), 4000, target).udp(b"metadata"))
            .expect("write a frame");
    }
    // A written frame waits for the processor that takes it up.
    wait::until("both frames are dropped as martians", LIMIT, || {
        scene.launcher().drops(DropReason::Martian) == before + 2
    });
    assert_eq!(server.asked(), 0);
}

#[test]
fn a_guests_probe_for_its_own_address_is_not_answered() {
    let scene = Scene::new(&["vm"]);
    scene.manifests().put(&allow_everything());
    let _agent = scene.start_agent();
    let vm = scene.guest("vm");
    // RFC 5227, 2.1.1: a probe has no sender address. An announcement has its own.
    let capture = vm.capture();
    for sender in [Ipv4Addr::UNSPECIFIED, vm.vm().v4()] {
        let probe = arp_request(vm.vm().mac(), sender, vm.vm().v4());
        vm.tap().send(&probe).expect("write a frame");
    }
    let seen = capture.settle(scene.host().namespace(), vm);
    let is_answer = |frame: &Vec<u8>| arp_reply(frame, vm.vm().v4()).is_some();
    assert!(!seen.iter().any(is_answer), "the host answers for the guest");
    // What a guest's operating system does before it takes an address.
    let is_taken = |address: Ipv4Addr| {
        let address = address.to_string();
        let arguments = ["-D", "-I", "eth0", "-c", "2", "-w", "3", &address];
        !vm.namespace().output("arping", &arguments).status.success()
    };
    assert!(is_taken(HOST_V4), "the host has this one");
    assert!(!is_taken(vm.vm().v4()), "duplicate address detection fails");
}
