//! Twenty deaths of the agent under a transfer, against as much time without any.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::manifests::{allow_all_egress, allow_tcp, network_policy};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Amount, Outcome, Server, Transfer, at};
use calico_ebpf_tests::wait;

use crate::expect::LIMIT;

const ROUNDS: u32 = 20;
/// 200 Mbit/s: what two busy processors carry without loss, so that a retransmission means a packet lost.
const BYTES_PER_SECOND: u32 = 25_000_000;
/// Time between two packets of a probe that policy denies.
const PROBE_INTERVAL: Duration = Duration::from_millis(2);
/// Below the least retransmission timeout of TCP (200 ms): a stall below it lost no packet, it only waited for one
/// of two processors.
const SCHEDULING: Duration = Duration::from_millis(150);

/// What a transfer and a denied probe saw while something was done.
#[derive(Debug)]
struct Observed {
    outcome: Outcome,
    retransmissions: u64,
    duration: Duration,
    probes: u64,
    probe_answers: u64,
    drops: BTreeMap<String, u64>,
    flows: (usize, usize),
}

#[test]
fn twenty_deaths_and_starts_of_the_agent_lose_no_flow_and_let_nothing_through() {
    let scene = Scene::new(&["client", "web"]);
    scene.manifests().put(&allow_all_egress());
    scene
        .manifests()
        .put(&network_policy("web", "name == 'web'").ingress(allow_tcp(9000)));
    let forbidden = Server::udp(scene.guest("web").namespace(), 5000);
    // A tail loss probe is sent after two round trips, which are 0.2 ms here: it would count scheduling.
    for guest in scene.guests() {
        guest.namespace().set_sysctl("net/ipv4/tcp_early_retrans", "0");
    }
    let mut agent = Some(scene.start_agent());
    let with_deaths = observe(&scene, || {
        for _ in 0..ROUNDS {
            agent.take().expect("an agent runs").kill();
            agent = Some(scene.start_agent());
        }
    });
    let duration = with_deaths.duration;
    let without = observe(&scene, || assert!(wait::poll(duration, || None::<()>).is_none()));

    for observed in [&with_deaths, &without] {
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
    assert_eq!(forbidden.asked(), 0);
    assert!(
        with_deaths.retransmissions <= without.retransmissions,
        "{with_deaths:?}\n{without:?}"
    );
    let stall = |observed: &Observed| observed.outcome.received.longest_stall;
    assert!(
        stall(&with_deaths) <= stall(&without).max(SCHEDULING),
        "{with_deaths:?}\n{without:?}"
    );
}

/// Runs `work` under a transfer from client to web and a stream of datagrams that policy denies.
fn observe(scene: &Scene, work: impl FnOnce()) -> Observed {
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let launcher = scene.launcher();
    let end: Arc<AtomicBool> = Arc::default();
    let target = at(web.vm().v4(), 9000);
    let amount = Amount::Until(Arc::clone(&end));
    let transfer = Transfer::start_paced(client, web.namespace(), target, amount, BYTES_PER_SECOND);
    let transfer = transfer.expect("transfer");
    wait::until("the transfer is under way", LIMIT, || {
        transfer.arrived() > 1 << 20
    });

    let retransmissions = || client.snmp("Tcp", "RetransSegs");
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
