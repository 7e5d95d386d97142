//! Live migration seen from the destination (contract 1.4).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::agent::{Agent, Launcher};
use calico_ebpf_tests::frames::{self, Frame};
use calico_ebpf_tests::guest::Vm;
use calico_ebpf_tests::host::OUTSIDE_V4;
use calico_ebpf_tests::manifests::{HOSTNAME, Object, allow_everything, live_migration};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen, reach};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::snapshot::json;
use calico_ebpf_tests::traffic::at;
use calico_ebpf_tests::wait;

use crate::expect::{LIMIT, expect, expect_both};

const NORMAL: u64 = 1024;
const ELEVATED: u64 = 512;
const NO_ROUTES: [Vec<u64>; 2] = [Vec::new(), Vec::new()];

/// A host to which the guest `vm` moves, beside a guest `peer`. Until it arrives the outside machine stands for the
/// host where it runs still: it has the addresses, too.
struct Arrival {
    scene: Scene,
    migration: Object,
}

impl Arrival {
    fn new() -> Self {
        let scene = Scene::new(&["peer", "vm"]);
        scene.manifests().put(&allow_everything());
        let migration = live_migration(scene.guest("vm").vm(), "compute-2", HOSTNAME);
        scene.manifests().put(&migration);
        let arrival = Self { scene, migration };
        for address in arrival.vm().addresses() {
            arrival
                .scene
                .host()
                .outside()
                .ip(&format!("addr add {address} dev lo"));
        }
        arrival
    }

    fn vm(&self) -> &Vm {
        self.scene.guest("vm").vm()
    }

    fn launcher(&self) -> Launcher {
        self.scene
            .launcher()
            .with("LiveMigrationRouteConvergenceTime", "2")
    }

    fn write(&self, frame: &[u8]) {
        self.scene.guest("vm").tap().send(frame).expect("write a frame");
    }

    /// The host that the workload came from forgets it.
    fn leave_the_source(&self) {
        for address in self.vm().addresses() {
            self.scene
                .host()
                .outside()
                .ip(&format!("addr del {address} dev lo"));
        }
    }

    fn end_migration(&self) {
        self.scene.manifests().remove(&self.migration);
    }

    fn metrics(&self) -> [Vec<u64>; 2] {
        metrics(self.scene.host().namespace(), self.vm())
    }

    #[track_caller]
    fn expect_metric(&self, metric: u64) {
        let wanted = [vec![metric], vec![metric]];
        let found = wait::poll(LIMIT, || (self.metrics() == wanted).then_some(()));
        assert!(found.is_some(), "{:?} instead of {metric}", self.metrics());
    }

    #[track_caller]
    fn expect_phase(&self, agent: &mut Agent, phase: &str) {
        agent.wait_for(phase, |report| {
            let mut endpoints = report.endpoints.iter();
            endpoints
                .any(|endpoint| endpoint.interface == self.vm().interface() && endpoint.migration == phase)
        });
    }
}

/// Returns the metrics of all routes to a VM's addresses on its tap: IPv4, IPv6.
fn metrics(host: &Netns, vm: &Vm) -> [Vec<u64>; 2] {
    let tap = vm.interface();
    [("-4", vm.v4().to_string()), ("-6", vm.v6().to_string())].map(|(family, address)| {
        let routes = json(host, "ip", &["-j", family, "route", "show", "dev", &tap]);
        let of_vm = routes
            .as_array()
            .expect("a list of routes")
            .iter()
            .filter(|route| route["dst"] == address.as_str());
        of_vm
            .map(|route| route["metric"].as_u64().unwrap_or_default())
            .collect()
    })
}

