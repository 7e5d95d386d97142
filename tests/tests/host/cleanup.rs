//! `cleanup` removes what is ours and nothing else.

use calico_ebpf_tests::foreign::{ForeignProgram, NEXT};
use calico_ebpf_tests::guest::{Guest, Vm};
use calico_ebpf_tests::manifests::{allow_everything, workload_endpoint};
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::snapshot::{Snapshot, interfaces};

use crate::expect::{expect_both, time_until};

#[test]
fn cleanup_after_a_killed_agent_leaves_the_host_as_it_was_before() {
    let scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    let before = Snapshot::take(scene.host().namespace());
    let agent = scene.start_agent();
    expect_both(
        scene.guest("a").namespace(),
        scene.guest("b"),
        Question::Ping,
        Seen::Open,
    );
    assert_ne!(Snapshot::take(scene.host().namespace()).difference(&before), "");
    agent.kill();
    scene.launcher().clean_up();
    Snapshot::take(scene.host().namespace()).assert_same_as(&before);
}

#[test]
fn cleanup_leaves_the_host_as_it_was_also_when_taps_came_and_went() {
    let mut scene = Scene::new(&["a", "b"]);
    let visitor = Vm::new("visitor", 5);
    scene.manifests().put(&allow_everything());
    scene.manifests().put(&workload_endpoint(&visitor));
    let before = Snapshot::take(scene.host().namespace());
    let mut agent = scene.start_agent();
    let mut visitor = Guest::boot(visitor);
    visitor.plug(scene.host());
    agent.wait_for("three endpoints are up", |report| {
        report
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.state == "up")
            .count()
            == 3
    });
    scene.plug("b");
    for address in scene.guest("b").vm().addresses() {
        time_until(scene.guest("a").namespace(), address, Question::Ping, Seen::Open);
    }
    visitor.unplug();
    agent.wait_for("the visitor has left", |report| {
        report
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.state == "up")
            .count()
            == 2
    });
    agent.kill();
    // A tap that the agent never saw, and one that goes while nobody looks.
    let stranger = Guest::start(scene.host(), "stranger", 9);
    scene.plug("a");
    drop(stranger);
    scene.launcher().clean_up();
    Snapshot::take(scene.host().namespace()).assert_same_as(&before);
}

#[test]
fn cleanup_leaves_foreign_links_filters_routes_and_neighbours_alone() {
    let scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    let host = scene.host().namespace();
    let tap = scene.guest("a").vm().interface();
    host.ip(&format!(
        "link add other0 type veth peer name other1
         link set other1 up
         link set other0 up
         route add 198.51.100.0/24 dev other0
         route add 203.0.113.7/32 dev {tap} proto static
         neigh add 198.51.100.7 lladdr 02:00:00:00:00:07 dev other0 nud permanent"
    ));
    host.stdout("tc", &["qdisc", "add", "dev", "other0", "clsact"]);
    // A classic BPF program that accepts everything.
    let filter = "filter add dev other0 ingress bpf bytecode 1,6~0~0~4294967295";
    host.stdout(
        "tc",
        &filter
            .split(' ')
            .map(|word| word.replace('~', " "))
            .collect::<Vec<_>>(),
    );
    let _link = ForeignProgram::attach(host, &tap, NEXT).expect("attach");
    let before = Snapshot::take(host);
    // By default foreign routes on our taps are taken away, as Felix does.
    let launcher = scene.launcher().with("RemoveExternalRoutes", "false");
    launcher.start(2).terminate();
    launcher.clean_up();
    Snapshot::take(host).assert_same_as(&before);
}

#[test]
fn an_interface_that_is_no_workloads_gets_the_hosts_defaults() {
    let scene = Scene::new(&["a"]);
    let host = scene.host().namespace();
    let settings = [
        "ipv4/conf/{}/forwarding",
        "ipv4/conf/{}/rp_filter",
        "ipv6/conf/{}/disable_ipv6",
    ];
    let values = |interface: &str| {
        settings.map(|setting| host.sysctl(&format!("net/{}", setting.replace("{}", interface))))
    };
    host.set_sysctl("net/ipv4/ip_forward", "1");
    host.ip("link add early type veth peer name early-peer");
    let _agent = scene.start_agent();
    host.ip("link add late type veth peer name late-peer");
    calico_ebpf_tests::wait::until(
        "the new interface is as the early one",
        crate::expect::LIMIT,
        || values("late") == values("early"),
    );
    assert!(interfaces(host).contains(&"late".to_owned()));
}

#[test]
fn cleanup_without_anything_to_clean_succeeds_and_changes_nothing() {
    let scene = Scene::new(&["a"]);
    let before = Snapshot::take(scene.host().namespace());
    scene.launcher().clean_up();
    scene.launcher().clean_up();
    Snapshot::take(scene.host().namespace()).assert_same_as(&before);
}
