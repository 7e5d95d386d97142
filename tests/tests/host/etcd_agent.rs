//! The agent with etcd: what is in force outlives etcd, the agent, and both.

use calico_ebpf_tests::etcd::{Etcd, Setup};
use calico_ebpf_tests::host::OUTSIDE_V4;
use calico_ebpf_tests::manifests::{
    allow_all_egress, allow_tcp, cluster_information, network_policy, workload_endpoint,
};
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::Server;

use crate::expect::{expect_both, time_until};

/// A client that may reach web on tcp/80, and etcd outside with all that in it.
fn scene_with_etcd() -> (Scene, Etcd) {
    let scene = Scene::new(&["client", "web"]);
    let etcd = Setup::new(scene.host().outside()).at(OUTSIDE_V4).start();
    let mut objects = vec![cluster_information(true), allow_all_egress(), web_allows(80)];
    objects.extend(scene.guests().iter().map(|guest| workload_endpoint(guest.vm())));
    etcd.put_objects(&objects);
    (scene, etcd)
}

fn web_allows(port: u16) -> calico_ebpf_tests::manifests::Object {
    network_policy("web", "name == 'web'").ingress(allow_tcp(port))
}

#[track_caller]
fn expect_only(scene: &Scene, port: u16) {
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    for other in [80, 81] {
        let expected = if other == port { Seen::Open } else { Seen::Silent };
        expect_both(client, web, Question::Tcp(other), expected);
    }
}

#[test]
fn etcd_may_go_and_the_agent_too_and_nothing_changes_until_it_is_back() {
    let (scene, mut etcd) = scene_with_etcd();
    let _servers = [80, 81].map(|port| Server::tcp(scene.guest("web").namespace(), port));
    let launcher = scene.launcher().with_etcd(&etcd.endpoint());
    let mut agent = launcher.start(2);
    expect_only(&scene, 80);
    let report = agent.wait_for("in sync", |report| report.datastore.state == "in-sync");
    assert_eq!(
        (report.datastore.kind.as_str(), report.datastore.endpoint.as_str()),
        ("etcdv3", etcd.endpoint().as_str())
    );
    assert_eq!(report.datastore.out_of_sync_since, None);

    etcd.put_object(&web_allows(81));
    for address in scene.guest("web").vm().addresses() {
        time_until(
            scene.guest("client").namespace(),
            address,
            Question::Tcp(81),
            Seen::Open,
        );
    }
    expect_only(&scene, 81);

    etcd.kill();
    let report = agent.wait_for("the loss and its reason", |report| {
        report.datastore.state == "unreachable" && report.datastore.reason.contains("connection refused")
    });
    assert!(report.datastore.out_of_sync_since.is_some());
    expect_only(&scene, 81);

    agent.kill();
    let mut agent = launcher.spawn();
    let report = agent.wait_for("it waits", |report| report.datastore.state == "unreachable");
    assert_eq!(report.epoch, 0, "it has put nothing in force");
    expect_only(&scene, 81);

    etcd.restart();
    etcd.put_object(&web_allows(80));
    agent.wait_for("in sync", |report| {
        report.epoch > 0 && report.datastore.state == "in-sync"
    });
    for address in scene.guest("web").vm().addresses() {
        time_until(
            scene.guest("client").namespace(),
            address,
            Question::Tcp(80),
            Seen::Open,
        );
    }
    expect_only(&scene, 80);
}

#[test]
fn an_etcd_that_lost_its_data_leaves_policy_in_force() {
    let (scene, mut etcd) = scene_with_etcd();
    let _servers = [80, 81].map(|port| Server::tcp(scene.guest("web").namespace(), port));
    let mut agent = scene.launcher().with_etcd(&etcd.endpoint()).start(2);
    expect_only(&scene, 80);
    etcd.wipe();
    etcd.restart();
    agent.wait_for("the loss", |report| report.datastore.state == "wait-for-ready");
    expect_only(&scene, 80);
    let mut objects = vec![allow_all_egress(), web_allows(81)];
    objects.extend(scene.guests().iter().map(|guest| workload_endpoint(guest.vm())));
    etcd.put_objects(&objects);
    etcd.put_object(&cluster_information(true));
    for address in scene.guest("web").vm().addresses() {
        time_until(
            scene.guest("client").namespace(),
            address,
            Question::Tcp(81),
            Seen::Open,
        );
    }
    expect_only(&scene, 81);
}
