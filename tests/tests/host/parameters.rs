//! Parameters in the datastore: they come into force in the running agent, and what is wrong with them is told.

use std::fs;

use calico_ebpf_tests::agent::Agent;
use calico_ebpf_tests::etcd::Etcd;
use calico_ebpf_tests::host::{HOST_V4, HOST_V6};
use calico_ebpf_tests::manifests::{
    HOSTNAME, Object, cluster_information, network_policy, workload_endpoint,
};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen, reach};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::wait;
use calico_ebpf_userspace::report::{AgentReport, ParameterReport};
use serde_json::{Value, json};

use crate::expect::{LIMIT, expect, time_until};
use crate::observed::{observe, policy, scene_with_forbidden_port};

/// How often parameters are changed while traffic flows.
const ROUNDS: u32 = 10;
/// What the agent logs when its work starts anew in place.
const ANEW: &str = "starting anew in place";

fn configuration(name: &str, spec: &Value) -> Object {
    Object::new("FelixConfiguration", "", name, spec)
}

/// A parameter as the agent says it is set.
fn parameter<'a>(report: &'a AgentReport, name: &str) -> Option<&'a ParameterReport> {
    let parameters = &report.configuration.parameters;
    parameters.iter().find(|parameter| parameter.name == name)
}

#[track_caller]
fn wait_for_value(agent: &mut Agent, name: &str, value: &str) {
    agent.wait_for(&format!("{name} is {value}"), |report| {
        parameter(report, name).is_some_and(|parameter| parameter.value == value)
    });
}

/// Returns the metric of the host's route to a guest.
fn metric_of(scene: &Scene, guest: &str) -> Option<u64> {
    let address = format!("{}/32", scene.guest(guest).vm().v4());
    let text = scene
        .host()
        .namespace()
        .stdout("ip", &["-j", "route", "show", &address]);
    let routes: Value = serde_json::from_str(&text).expect("JSON");
    let [route] = routes.as_array()?.as_slice() else {
        return None;
    };
    route["metric"].as_u64()
}

#[test]
fn parameters_that_need_a_new_start_come_into_force_and_no_packet_and_no_flow_is_lost() {
    let (scene, forbidden) = scene_with_forbidden_port();
    let client = scene.guest("client").namespace();
    let mut agent = scene.launcher().with("HealthEnabled", "true").start(2);
    let mut metric = 1024_u32;
    for sender in [client, &**scene.host().outside()] {
        let with_changes = observe(&scene, sender, || {
            for round in 0..ROUNDS {
                metric += 1;
                let action = if round % 2 == 0 { "Drop" } else { "Accept" };
                let spec = json!({"defaultEndpointToHostAction": action, "ipv4NormalRoutePriority": metric});
                scene.manifests().put(&configuration("default", &spec));
                wait_for_value(&mut agent, "IPv4NormalRoutePriority", &metric.to_string());
                wait::until("the route has the new metric and no other", LIMIT, || {
                    metric_of(&scene, "web") == Some(u64::from(metric))
                });
            }
        });
        let duration = with_changes.duration();
        let without = observe(&scene, sender, || {
            assert!(wait::poll(duration, || None::<()>).is_none());
        });
        with_changes.assert_as_undisturbed_as(&without);
    }
    assert_eq!(forbidden.asked(), 0);
    assert_eq!(agent.log().matches(ANEW).count(), 2 * ROUNDS as usize);
    expect_host(client, Seen::Open);
    let health = reach(
        scene.host().namespace(),
        "127.0.0.1".parse().expect("an address"),
        Question::Tcp(9099),
    );
    assert_eq!(health, Seen::Open, "health is served on");

    scene.manifests().remove(&configuration("default", &json!({})));
    for address in [HOST_V4.into(), HOST_V6.into()] {
        time_until(client, address, Question::Ping, Seen::Silent);
    }
    wait::until("the route has its default metric", LIMIT, || {
        metric_of(&scene, "web") == Some(1024)
    });
}

#[track_caller]
fn expect_host(from: &Netns, expected: Seen) {
    for address in [HOST_V4.into(), HOST_V6.into()] {
        expect(from, address, Question::Ping, expected);
    }
}

