//! What is written for Neutron, against a real etcd, without a dataplane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_ebpf_tests::etcd::Etcd;
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::wait;
use calico_ebpf_userspace::config::Config;
use calico_ebpf_userspace::etcd;
use calico_ebpf_userspace::report::StatusReport;
use calico_ebpf_userspace::status::{EndpointId, EndpointState, EndpointStates, StatusWriter};
use etcd_client::Permission;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

const LIMIT: Duration = Duration::from_secs(30);
const HOST: &str = "/calico/felix/v2/no-region/host/compute-1/";

/// The task under test, with its network in the namespace of etcd.
struct Writer {
    writer: StatusWriter,
    /// Ends after the task.
    _runtime: Runtime,
}

/// Reports each second and expires after two, of a process that is 10 s old: the first report is due.
fn config(etcd: &Etcd) -> Config {
    Config {
        felix_hostname: "compute-1".to_owned(),
        etcd_endpoints: vec![etcd.endpoint()],
        endpoint_reporting_enabled: true,
        endpoint_reporting_delay: Duration::from_millis(200),
        reporting_interval: Duration::from_secs(1),
        reporting_ttl: Duration::from_secs(2),
        ..Config::default()
    }
}

impl Writer {
    fn start(etcd: &Etcd, config: &Config) -> Self {
        let namespace = Arc::clone(etcd.namespace());
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || namespace.enter().expect("setns"))
            .build()
            .expect("a runtime");
        let started = Instant::now()
            .checked_sub(Duration::from_secs(10))
            .expect("the machine runs for longer");
        let guard = runtime.enter();
        let writer = StatusWriter::start(config, etcd::Etcd::new(config), started);
        drop(guard);
        Self {
            writer,
            _runtime: runtime,
        }
    }

    fn tell(&self, states: &[(&str, EndpointState)]) {
        let states = states.iter().map(|(name, state)| (id(name), *state));
        self.writer.tell(states.collect());
    }

    #[track_caller]
    fn wait_for(&mut self, what: &str, condition: impl Fn(&StatusReport) -> bool) -> StatusReport {
        let found = wait::poll(LIMIT, || Some(self.writer.report()).filter(&condition));
        found.unwrap_or_else(|| panic!("never {what}: {:?}", self.writer.report()))
    }
}

fn id(name: &str) -> EndpointId {
    EndpointId {
        orchestrator: "openstack".to_owned(),
        namespace: "openstack".to_owned(),
        workload: format!("vm-{name}"),
        endpoint: name.to_owned(),
    }
}

fn key(name: &str) -> String {
    format!("{HOST}workload/openstack/openstack%2fvm-{name}/endpoint/{name}")
}

fn start_etcd() -> Etcd {
    Etcd::start(&Arc::new(Netns::guest()))
}

/// Values of this host's endpoint keys, by name of the endpoint.
fn endpoints(etcd: &Etcd) -> BTreeMap<String, String> {
    let name = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
    etcd.get_prefix(&format!("{HOST}workload/"))
        .iter()
        .map(|(key, value)| (name(key), value.clone()))
        .collect()
}

