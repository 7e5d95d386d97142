//! The etcd datastore against a real server: history, readiness, bad values, many keys.

use std::sync::Arc;

use calico_ebpf_tests::etcd::{Etcd, Setup};
use calico_ebpf_tests::following::{Follower, Seen};
use calico_ebpf_tests::manifests::{
    NAMESPACE, Object, allow_tcp, cluster_information, key_in_etcd, network_policy, tier,
};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_userspace::config::Config;
use calico_ebpf_userspace::datastore::feed::State;
use calico_ebpf_userspace::model::problem::Consequence;
use serde_json::json;

/// The address that followers use when the test wants to cut them off.
const CABLE: &str = "203.0.113.1";

fn namespace() -> Arc<Netns> {
    Arc::new(Netns::guest())
}

fn follow(etcd: &Etcd) -> Follower {
    let config = Config {
        etcd_endpoints: vec![etcd.endpoint()],
        ..Config::default()
    };
    Follower::of_etcd(etcd.namespace(), config)
}

/// A server that is reached in two ways: by the fixture always, by followers while the cable is plugged in.
fn start_with_a_cable() -> Etcd {
    let namespace = namespace();
    namespace.set_sysctl("net/ipv4/ip_nonlocal_bind", "1");
    namespace.ip(&format!("addr add {CABLE}/32 dev lo"));
    Setup::new(&namespace)
        .with(&format!(
            "--listen-client-urls=http://127.0.0.1:2379,http://{CABLE}:2379"
        ))
        .start()
}

fn unplug(etcd: &Etcd) {
    etcd.namespace().ip(&format!("addr del {CABLE}/32 dev lo"));
}

fn plug(etcd: &Etcd) {
    etcd.namespace().ip(&format!("addr add {CABLE}/32 dev lo"));
}

fn follow_by_cable(etcd: &Etcd) -> Follower {
    let config = Config {
        etcd_endpoints: vec![format!("http://{CABLE}:2379")],
        ..Config::default()
    };
    Follower::of_etcd(etcd.namespace(), config)
}

fn policy(name: &str) -> Object {
    network_policy(name, "all()").ingress(allow_tcp(80))
}

/// An endpoint as the driver writes it, of about 1 KB.
fn endpoint(number: u32) -> Object {
    let [_, _, high, low] = number.to_be_bytes();
    let spec = json!({
        "orchestrator": "openstack",
        "workload": format!("11111111-2222-3333-4444-{number:012}"),
        "node": format!("compute-{}", number % 100),
        "endpoint": format!("8dfa1418-d5c9-4bc3-ab6d-{number:012}"),
        "interfaceName": format!("tap{number:08}"),
        "mac": format!("fa:16:3e:00:{high:02x}:{low:02x}"),
        "ipNetworks": [format!("10.65.{high}.{low}/32")],
    });
    Object::new(
        "WorkloadEndpoint",
        NAMESPACE,
        &format!("endpoint-{number}"),
        &spec,
    )
    .label("projectcalico.org/namespace", NAMESPACE)
}

fn is_in_sync(seen: &Seen) -> bool {
    seen.is_in_sync()
}

fn has(name: &str) -> impl Fn(&Seen) -> bool {
    move |seen| seen.is_in_sync() && seen.names().contains(&name)
}

#[test]
fn what_happened_while_the_connection_was_lost_is_taken_up_without_reading_all_again() {
    let mut etcd = Etcd::start(&namespace());
    etcd.put_objects(&[cluster_information(true), policy("a"), policy("b")]);
    let follower = follow(&etcd);
    let first = follower.wait_for("in sync", is_in_sync);
    assert_eq!(first.status.endpoint, "http://127.0.0.1:2379");
    etcd.kill();
    let lost = follower.wait_for("unreachable", |seen| seen.status.state == State::Unreachable);
    assert_eq!(lost.names(), first.names());
    assert!(
        lost.status.in_sync && lost.status.endpoint.is_empty(),
        "{:?}",
        lost.status
    );
    etcd.restart();
    etcd.put_object(&policy("c"));
    etcd.delete_object(&policy("a"));
    let seen = follower.wait_for("both changes", |seen| seen.names() == ["b", "c", "default"]);
    assert!(seen.is_in_sync());
    let resyncs = seen
        .states
        .iter()
        .filter(|state| **state == State::Resync)
        .count();
    assert_eq!(resyncs, 1, "only the first read: {:?}", seen.states);
    follower.wait_for("the reason goes", |seen| seen.status.reason.is_empty());
}

