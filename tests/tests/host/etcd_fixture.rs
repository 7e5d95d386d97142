//! The etcd servers of the tests do what tests rely on.

use std::sync::Arc;

use calico_ebpf_tests::etcd::certificates::Authority;
use calico_ebpf_tests::etcd::cluster::Cluster;
use calico_ebpf_tests::etcd::{Etcd, Setup};
use calico_ebpf_tests::manifests::{cluster_information, key_in_etcd, network_policy};
use calico_ebpf_tests::netns::Netns;
use etcd_client::Permission;
use tempfile::tempdir;

#[test]
fn data_survive_a_restart_and_not_a_wipe() {
    let mut etcd = Etcd::start(&Arc::new(Netns::guest()));
    let policy = network_policy("web", "all()");
    etcd.put_objects(&[cluster_information(true), policy.clone()]);
    let key = key_in_etcd(&policy);
    assert_eq!(
        key,
        "/calico/resources/v3/projectcalico.org/networkpolicies/openstack/web"
    );
    etcd.restart();
    assert_eq!(
        etcd.get(&key).as_deref(),
        Some(policy.value().to_string().as_str())
    );
    etcd.delete_object(&policy);
    assert_eq!(etcd.get(&key), None);
    let revision = etcd.revision();
    etcd.compact();
    etcd.wipe();
    etcd.restart();
    assert!(etcd.revision() < revision);
    assert_eq!(etcd.get_prefix("/calico/"), []);
    etcd.put_with_lease("/calico/x", "1", 60);
    assert!(etcd.lease_of("/calico/x").is_some_and(|lease| lease != 0));
    assert_eq!(etcd.delete_prefix("/calico/"), 1);
}

#[test]
fn tls_and_passwords_are_asked_for() {
    let files = tempdir().expect("a directory");
    let authority = Authority::new(files.path(), "authority");
    let server = authority.server(&["etcd.example.org", "127.0.0.1"]);
    let mut etcd = Setup::new(&Arc::new(Netns::guest()))
        .with_tls(&authority, server, true)
        .start();
    assert_eq!(etcd.endpoint(), "https://127.0.0.1:2379");
    etcd.enable_auth("secret");
    etcd.add_user("felix", "word", &[Permission::read("/calico/").with_prefix()]);
    etcd.restart();
    etcd.put("/calico/x", "1");
    assert_eq!(etcd.get("/calico/x").as_deref(), Some("1"));
}

#[test]
fn a_cluster_lives_without_one_member() {
    let client = Arc::new(Netns::guest());
    let mut cluster = Cluster::start(&client);
    assert_eq!(cluster.endpoints().len(), 3);
    cluster.member_mut(0).kill();
    cluster.member(1).wait_until_healthy();
    cluster.member(1).put("/calico/x", "1");
    cluster.member_mut(0).restart();
    assert_eq!(cluster.member(0).get("/calico/x").as_deref(), Some("1"));
    cluster.isolate(2);
    cluster.member(0).wait_until_healthy();
    cluster.member(0).put("/calico/x", "2");
    cluster.reunite(2);
    cluster.member(2).wait_until_healthy();
    assert_eq!(cluster.member(2).get("/calico/x").as_deref(), Some("2"));
    cluster.unplug(1);
    cluster.member(0).wait_until_healthy();
    cluster.plug(1);
    cluster.member(1).wait_until_healthy();
    cluster.member(1).pause();
    cluster.member(0).wait_until_healthy();
    cluster.member(1).resume();
    cluster.member(1).wait_until_healthy();
}
