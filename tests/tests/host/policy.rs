//! Manifests that change, break and are mended under a running agent.

use std::fs;

use calico_ebpf_tests::manifests::{
    allow_all_egress, allow_everything, allow_tcp, global_network_policy, global_network_set, network_policy,
    only_from, tier, workload_endpoint,
};
use calico_ebpf_tests::probe::{Question, Seen, reach};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::Server;
use serde_json::json;

use crate::expect::{IN_FORCE, expect_both, time_until};

#[test]
fn a_changed_manifest_is_in_force_within_a_second() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _server = Server::tcp(web.namespace(), 80);
    scene.manifests().put(&allow_all_egress());
    let _agent = scene.start_agent();
    let policy = network_policy("web", "name == 'web'").ingress(allow_tcp(80));
    for address in web.vm().addresses() {
        expect_both(client, web, Question::Tcp(80), Seen::Silent);
        scene.manifests().put(&policy);
        let opened = time_until(client, address, Question::Tcp(80), Seen::Open);
        assert!(opened < IN_FORCE, "allowed after {opened:?}");
        scene.manifests().remove(&policy);
        let closed = time_until(client, address, Question::Tcp(80), Seen::Silent);
        assert!(closed < IN_FORCE, "denied after {closed:?}");
    }
}

#[test]
fn a_broken_manifest_leaves_the_last_good_policy_in_force_until_it_is_mended() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _servers = [80, 81].map(|port| Server::tcp(web.namespace(), port));
    scene.manifests().put(&allow_all_egress());
    let policy = |port| {
        network_policy("web", "name == 'web'")
            .ingress(allow_tcp(port))
            .yaml()
    };
    scene.manifests().write("web.yaml", &policy(80));
    let mut agent = scene.start_agent();
    expect_both(client, web, Question::Tcp(80), Seen::Open);
    for broken in [
        "kind: [",
        &policy(80).replace("NetworkPolicy", "NetworkPolcy"),
        &policy(80).replace("'web'", "=="),
        &policy(80).replace("80", "80000"),
    ] {
        scene.manifests().write("web.yaml", broken);
        let report = agent.wait_for("the problem is reported", |report| !report.problems.is_empty());
        assert!(
            report
                .problems
                .iter()
                .any(|problem| problem.place.contains("web.yaml")),
            "{:?}",
            report.problems
        );
        for address in web.vm().addresses() {
            let seen = reach(client, address, Question::Tcp(80));
            assert_eq!(
                seen,
                Seen::Open,
                "{address} with {broken:?}: {:?}",
                report.problems
            );
        }
        scene.manifests().write("web.yaml", &policy(80));
        agent.wait_for("the problem is gone", |report| report.problems.is_empty());
    }
    scene.manifests().write("web.yaml", &policy(81));
    time_until(client, web.vm().v4().into(), Question::Tcp(81), Seen::Open);
    expect_both(client, web, Question::Tcp(80), Seen::Silent);
}

#[test]
fn one_broken_manifest_does_not_keep_others_from_changing() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _server = Server::tcp(web.namespace(), 80);
    scene.manifests().put(&allow_all_egress());
    scene
        .manifests()
        .write("aaa-broken.yaml", "{ this is not: [a manifest");
    let agent = scene.start_agent();
    assert_eq!(agent.report().expect("a report").problems.len(), 1);
    scene
        .manifests()
        .put(&network_policy("web", "name == 'web'").ingress(allow_tcp(80)));
    time_until(client, web.vm().v4().into(), Question::Tcp(80), Seen::Open);
}

#[test]
fn a_directory_that_vanishes_leaves_the_last_policy_in_force() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _server = Server::tcp(web.namespace(), 80);
    scene.manifests().put(&allow_everything());
    let mut agent = scene.start_agent();
    let directory = scene.manifests().directory();
    let aside = directory.with_extension("aside");
    fs::rename(directory, &aside).expect("move the directory away");
    agent.wait_for("the problem is reported", |report| {
        report.datastore.state == "unreachable" || !report.problems.is_empty()
    });
    expect_both(client, web, Question::Tcp(80), Seen::Open);
    fs::rename(&aside, directory).expect("move the directory back");
    agent.wait_for("the directory is read again", |report| {
        report.datastore.state == "in-sync" && report.problems.is_empty()
    });
    scene.manifests().put(
        &global_network_policy("closed", "all()")
            .with("order", 1)
            .ingress(json!({ "action": "Deny" })),
    );
    time_until(client, web.vm().v4().into(), Question::Tcp(80), Seen::Silent);
}

#[test]
fn scenario_38_a_member_is_added_and_removed_by_a_label() {
    let scene = Scene::new(&["client", "db"]);
    let (client, db) = (scene.guest("client"), scene.guest("db"));
    let _server = Server::tcp(db.namespace(), 5432);
    scene.manifests().put(&allow_all_egress());
    let rule = only_from(allow_tcp(5432), "role == 'web'");
    scene
        .manifests()
        .put(&network_policy("db", "name == 'db'").ingress(rule));
    let _agent = scene.start_agent();
    expect_both(client.namespace(), db, Question::Tcp(5432), Seen::Silent);
    for address in db.vm().addresses() {
        scene
            .manifests()
            .put(&workload_endpoint(client.vm()).label("role", "web"));
        time_until(client.namespace(), address, Question::Tcp(5432), Seen::Open);
        scene.manifests().put(&workload_endpoint(client.vm()));
        time_until(client.namespace(), address, Question::Tcp(5432), Seen::Silent);
    }
}

#[test]
fn scenario_33_tiers_profiles_and_network_sets_decide_in_order() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _servers = [80, 81, 82].map(|port| Server::tcp(web.namespace(), port));
    scene.manifests().put(&allow_all_egress());
    scene.manifests().put(&tier("first", 10, "Pass"));
    let outside = global_network_set(
        "clients",
        ("set", "clients"),
        &["10.65.0.11/32", "fd00:65::b/128"],
    );
    scene.manifests().put(&outside);
    let deny = json!({ "action": "Deny", "protocol": "TCP", "source": { "selector": "set == 'clients'", "namespaceSelector": "global()" }, "destination": { "ports": [81] } });
    let first = global_network_policy("first.web", "name == 'web'")
        .with("tier", "first")
        .with("types", json!(["Ingress"]))
        .ingress(deny);
    scene.manifests().put(&first);
    let second = network_policy("web", "name == 'web'")
        .ingress(allow_tcp(80))
        .ingress(allow_tcp(81));
    scene.manifests().put(&second);
    let _agent = scene.start_agent();
    expect_both(client, web, Question::Tcp(80), Seen::Open);
    expect_both(client, web, Question::Tcp(81), Seen::Silent);
    expect_both(client, web, Question::Tcp(82), Seen::Silent);
}
