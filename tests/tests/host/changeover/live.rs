//! There and back under traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use calico_ebpf_tests::felix::{Felix, Iptables, rules_of, write_foreign_rules};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen, reach_within};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::snapshot::Snapshot;
use calico_ebpf_tests::traffic::{Amount, Server, Transfer, at};
use calico_ebpf_tests::wait;

use super::quiet::Quiet;
use super::{DENIED, OPEN, said, scene};
use crate::expect::expect_both;

/// A transfer that stalls for longer has lost more than a few packets.
const STALL: Duration = Duration::from_secs(4);
/// Longest time until a transfer has moved on.
const PROGRESS: Duration = Duration::from_secs(30);
/// Slow enough for a queue on the way never to overflow.
const BYTES_PER_SECOND: u32 = 4 << 20;

#[test]
fn connections_live_through_the_way_to_us_and_back_with_iptables_legacy() {
    println!("{}", there_and_back(Iptables::Legacy, None));
}

#[test]
fn connections_live_through_the_way_to_us_and_back_with_iptables_nft() {
    println!("{}", there_and_back(Iptables::Nft, Some(1024)));
}

/// Returns what was moved and asked meanwhile, for people.
fn there_and_back(iptables: Iptables, metric: Option<u32>) -> String {
    let (scene, felix) = scene(iptables, metric);
    let host = scene.host().namespace();
    write_foreign_rules(host, iptables);
    let before_felix = rules_of(host);
    felix.write(host);
    let with_felix = (rules_of(host), Snapshot::take(host));
    assert_ne!(with_felix.0, before_felix);
    let traffic = Traffic::start(&scene);
    let mut quiet = quiet_connections(&scene);
    thread::scope(|scope| {
        let _stop = StopAtEnd(Arc::clone(&traffic.stop));
        let probing = scope.spawn(|| traffic.probe(&scene));
        traffic.go_on("under Felix");

        let agent = scene.start_agent();
        traffic.go_on("under both");
        let dry = scene.launcher().query(&["adopt", "--dry-run"]);
        assert_eq!(rules_of(host), with_felix.0, "a dry run changes nothing");
        let adopted = scene.launcher().query(&["adopt"]);
        for field in ["tables", "ip_sets"] {
            assert_eq!(dry[field], adopted[field]);
        }
        assert_eq!(adopted["tables"].as_array().map(Vec::len), Some(8), "{adopted}");
        assert_eq!(adopted["left"], serde_json::json!([]));
        assert!(adopted["connections"]["flows"].as_u64() >= Some(4), "{adopted}");
        assert_eq!(rules_of(host), before_felix);
        let again = scene.launcher().run(&["adopt"]);
        assert!(said(&again, 0).contains("nothing of Felix is here"));
        for connection in &mut quiet {
            connection.server_speaks_first();
        }
        traffic.go_on("under us");
        expect_policy(&scene);
        // The kernel's connection tracking has never seen those between guests.
        quiet.extend(quiet_connections(&scene));

        assert!(agent.terminate().success());
        let handed = scene.launcher().query(&["release", "--flows-only"]);
        assert!(handed["connections"]["flows"].as_u64() >= Some(14), "{handed}");
        assert_eq!(handed["connections"]["failed"], 0, "{handed}");
        felix.write(host);
        let _process = Felix::process(host);
        traffic.go_on("under both, on the way back");
        let released = scene.launcher().query(&["release"]);
        assert_eq!(released["left"], serde_json::json!([]));
        assert_eq!(rules_of(host), with_felix.0);
        Snapshot::take(host).assert_same_as(&with_felix.1);
        for connection in &mut quiet {
            connection.server_speaks_first();
        }
        traffic.go_on("under Felix again");
        expect_policy(&scene);
        traffic.stop.store(true, Ordering::Relaxed);
        probing.join().expect("the prober does not panic");
    });
    traffic.finish()
}

