//! Connections to a floating address, which Felix translates by iptables and ours by the programs.

use calico_ebpf_tests::felix::{Felix, Iptables};
use calico_ebpf_tests::host::HOST_V4;
use calico_ebpf_tests::manifests::workload_endpoint;
use calico_ebpf_tests::traffic::at;
use serde_json::json;

use super::quiet::Quiet;
use super::{OPEN, scene};

const EXTERNAL: std::net::Ipv4Addr = std::net::Ipv4Addr::new(203, 0, 113, 7);

#[test]
fn connections_to_a_floating_address_live_through_the_way_to_us_and_back() {
    let (scene, mut felix) = scene(Iptables::Nft, Some(1024));
    let (host, outside) = (scene.host().namespace(), scene.host().outside());
    let web = scene.guest("web");
    outside.ip(&format!("route add {EXTERNAL}/32 via {HOST_V4}"));
    let nats = json!([{ "internalIP": web.vm().v4().to_string(), "externalIP": EXTERNAL.to_string() }]);
    scene
        .manifests()
        .put(&workload_endpoint(web.vm()).with("ipNATs", nats));
    felix.ports[1].floating = vec![EXTERNAL.into()];
    felix.write(host);
    let mut felixs = Quiet::open(outside, web.namespace(), at(EXTERNAL, OPEN[1]));

    let agent = scene.start_agent();
    scene.launcher().query(&["adopt"]);
    felixs.server_speaks_first();
    let mut ours = Quiet::open(outside, web.namespace(), at(EXTERNAL, OPEN[2]));

    agent.terminate();
    let handed = scene.launcher().query(&["release", "--flows-only"]);
    assert_eq!(handed["connections"]["failed"], 0, "{handed}");
    felix.write(host);
    let _process = Felix::process(host);
    scene.launcher().query(&["release"]);
    felixs.server_speaks_first();
    ours.server_speaks_first();
}
