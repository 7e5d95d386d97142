//! A port that policy denies stays closed whatever happens to tap, programs and agent, and what is allowed is back soon.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aya::programs::TcAttachType;
use calico_ebpf_tests::host::PIN_DIR;
use calico_ebpf_tests::manifests::{allow_all_egress, allow_tcp, allow_udp, network_policy};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen, unspecified_like};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::snapshot::programs_at;
use calico_ebpf_tests::traffic::{Server, at};
use calico_ebpf_tests::wait;
use calico_ebpf_userspace::dataplane::pins::Pins;
use nix::net::if_::if_nametoindex;

use crate::expect::{LIMIT, expect, expect_both, time_until};

/// A port of web that policy allows to everybody, and one that it allows to nobody.
const ALLOWED: u16 = 80;
const DENIED: u16 = 5000;
/// Time that a question waits for its answer.
const PATIENCE: Duration = Duration::from_millis(2);

/// Client, web and what listens there on the denied port.
fn scene_with_denied_port() -> (Scene, Server) {
    let scene = Scene::new(&["client", "web"]);
    scene.manifests().put(&allow_all_egress());
    let policy = network_policy("web", "name == 'web'")
        .ingress(allow_tcp(ALLOWED))
        .ingress(allow_udp(ALLOWED));
    scene.manifests().put(&policy);
    let denied = Server::udp(scene.guest("web").namespace(), DENIED);
    (scene, denied)
}

/// Those who ask web for its denied port, in both families and without a pause.
struct Askers {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Askers {
    fn start(scene: &Scene, from: &[&Netns]) -> Self {
        let end = Arc::default();
        let mut threads = Vec::new();
        for namespace in from {
            for address in scene.guest("web").vm().addresses() {
                let socket = namespace.run(|| UdpSocket::bind((unspecified_like(address), 0)));
                let socket = socket.expect("UDP socket");
                socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
                let end: Arc<AtomicBool> = Arc::clone(&end);
                threads.push(thread::spawn(move || {
                    let mut asked = 0;
                    while !end.load(Ordering::Relaxed) {
                        // While there is no route to web this fails, which is as good as a drop.
                        asked += u64::from(socket.send_to(b"are you there", at(address, DENIED)).is_ok());
                        drop(socket.recv(&mut [0; 64]));
                    }
                    asked
                }));
            }
        }
        Self { end, threads }
    }

    /// Returns how many questions were sent.
    fn finish(mut self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        let threads = self.threads.drain(..);
        threads
            .map(|thread| thread.join().expect("no asker panics"))
            .sum()
    }
}

impl Drop for Askers {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Waits until client reaches web's allowed port again.
#[track_caller]
fn expect_back(scene: &Scene) {
    for address in scene.guest("web").vm().addresses() {
        let client = scene.guest("client").namespace();
        time_until(client, address, Question::Tcp(ALLOWED), Seen::Open);
    }
}

#[test]
fn scenario_84_a_denied_port_stays_closed_while_taps_are_replaced_and_the_agent_dies() {
    let (mut scene, denied) = scene_with_denied_port();
    let _server = Server::tcp(scene.guest("web").namespace(), ALLOWED);
    let mut agent = scene.start_agent();
    let from = [scene.guest("client").namespace(), scene.host().outside()];
    let askers = Askers::start(&scene, &from);
    for _ in 0..3 {
        // Under a running agent, under a dead one, and while it starts.
        for name in ["web", "client"] {
            scene.plug(name);
            expect_back(&scene);
        }
        agent.kill();
        scene.plug("web");
        agent = scene.launcher().spawn();
        scene.plug("web");
        agent.wait_for("both endpoints are up", |report| {
            report
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.state == "up")
                .count()
                == 2
        });
        expect_back(&scene);
        assert_eq!(denied.asked(), 0, "a question got through");
    }
    let asked = askers.finish();
    assert!(asked > 500, "{asked} questions");
    assert_eq!(denied.asked(), 0, "a question got through");
    drop(agent);
}

#[test]
fn scenario_82_a_new_tap_gets_nothing_before_it_has_its_programs() {
    let (mut scene, _denied) = scene_with_denied_port();
    let allowed = Server::udp(scene.guest("web").namespace(), ALLOWED);
    let agent = scene.start_agent();
    // Flows that are open when the tap goes.
    let flows = scene.guest("web").vm().addresses().map(|address| {
        let client = scene.guest("client").namespace();
        let socket = client.run(|| UdpSocket::bind((unspecified_like(address), 0)));
        let socket = socket.expect("UDP socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        socket.connect(at(address, ALLOWED)).expect("connect");
        socket.send(b"before").expect("send");
        assert_eq!(socket.recv(&mut [0; 64]).expect("an answer"), 6, "{address}");
        socket
    });
    agent.kill();
    scene.plug("web");
    let (client, web, outside) = (scene.guest("client"), scene.guest("web"), scene.host().outside());
    for flow in &flows {
        flow.send(b"after").expect("send");
    }
    for from in [client.namespace(), &**outside] {
        expect_both(from, web, Question::Udp(ALLOWED), Seen::Silent);
    }
    assert_eq!(allowed.asked(), 2);

    let _agent = scene.start_agent();
    for address in web.vm().addresses() {
        // Once the tap is up a question is not lost any more.
        for from in [client.namespace(), &**outside] {
            expect(from, address, Question::Udp(ALLOWED), Seen::Open);
        }
    }
    assert_eq!(
        allowed.asked(),
        6,
        "what was sent before has not arrived late either"
    );
}

/// Where the link of a program on a tap is pinned.
fn link_of(host: &Netns, interface: &str, program: &str) -> String {
    let ifindex = host.run(|| if_nametoindex(interface)).expect("the tap is there");
    let links = Pins::below(Path::new(PIN_DIR)).links();
    format!("{}/{ifindex}-{program}", links.display())
}

#[test]
fn scenario_84_a_program_that_somebody_detaches_is_back_soon_and_the_other_one_judges_until_then() {
    let (scene, denied) = scene_with_denied_port();
    let _server = Server::tcp(scene.guest("web").namespace(), ALLOWED);
    let _agent = scene.start_agent();
    let host = scene.host().namespace();
    let askers = Askers::start(&scene, &[scene.guest("client").namespace()]);
    for name in ["client", "web"] {
        let interface = scene.guest(name).vm().interface();
        for (program, side) in [
            ("from_workload", TcAttachType::Ingress),
            ("to_workload", TcAttachType::Egress),
        ] {
            let link = link_of(host, &interface, program);
            host.stdout("bpftool", &["link", "detach", "pinned", &link]);
            wait::until("the program is back", LIMIT, || {
                programs_at(host, &interface, side).len() == 1
            });
            expect_back(&scene);
        }
    }
    let asked = askers.finish();
    assert!(asked > 500, "{asked} questions");
    assert_eq!(denied.asked(), 0, "a question got through");
}
