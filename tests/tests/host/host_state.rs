//! What an endpoint has on its host, as Felix leaves it (contract 3.1, 3.2), and that it is put right.

use std::net::IpAddr;

use calico_ebpf_tests::guest::{Guest, Vm};
use calico_ebpf_tests::host::{HOST_V4, HOST_V6};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::wait;
use serde_json::Value;

use crate::expect::LIMIT;

/// What `ip` says about something, as a list.
fn listed(host: &Netns, arguments: &[&str]) -> Vec<Value> {
    let text = host.stdout("ip", &[&["-j", "-d"], arguments].concat());
    // Nothing at all is printed for no neighbours.
    let value: Value = serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).expect("JSON");
    value.as_array().expect("a list").clone()
}

fn routes(host: &Netns, family: &str, destination: &str) -> Vec<Value> {
    listed(host, &[family, "route", "show", destination])
}

fn permanent_neighbors(host: &Netns, vm: &Vm) -> Vec<Value> {
    listed(
        host,
        &["neigh", "show", "dev", &vm.interface(), "nud", "permanent"],
    )
}

fn has_route(host: &Netns, guest: &Guest, destination: &str) -> bool {
    let found = routes(host, "-4", destination);
    found
        .iter()
        .any(|route| route["dev"] == guest.vm().interface().as_str())
}

#[test]
fn routes_neighbours_and_settings_of_an_endpoint_are_those_of_felix() {
    let scene = Scene::new(&["a"]);
    let launcher = scene
        .launcher()
        .with("DeviceRouteSourceAddress", &HOST_V4.to_string())
        .with("DeviceRouteSourceAddressIPv6", &HOST_V6.to_string());
    let _agent = launcher.start(1);
    let (host, vm) = (scene.host().namespace(), scene.guest("a").vm());
    let tap = vm.interface();
    for (family, address, source) in [
        ("-4", IpAddr::from(vm.v4()), IpAddr::from(HOST_V4)),
        ("-6", vm.v6().into(), HOST_V6.into()),
    ] {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let found = routes(host, family, &format!("{address}/{length}"));
        let [route] = found.as_slice() else {
            panic!("one route to {address}: {found:?}")
        };
        let facts = ["dev", "protocol", "type", "prefsrc"].map(|name| route[name].as_str());
        assert_eq!(
            facts,
            [
                Some(tap.as_str()),
                Some("boot"),
                Some("unicast"),
                Some(source.to_string().as_str())
            ],
            "{route}"
        );
        assert_eq!(route["metric"], 1024, "{route}");
        assert_eq!(route["gateway"], Value::Null, "{route}");
        // IPv6 routes have no scope.
        assert!(address.is_ipv6() || route["scope"] == "link", "{route}");
    }
    let found = permanent_neighbors(host, vm);
    let [neighbor] = found.as_slice() else {
        panic!("one neighbour, IPv6 has none: {found:?}")
    };
    assert_eq!(
        (neighbor["dst"].as_str(), neighbor["lladdr"].as_str()),
        (Some(vm.v4().to_string().as_str()), Some(vm.mac_text().as_str()))
    );
    let default_filter = host.sysctl("net/ipv4/conf/default/rp_filter");
    for (setting, expected) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        (&format!("net/ipv6/conf/{tap}/accept_ra"), "0"),
        (&format!("net/ipv4/conf/{tap}/route_localnet"), "1"),
        (&format!("net/ipv4/neigh/{tap}/proxy_delay"), "0"),
        (&format!("net/ipv4/conf/{tap}/proxy_arp"), "1"),
        (&format!("net/ipv4/conf/{tap}/forwarding"), "1"),
        (&format!("net/ipv4/conf/{tap}/rp_filter"), default_filter.as_str()),
        (&format!("net/ipv6/conf/{tap}/proxy_ndp"), "1"),
        (&format!("net/ipv6/conf/{tap}/forwarding"), "1"),
    ] {
        assert_eq!(host.sysctl(setting), expected, "{setting}");
    }
}

#[test]
fn routes_and_neighbours_that_somebody_changes_are_put_right_and_those_of_bird_stay() {
    let scene = Scene::new(&["a"]);
    let _agent = scene.start_agent();
    let (host, guest) = (scene.host().namespace(), scene.guest("a"));
    let (tap, address) = (guest.vm().interface(), guest.vm().v4());
    let own = format!("{address}/32");
    host.ip(&format!(
        "route del {own} dev {tap}\nneigh del {address} dev {tap}"
    ));
    wait::until("route and neighbour are back", LIMIT, || {
        has_route(host, guest, &own) && permanent_neighbors(host, guest.vm()).len() == 1
    });
    // After the grace that routes of an earlier run have.
    host.ip(&format!(
        "route add 10.65.98.0/24 dev {tap} proto bird\nroute add 10.65.99.0/24 dev {tap}"
    ));
    wait::until("a foreign route is removed", 4 * LIMIT, || {
        !has_route(host, guest, "10.65.99.0/24")
    });
    assert!(has_route(host, guest, "10.65.98.0/24"), "BIRD's stays");
    assert!(has_route(host, guest, &own));
}
