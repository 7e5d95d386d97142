//! Two hosts with BIRD and one etcd between them: what is on a tap of one is reached from the other by the routes that the agent writes.

use std::time::Duration;

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::agent::{Agent, Launcher};
use calico_ebpf_tests::bird::Bird;
use calico_ebpf_tests::etcd::{Etcd, Setup};
use calico_ebpf_tests::fabric::{Fabric, Place};
use calico_ebpf_tests::guest::{Guest, Vm};
use calico_ebpf_tests::host::Host;
use calico_ebpf_tests::manifests::{
    HOSTNAME, Manifests, allow_tcp, cluster_information, network_policy, only_from, workload_endpoint_on,
};
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::traffic::Server;
use calico_ebpf_tests::wait;

use crate::expect::expect_both;

/// Domain and case are part of a host's name.
const OTHER: &str = "Compute2.example.org";
/// Two scans of BIRD's, the agent's own work and a slow machine.
const ROUTED: Duration = Duration::from_secs(30);

/// A host with one VM, the agent and BIRD. What is dropped first is declared first.
struct Side {
    bird: Bird,
    agent: Agent,
    launcher: Launcher,
    guest: Guest,
    host: Host,
}

impl Side {
    /// Returns the kernel's routes to one VM, of both families.
    fn routes_to(&self, vm: &Vm) -> Vec<String> {
        let show = |family, address: String| {
            self.host
                .namespace()
                .stdout("ip", &[family, "route", "show", &address])
        };
        [show("-4", vm.v4().to_string()), show("-6", vm.v6().to_string())]
            .iter()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .collect()
    }

    /// Prints what the host knows of the way to others.
    #[expect(clippy::print_stdout, reason = "what the test shows beside passing")]
    fn print(&self, name: &str) {
        let host = self.host.namespace();
        println!("=== {name}: ip route\n{}", host.stdout("ip", &["route"]));
        println!("=== {name}: ip -6 route\n{}", host.stdout("ip", &["-6", "route"]));
        println!("=== {name}: birdc show route\n{}", self.bird.ask("show route"));
    }
}

#[test]
fn vms_on_two_hosts_meet_by_the_routes_of_bird_and_both_hosts_police_them() {
    let hosts = [Host::new(), Host::new()];
    let mut fabric = Fabric::new();
    let places = [fabric.join(&hosts[0]), fabric.join(&hosts[1])];
    let etcd = Setup::new(fabric.switch()).at(fabric.place().v4()).start();
    etcd.put_object(&cluster_information(true));
    write_policies(&etcd);
    let [first, second] = hosts;
    let a = side(first, HOSTNAME, Vm::new("a", 1), &etcd, places);
    let mut b = side(second, OTHER, Vm::new("b", 2), &etcd, [places[1], places[0]]);
    let _servers = [80, 81, 82].map(|port| Server::tcp(b.guest.namespace(), port));
    let _answering = [80, 81, 82].map(|port| Server::tcp(a.guest.namespace(), port));
    for bird in [&a.bird, &b.bird] {
        bird.wait_for_sessions();
    }
    wait::until("each host has routes to the other's VM", ROUTED, || {
        a.routes_to(b.guest.vm()).len() == 2 && b.routes_to(a.guest.vm()).len() == 2
    });
    a.print(HOSTNAME);
    b.print(OTHER);
    for route in a.routes_to(b.guest.vm()) {
        assert!(
            route.contains("proto bird") && route.contains("fabric0"),
            "{route}"
        );
    }

    let dropped = |side: &Side, reason| side.launcher.drops(reason);
    expect_both(a.guest.namespace(), &b.guest, Question::Tcp(80), Seen::Open);
    let before = dropped(&b, DropReason::IngressPolicy);
    expect_both(a.guest.namespace(), &b.guest, Question::Tcp(81), Seen::Silent);
    assert!(
        dropped(&b, DropReason::IngressPolicy) >= before + 2,
        "b's host denies 81"
    );
    let before = dropped(&a, DropReason::EgressPolicy);
    expect_both(a.guest.namespace(), &b.guest, Question::Tcp(82), Seen::Silent);
    assert!(
        dropped(&a, DropReason::EgressPolicy) >= before + 2,
        "a's host denies 82"
    );
    // The way back: b may open 82 only, a takes 80 and 82.
    expect_both(b.guest.namespace(), &a.guest, Question::Tcp(82), Seen::Open);
    expect_both(b.guest.namespace(), &a.guest, Question::Tcp(80), Seen::Silent);

    b.guest.unplug();
    etcd.delete_object(&workload_endpoint_on(OTHER, b.guest.vm()));
    wait::until("the routes of the VM that went are withdrawn", ROUTED, || {
        a.routes_to(b.guest.vm()).is_empty()
    });
    a.print(HOSTNAME);
    assert!(!a.bird.ask("show route").contains(&b.guest.vm().v4().to_string()));
    assert_eq!(b.routes_to(a.guest.vm()).len(), 2, "the other way stays");
    for side in [a, b] {
        assert!(side.agent.terminate().success());
    }
}

fn side(host: Host, name: &str, vm: Vm, etcd: &Etcd, [own, peer]: [Place; 2]) -> Side {
    let mut guest = Guest::boot(vm);
    guest.plug(&host);
    etcd.put_object(&workload_endpoint_on(name, guest.vm()));
    let nothing = Manifests::new(&host.directory().join("manifests"));
    let launcher = Launcher::new(&host, &nothing)
        .with_etcd(&etcd.endpoint())
        .on(name);
    let agent = launcher.start(1);
    let bird = Bird::start(&host, own, peer);
    Side {
        bird,
        agent,
        launcher,
        guest,
        host,
    }
}

/// From a to b: 80 is open, 81 is closed at b, 82 is closed at a. From b to a: 82 is open, 80 is closed at b.
fn write_policies(etcd: &Etcd) {
    for (vm, peer, opens, takes) in [("a", "b", [80, 81], [80, 82]), ("b", "a", [82, 83], [80, 82])] {
        let from_peer = format!("name == '{peer}'");
        let mut policy = network_policy(vm, &format!("name == '{vm}'"));
        for port in opens {
            policy = policy.egress(allow_tcp(port));
        }
        for port in takes {
            policy = policy.ingress(only_from(allow_tcp(port), &from_peer));
        }
        etcd.put_object(&policy);
    }
}
