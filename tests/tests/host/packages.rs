//! The packages on a node with systemd: an upgrade loses no packet, a removal leaves policy in force, a purge (RPM: an
//! erasure) leaves nothing.

use std::env;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::manifests::{
    Object, allow_all_egress, allow_ping, allow_tcp, allow_udp, network_policy,
};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::node::Node;
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Amount, Server, Transfer, at};
use calico_ebpf_tests::wait;

use crate::expect::{LIMIT, expect_both};

const NEWER: &str = "calico-ebpf-newer.deb";
const BUILT: &str = "calico-ebpf-built.deb";
const BUILT_RPM: &str = "calico-ebpf-built.rpm";
/// Upgrades and downgrades in turn.
const ROUNDS: usize = 4;
/// Each packet of a stream is asked for again only when its answer is there or is given up.
const GIVEN_UP: Duration = Duration::from_secs(2);
/// 40 Mbit/s: no queue overflows while dpkg wants the processors.
const BYTES_PER_SECOND: u32 = 5_000_000;

/// A package of this build, by the variable that has its path: `cargo xtask test` packs both.
fn built_package(variable: &str) -> PathBuf {
    let path = env::var_os(variable);
    PathBuf::from(path.unwrap_or_else(|| panic!("{variable}: run this by `cargo xtask test`")))
}

/// Puts the package, and one with a higher version and another binary, into a directory.
fn packages(directory: &Path) -> PathBuf {
    let packages = directory.join("packages");
    fs::create_dir(&packages).expect("a directory for packages");
    for (variable, name) in [("CALICO_EBPF_DEB", BUILT), ("CALICO_EBPF_RPM", BUILT_RPM)] {
        fs::copy(built_package(variable), packages.join(name)).expect("the package of this build");
    }
    let script = r#"
        dpkg-deb -R "$1" "$2/newer"
        sed -i 's/^Version: .*/&+newer/' "$2/newer/DEBIAN/control"
        printf newer >> "$2/newer/usr/bin/calico-ebpf"
        (cd "$2/newer" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | xargs -0 md5sum > DEBIAN/md5sums)
        dpkg-deb --root-owner-group -Zgzip -z1 -b "$2/newer" "$3"
    "#;
    let status = Command::new("sh")
        .args(["-euc", script, "sh"])
        .args([
            &packages.join(BUILT),
            &directory.to_owned(),
            &packages.join(NEWER),
        ])
        .stdout(Stdio::null())
        .status()
        .expect("sh");
    assert!(status.success(), "the newer package: {status}");
    packages
}

/// A client that may ask web on tcp/9000, udp/7 and by ping, and a node without a package.
fn scene_with_policy() -> (Scene, Node) {
    let scene = Scene::new(&["client", "web"]);
    scene.manifests().put(&allow_all_egress());
    let policy = network_policy("web", "name == 'web'")
        .ingress(allow_tcp(9000))
        .ingress(allow_udp(7));
    scene
        .manifests()
        .put(&allow_ping().into_iter().fold(policy, Object::ingress));
    let packages = packages(scene.host().directory());
    let node = Node::boot(scene.host(), scene.manifests(), &packages);
    (scene, node)
}

