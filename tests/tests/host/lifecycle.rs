//! The dataplane outlives the agent.

use calico_ebpf_tests::manifests::{allow_all_egress, allow_everything, allow_tcp, network_policy};
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::{Scene, is_in_state};
use calico_ebpf_tests::traffic::{Amount, Server, Transfer, at, transfer};
use calico_ebpf_tests::wait;

use crate::expect::{LIMIT, expect_both, time_until};

/// A client that may reach web on tcp/80 and on tcp/9000 only.
fn scene_with_policy() -> Scene {
    let scene = Scene::new(&["client", "web"]);
    scene.manifests().put(&allow_all_egress());
    let policy = network_policy("web", "name == 'web'")
        .ingress(allow_tcp(80))
        .ingress(allow_tcp(9000));
    scene.manifests().put(&policy);
    scene
}

/// Expects that policy is enforced for new connections and that a transfer goes through.
#[track_caller]
fn expect_enforcement(scene: &Scene) {
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    expect_both(client, web, Question::Tcp(80), Seen::Open);
    expect_both(client, web, Question::Tcp(81), Seen::Silent);
    let outcome = transfer(client, web.namespace(), at(web.vm().v4(), 9000), 1 << 20).expect("transfer");
    assert!(outcome.is_whole());
}

#[test]
fn after_sigterm_the_dataplane_goes_on_enforcing() {
    let scene = scene_with_policy();
    let _servers = [80, 81].map(|port| Server::tcp(scene.guest("web").namespace(), port));
    let status = scene.start_agent().terminate();
    assert!(status.success(), "{status}");
    expect_enforcement(&scene);
}

#[test]
fn a_transfer_survives_the_death_of_the_agent_and_its_next_start() {
    let scene = scene_with_policy();
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _servers = [80, 81].map(|port| Server::tcp(web.namespace(), port));
    let mut agent = scene.start_agent();
    for address in web.vm().addresses() {
        let amount = Amount::Bytes(200 << 20);
        let transfer = Transfer::start(client, web.namespace(), at(address, 9000), amount).expect("transfer");
        wait::until("the transfer is under way", LIMIT, || {
            transfer.arrived() > 1 << 20
        });
        agent.kill();
        expect_both(client, web, Question::Tcp(81), Seen::Silent);
        agent = scene.start_agent();
        assert!(transfer.finish().expect("the transfer ends").is_whole());
    }
    drop(agent);
    expect_enforcement(&scene);
}

#[test]
fn a_transfer_survives_a_start_with_another_size_of_the_flow_table() {
    let scene = scene_with_policy();
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let agent = scene.start_agent();
    let transfer = Transfer::start(
        client,
        web.namespace(),
        at(web.vm().v4(), 9000),
        Amount::Bytes(200 << 20),
    )
    .expect("transfer");
    wait::until("the transfer is under way", LIMIT, || {
        transfer.arrived() > 1 << 20
    });
    agent.kill();
    let agent = scene.launcher().with("BPFMapSizeConntrack", "32768").start(2);
    assert!(transfer.finish().expect("the transfer ends").is_whole());
    assert!(
        agent.log().contains("keeps its size and its flows"),
        "{}",
        agent.log()
    );
}

#[test]
fn a_change_made_while_the_agent_is_dead_is_in_force_after_its_next_start() {
    let mut scene = scene_with_policy();
    let _servers = [80, 81].map(|port| Server::tcp(scene.guest("web").namespace(), port));
    scene.start_agent().kill();
    scene
        .manifests()
        .put(&network_policy("web", "name == 'web'").ingress(allow_tcp(81)));
    scene.plug("client");
    let _agent = scene.start_agent();
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    for address in web.vm().addresses() {
        time_until(client, address, Question::Tcp(81), Seen::Open);
    }
    expect_both(client, web, Question::Tcp(80), Seen::Silent);
}

#[test]
fn a_second_agent_on_the_same_host_is_refused_and_changes_nothing() {
    let scene = scene_with_policy();
    let _servers = [80, 81].map(|port| Server::tcp(scene.guest("web").namespace(), port));
    let first = scene.start_agent();
    let elsewhere = scene.host().directory().join("second");
    let mut second = scene
        .launcher()
        .with("RunDir", elsewhere.to_str().expect("a path"))
        .spawn();
    let status = second.wait_for_end();
    assert!(!status.success());
    assert!(
        first.log().contains("another calico-ebpf agent"),
        "{}",
        first.log()
    );
    expect_enforcement(&scene);
    assert!(first.report().is_some_and(|report| report.epoch > 0));
}

#[test]
fn an_agent_without_a_directory_for_bpf_mounts_one() {
    let scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    let launcher = scene.launcher().with("BPFPinDir", "/run/bpf/calico-ebpf");
    let mut agent = launcher.start(2);
    agent.wait_for("the endpoint is up", |report| {
        is_in_state(report, &scene.guest("a").vm().interface(), "up")
    });
    expect_both(
        scene.guest("a").namespace(),
        scene.guest("b"),
        Question::Ping,
        Seen::Open,
    );
    agent.terminate();
    launcher.clean_up();
}