#[test]
fn labels_of_the_hosts_node_choose_its_parameters_in_etcd() {
    let scene = Scene::new(&["client", "web"]);
    let client = scene.guest("client").namespace();
    let etcd = Etcd::start(scene.host().namespace());
    let node = |rack: &str| Object::new("Node", "", HOSTNAME, &json!({})).label("rack", rack);
    let selected = json!({"nodeSelector": "rack == 'a'", "defaultEndpointToHostAction": "Accept"});
    let mut objects = vec![
        cluster_information(true),
        node("b"),
        configuration("default", &json!({"defaultEndpointToHostAction": "Drop"})),
        configuration("rack-a", &selected),
    ];
    objects.extend(policy());
    objects.extend(scene.guests().iter().map(|guest| workload_endpoint(guest.vm())));
    etcd.put_objects(&objects);
    let launcher = scene.launcher().with_etcd(&etcd.endpoint());
    let mut agent = launcher.start(2);
    expect_host(client, Seen::Silent);

    etcd.put_object(&node("a"));
    time_until(client, HOST_V4.into(), Question::Ping, Seen::Open);
    let report = agent.wait_for("the place is told", |report| {
        parameter(report, "DefaultEndpointToHostAction")
            .is_some_and(|parameter| parameter.source == "datastore-selector")
    });
    let found = parameter(&report, "DefaultEndpointToHostAction").expect("it is set");
    assert_eq!(
        found.place,
        "FelixConfiguration(rack-a): spec.defaultEndpointToHostAction"
    );
    let own = configuration(
        &format!("node.{HOSTNAME}"),
        &json!({"defaultEndpointToHostAction": "Drop"}),
    );
    etcd.put_object(&own);
    time_until(client, HOST_V4.into(), Question::Ping, Seen::Silent);
    etcd.delete_object(&own);
    time_until(client, HOST_V4.into(), Question::Ping, Seen::Open);
    etcd.delete_object(&node("a"));
    time_until(client, HOST_V4.into(), Question::Ping, Seen::Silent);

    let shown = launcher.query(&["config", "show"]);
    assert_eq!(shown["of"], "running-agent", "{shown:#}");
    assert_eq!(shown["agent"]["datastore"]["state"], "in-sync", "{shown:#}");
    assert!(
        shown["agent"]["datastore"]["revision"]
            .as_u64()
            .is_some_and(|revision| revision > 1),
        "{shown:#}"
    );
    assert!(shown["agent"]["lag_milliseconds"].is_u64(), "{shown:#}");
    let cluster_type = shown_parameter(&shown, "ClusterType");
    assert_eq!(
        (cluster_type["value"].as_str(), cluster_type["place"].as_str()),
        (
            Some("openstack"),
            Some("ClusterInformation(default): spec.clusterType")
        )
    );
}

fn shown_parameter<'a>(shown: &'a Value, name: &str) -> &'a Value {
    let parameters = shown["parameters"].as_array().expect("a list of parameters");
    let found = parameters.iter().find(|parameter| parameter["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {shown:#}"))
}

#[test]
fn the_log_follows_the_datastore_and_the_work_goes_on() {
    let scene = Scene::new(&["a"]);
    let mut agent = scene.start_agent();
    let file = scene.host().directory().join("logs/felix.log");
    let spec = json!({
        "logSeverityScreen": "Debug", "logSeverityFile": "Warning", "logFilePath": file.to_str(),
    });
    scene.manifests().put(&configuration("default", &spec));
    wait_for_value(&mut agent, "LogSeverityScreen", "Debug");
    let epoch = agent.report().expect("a report").epoch;
    scene.manifests().put(&network_policy("bad", "has("));
    wait::until("a message of the new level", LIMIT, || {
        agent.log().contains("DEBUG")
    });
    wait::until("a warning in the file", LIMIT, || {
        fs::read_to_string(&file).is_ok_and(|text| text.contains("NetworkPolicy(openstack/bad)"))
    });
    let text = fs::read_to_string(&file).expect("the log file");
    assert!(text.lines().all(|line| line.contains("WARN")), "{text}");
    let spec = json!({"logSeverityScreen": "Error"});
    scene.manifests().put(&configuration("default", &spec));
    wait_for_value(&mut agent, "LogSeverityScreen", "Error");
    let before = agent.log();
    scene.manifests().put(&network_policy("worse", "has(("));
    agent.wait_for("the next problem", |report| report.problems.len() == 2);
    assert_eq!(agent.log(), before, "warnings are no longer logged");
    assert!(!before.contains(ANEW), "{before}");
    assert_eq!(agent.report().expect("a report").epoch, epoch);
}

