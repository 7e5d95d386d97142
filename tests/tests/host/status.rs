//! What Neutron learns of a host with guests: the agent with etcd.

use std::time::Duration;

use calico_ebpf_tests::agent::{Agent, Launcher};
use calico_ebpf_tests::etcd::Etcd;
use calico_ebpf_tests::guest::Vm;
use calico_ebpf_tests::manifests::{
    HOSTNAME, Object, allow_all_egress, allow_tcp, cluster_information, network_policy, workload_endpoint,
};
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Amount, Server, Transfer, at};
use calico_ebpf_tests::wait;
use serde_json::{Value, json};

use crate::expect::expect_both;

const LIMIT: Duration = Duration::from_mins(1);
const UP: &str = r#"{"status":"up"}"#;
const DOWN: &str = r#"{"status":"down"}"#;

fn own(key: &str) -> String {
    format!("/calico/felix/v2/no-region/host/{HOSTNAME}/{key}")
}

fn endpoint_key(vm: &Vm) -> String {
    let (device, port) = (vm.device_id(), vm.port_id());
    own(&format!(
        "workload/openstack/openstack%2f{device}/endpoint/{port}"
    ))
}

/// What the driver writes besides endpoints: it switches reporting on.
fn felix_configuration() -> Object {
    let spec = json!({ "endpointReportingEnabled": true, "interfacePrefix": "tap" });
    Object::new("FelixConfiguration", "", "default", &spec)
}

/// Guests whose endpoints are in etcd, not in manifests.
fn start_etcd(scene: &Scene) -> Etcd {
    let etcd = Etcd::start(scene.host().namespace());
    let endpoints = scene.guests().iter().map(|guest| workload_endpoint(guest.vm()));
    let objects: Vec<_> = endpoints
        .chain([
            cluster_information(true),
            felix_configuration(),
            allow_all_egress(),
        ])
        .collect();
    etcd.put_objects(&objects);
    etcd
}

fn launcher(scene: &Scene, etcd: &Etcd) -> Launcher {
    scene
        .launcher()
        .with_etcd(&etcd.endpoint())
        .with("ReportingIntervalSecs", "1")
        .with("ReportingTTLSecs", "3")
}

#[track_caller]
fn wait_for_value(etcd: &Etcd, key: &str, expected: Option<&str>) {
    let mut found = None;
    let reached = wait::poll(LIMIT, || {
        found = etcd.get(key);
        (found.as_deref() == expected).then_some(())
    });
    assert!(reached.is_some(), "{key}: {found:?}, not {expected:?}");
}

#[test]
fn keys_follow_endpoints_and_their_taps() {
    let mut scene = Scene::new(&["a", "b"]);
    let etcd = start_etcd(&scene);
    let foreign = [
        "/calico/felix/v2/no-region/host/round-trip-check".to_owned(),
        format!("/calico/felix/v2/no-region/host/{HOSTNAME}0/workload/openstack/x/endpoint/y"),
    ];
    for key in &foreign {
        etcd.put(key, "as it was");
    }
    let [a, b] = ["a", "b"].map(|name| endpoint_key(scene.guest(name).vm()));
    let ghost = own("workload/openstack/openstack%2fgone/endpoint/gone");
    etcd.put(&a, DOWN);
    etcd.put(&ghost, UP);
    let _agent = launcher(&scene, &etcd).start(2);
    wait_for_value(&etcd, &a, Some(UP));
    wait_for_value(&etcd, &b, Some(UP));
    wait_for_value(&etcd, &ghost, None);

    scene.unplug("b");
    wait_for_value(&etcd, &b, Some(DOWN));
    scene.plug("b");
    wait_for_value(&etcd, &b, Some(UP));
    let interface = scene.guest("a").vm().interface();
    let set = |state: &str| {
        scene
            .host()
            .namespace()
            .ip(&format!("link set {interface} {state}"));
    };
    set("down");
    wait_for_value(&etcd, &a, Some(DOWN));
    set("up");
    wait_for_value(&etcd, &a, Some(UP));
    etcd.delete_object(&workload_endpoint(scene.guest("b").vm()));
    wait_for_value(&etcd, &b, None);
    for key in &foreign {
        assert_eq!(etcd.get(key).as_deref(), Some("as it was"));
    }

    wait::until("liveness", LIMIT, || etcd.get(&own("status")).is_some());
    let shown = scene.launcher().with_etcd(&etcd.endpoint()).query(&["status"]);
    assert_eq!(shown["status"]["enabled"], true, "{shown:#}");
    assert_eq!(shown["status"]["endpoints_written"], 1, "{shown:#}");
    assert_eq!(shown["status"]["error"], "", "{shown:#}");
    assert_eq!(shown["cluster"]["workload_endpoints"], 1, "{shown:#}");
    assert!(shown["lag_milliseconds"].is_u64(), "{shown:#}");
}