#[test]
fn after_compaction_everything_is_read_again_and_deletions_are_found() {
    let mut etcd = start_with_a_cable();
    etcd.put_objects(&[cluster_information(true), policy("a"), policy("b")]);
    let follower = follow_by_cable(&etcd);
    follower.wait_for("in sync", is_in_sync);
    etcd.kill();
    unplug(&etcd);
    etcd.restart();
    etcd.delete_object(&policy("a"));
    etcd.put_object(&policy("c"));
    etcd.compact();
    plug(&etcd);
    let seen = follower.wait_for("the difference", |seen| seen.names() == ["b", "c", "default"]);
    assert!(seen.status.in_sync);
    let resyncs = seen
        .states
        .iter()
        .filter(|state| **state == State::Resync)
        .count();
    assert_eq!(resyncs, 2, "{:?}", seen.states);
}

#[test]
fn an_etcd_that_lost_its_data_tears_nothing_down_and_is_followed_when_it_is_filled_again() {
    let mut etcd = Etcd::start(&namespace());
    for number in 0..10 {
        etcd.put("/elsewhere", number.to_string());
    }
    etcd.put_objects(&[cluster_information(true), policy("a"), policy("b")]);
    let follower = follow(&etcd);
    let before = follower.wait_for("in sync", is_in_sync);
    etcd.wipe();
    etcd.restart();
    let seen = follower.wait_for("the loss", |seen| seen.status.state == State::WaitForReady);
    assert_eq!(seen.snapshot, before.snapshot);
    assert_eq!(seen.updates, before.updates, "nothing was sent");
    assert!(
        seen.status.reason.contains("ClusterInformation(default)"),
        "{:?}",
        seen.status
    );
    etcd.put_object(&policy("c"));
    etcd.put_objects(&[cluster_information(true), policy("b")]);
    let seen = follower.wait_for("the new content", |seen| seen.names() == ["b", "c", "default"]);
    assert!(seen.is_in_sync());
    assert_eq!(
        seen.updates.len(),
        before.updates.len() + 1,
        "in one update: {:?}",
        seen.updates
    );
}

#[test]
fn an_etcd_that_was_begun_anew_and_overtook_the_old_one_is_noticed() {
    let mut etcd = start_with_a_cable();
    etcd.put_objects(&[cluster_information(true), policy("a")]);
    let follower = follow_by_cable(&etcd);
    let before = follower.wait_for("in sync", is_in_sync);
    unplug(&etcd);
    etcd.wipe();
    etcd.restart();
    for number in 0..40 {
        etcd.put("/elsewhere", number.to_string());
    }
    etcd.put_objects(&[cluster_information(true), policy("z")]);
    assert!(u64::try_from(etcd.revision()).is_ok_and(|revision| revision > before.status.revision));
    plug(&etcd);
    let seen = follower.wait_for("the new content", |seen| seen.names() == ["z", "default"]);
    assert!(seen.is_in_sync());
}

#[test]
fn nothing_is_sent_before_the_datastore_is_ready_and_while_it_is_not() {
    let etcd = Etcd::start(&namespace());
    etcd.put_object(&policy("a"));
    let follower = follow(&etcd);
    let seen = follower.wait_for("waiting", |seen| seen.status.state == State::WaitForReady);
    assert!(!seen.status.in_sync && seen.snapshot.is_empty(), "{seen:?}");
    etcd.put_object(&cluster_information(false));
    follower.wait_for("the reason", |seen| seen.status.reason.contains("datastoreReady"));
    etcd.put_object(&cluster_information(true));
    let ready = follower.wait_for("in sync", is_in_sync);
    assert_eq!(ready.names(), ["a", "default"]);

    for not_ready in [
        || cluster_information(false),
        || cluster_information(true).with("datastoreReady", "yes"),
    ] {
        let before = follower.seen();
        etcd.put_object(&not_ready());
        follower.wait_for("waiting again", |seen| seen.status.state == State::WaitForReady);
        etcd.delete_object(&policy("a"));
        etcd.put_object(&policy("b"));
        // Problems are told at any time: with this one, the changes before it were heard.
        let problems = follower.seen().problems.len();
        let mark = key_in_etcd(&policy("mark"));
        etcd.put(&mark, "{");
        let seen = follower.wait_for("the changes were heard", |seen| seen.problems.len() > problems);
        etcd.delete(&mark);
        assert_eq!(seen.snapshot, before.snapshot);
        assert!(seen.status.in_sync, "what was read stays in force");
        etcd.put_object(&cluster_information(true));
        follower.wait_for("the difference", has("b"));
        etcd.delete_object(&policy("b"));
        etcd.put_object(&policy("a"));
        follower.wait_for("as before", has("a"));
    }
}

