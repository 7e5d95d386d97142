//! A guest gets its addresses and its router from dnsmasq on the host, while no policy allows anything; and nobody gets
//! them from another guest.

use std::net::{IpAddr, Ipv6Addr};

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::dhcp::{Dhclient, Dnsmasq, Ipv6Mode};
use calico_ebpf_tests::frames::dhcp_discover;
use calico_ebpf_tests::guest::{Guest, Vm};
use calico_ebpf_tests::manifests::{allow_everything, workload_endpoint};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::snapshot::json;
use calico_ebpf_tests::wait;
use calico_ebpf_tests::wire::Wire;

use crate::expect::{LIMIT, expect_both, time_until};

/// Takes every address and route away that a guest did not make itself, as if it had just booted.
fn forget_addresses(guest: &Guest) {
    for command in ["-4 addr", "-6 addr", "-4 route", "-6 route"] {
        let (family, object) = command.split_once(' ').expect("two words");
        let which: &[&str] = match object {
            "addr" => &["flush", "dev", "eth0", "scope", "global"],
            _ => &["flush", "default"],
        };
        guest
            .namespace()
            .output("ip", &[&[family, object], which].concat());
    }
}

fn has_address(namespace: &Netns, address: impl Into<IpAddr>) -> bool {
    let address = address.into().to_string();
    let listed = json(namespace, "ip", &["-j", "addr", "show", "dev", "eth0"]);
    let infos = listed[0]["addr_info"].as_array().expect("a list of addresses");
    infos.iter().any(|info| info["local"] == address.as_str())
}

/// Returns whether a guest has a default route from a router advertisement, by its tap's host side.
fn has_advertised_router(guest: &Guest) -> bool {
    let routes = json(guest.namespace(), "ip", &["-6", "-j", "route", "show", "default"]);
    let routes = routes.as_array().expect("a list of routes");
    let gateway = guest.vm().gateway_v6().to_string();
    routes
        .iter()
        .any(|route| route["protocol"] == "ra" && route["gateway"] == gateway.as_str())
}

/// Asks for a router, and expects that the host's side of the tap answers with a flag set.
#[track_caller]
fn expect_router(guest: &Guest, flag: &str) {
    let arguments = ["-1", "-r", "5", "-w", "1000", "eth0"];
    let output = guest.namespace().output("rdisc6", &arguments);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let from = format!("from {}", guest.vm().gateway_v6());
    let mut lines = printed.lines().map(str::trim);
    assert!(lines.clone().any(|line| line == from), "{printed}");
    assert!(
        lines.any(|line| line.starts_with(flag) && line.ends_with("Yes")),
        "{printed}"
    );
}

/// Two guests that know nothing, and dnsmasq on their host.
fn scene_with_dnsmasq() -> (Scene, Dnsmasq) {
    let scene = Scene::new(&["vm", "peer"]);
    let vms = [scene.guest("vm").vm(), scene.guest("peer").vm()];
    let dnsmasq = Dnsmasq::of_dhcp_agent(scene.host(), &vms, Ipv6Mode::Dhcp);
    forget_addresses(scene.guest("vm"));
    (scene, dnsmasq)
}

#[test]
fn scenario_16_dhclient_gets_the_ports_address_and_router_while_everything_is_denied() {
    let (scene, _dnsmasq) = scene_with_dnsmasq();
    let (vm, peer) = (scene.guest("vm"), scene.guest("peer"));
    let _agent = scene.start_agent();
    assert!(!has_address(vm.namespace(), vm.vm().v4()));
    let _client = Dhclient::start(vm, "-4", scene.host().directory());
    wait::until("the guest has its address", 2 * LIMIT, || {
        has_address(vm.namespace(), vm.vm().v4())
    });
    let address = peer.vm().v4().into();
    time_until(vm.namespace(), address, Question::Ping, Seen::Silent);
    // The lease is good for what policy allows later.
    scene.manifests().put(&allow_everything());
    time_until(vm.namespace(), address, Question::Ping, Seen::Open);
}