#[test]
fn scenario_11_routes_wait_for_gratuitous_arp_and_lose_nothing_when_their_metric_falls() {
    let arrival = Arrival::new();
    let mut agent = arrival.launcher().start(2);
    let scene = &arrival.scene;
    let (peer, vm) = (scene.guest("peer"), scene.guest("vm"));

    // Up, under policy, and nobody is led here.
    arrival.expect_phase(&mut agent, "expected");
    let row = &scene
        .launcher()
        .query(&["endpoints", "--iface", &vm.vm().interface()])[0];
    assert_eq!(
        (&row["state"], &row["migration"]),
        (&"up".into(), &"expected".into())
    );
    assert_eq!(arrival.metrics(), NO_ROUTES);
    let spoofed = Frame {
        source: at(peer.vm().v4(), 4000),
        ..Frame::from(vm.vm(), 4000, at(OUTSIDE_V4, 4001))
    };
    arrival.write(&spoofed.udp(b"spoofed"));
    wait::until("policy is in force", LIMIT, || {
        scene.launcher().drops(DropReason::SourceAddress) == 1
    });
    let capture = vm.capture();
    expect_both(peer.namespace(), vm, Question::Ping, Seen::Open);
    assert!(
        capture
            .wait_for(Duration::ZERO, |frame| frame.get(12..14) == Some(&[0x08, 0x00]))
            .is_none(),
        "the workload is asked before it arrives"
    );

    arrival.write(&frames::gratuitous_arp(vm.vm()));
    arrival.expect_metric(ELEVATED);
    arrival.expect_phase(&mut agent, "arrived");
    arrival.leave_the_source();
    expect_both(peer.namespace(), vm, Question::Ping, Seen::Open);

    // From outside, by the kernel's route.
    let outside = scene.host().outside();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let pings = scope.spawn(|| {
            let mut seen = Vec::new();
            while !end.load(Ordering::Relaxed) {
                for address in vm.vm().addresses() {
                    seen.push(reach(outside, address, Question::Ping));
                }
            }
            seen
        });
        arrival.end_migration();
        arrival.expect_phase(&mut agent, "converging");
        assert_eq!(arrival.metrics(), [vec![ELEVATED], vec![ELEVATED]]);
        arrival.expect_phase(&mut agent, "");
        arrival.expect_metric(NORMAL);
        end.store(true, Ordering::Relaxed);
        let seen = pings.join().expect("the pinging thread does not panic");
        assert!(seen.len() > 20, "{}", seen.len());
        assert!(seen.iter().all(|seen| *seen == Seen::Open), "{seen:?}");
    });
}

#[test]
fn reverse_arp_of_qemu_brings_the_routes() {
    let arrival = Arrival::new();
    let mut agent = arrival.launcher().start(2);
    arrival.expect_phase(&mut agent, "expected");
    arrival.write(&frames::reverse_arp(arrival.vm()));
    arrival.expect_metric(ELEVATED);
}

#[test]
fn announcement_of_somebody_else_brings_no_routes() {
    let arrival = Arrival::new();
    let mut agent = arrival.launcher().start(2);
    arrival.expect_phase(&mut agent, "expected");
    let other = Vm::new("other", 99);
    arrival.write(&frames::gratuitous_arp(&other));
    arrival.write(&frames::reverse_arp(&other));
    wait::until("both are dropped", LIMIT, || {
        arrival.scene.launcher().drops(DropReason::SourceMac) == 2
    });
    // What comes later is looked at later.
    arrival.scene.manifests().put(&live_migration(
        arrival.scene.guest("peer").vm(),
        "compute-2",
        HOSTNAME,
    ));
    agent.wait_for("the other guest is expected", |report| {
        report
            .endpoints
            .iter()
            .all(|endpoint| endpoint.migration == "expected")
    });
    assert_eq!(arrival.metrics(), NO_ROUTES);
}

#[test]
fn missed_announcement_is_made_up_for_by_the_end_of_the_migration() {
    let arrival = Arrival::new();
    let mut agent = arrival.launcher().start(2);
    arrival.expect_phase(&mut agent, "expected");
    arrival.end_migration();
    arrival.expect_phase(&mut agent, "converging");
    arrival.expect_metric(ELEVATED);
    arrival.leave_the_source();
    let peer = arrival.scene.guest("peer").namespace();
    expect(peer, arrival.vm().v4().into(), Question::Ping, Seen::Open);
    arrival.expect_metric(NORMAL);
}

#[test]
fn restart_of_the_agent_forgets_neither_an_arrival_nor_an_announcement() {
    let arrival = Arrival::new();
    let mut agent = arrival.launcher().start(2);
    arrival.expect_phase(&mut agent, "expected");
    agent.kill();
    let mut agent = arrival.launcher().start(2);
    arrival.expect_phase(&mut agent, "expected");
    assert_eq!(arrival.metrics(), NO_ROUTES);
    agent.kill();
    // The programs hear it, whether an agent runs or not.
    arrival.write(&frames::gratuitous_arp(arrival.vm()));
    let mut agent = arrival.launcher().start(2);
    arrival.expect_phase(&mut agent, "arrived");
    arrival.expect_metric(ELEVATED);
    agent.kill();
    let mut agent = arrival.launcher().start(2);
    arrival.expect_phase(&mut agent, "arrived");
    assert_eq!(arrival.metrics(), [vec![ELEVATED], vec![ELEVATED]]);
    agent.kill();
    arrival.end_migration();
    let mut agent = arrival.launcher().start(2);
    arrival.expect_phase(&mut agent, "converging");
    arrival.expect_metric(NORMAL);
}