#[test]
fn what_is_wrong_with_parameters_is_told_once_with_object_and_field() {
    let scene = Scene::new(&["a"]);
    let wrong = |severity: &str| {
        let spec = json!({
            "healthPort": "ninety", "noSuchThing": 1, "chainInsertMode": "Append", "datastoreType": "etcdv3",
            "logSeverityScreen": severity,
        });
        configuration("default", &spec)
    };
    scene.manifests().put(&wrong("Info"));
    let mut agent = scene.start_agent();
    scene.manifests().put(&wrong("Debug"));
    wait_for_value(&mut agent, "LogSeverityScreen", "Debug");
    let status = scene.launcher().query(&["status"]);
    let warnings = status["configuration"]["warnings"].as_array().expect("a list");
    assert_eq!(warnings.len(), 4, "{status:#}");
    for (trouble, field) in [
        ("bad-value", "healthPort"),
        ("unknown", "noSuchThing"),
        ("without-effect", "chainInsertMode"),
        ("local-only", "datastoreType"),
    ] {
        let place = format!("FelixConfiguration(default): spec.{field}");
        let is_told = |warning: &Value| warning["trouble"] == trouble && warning["place"] == place;
        assert!(warnings.iter().any(is_told), "{trouble} {place}: {status:#}");
        let log = agent.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("WARN") && line.contains(&place));
        assert_eq!(lines.count(), 1, "{place}");
    }
    let shown = scene.launcher().run(&["status"]);
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.contains("Parameters not followed as written: 4"), "{text}");
}

#[test]
fn a_value_that_must_not_be_guessed_leaves_what_was_in_force_until_it_is_mended() {
    let scene = Scene::new(&["client", "web"]);
    for object in policy() {
        scene.manifests().put(&object);
    }
    let client = scene.guest("client").namespace();
    let accept = json!({"defaultEndpointToHostAction": "Accept"});
    scene.manifests().put(&configuration("default", &accept));
    let mut agent = scene.start_agent();
    expect_host(client, Seen::Open);
    let bad = json!({"defaultEndpointToHostAction": "Drop", "interfacePrefix": "a/b", "metadataPort": 80});
    scene.manifests().put(&configuration("default", &bad));
    let report = agent.wait_for("the refusal", |report| {
        let warnings = &report.configuration.warnings;
        warnings.iter().any(|warning| warning.trouble == "refused")
    });
    assert!(parameter(&report, "MetadataPort").is_none(), "{report:?}");
    expect_host(client, Seen::Open);
    // Policy is followed all the same.
    scene.manifests().put(&network_policy("more", "has("));
    agent.wait_for("the next change", |report| !report.problems.is_empty());
    let mended = json!({"defaultEndpointToHostAction": "Drop"});
    scene.manifests().put(&configuration("default", &mended));
    agent.wait_for("no warning", |report| report.configuration.warnings.is_empty());
    for address in [HOST_V4.into(), HOST_V6.into()] {
        time_until(client, address, Question::Ping, Seen::Silent);
    }
}

#[test]
fn config_show_tells_the_running_agents_values_and_without_one_those_of_the_host() {
    let scene = Scene::new(&["a"]);
    let launcher = scene.launcher().with("EtcdPassword", "s3cret");
    let agent = {
        let spec = json!({"routeRefreshInterval": "45s"});
        scene.manifests().put(&configuration("default", &spec));
        launcher.start(1)
    };
    let shown = launcher.query(&["config", "show"]);
    assert_eq!(
        (shown["of"].as_str(), shown["agent"]["pid"].as_u64()),
        (Some("running-agent"), Some(agent.pid().into()))
    );
    let interval = shown_parameter(&shown, "RouteRefreshInterval");
    assert_eq!(interval["value"], "45");
    assert_eq!(interval["source"], "datastore-global");
    assert_eq!(
        interval["place"],
        "FelixConfiguration(default): spec.routeRefreshInterval"
    );
    assert_eq!(shown_parameter(&shown, "EtcdPassword")["value"], "(not shown)");
    let report = fs::read_to_string(scene.host().run_dir().join("report.json")).expect("a report");
    assert!(!report.contains("s3cret"));
    assert_eq!(shown_parameter(&shown, "HealthPort")["source"], "default");

    let offline = launcher.query(&["config", "show", "--offline"]);
    assert_eq!(offline["of"], "this-host");
    assert_eq!(shown_parameter(&offline, "RouteRefreshInterval")["value"], "90");
    agent.kill();
    let shown = launcher.query(&["config", "show"]);
    assert_eq!(
        (shown["of"].as_str(), shown["why"].as_str()),
        (Some("this-host"), Some("no agent runs here"))
    );
    assert_eq!(shown["agent"], Value::Null);
}
