//! What people reach for first when a network is in doubt: it works between guests, and prints what it prints where the
//! kernel forwards and nobody judges.

use std::fmt::Debug;
use std::io::{self, BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Stdio};

use calico_ebpf_tests::agent::Agent;
use calico_ebpf_tests::file_server::{FileServer, make_sparse_file};
use calico_ebpf_tests::host::{host_address_like, outside_address_like};
use calico_ebpf_tests::manifests::{
    allow_all_egress, allow_everything, allow_ping, allow_tcp, network_policy,
};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::Server;
use calico_ebpf_tests::wait;

use crate::expect::{LIMIT, expect};

/// Two guests behind a kernel that forwards and answers as often as it is asked.
fn plain_scene() -> Scene {
    let scene = Scene::new(&["a", "b"]);
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    for namespace in [
        scene.host().namespace(),
        scene.host().outside(),
        a.namespace(),
        b.namespace(),
    ] {
        // One error to a sender and second, by default: probes of several tools would share them.
        namespace.set_sysctls(&[("net/ipv4/icmp_ratelimit", "0"), ("net/ipv6/icmp/ratelimit", "0")]);
    }
    scene.host().forward_plainly(&[a, b]);
    scene
}

/// Runs `look` without the agent and with it, and expects the same.
#[track_caller]
fn expect_same<T: PartialEq + Debug>(scene: &Scene, look: impl Fn() -> T) -> (Agent, T) {
    let without = look();
    scene.manifests().put(&allow_everything());
    let agent = scene.start_agent();
    let with = look();
    assert_eq!(with, without, "with the agent, and without");
    (agent, with)
}

/// Where a's packets may go: to the other guest and to the outside.
fn targets(scene: &Scene) -> Vec<IpAddr> {
    let guest = scene.guest("b").vm().addresses();
    guest.into_iter().chain(guest.map(outside_address_like)).collect()
}

/// Returns the answers that `ping` prints, without their times.
fn ping(from: &Netns, target: IpAddr, size: &str) -> Vec<String> {
    let target = target.to_string();
    let printed = from.stdout(
        "ping",
        &["-n", "-c", "5", "-i", "0.01", "-s", size, "-W", "2", &target],
    );
    let answers = printed
        .lines()
        .filter_map(|line| Some(line.split_once(" time=")?.0.to_owned()));
    answers.collect()
}

#[test]
fn ping_gets_the_answers_that_it_gets_without_the_dataplane() {
    let scene = plain_scene();
    let a = scene.guest("a").namespace();
    let look = || {
        let ping = |target| ping(a, target, "56");
        targets(&scene).into_iter().flat_map(ping).collect::<Vec<_>>()
    };
    let (_agent, answers) = expect_same(&scene, look);
    assert_eq!(answers.len(), 20, "{answers:#?}");
    assert!(
        answers.iter().all(|line| line.ends_with("ttl=63")),
        "{answers:#?}"
    );
}

#[test]
fn scenario_73_and_77_ping_of_3000_bytes_is_answered_in_fragments() {
    let scene = plain_scene();
    let a = scene.guest("a").namespace();
    let look = || {
        let ping = |target| ping(a, target, "3000");
        targets(&scene).into_iter().flat_map(ping).collect::<Vec<_>>()
    };
    let (_agent, answers) = expect_same(&scene, look);
    assert_eq!(answers.len(), 20, "{answers:#?}");
    assert!(
        answers.iter().all(|line| line.starts_with("3008 bytes from ")),
        "{answers:#?}"
    );
}

/// Returns number and address of each hop that a tool prints as "1  192.0.2.1 ..." or "1:  192.0.2.1 ...", once.
fn hops(printed: &str) -> Vec<(u8, IpAddr)> {
    let hop = |line: &str| {
        let mut words = line.split_whitespace();
        let number = words.next()?.trim_end_matches(':').parse().ok()?;
        Some((number, words.next()?.parse().ok()?))
    };
    let mut hops: Vec<_> = printed.lines().filter_map(hop).collect();
    hops.dedup();
    hops
}

/// The host, then the target.
fn expected_hops(target: IpAddr) -> Vec<(u8, IpAddr)> {
    vec![(1, host_address_like(target)), (2, target)]
}

/// Expects the way to every target as `trace` shows it, with the agent and without.
fn expect_hops(trace: impl Fn(&Netns, &str) -> String) {
    let scene = plain_scene();
    let a = scene.guest("a").namespace();
    let look = || {
        let way = |target: IpAddr| hops(&trace(a, &target.to_string()));
        targets(&scene).into_iter().map(way).collect::<Vec<_>>()
    };
    let (_agent, ways) = expect_same(&scene, look);
    let expected: Vec<_> = targets(&scene).into_iter().map(expected_hops).collect();
    assert_eq!(ways, expected);
}

#[test]
fn scenario_80_traceroute_by_udp_shows_the_host_and_then_the_target() {
    expect_hops(|from, target| from.stdout("traceroute", &["-n", "-q", "1", "-m", "4", "-w", "2", target]));
}

#[test]
fn scenario_80_traceroute_by_icmp_shows_the_host_and_then_the_target() {
    expect_hops(|from, target| {
        from.stdout(
            "traceroute",
            &["-I", "-n", "-q", "1", "-m", "4", "-w", "2", target],
        )
    });
}

