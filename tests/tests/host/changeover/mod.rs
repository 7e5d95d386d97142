//! Change-over from Felix to us and back on a live host.

mod faults;
mod floating;
mod live;
mod quiet;

use std::process::Output;

use calico_ebpf_tests::felix::{Felix, Iptables, Port};
use calico_ebpf_tests::guest::Vm;
use calico_ebpf_tests::manifests::{allow_all_egress, allow_tcp, network_policy};
use calico_ebpf_tests::scene::Scene;

/// Ports of web that are open, for transfers of either family.
const OPEN: [u16; 4] = [80, 9000, 9001, 9002];
/// A port of web that is not.
const DENIED: u16 = 81;

/// A client, and web, which receives [`OPEN`]; Felix has written the same as our manifests say.
fn scene(iptables: Iptables, metric: Option<u32>) -> (Scene, Felix) {
    let scene = Scene::new(&["client", "web"]);
    scene.manifests().put(&allow_all_egress());
    let policy = OPEN
        .iter()
        .fold(network_policy("web", "name == 'web'"), |policy, port| {
            policy.ingress(allow_tcp(*port))
        });
    scene.manifests().put(&policy);
    let port = |vm: &Vm, open: &[u16]| Port {
        vm: vm.clone(),
        open: open.to_vec(),
        floating: Vec::new(),
    };
    let felix = Felix {
        iptables,
        ports: vec![
            port(scene.guest("client").vm(), &[]),
            port(scene.guest("web").vm(), &OPEN),
        ],
        metric,
    };
    (scene, felix)
}

/// Returns what a command said, if it ended with this status.
#[track_caller]
fn said(output: &Output, status: i32) -> String {
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{text}");
    text
}
