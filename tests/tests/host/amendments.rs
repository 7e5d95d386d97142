//! Members that come into sets and leave them change the table in force, without a new version of it.

use std::thread::sleep;
use std::time::Duration;

use calico_ebpf_tests::manifests::{
    allow_all_egress, allow_tcp, global_network_policy, global_network_set, only_from,
};
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Amount, Server, Transfer, at};
use calico_ebpf_tests::wait;
use ipnet::IpNet;

use crate::expect::{LIMIT, time_until};

#[test]
fn scenario_38_a_member_that_comes_and_goes_amends_the_table_in_force() {
    let scene = Scene::new(&["client", "db"]);
    let (client, db) = (scene.guest("client"), scene.guest("db"));
    let _server = Server::tcp(db.namespace(), 5432);
    scene.manifests().put(&allow_all_egress());
    let set = |nets: &[&str]| global_network_set("clients", ("set", "clients"), nets);
    let with_client = || {
        let own = client
            .vm()
            .addresses()
            .map(|address| IpNet::from(address).to_string());
        set(&own.each_ref().map(String::as_str))
    };
    let rule = only_from(allow_tcp(5432), "set == 'clients'");
    scene
        .manifests()
        .put(&global_network_policy("db", "name == 'db'").ingress(rule));
    scene.manifests().put(&set(&[]));
    let mut agent = scene.start_agent();
    let before = agent.report().expect("a report");
    for address in db.vm().addresses() {
        scene.manifests().put(&with_client());
        time_until(client.namespace(), address, Question::Tcp(5432), Seen::Open);
        scene.manifests().put(&set(&[]));
        time_until(client.namespace(), address, Question::Tcp(5432), Seen::Silent);
    }
    let after = agent.wait_for("the amendments are told", |report| report.tables.amendments >= 4);
    assert_eq!(after.epoch, before.epoch, "the table was written anew");
}

#[test]
fn scenario_38_a_member_that_leaves_loses_its_connections() {
    let scene = Scene::new(&["client", "db"]);
    let (client, db) = (scene.guest("client"), scene.guest("db"));
    scene.manifests().put(&allow_all_egress());
    let own = client
        .vm()
        .addresses()
        .map(|address| IpNet::from(address).to_string());
    let set = |nets: &[&str]| global_network_set("clients", ("set", "clients"), nets);
    let rule = only_from(allow_tcp(5432), "set == 'clients'");
    scene
        .manifests()
        .put(&global_network_policy("db", "name == 'db'").ingress(rule));
    scene.manifests().put(&set(&own.each_ref().map(String::as_str)));
    let mut agent = scene.start_agent();
    let before = agent.report().expect("a report");
    let transfers = db.vm().addresses().map(|address| {
        let (from, to) = (client.namespace(), db.namespace());
        let transfer = Transfer::start_paced(from, to, at(address, 5432), Amount::Bytes(1 << 40), 10_000_000);
        let transfer = transfer.expect("a connection");
        wait::until("the transfer is under way", LIMIT, || {
            transfer.arrived() > 1_000_000
        });
        transfer
    });
    scene.manifests().put(&set(&[]));
    let after = agent.wait_for("the amendment is told", |report| report.tables.amendments > 0);
    assert_eq!(after.epoch, before.epoch, "the table was written anew");
    // At this pace a millisecond brings ten thousand bytes.
    let arrived = || transfers.each_ref().map(Transfer::arrived);
    let mut last = arrived();
    wait::until("both connections stop", LIMIT, || {
        sleep(Duration::from_millis(500));
        let now = arrived();
        std::mem::replace(&mut last, now) == now
    });
}
