//! The etcd datastore with a cluster of three: a member that dies, hangs or is cut off is left for another.

use std::sync::Arc;

use calico_ebpf_tests::etcd::cluster::{Cluster, MEMBERS};
use calico_ebpf_tests::following::{Follower, Seen};
use calico_ebpf_tests::manifests::{cluster_information, tier};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_userspace::config::Config;
use calico_ebpf_userspace::datastore::feed::State;

/// A cluster, a follower that is in sync with it, and the number of the member that it uses.
fn followed() -> (Cluster, Follower, usize) {
    let client = Arc::new(Netns::guest());
    let cluster = Cluster::start(&client);
    cluster
        .member(0)
        .put_objects(&[cluster_information(true), tier("a", 1, "Deny")]);
    let config = Config {
        etcd_endpoints: cluster.endpoints(),
        ..Config::default()
    };
    let follower = Follower::of_etcd(&client, config);
    let seen = follower.wait_for("in sync", Seen::is_in_sync);
    let used = member_of(&cluster, &seen).expect("one of the members");
    (cluster, follower, used)
}

fn member_of(cluster: &Cluster, seen: &Seen) -> Option<usize> {
    cluster
        .endpoints()
        .iter()
        .position(|endpoint| *endpoint == seen.status.endpoint)
}

/// Writes by a member that was not used, and expects that it is heard from another one than `left`.
fn expect_failover(cluster: &Cluster, follower: &Follower, left: usize) {
    let writer = cluster.member((left + 1) % MEMBERS);
    writer.wait_until_healthy();
    writer.put_object(&tier("b", 1, "Deny"));
    let seen = follower.wait_for("the change, from another member", |seen| {
        seen.is_in_sync()
            && seen.names() == ["a", "b", "default"]
            && member_of(cluster, seen).is_some_and(|member| member != left)
    });
    assert!(seen.status.reason.is_empty(), "{:?}", seen.status);
    let resyncs = seen
        .states
        .iter()
        .filter(|state| **state == State::Resync)
        .count();
    assert_eq!(resyncs, 1, "taken up where it ended: {:?}", seen.states);
}

#[test]
fn a_member_that_dies_is_left_for_another() {
    let (mut cluster, follower, used) = followed();
    cluster.member_mut(used).kill();
    expect_failover(&cluster, &follower, used);
}

#[test]
fn a_member_that_hangs_is_left_for_another() {
    let (cluster, follower, used) = followed();
    cluster.member(used).pause();
    expect_failover(&cluster, &follower, used);
    cluster.member(used).resume();
}

#[test]
fn a_member_whose_cable_is_out_is_left_for_another() {
    let (cluster, follower, used) = followed();
    cluster.unplug(used);
    expect_failover(&cluster, &follower, used);
}

#[test]
fn a_member_that_is_cut_off_from_the_others_is_left_for_another() {
    let (cluster, follower, used) = followed();
    cluster.isolate(used);
    expect_failover(&cluster, &follower, used);
}

#[test]
fn without_a_majority_everything_stays_and_the_reason_is_told() {
    let (mut cluster, follower, _) = followed();
    let before = follower.seen();
    cluster.member_mut(1).kill();
    cluster.member_mut(2).kill();
    let seen = follower.wait_for("no member can be used", |seen| {
        seen.status.state == State::Unreachable
            && seen.status.reason.contains("it has no leader")
            && seen.status.reason.contains("connection refused")
    });
    assert_eq!(seen.snapshot, before.snapshot);
    cluster.member_mut(1).restart();
    cluster.member(1).put_object(&tier("b", 1, "Deny"));
    follower.wait_for("the change", |seen| {
        seen.is_in_sync() && seen.names() == ["a", "b", "default"]
    });
}