#[track_caller]
fn wait_for_endpoints(etcd: &Etcd, expected: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(name, status)| ((*name).to_owned(), format!(r#"{{"status":"{status}"}}"#)))
        .collect();
    let mut found = BTreeMap::new();
    let reached = wait::poll(LIMIT, || {
        found = endpoints(etcd);
        (found == expected).then_some(())
    });
    assert!(reached.is_some(), "{found:?}, not {expected:?}");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn liveness_expires_with_the_agent_and_its_copy_does_not() {
    let etcd = start_etcd();
    let writer = Writer::start(&etcd, &config(&etcd));
    let (status, copy) = (format!("{HOST}status"), format!("{HOST}last_reported_status"));
    wait::until("the first report", LIMIT, || etcd.get(&status).is_some());
    wait::until("a later report", LIMIT, || {
        etcd.get(&status)
            .is_some_and(|text| json(&text)["first_update"] == false)
    });
    let report = json(&etcd.get(&copy).expect("the copy"));
    assert!(report["uptime"].as_f64().is_some_and(|uptime| uptime > 10.0));
    assert_eq!(report["time"].as_str().map(str::len), Some(20), "{report}");
    assert!(etcd.lease_of(&status).is_some_and(|lease| lease != 0));
    assert_eq!(etcd.lease_of(&copy), Some(0));
    drop(writer);
    wait::until("liveness has expired", LIMIT, || etcd.get(&status).is_none());
    assert_eq!(
        json(&etcd.get(&copy).expect("the copy stays"))["first_update"],
        false
    );
}

#[test]
fn the_first_report_of_a_process_says_so_and_a_lost_lease_is_replaced() {
    let etcd = start_etcd();
    let slow = Config {
        reporting_interval: Duration::from_secs(3),
        reporting_ttl: Duration::from_mins(1),
        ..config(&etcd)
    };
    let _writer = Writer::start(&etcd, &slow);
    let status = format!("{HOST}status");
    let first = wait::poll(LIMIT, || etcd.get(&status)).expect("the first report");
    assert_eq!(json(&first)["first_update"], true);
    let lease = etcd.lease_of(&status).expect("the key is there");
    etcd.call(async |client| client.lease_revoke(lease).await);
    let second = wait::poll(LIMIT, || etcd.get(&status).filter(|text| *text != first));
    assert_eq!(json(&second.expect("the next report"))["first_update"], false);
    assert_ne!(etcd.lease_of(&status), Some(lease));
}

#[test]
fn stale_keys_are_corrected_and_nobody_elses_are_touched() {
    let etcd = start_etcd();
    let foreign = [
        ("/calico/felix/v2/no-region/host/round-trip-check", "17"),
        (
            "/calico/felix/v2/no-region/host/compute-10/workload/openstack/a/endpoint/b",
            "x",
        ),
        (
            "/calico/felix/v2/region-east/host/compute-1/workload/openstack/a/endpoint/b",
            "y",
        ),
        ("/calico/felix/v2/no-region/host/compute-1/something", "z"),
        ("/calico/openstack/v2/no-region/neutron_election", "e"),
    ];
    let versions = |etcd: &Etcd| {
        foreign.map(|(key, _)| etcd.call(async |client| client.get(key, None).await).kvs()[0].mod_revision())
    };
    for (key, value) in foreign {
        etcd.put(key, value);
    }
    let before = versions(&etcd);
    for (name, value) in [
        ("gone", r#"{"status":"up"}"#),
        ("down", r#"{"status":"up"}"#),
        ("unseen", r#"{"status":"up"}"#),
        ("broken", "{"),
    ] {
        etcd.put(&key(name), value);
    }
    let writer = Writer::start(&etcd, &config(&etcd));
    writer.tell(&[
        ("up", EndpointState::Up),
        ("down", EndpointState::Down),
        ("unseen", EndpointState::Unknown),
        ("broken", EndpointState::Up),
    ]);
    let expected = [("broken", "up"), ("down", "down"), ("unseen", "up"), ("up", "up")];
    wait_for_endpoints(&etcd, &expected);
    writer.tell(&[("up", EndpointState::Down)]);
    wait_for_endpoints(&etcd, &[("up", "down")]);
    writer.tell(&[]);
    wait_for_endpoints(&etcd, &[]);
    assert_eq!(versions(&etcd), before);
}

#[test]
fn many_endpoints_are_told_in_few_requests() {
    let etcd = start_etcd();
    let before = etcd.revision();
    let off = Config {
        reporting_interval: Duration::ZERO,
        ..config(&etcd)
    };
    let mut writer = Writer::start(&etcd, &off);
    let names: Vec<_> = (0..250).map(|number| format!("{number:03}")).collect();
    let states: EndpointStates = names.iter().map(|name| (id(name), EndpointState::Up)).collect();
    writer.writer.tell(states);
    let report = writer.wait_for("all are written", |report| report.endpoints_written == 250);
    assert_eq!(
        (report.endpoints_pending, report.endpoint_writes, report.failures),
        (0, 250, 0)
    );
    assert_eq!(endpoints(&etcd).len(), 250);
    assert_eq!(etcd.revision() - before, 3);
    assert_eq!(etcd.get(&format!("{HOST}status")), None, "switched off");
}

#[test]
fn after_etcd_was_away_or_was_emptied_the_keys_are_right_again() {
    let mut etcd = start_etcd();
    let mut writer = Writer::start(&etcd, &config(&etcd));
    writer.tell(&[("a", EndpointState::Up)]);
    wait_for_endpoints(&etcd, &[("a", "up")]);
    etcd.kill();
    writer.tell(&[("a", EndpointState::Down), ("b", EndpointState::Up)]);
    let report = writer.wait_for("the failure is told", |report| !report.error.is_empty());
    assert!(report.error.contains("http://127.0.0.1:2379"), "{report:?}");
    writer.tell(&[("b", EndpointState::Down)]);
    etcd.restart();
    wait_for_endpoints(&etcd, &[("b", "down")]);
    let report = writer.wait_for("all is well", |report| report.error.is_empty());
    assert!(report.failures > 0 && !report.last_error.is_empty(), "{report:?}");
    etcd.wipe();
    etcd.restart();
    wait_for_endpoints(&etcd, &[("b", "down")]);
    wait::until("liveness is there again", LIMIT, || {
        etcd.get(&format!("{HOST}status")).is_some()
    });
}

#[test]
fn a_user_with_rights_on_its_own_keys_only_is_enough_and_less_is_told() {
    let mut etcd = start_etcd();
    let own = Permission::read_write(HOST).with_prefix();
    etcd.add_user("agent", "word", &[own]);
    etcd.add_user("reader", "word", &[Permission::read("/calico/").with_prefix()]);
    etcd.enable_auth("secret");
    let as_user = |name: &str| Config {
        etcd_username: Some(name.to_owned()),
        etcd_password: Some("word".to_owned()),
        ..config(&etcd)
    };
    let writer = Writer::start(&etcd, &as_user("agent"));
    writer.tell(&[("a", EndpointState::Up)]);
    wait_for_endpoints(&etcd, &[("a", "up")]);
    wait::until("liveness", LIMIT, || etcd.get(&format!("{HOST}status")).is_some());
    drop(writer);
    let mut writer = Writer::start(&etcd, &as_user("reader"));
    writer.tell(&[("a", EndpointState::Down)]);
    let report = writer.wait_for("the refusal is told", |report| !report.error.is_empty());
    assert!(
        report.error.contains("our user may not write /calico/felix/v2"),
        "{report:?}"
    );
}

#[test]
fn another_configuration_is_acted_on_at_once() {
    let etcd = start_etcd();
    let off = Config {
        endpoint_reporting_enabled: false,
        ..config(&etcd)
    };
    let mut writer = Writer::start(&etcd, &off);
    writer.tell(&[("a", EndpointState::Up)]);
    let report = writer.wait_for("the reason is told", |report| !report.reason.is_empty());
    assert!(!report.enabled, "{report:?}");
    assert_eq!(etcd.get_prefix("/calico/"), []);
    writer.writer.configure(&config(&etcd));
    wait_for_endpoints(&etcd, &[("a", "up")]);
    let region = Config {
        openstack_region: Some("east".to_owned()),
        ..config(&etcd)
    };
    writer.writer.configure(&region);
    let moved = key("a").replace("no-region", "region-east");
    wait::until("the key of the region", LIMIT, || etcd.get(&moved).is_some());
}
