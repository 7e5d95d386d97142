//! What both datastores do alike: the same objects, changes and problems.

use std::sync::Arc;

use calico_ebpf_tests::etcd::Etcd;
use calico_ebpf_tests::following::Follower;
use calico_ebpf_tests::manifests::{
    Manifests, Object, allow_tcp, cluster_information, global_network_policy, network_policy, tier,
};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_userspace::config::Config;
use calico_ebpf_userspace::datastore::feed::State;
use calico_ebpf_userspace::model::resource::Resource;
use serde_json::json;
use tempfile::TempDir;

/// One of the two.
enum Datastore {
    File {
        manifests: Manifests,
        _directory: TempDir,
    },
    Etcd(Box<Etcd>),
}

impl Datastore {
    /// Both, with nothing in them but that they are ready.
    fn both() -> [Self; 2] {
        let directory = tempfile::tempdir().expect("a directory");
        let datastores = [
            Self::File {
                manifests: Manifests::new(directory.path()),
                _directory: directory,
            },
            Self::Etcd(Box::new(Etcd::start(&Arc::new(Netns::guest())))),
        ];
        for datastore in &datastores {
            datastore.put(&cluster_information(true));
        }
        datastores
    }

    fn put(&self, object: &Object) {
        match self {
            Self::File { manifests, .. } => manifests.put(object),
            Self::Etcd(etcd) => etcd.put_object(object),
        }
    }

    fn remove(&self, object: &Object) {
        match self {
            Self::File { manifests, .. } => manifests.remove(object),
            Self::Etcd(etcd) => etcd.delete_object(object),
        }
    }

    fn follow(&self) -> Follower {
        match self {
            Self::File { manifests, .. } => Follower::of_directory(manifests.directory()),
            Self::Etcd(etcd) => {
                let config = Config {
                    etcd_endpoints: vec![etcd.endpoint()],
                    ..Config::default()
                };
                Follower::of_etcd(etcd.namespace(), config)
            }
        }
    }
}

fn order_of(resource: &Resource) -> Option<f64> {
    if let Resource::Tier(tier) = resource {
        return tier.order;
    }
    None
}

#[test]
fn objects_come_change_and_go_alike() {
    for datastore in Datastore::both() {
        datastore.put(&tier("a", 1, "Deny"));
        let follower = datastore.follow();
        let seen = follower.wait_for("the first read", |seen| seen.status.in_sync);
        assert_eq!(seen.names(), ["a", "default"]);
        datastore.put(&tier("a", 2, "Deny"));
        follower.wait_for("a change", |seen| {
            seen.snapshot
                .values()
                .any(|resource| order_of(resource) == Some(2.0))
        });
        let policy = network_policy("web", "all()").ingress(allow_tcp(80));
        datastore.put(&policy);
        follower.wait_for("a new object", |seen| seen.names().contains(&"web"));
        datastore.remove(&policy);
        datastore.remove(&tier("a", 2, "Deny"));
        let seen = follower.wait_for("both are gone", |seen| seen.names() == ["default"]);
        assert!(seen.is_in_sync() && seen.problems.is_empty(), "{seen:?}");
    }
}

#[test]
fn both_give_the_same_objects_and_say_the_same_about_bad_ones() {
    let objects = [
        tier("a", 1, "Pass"),
        network_policy("web", "role == 'web'").ingress(allow_tcp(80)),
        global_network_policy("bad-rule", "all()")
            .ingress(allow_tcp(80))
            .ingress(json!({ "action": "Nothing" })),
        global_network_policy("bad-selector", "has("),
        tier("bad-order", 1, "Deny").with("order", "first"),
    ];
    let [file, etcd] = Datastore::both().map(|datastore| {
        for object in &objects {
            datastore.put(object);
        }
        let follower = datastore.follow();
        follower.wait_for("the first read", |seen| seen.status.in_sync)
    });
    assert_eq!(file.snapshot, etcd.snapshot);
    let without_place = |text: &String| text.split_once(": ").map(|(_, rest)| rest.to_owned());
    let mut of_file: Vec<_> = file.told().iter().filter_map(without_place).collect();
    let mut of_etcd = etcd.told();
    of_file.sort();
    of_etcd.sort();
    assert_eq!(of_file, of_etcd);
    assert_eq!(of_etcd.len(), 3, "{of_etcd:?}");
    assert_eq!(etcd.names(), ["web", "bad-rule", "a", "default"]);
}

#[test]
fn a_problem_goes_when_it_is_mended_and_with_its_object() {
    for datastore in Datastore::both() {
        let follower = datastore.follow();
        follower.wait_for("the first read", |seen| seen.status.in_sync);
        let bad = |name: &str| tier(name, 1, "Deny").with("order", "first");
        datastore.put(&bad("a"));
        datastore.put(&bad("b"));
        follower.wait_for("two problems", |seen| seen.problems.len() == 2);
        datastore.put(&tier("a", 1, "Deny"));
        let seen = follower.wait_for("one problem", |seen| seen.problems.len() == 1);
        assert_eq!(seen.names(), ["a", "default"]);
        datastore.remove(&bad("b"));
        follower.wait_for("no problem", |seen| seen.problems.is_empty());
    }
}

#[test]
fn a_burst_of_changes_ends_in_the_last_state() {
    for datastore in Datastore::both() {
        let follower = datastore.follow();
        for order in 1..=60 {
            datastore.put(&tier("a", order, "Deny"));
        }
        let seen = follower.wait_for("the last write", |seen| {
            seen.snapshot
                .values()
                .any(|resource| order_of(resource) == Some(60.0))
        });
        assert_eq!(seen.status.state, State::InSync);
    }
}
