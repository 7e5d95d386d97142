//! What cannot be done, or is not done yet, is told: settings that cannot be written, objects that are not enforced.

use std::fs;
use std::path::Path;
use std::time::Duration;

use calico_ebpf_tests::agent::Agent;
use calico_ebpf_tests::host::HOST_V4;
use calico_ebpf_tests::manifests::{HOSTNAME, Object, allow_everything, workload_endpoint};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{self, Question, Seen};
use calico_ebpf_tests::scene::{Scene, is_in_state};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::expect::{expect_both, time_until};

/// A setting that cannot be written: a read-only file over it.
struct ReadOnly<'a> {
    host: &'a Netns,
    setting: String,
}

impl<'a> ReadOnly<'a> {
    fn over(host: &'a Netns, path: &str, directory: &Path) -> Self {
        let (setting, file) = (format!("/proc/sys/{path}"), directory.join("setting"));
        fs::write(&file, "0\n").expect("write a file");
        host.run(|| {
            let bind = MsFlags::MS_BIND;
            mount(Some(&file), setting.as_str(), None::<&str>, bind, None::<&str>)?;
            let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(
                None::<&str>,
                setting.as_str(),
                None::<&str>,
                read_only,
                None::<&str>,
            )
        })
        .expect("mount over a setting");
        Self { host, setting }
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let unmounted = self
            .host
            .run(|| umount2(self.setting.as_str(), MntFlags::MNT_DETACH));
        unmounted.expect("unmount");
    }
}

#[test]
fn an_endpoint_whose_settings_cannot_be_written_is_down_with_the_reason_and_up_once_they_can_be() {
    let scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    let interface = b.vm().interface();
    let path = format!("net/ipv4/conf/{interface}/proxy_arp");
    let host = scene.host().namespace();
    let read_only = ReadOnly::over(host, &path, scene.host().directory());
    let mut agent = scene.launcher().spawn();
    let report = agent.wait_for("one endpoint is up and the other down", |report| {
        is_in_state(report, &interface, "down") && is_in_state(report, &a.vm().interface(), "up")
    });
    let endpoint = report
        .endpoints
        .iter()
        .find(|endpoint| endpoint.interface == interface);
    let reason = &endpoint.expect("it is reported").reason;
    assert!(
        reason.contains(&path) && reason.contains("Read-only file system"),
        "{reason}"
    );
    for command in ["endpoints", "status"] {
        let shown = scene.launcher().run(&[command, "-o", "json"]);
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(text.contains(&path), "{command}: {text}");
    }
    let address = b.vm().v4().into();
    time_until(a.namespace(), address, Question::Ping, Seen::Silent);

    drop(read_only);
    agent.wait_for("it is tried again", |report| {
        is_in_state(report, &interface, "up") && report.dirty.is_empty()
    });
    time_until(a.namespace(), address, Question::Ping, Seen::Open);
    assert_eq!(host.sysctl(&path), "1");
    let log = agent.log();
    let told = log
        .lines()
        .filter(|line| line.contains("WARN") && line.contains("retried") && line.contains(&path));
    assert_eq!(told.count(), 1, "told once, however often it is tried");
}

fn host_endpoint() -> Object {
    let spec = json!({"node": HOSTNAME, "interfaceName": "uplink0"});
    Object::new("HostEndpoint", "", "uplink", &spec)
}

/// Counts warnings of the log that name an object.
fn warnings_of(agent: &Agent, object: &str) -> usize {
    let log = agent.log();
    log.lines()
        .filter(|line| line.contains("WARN") && line.contains(object))
        .count()
}

#[test]
fn what_is_read_but_not_enforced_is_listed_counted_and_logged_once() {
    let scene = Scene::new(&["a"]);
    scene.manifests().put(&allow_everything());
    let endpoint = workload_endpoint(scene.guest("a").vm());
    let limited = endpoint
        .clone()
        .with("qosControls", json!({"ingressBandwidth": 1_000_000}));
    scene.manifests().put(&limited);
    let pool = json!({"cidr": "10.65.0.0/16", "natOutgoing": true});
    scene.manifests().put(&Object::new("IPPool", "", "pool", &pool));
    scene.manifests().put(&host_endpoint());
    let launcher = scene.launcher().with("HostEndpointsIgnored", "true");
    let mut agent = launcher.start(1);
    let name = endpoint.value()["metadata"]["name"].as_str().expect("a name");
    let objects = [
        ("HostEndpoint(uplink)", "host endpoint"),
        ("IPPool(pool)", "natOutgoing"),
        (&*format!("WorkloadEndpoint(openstack/{name})"), "qosControls"),
    ];
    let status = launcher.query(&["status"]);
    let listed = status["not_enforced"].as_array().expect("a list");
    let mut whats: Vec<_> = listed.iter().filter_map(|entry| entry["what"].as_str()).collect();
    whats.sort_unstable();
    assert_eq!(
        whats,
        ["host endpoint", "natOutgoing", "qosControls"],
        "{status:#}"
    );
    assert_eq!(status["problems_by_consequence"]["not-enforced"], 3, "{status:#}");
    let shown = launcher.run(&["status"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("Read but not enforced: 3"), "{text}");
    // Another change, and another start in place, tell nothing again.
    let spec = json!({"defaultEndpointToHostAction": "Accept"});
    let configuration = Object::new("FelixConfiguration", "", "default", &spec);
    scene.manifests().put(&configuration);
    agent.wait_for("the parameter", |report| {
        !report.configuration.parameters.is_empty()
            && report
                .configuration
                .parameters
                .iter()
                .any(|parameter| parameter.name == "DefaultEndpointToHostAction")
    });
    for (object, what) in objects {
        assert!(text.contains(&format!("{object}: {what}")), "{text}");
        assert_eq!(warnings_of(&agent, object), 1, "{object}");
    }
}

#[test]
fn a_host_endpoint_is_refused_at_the_start_and_told_when_it_comes_later() {
    let scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    scene.manifests().put(&host_endpoint());
    let mut refused = scene.launcher().spawn();
    assert!(!refused.wait_for_end().success());
    assert!(
        refused.log().contains("HostEndpointsIgnored"),
        "{}",
        refused.log()
    );
    drop(refused);

    scene.manifests().remove(&host_endpoint());
    let mut agent = scene.start_agent();
    scene.manifests().put(&host_endpoint());
    agent.wait_for("it is told", |report| report.not_enforced.len() == 1);
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    expect_both(a.namespace(), b, Question::Ping, Seen::Open);
    // Work that starts anew in place is no start of the agent.
    let spec: Value = json!({"defaultEndpointToHostAction": "Accept"});
    scene
        .manifests()
        .put(&Object::new("FelixConfiguration", "", "default", &spec));
    // All programs are verified once more for that.
    let limit = Duration::from_secs(20);
    let open = probe::time_until(a.namespace(), HOST_V4.into(), Question::Ping, Seen::Open, limit);
    assert!(open.is_some(), "the action is followed");
    expect_both(a.namespace(), b, Question::Ping, Seen::Open);
    assert!(agent.report().is_some(), "the agent runs on");
}