/// Ends transfers and probes also when the test fails: nothing would wait for it otherwise.
struct StopAtEnd(Arc<AtomicBool>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// New connections are judged: by Felix, or by us.
#[track_caller]
fn expect_policy(scene: &Scene) {
    let web = scene.guest("web");
    let _server = Server::tcp(web.namespace(), OPEN[0]);
    for from in [scene.guest("client").namespace(), scene.host().outside()] {
        expect_both(from, web, Question::Tcp(OPEN[0]), Seen::Open);
        expect_both(from, web, Question::Tcp(DENIED), Seen::Silent);
        expect_both(from, web, Question::Udp(DENIED), Seen::Silent);
    }
}

/// Both families, between guests and from outside.
fn quiet_connections(scene: &Scene) -> Vec<Quiet> {
    let web = scene.guest("web");
    let clients: [&Netns; 2] = [scene.guest("client").namespace(), scene.host().outside()];
    let mut connections = Vec::new();
    for address in web.vm().addresses() {
        for client in clients {
            connections.push(Quiet::open(client, web.namespace(), at(address, OPEN[3])));
        }
    }
    connections
}

/// Transfers in every direction, and servers that nobody may reach.
struct Traffic {
    transfers: Vec<(String, Transfer)>,
    stop: Arc<AtomicBool>,
    forbidden: [Server; 2],
    probes: AtomicU64,
}

impl Traffic {
    fn start(scene: &Scene) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, web) = (scene.guest("client"), scene.guest("web"));
        let outside: &Netns = scene.host().outside();
        let mut transfers = Vec::new();
        let mut start = |from: &Netns, to: &Netns, address, name: String| {
            let amount = Amount::Until(Arc::clone(&stop));
            let transfer = Transfer::start_paced(from, to, address, amount, BYTES_PER_SECOND);
            let transfer = transfer.unwrap_or_else(|error| panic!("{name}: {error}"));
            transfers.push((name, transfer));
        };
        for address in web.vm().addresses() {
            let beyond = calico_ebpf_tests::host::outside_address_like(address);
            start(
                client.namespace(),
                web.namespace(),
                at(address, OPEN[1]),
                format!("client to {address}"),
            );
            start(
                outside,
                web.namespace(),
                at(address, OPEN[2]),
                format!("outside to {address}"),
            );
            start(
                web.namespace(),
                outside,
                at(beyond, 7000),
                format!("web to {beyond}"),
            );
        }
        let forbidden = [
            Server::tcp(web.namespace(), DENIED),
            Server::udp(web.namespace(), DENIED),
        ];
        Self {
            transfers,
            stop,
            forbidden,
            probes: AtomicU64::new(0),
        }
    }

    /// Asks for what nobody may reach until told to stop.
    fn probe(&self, scene: &Scene) {
        const QUICK: Duration = Duration::from_millis(4);
        let web = scene.guest("web").vm().addresses();
        let from: [&Netns; 2] = [scene.guest("client").namespace(), scene.host().outside()];
        while !self.stop.load(Ordering::Relaxed) {
            for client in from {
                for address in web {
                    for question in [Question::Udp(DENIED), Question::Tcp(DENIED)] {
                        reach_within(client, address, question, QUICK);
                        self.probes.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Waits until each transfer has moved on and each forbidden question was asked, and none answered.
    #[track_caller]
    fn go_on(&self, when: &str) {
        let before: Vec<u64> = self
            .transfers
            .iter()
            .map(|(_, transfer)| transfer.arrived())
            .collect();
        let probes = self.probes.load(Ordering::Relaxed);
        for ((name, transfer), before) in self.transfers.iter().zip(before) {
            wait::until(&format!("{when}: {name} goes on"), PROGRESS, || {
                transfer.arrived() > before + u64::from(BYTES_PER_SECOND / 4)
            });
        }
        wait::until(&format!("{when}: questions are asked"), PROGRESS, || {
            self.probes.load(Ordering::Relaxed) >= probes + 16
        });
        self.expect_nothing_forbidden(when);
    }

    #[track_caller]
    fn expect_nothing_forbidden(&self, when: &str) {
        let asked = self.forbidden.each_ref().map(Server::asked);
        assert_eq!(asked, [0; 2], "{when}: forbidden packets have passed");
    }

    /// Expects that everything has arrived, and tells how much that was.
    #[track_caller]
    fn finish(self) -> String {
        self.expect_nothing_forbidden("at the end");
        let mut text = format!(
            "forbidden questions asked: {}",
            self.probes.load(Ordering::Relaxed)
        );
        for (name, transfer) in self.transfers {
            let outcome = transfer
                .finish()
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(outcome.is_whole(), "{name}: {outcome:?}");
            let stall = outcome.received.longest_stall;
            assert!(stall < STALL, "{name}: {outcome:?}");
            let line = format!("\n{name}: {} bytes, longest stall {stall:?}", outcome.sent);
            text.push_str(&line);
        }
        text
    }
}
