//! What flows and denied packets see while something is done to the agent.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::manifests::{allow_all_egress, allow_tcp, network_policy};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Amount, Outcome, Server, Transfer, at};
use calico_ebpf_tests::wait;

use crate::expect::LIMIT;

/// 200 Mbit/s: what two busy processors carry without loss, so that a retransmission means a packet lost.
const BYTES_PER_SECOND: u32 = 25_000_000;
/// Time between two packets of a probe that policy denies.
const PROBE_INTERVAL: Duration = Duration::from_millis(2);
/// Below the least retransmission timeout of TCP (200 ms): a stall below it lost no packet, it only waited for one
/// of two processors.
const SCHEDULING: Duration = Duration::from_millis(150);

/// A client that may send tcp/9000 to web, and a port of web that answers whoever gets there: nobody may.
pub(crate) fn scene_with_forbidden_port() -> (Scene, Server) {
    let scene = Scene::new(&["client", "web"]);
    for object in policy() {
        scene.manifests().put(&object);
    }
    let forbidden = Server::udp(scene.guest("web").namespace(), 5000);
    // A tail loss probe is sent after two round trips, which are 0.2 ms here: it would count scheduling.
    for guest in scene.guests() {
        guest.namespace().set_sysctl("net/ipv4/tcp_early_retrans", "0");
    }
    scene
        .host()
        .outside()
        .set_sysctl("net/ipv4/tcp_early_retrans", "0");
    (scene, forbidden)
}

/// The policy of [`scene_with_forbidden_port`].
pub(crate) fn policy() -> [calico_ebpf_tests::manifests::Object; 2] {
    [
        allow_all_egress(),
        network_policy("web", "name == 'web'").ingress(allow_tcp(9000)),
    ]
}

/// What a transfer and a denied probe saw while something was done.
#[derive(Debug)]
pub(crate) struct Observed {
    outcome: Outcome,
    retransmissions: u64,
    duration: Duration,
    probes: u64,
    probe_answers: u64,
    drops: BTreeMap<String, u64>,
    flows: (usize, usize),
}

impl Observed {
    /// How long that took.
    pub(crate) fn duration(&self) -> Duration {
        self.duration
    }

    /// Expects that nothing was lost and nothing got through that policy denies, as in as much time in which nothing
    /// was done.
    #[track_caller]
    pub(crate) fn assert_as_undisturbed_as(&self, undisturbed: &Self) {
        for observed in [self, undisturbed] {
            assert!(observed.outcome.is_whole(), "{observed:?}");
            assert_eq!(observed.probe_answers, 0, "{observed:?}");
            assert_eq!(observed.flows.0, observed.flows.1, "{observed:?}");
            let mut drops = observed.drops.clone();
            let denied = drops.remove(DropReason::IngressPolicy.name());
            assert_eq!(
                denied,
                Some(observed.probes),
                "each probe is dropped and counted once: {observed:?}"
            );
            assert_eq!(drops, BTreeMap::new(), "nothing else is dropped: {observed:?}");
        }
        assert!(
            self.retransmissions <= undisturbed.retransmissions,
            "{self:?}\n{undisturbed:?}"
        );
        let stall = |observed: &Self| observed.outcome.received.longest_stall;
        assert!(
            stall(self) <= stall(undisturbed).max(SCHEDULING),
            "{self:?}\n{undisturbed:?}"
        );
    }
}

/// Runs `work` under a transfer from `sender` to web, and a stream of datagrams from client that policy denies.
pub(crate) fn observe(scene: &Scene, sender: &Netns, work: impl FnOnce()) -> Observed {
    let web = scene.guest("web");
    let launcher = scene.launcher();
    let end: Arc<AtomicBool> = Arc::default();
    let target = at(web.vm().v4(), 9000);
    let amount = Amount::Until(Arc::clone(&end));
    let transfer = Transfer::start_paced(sender, web.namespace(), target, amount, BYTES_PER_SECOND);
    let transfer = transfer.expect("transfer");
    wait::until("the transfer is under way", LIMIT, || {
        transfer.arrived() > 1 << 20
    });

    let retransmissions = || sender.snmp("Tcp", "RetransSegs");
    let count_flows = || launcher.flows().len();
    let (drops_before, retransmissions_before, flows_before) =
        (launcher.counters(), retransmissions(), count_flows());
    let start = Instant::now();
    let (probes, probe_answers) = thread::scope(|scope| {
        let prober = scope.spawn(|| probe(scene, &end));
        work();
        end.store(true, Ordering::Relaxed);
        prober.join().expect("the prober does not panic")
    });
    let duration = start.elapsed();
    let flows_after = count_flows();
    let outcome = transfer.finish().expect("the transfer ends well");
    let mut drops = launcher.counters();
    for (name, before) in drops_before {
        if let Some(after) = drops.get_mut(&name) {
            *after -= before;
        }
    }
    drops.retain(|_, packets| *packets > 0);
    Observed {
        outcome,
        retransmissions: retransmissions() - retransmissions_before,
        duration,
        probes,
        probe_answers,
        drops,
        flows: (flows_before, flows_after),
    }
}

/// Sends datagrams from client to a port of web that policy denies; returns how many, and how many answers came.
fn probe(scene: &Scene, end: &AtomicBool) -> (u64, u64) {
    let target = at(scene.guest("web").vm().v4(), 5000);
    let socket = scene
        .guest("client")
        .namespace()
        .run(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("UDP socket");
    socket.set_read_timeout(Some(PROBE_INTERVAL)).expect("a limit");
    let (mut probes, mut answers) = (0, 0);
    while !end.load(Ordering::Relaxed) {
        socket.send_to(b"are you there", target).expect("send");
        probes += 1;
        answers += u64::from(socket.recv(&mut [0; 64]).is_ok());
    }
    (probes, answers)
}