#[test]
fn scenario_80_tracepath_shows_the_host_the_target_and_the_mtu() {
    expect_hops(|from, target| {
        let printed = from.stdout("tracepath", &["-n", "-m", "4", target]);
        let resume = printed.lines().last().unwrap_or_default().trim();
        assert_eq!(resume, "Resume: pmtu 1500 hops 2 back 2", "{printed}");
        printed
    });
}

/// A `tcpdump` on a tap of the host, which ends by itself after a number of packets.
struct Tcpdump(Child);

impl Tcpdump {
    fn listen(host: &Netns, interface: &str, packets: &str) -> Self {
        let filter = "icmp or tcp or (icmp6 and (ip6[40] = 128 or ip6[40] = 129))";
        let child = host
            .command("tcpdump")
            .args(["-n", "-t", "-q", "-l", "--immediate-mode"])
            .args(["-c", packets, "-i", interface, filter])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut tcpdump = Self(child.expect("tcpdump starts (`cargo xtask setup`)"));
        let said = BufReader::new(tcpdump.0.stderr.as_mut().expect("it is piped"));
        let mut said = said.lines().map_while(Result::ok);
        assert!(
            said.any(|line| line.starts_with("listening on")),
            "tcpdump listens"
        );
        tcpdump
    }

    /// Returns what it printed, a line for each packet.
    fn finish(mut self) -> Vec<String> {
        let ended = wait::poll(LIMIT, || self.0.try_wait().expect("wait for tcpdump"));
        if ended.is_none() {
            drop(self.0.kill());
        }
        let printed = io::read_to_string(self.0.stdout.take().expect("it is piped"));
        let printed = printed.expect("tcpdump's output");
        assert!(ended.is_some(), "tcpdump saw less than it should:\n{printed}");
        printed.lines().map(str::to_owned).collect()
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn tcpdump_on_a_tap_shows_what_the_guest_sends_and_what_it_gets() {
    let scene = Scene::new(&["a", "b"]);
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    let _server = Server::tcp(b.namespace(), 81);
    scene.manifests().put(&allow_all_egress());
    let [ping4, ping6] = allow_ping();
    scene
        .manifests()
        .put(&network_policy("b", "name == 'b'").ingress(ping4).ingress(ping6));
    let _agent = scene.start_agent();
    let host = scene.host().namespace();
    for (from, to) in a.vm().addresses().into_iter().zip(b.vm().addresses()) {
        let at_a = Tcpdump::listen(host, &a.vm().interface(), "3");
        let at_b = Tcpdump::listen(host, &b.vm().interface(), "2");
        expect(a.namespace(), to, Question::Tcp(81), Seen::Silent);
        expect(a.namespace(), to, Question::Ping, Seen::Open);
        let (at_a, at_b) = (at_a.finish(), at_b.finish());
        let shows = |line: &str, [from, to]: [IpAddr; 2], what: &str| {
            line.contains(&format!(" {from}")) && line.contains(&format!("> {to}")) && line.contains(what)
        };
        // Each tap shows the two that passed; the one of the sender, what policy stopped, too.
        let [stopped, passed @ ..] = at_a.as_slice() else {
            panic!("nothing at a's tap")
        };
        assert!(
            shows(stopped, [from, to], "tcp 0") && stopped.contains(&format!("{to}.81:")),
            "{at_a:#?}"
        );
        for passed in [passed, &at_b] {
            let [request, reply] = passed else {
                panic!("a's tap: {at_a:#?}, b's tap: {at_b:#?}")
            };
            assert!(shows(request, [from, to], "echo request"), "{passed:#?}");
            assert!(shows(reply, [to, from], "echo reply"), "{passed:#?}");
        }
    }
}

/// Bytes of the large file.
const LARGE: u64 = 1_000_000_000;

#[test]
fn scenario_81_curl_gets_a_file_of_a_gigabyte_byte_by_byte() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client"), scene.guest("web"));
    let file = scene.host().directory().join("large");
    make_sparse_file(&file, LARGE).expect("make the file");
    let server = FileServer::start(web.namespace(), &file, 2);
    scene.manifests().put(&allow_all_egress());
    scene
        .manifests()
        .put(&network_policy("web", "name == 'web'").ingress(allow_tcp(80)));
    let _agent = scene.start_agent();
    for address in web.vm().addresses() {
        let url = match address {
            IpAddr::V4(address) => format!("http://{address}/large"),
            IpAddr::V6(address) => format!("http://[{address}]/large"),
        };
        let mut curl = client
            .namespace()
            .command("curl")
            .args([
                "--silent",
                "--show-error",
                "--fail",
                "--globoff",
                "--max-time",
                "60",
            ])
            .arg(&url)
            .env_remove("http_proxy")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl starts (`cargo xtask setup`)");
        let compared = client
            .namespace()
            .command("cmp")
            .arg("-")
            .arg(&file)
            .stdin(curl.stdout.take().expect("it is piped"))
            .output()
            .expect("cmp starts");
        let ended = curl.wait().expect("curl ends");
        let difference =
            [compared.stdout, compared.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(compared.status.success(), "{url}: {difference:?}");
        assert!(ended.success(), "{url}: {ended}");
    }
    server.finish();
}