/// Waits until both guests' endpoints are up.
fn wait_for_endpoints(node: &Node) {
    wait::until("both endpoints are up", LIMIT, || {
        let endpoints = node.query(&["endpoints"]);
        let text = endpoints.to_string();
        text.matches(r#""state":"up""#).count() == 2
    });
}

/// Packets of the kernel's counters by drop reason, except those of the denied probe.
fn drops(node: &Node) -> Vec<(String, u64)> {
    let counters = node.query(&["counters"]);
    let dropped = counters["dropped"].as_array().expect("a list of drop reasons");
    dropped
        .iter()
        .map(|entry| (entry["reason"].as_str(), entry["packets"].as_u64()))
        .filter_map(|(reason, packets)| Some((reason?.to_owned(), packets?)))
        .filter(|(reason, packets)| *packets > 0 && reason != DropReason::IngressPolicy.name())
        .collect()
}

#[test]
fn an_upgrade_of_the_package_under_traffic_loses_no_packet_and_lets_nothing_through() {
    let (scene, node) = scene_with_policy();
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let echo = Server::udp(web.namespace(), 7);
    let forbidden = Server::udp(web.namespace(), 5000);
    node.install(BUILT);
    wait_for_endpoints(&node);

    let end: Arc<AtomicBool> = Arc::default();
    let target = at(web.vm().v4(), 9000);
    let amount = Amount::Until(Arc::clone(&end));
    let transfer = Transfer::start_paced(client, web.namespace(), target, amount, BYTES_PER_SECOND);
    let transfer = transfer.expect("transfer");
    let pinged = web.vm().v4().to_string();
    // Segments that were sent again although the first ones had arrived are reported by the receiver: the rest was lost.
    let lost_by_tcp = || {
        let again = client.snmp("Tcp", "RetransSegs");
        let needlessly = client.netstat("TcpExt", "TCPDSACKRecvSegs");
        (again.saturating_sub(needlessly), again)
    };
    let (lost_before, again_before) = lost_by_tcp();
    let before = drops(&node);
    let mut agents = vec![node.main_process()];
    let (asked, lost, pings, denied_answers) = thread::scope(|scope| {
        let pings = scope.spawn(|| ping(client, &pinged, &end));
        let datagrams = scope.spawn(|| ask(client, at(web.vm().v4(), 7), GIVEN_UP, &end));
        let denied = scope.spawn(|| ask(client, at(web.vm().v4(), 5000), Duration::from_millis(5), &end));
        for round in 0..ROUNDS {
            node.install(if round % 2 == 0 { NEWER } else { BUILT });
            agents.push(node.main_process());
        }
        end.store(true, Ordering::Relaxed);
        let (asked, lost) = datagrams.join().expect("no panic");
        let (sent, unanswered) = denied.join().expect("no panic");
        let pings = pings.join().expect("no panic");
        (asked, lost, pings, sent - unanswered)
    });
    let outcome = transfer.finish().expect("the transfer ends well");

    let (lost_after, again_after) = lost_by_tcp();
    assert_eq!(
        drops(&node),
        before,
        "what policy allows was dropped; pings: {pings:?}"
    );
    agents.dedup();
    assert_eq!(
        agents.len(),
        ROUNDS + 1,
        "each round has an agent of its own: {agents:?}"
    );
    let version = node.stdout(&["dpkg-query", "--show", "--showformat=${Version}", "calico-ebpf"]);
    assert!(!version.contains("newer"), "the last round went back: {version}");
    assert!(outcome.is_whole(), "{outcome:?}");
    assert_eq!(lost_after, lost_before, "segments of TCP");
    assert!(asked > 100, "{asked} datagrams");
    assert_eq!(lost, 0, "of {asked} datagrams");
    assert_eq!(echo.asked(), asked, "each datagram came once");
    assert!(pings.0 > 100, "{pings:?}");
    assert_eq!(pings.0, pings.1, "each echo request has its reply");
    assert_eq!((forbidden.asked(), denied_answers), (0, 0), "what policy denies");
    println!(
        "{ROUNDS} replacements: {asked} datagrams, {} pings, {} MB by TCP ({} segments sent again needlessly, longest \
         stall {:?}), none lost",
        pings.0,
        outcome.sent / 1_000_000,
        again_after - again_before,
        outcome.received.longest_stall
    );
}

#[test]
fn a_removal_of_the_package_leaves_policy_in_force_and_a_purge_leaves_nothing() {
    let (scene, node) = scene_with_policy();
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _servers = [9000, 81].map(|port| Server::tcp(web.namespace(), port));
    let looks = "ls -A /etc/calico /etc/init/calico-ebpf.conf /var/lib/calico-ebpf /run/calico-ebpf 2>/dev/null; \
                 ls -d /sys/fs/bpf/calico-ebpf 2>/dev/null; \
                 systemctl list-unit-files 'calico*' --no-legend; \
                 ls /etc/systemd/system/multi-user.target.wants | grep calico; true";
    let routes = || scene.host().namespace().stdout("ip", &["route", "show"]);
    let before = routes();
    node.install(BUILT);
    wait_for_endpoints(&node);
    expect_both(client, web, Question::Tcp(9000), Seen::Open);

    node.stdout(&["dpkg", "--remove", "calico-ebpf"]);
    assert_eq!(node.main_process(), 0, "the agent was stopped");
    expect_both(client, web, Question::Tcp(9000), Seen::Open);
    expect_both(client, web, Question::Tcp(81), Seen::Silent);

    node.stdout(&["dpkg", "--purge", "calico-ebpf"]);
    assert_eq!(routes(), before);
    assert_eq!(node.stdout(&["sh", "-c", looks]), "");
    let status = node.output(&["dpkg-query", "--show", "calico-ebpf"]);
    assert!(!status.status.success(), "dpkg still knows the package");
}

#[test]
fn a_purge_that_cannot_clean_up_fails_with_the_cure_and_succeeds_the_next_time() {
    let (_scene, node) = scene_with_policy();
    node.install(BUILT);
    wait_for_endpoints(&node);
    node.stdout(&["dpkg", "--remove", "calico-ebpf"]);
    // Somebody's agent, started by hand from the copy.
    let script = "removed=/var/lib/calico-ebpf/removed
        setsid $removed/calico-ebpf run --config=$removed/felix.cfg </dev/null >/dev/null 2>&1 & echo $!";
    let by_hand = node.stdout(&["sh", "-euc", script]);
    wait::until("the agent started by hand holds the lock", LIMIT, || {
        let sockets = node.stdout(&["cat", "/proc/net/unix"]);
        sockets.contains("@calico-ebpf/agent")
    });
    let output = node.output(&["dpkg", "--purge", "calico-ebpf"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "a purge beside a running agent");
    assert!(
        words.contains("still on this host") && words.contains("dpkg --purge"),
        "{words}"
    );
    node.stdout(&["kill", by_hand.trim()]);
    wait::until("the lock is free", LIMIT, || {
        let sockets = node.stdout(&["cat", "/proc/net/unix"]);
        !sockets.contains("@calico-ebpf/agent")
    });
    node.stdout(&["dpkg", "--purge", "calico-ebpf"]);
    let left = node.output(&["ls", "/sys/fs/bpf/calico-ebpf"]);
    assert!(!left.status.success(), "the dataplane is still there");
}

#[test]
fn an_rpm_is_replaced_with_the_dataplane_in_force_and_its_erasure_leaves_nothing() {
    let (scene, node) = scene_with_policy();
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _servers = [9000, 81].map(|port| Server::tcp(web.namespace(), port));
    let path = format!("/srv/packages/{BUILT_RPM}");
    // A database of its own; Debian has none of the packages that the dependencies name.
    let rpm = |arguments: &[&str]| {
        let options = ["rpm", "--force-debian", "--nodeps", "--dbpath=/var/tmp/rpmdb"];
        node.stdout(&[&options, arguments].concat())
    };
    rpm(&["--install", &path]);
    assert_eq!(node.main_process(), 0, "an rpm starts nothing by itself");
    node.stdout(&["systemctl", "enable", "--now", "calico-ebpf.service"]);
    wait_for_endpoints(&node);
    expect_both(client, web, Question::Tcp(9000), Seen::Open);

    let before = node.main_process();
    rpm(&["--upgrade", "--force", &path]);
    wait::until("a new agent is ready", LIMIT, || {
        node.main_process() != before && node.is_active()
    });
    expect_both(client, web, Question::Tcp(9000), Seen::Open);
    expect_both(client, web, Question::Tcp(81), Seen::Silent);

    rpm(&["--erase", "calico-ebpf"]);
    assert_eq!(node.main_process(), 0, "the agent was stopped");
    let left = "ls -d /sys/fs/bpf/calico-ebpf /run/calico-ebpf /usr/bin/calico-ebpf 2>/dev/null || true";
    assert_eq!(node.stdout(&["sh", "-c", left]), "");
}

/// Asks a datagram server until `end`, one question at a time; returns how many questions, and how many had no answer
/// within `patience`.
fn ask(from: &Netns, target: std::net::SocketAddr, patience: Duration, end: &AtomicBool) -> (u64, u64) {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).expect("UDP socket");
    socket.set_read_timeout(Some(patience)).expect("a limit");
    socket.connect(target).expect("connect");
    let (mut asked, mut lost) = (0_u64, 0);
    while !end.load(Ordering::Relaxed) {
        asked += 1;
        socket.send(&asked.to_be_bytes()).expect("send");
        let mut answer = [0; 8];
        let heard = socket.recv(&mut answer).is_ok() && answer == asked.to_be_bytes();
        lost += u64::from(!heard);
    }
    (asked, lost)
}

/// Pings until `end`, as a person would watch a VM; returns how many requests were sent and how many replies came.
/// Each run of `ping` waits for its last reply.
fn ping(from: &Netns, target: &str, end: &AtomicBool) -> (u64, u64) {
    let (mut sent, mut received) = (0, 0);
    while !end.load(Ordering::Relaxed) {
        let output = from.output(
            "ping",
            &["-n", "-q", "-i", "0.005", "-c", "100", "-W", "2", target],
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("packets transmitted"));
        let line = line.unwrap_or_else(|| panic!("ping says {text}"));
        let mut numbers = line.split(' ').filter_map(|word| word.parse::<u64>().ok());
        sent += numbers.next().expect("a number of requests");
        received += numbers.next().expect("a number of replies");
    }
    (sent, received)
}