#[test]
fn values_that_are_no_objects_are_told_and_hurt_nobody_else() {
    let etcd = Setup::new(&namespace())
        .with("--max-request-bytes=20000000")
        .start();
    let tiers = "/calico/resources/v3/projectcalico.org/tiers";
    etcd.put_objects(&[
        cluster_information(true),
        tier("good", 1, "Deny"),
        tier("later", 1, "Deny"),
    ]);
    let later = key_in_etcd(&tier("later", 1, "Deny"));
    etcd.put(&format!("{tiers}/garbage"), [0xff, 0x00, 0x1b]);
    etcd.put(
        &format!("{tiers}/truncated"),
        "{\"apiVersion\":\"projectcalico.org/v3\",\"ki",
    );
    etcd.put(
        &format!("{tiers}/wrong-type"),
        tier("wrong-type", 1, "Deny")
            .with("order", json!([]))
            .value()
            .to_string(),
    );
    etcd.put(&format!("{tiers}/wrong-kind"), policy("x").value().to_string());
    etcd.put(
        &format!("{tiers}/unknown-kind"),
        "{\"apiVersion\":\"projectcalico.org/v3\",\"kind\":\"Gizmo\"}",
    );
    etcd.put(
        &format!("{tiers}/too/deep"),
        tier("x", 1, "Deny").value().to_string(),
    );
    etcd.put(&format!("{tiers}/huge"), vec![b' '; 11_000_000]);
    etcd.put("/calico/resources/v3/projectcalico.org/gizmos/a", "{}");
    let follower = follow(&etcd);
    let seen = follower.wait_for("in sync", is_in_sync);
    assert_eq!(seen.names(), ["good", "later", "default"]);
    let told = seen.told().join("\n");
    for expected in [
        "Tier(garbage): found expected value at line 1 column 1, expected a JSON object",
        "Tier(truncated): found EOF while parsing",
        "Tier(wrong-type): spec.order: found a list of 0, expected a number",
        "Tier(wrong-kind): kind: found \"NetworkPolicy\", expected Tier",
        "Tier(unknown-kind): kind: found \"Gizmo\", expected one of",
        "found the key /calico/resources/v3/projectcalico.org/tiers/too/deep",
        "Tier(huge): found a value of 11000000 bytes, expected at most 10 MiB",
    ] {
        assert!(told.contains(expected), "{expected}\nnot in\n{told}");
    }
    assert_eq!(seen.problems.len(), 7, "{told}");
    assert!(
        seen.problems
            .iter()
            .all(|problem| problem.consequence == Consequence::ObjectSkipped)
    );

    etcd.put(&later, "{");
    let seen = follower.wait_for("a bad new version", |seen| seen.problems.len() == 8);
    assert_eq!(seen.names(), ["good", "default"], "it is treated as absent");
    etcd.put_object(&tier("later", 2, "Deny"));
    let seen = follower.wait_for("it is mended", |seen| seen.problems.len() == 7);
    assert_eq!(seen.names(), ["good", "later", "default"]);
}

#[test]
fn three_thousand_keys_come_in_pages_and_go_in_few_updates() {
    let etcd = Etcd::start(&namespace());
    let endpoints: Vec<_> = (0..3000).map(endpoint).collect();
    etcd.put_objects(&endpoints);
    etcd.put_object(&cluster_information(true));
    let follower = follow(&etcd);
    let seen = follower.wait_for("in sync", is_in_sync);
    assert_eq!(
        (seen.snapshot.len(), seen.updates.as_slice()),
        (3001, [3001].as_slice())
    );
    let deleted = etcd.delete_prefix("/calico/resources/v3/projectcalico.org/workloadendpoints/");
    assert_eq!(deleted, 3000);
    let seen = follower.wait_for("all are gone", |seen| seen.snapshot.len() == 1);
    assert!(seen.is_in_sync());
    assert!(seen.updates.len() <= 10, "{:?}", seen.updates);
    etcd.put_objects(&endpoints);
    let seen = follower.wait_for("all are back", |seen| seen.snapshot.len() == 3001);
    assert!(seen.problems.is_empty(), "{:?}", seen.told());
}