#[test]
fn scenario_18_dhclient_gets_the_ports_ipv6_address_while_everything_is_denied() {
    let (scene, _dnsmasq) = scene_with_dnsmasq();
    let (vm, peer) = (scene.guest("vm"), scene.guest("peer"));
    let _agent = scene.start_agent();
    assert!(!has_address(vm.namespace(), vm.vm().v6()));
    expect_router(vm, "Stateful address conf.");
    wait::until("the guest has its router", LIMIT, || has_advertised_router(vm));
    let _client = Dhclient::start(vm, "-6", scene.host().directory());
    wait::until("the guest has its address", 2 * LIMIT, || {
        has_address(vm.namespace(), vm.vm().v6())
    });
    let address = peer.vm().v6().into();
    time_until(vm.namespace(), address, Question::Ping, Seen::Silent);
    scene.manifests().put(&allow_everything());
    time_until(vm.namespace(), address, Question::Ping, Seen::Open);
}

#[test]
fn scenario_21_a_guest_makes_its_address_of_the_hosts_router_advertisement_while_everything_is_denied() {
    let scene = Scene::new(&["vm", "peer"]);
    let (vm, peer) = (scene.guest("vm"), scene.guest("peer"));
    // What a guest makes of the prefix and its MAC (RFC 4291, appendix A) is what Neutron gives the port.
    let own = Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0xf816, 0x3eff, 0xfe00, 1);
    let addresses = [format!("{}/32", vm.vm().v4()), format!("{own}/128")];
    scene
        .manifests()
        .put(&workload_endpoint(vm.vm()).with("ipNetworks", addresses.to_vec()));
    let _dnsmasq = Dnsmasq::of_dhcp_agent(scene.host(), &[vm.vm(), peer.vm()], Ipv6Mode::Slaac);
    forget_addresses(vm);
    let _agent = scene.start_agent();
    expect_router(vm, "Autonomous address conf.");
    wait::until("the guest has made its address", LIMIT, || {
        has_address(vm.namespace(), own) && has_advertised_router(vm)
    });
    scene.manifests().put(&allow_everything());
    let address = peer.vm().v6().into();
    time_until(vm.namespace(), address, Question::Ping, Seen::Open);
    time_until(peer.namespace(), own.into(), Question::Ping, Seen::Open);
}

#[test]
fn scenario_17_and_22_a_guest_that_plays_dhcp_server_and_router_is_heard_by_nobody() {
    let scene = Scene::new(&["rogue", "victim"]);
    let (rogue, victim) = (scene.guest("rogue"), scene.guest("victim"));
    scene.manifests().put(&allow_everything());
    let _agent = scene.start_agent();
    let host = scene.host().namespace();
    let capture = victim.capture();
    let before = [DropReason::RouterAdvertisement, DropReason::DhcpServer]
        .map(|reason| scene.launcher().drops(reason));
    let server = Dnsmasq::of_rogue(rogue, scene.host().directory());
    // A client's question that has got there somehow.
    let wire = Wire::tap(host, &rogue.vm().interface());
    wire.send(&dhcp_discover(&Vm::new("client", 99)));
    wait::until("dnsmasq makes an offer", LIMIT, || {
        server.log().contains("DHCPOFFER")
    });
    wait::until("the offer is dropped", LIMIT, || {
        scene.launcher().drops(DropReason::DhcpServer) > before[1]
    });
    wait::until("its advertisement is dropped", 4 * LIMIT, || {
        scene.launcher().drops(DropReason::RouterAdvertisement) > before[0]
    });
    let heard = capture.settle(host, victim);
    let is_advertisement = |frame: &&Vec<u8>| frame.get(20) == Some(&58) && frame.get(54) == Some(&134);
    assert_eq!(heard.iter().find(is_advertisement), None);
    let routes = json(host, "ip", &["-6", "-j", "route", "show", "default"]);
    let routes = routes.as_array().expect("a list of routes");
    assert!(routes.iter().all(|route| route["protocol"] != "ra"), "{routes:?}");
    expect_both(rogue.namespace(), victim, Question::Ping, Seen::Open);
}