#[test]
fn the_first_liveness_comes_ten_seconds_after_the_start_and_says_so() {
    let scene = Scene::new(&["a"]);
    let etcd = start_etcd(&scene);
    let _agent = launcher(&scene, &etcd)
        .with("ReportingIntervalSecs", "30")
        .start(1);
    let text = wait::poll(LIMIT, || etcd.get(&own("status"))).expect("liveness");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["first_update"], true);
    assert!(
        report["uptime"].as_f64().is_some_and(|uptime| uptime >= 10.0),
        "{report}"
    );
}

#[test]
fn with_etcd_away_for_long_traffic_goes_on_and_when_it_is_back_the_keys_are_right() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _servers = [80, 81].map(|port| Server::tcp(web.namespace(), port));
    let mut etcd = start_etcd(&scene);
    let policy = network_policy("web", "name == 'web'")
        .ingress(allow_tcp(80))
        .ingress(allow_tcp(9000));
    etcd.put_object(&policy);
    let agent = launcher(&scene, &etcd).start(2);
    let key = endpoint_key(web.vm());
    wait_for_value(&etcd, &key, Some(UP));
    wait::until("liveness", LIMIT, || etcd.get(&own("status")).is_some());

    let amount = Amount::Bytes(64 << 20);
    let transfer = Transfer::start_paced(client, web.namespace(), at(web.vm().v4(), 9000), amount, 4 << 20)
        .expect("transfer");
    etcd.kill();
    // Two lives of a lease.
    assert!(wait::poll(Duration::from_secs(6), || None::<()>).is_none());
    expect_policy(&scene);
    agent.kill();
    // What the keys say meanwhile is wrong.
    etcd.restart();
    wait_for_value(&etcd, &own("status"), None);
    let ghost = own("workload/openstack/openstack%2fgone/endpoint/gone");
    etcd.put(&ghost, UP);
    etcd.put(&key, DOWN);
    etcd.kill();
    let mut agent: Agent = launcher(&scene, &etcd).spawn();
    agent.wait_for("etcd is not reached", |report| {
        report.datastore.state == "unreachable" && !report.datastore.reason.is_empty()
    });
    expect_policy(&scene);
    assert!(transfer.finish().expect("the transfer ends").is_whole());

    etcd.restart();
    let report = agent.wait_for("in sync", |report| report.datastore.state == "in-sync");
    assert_eq!(report.datastore.out_of_sync_since, None);
    assert!(!report.datastore.last_error.is_empty(), "{report:?}");
    wait_for_value(&etcd, &key, Some(UP));
    wait_for_value(&etcd, &ghost, None);
    wait::until("liveness is fresh", LIMIT, || etcd.get(&own("status")).is_some());
    assert!(etcd.lease_of(&own("status")).is_some_and(|lease| lease != 0));
    expect_policy(&scene);
}

/// web may be reached on 80 and not on 81.
#[track_caller]
fn expect_policy(scene: &Scene) {
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    expect_both(client, web, Question::Tcp(80), Seen::Open);
    expect_both(client, web, Question::Tcp(81), Seen::Silent);
}
