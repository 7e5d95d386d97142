//! Metadata and floating addresses with real guests, a real service and a real network outside (contract 3.5).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::agent::Agent;
use calico_ebpf_tests::frames::Frame;
use calico_ebpf_tests::host::{HOST_V4, HOST_V6, OUTSIDE_V4, UPLINK};
use calico_ebpf_tests::manifests::{allow_all_egress, allow_everything, network_policy, workload_endpoint};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen, reach_within};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Outcome, Server, at, transfer};
use calico_ebpf_tests::wait;
use serde_json::json;

use crate::expect::{LIMIT, expect, time_until};

const METADATA: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
/// Floating addresses of guest b.
const EXTERNAL: [&str; 2] = ["198.51.100.2", "2001:db8:f::2"];
/// Longest time that either side of an exchange waits for the other.
const STUCK: Duration = Duration::from_secs(20);

pub(crate) fn external() -> [IpAddr; 2] {
    EXTERNAL.map(|text| text.parse().expect("an address"))
}

/// Guests a and b; b has floating addresses, to which the outside has routes.
pub(crate) fn floating_scene() -> (Scene, Agent) {
    let scene = Scene::new(&["a", "b"]);
    let b = scene.guest("b").vm();
    let nats = json!([
        {"internalIP": b.v4(), "externalIP": EXTERNAL[0]},
        {"internalIP": b.v6(), "externalIP": EXTERNAL[1]},
    ]);
    scene.manifests().put(&workload_endpoint(b).with("ipNATs", nats));
    scene.host().outside().ip(&format!(
        "route add 198.51.100.0/24 via {HOST_V4}
         route add 2001:db8:f::/48 via {HOST_V6}"
    ));
    let agent = scene.start_agent();
    (scene, agent)
}

/// Takes one connection, reads a request to its end and answers with `bytes` bytes.
fn serve_once(
    namespace: &Netns,
    address: SocketAddr,
    bytes: usize,
) -> thread::JoinHandle<(usize, SocketAddr)> {
    let listener = namespace.run(|| TcpListener::bind(address)).expect("listen");
    thread::spawn(move || {
        let (mut connection, client) = listener.accept().expect("a client");
        connection.set_read_timeout(Some(STUCK)).expect("a limit");
        connection.set_write_timeout(Some(STUCK)).expect("a limit");
        let mut request = Vec::new();
        connection.read_to_end(&mut request).expect("a request");
        connection.write_all(&vec![b'm'; bytes]).expect("answer");
        (request.len(), client)
    })
}

/// Sends a request of `bytes` bytes and returns the length of the answer.
fn ask(namespace: &Netns, address: SocketAddr, bytes: usize) -> usize {
    let mut connection = namespace
        .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))
        .unwrap_or_else(|error| panic!("cannot reach {address}: {error}"));
    connection.set_read_timeout(Some(STUCK)).expect("a limit");
    connection.set_write_timeout(Some(STUCK)).expect("a limit");
    connection.write_all(&vec![b'r'; bytes]).expect("ask");
    connection.shutdown(Shutdown::Write).expect("end the request");
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).expect("an answer");
    assert!(answer.iter().all(|byte| *byte == b'm'));
    answer.len()
}

#[test]
fn scenario_20_metadata_on_loopback_answers_at_length_while_everything_is_denied() {
    let scene = Scene::new(&["vm"]);
    let _agent = scene.start_agent();
    let vm = scene.guest("vm");
    let service = serve_once(scene.host().namespace(), at(Ipv4Addr::LOCALHOST, 8775), 3_000_000);
    assert_eq!(ask(vm.namespace(), METADATA, 1_500_000), 3_000_000);
    let (asked, client) = service.join().expect("the service ends well");
    assert_eq!((asked, client.ip()), (1_500_000, IpAddr::from(vm.vm().v4())));
}

#[test]
fn scenario_20_metadata_elsewhere_answers_too() {
    for (parameter, remote) in [(HOST_V4, false), (OUTSIDE_V4, true)] {
        let scene = Scene::new(&["vm"]);
        let _agent = scene
            .launcher()
            .with("MetadataAddr", &parameter.to_string())
            .with("MetadataPort", "9775")
            .start(1);
        let namespace = if remote {
            scene.host().outside()
        } else {
            scene.host().namespace()
        };
        let service = serve_once(namespace, at(parameter, 9775), 500_000);
        let vm = scene.guest("vm");
        assert_eq!(ask(vm.namespace(), METADATA, 1000), 500_000);
        let (_, client) = service.join().expect("the service ends well");
        assert_eq!(client.ip(), IpAddr::from(vm.vm().v4()));
    }
}

#[test]
fn scenario_20_a_metadata_service_that_is_down_refuses_and_one_that_is_switched_off_is_silent() {
    for (address, expected) in [("127.0.0.1", Seen::Refused), ("none", Seen::Silent)] {
        let scene = Scene::new(&["vm"]);
        let _agent = scene.launcher().with("MetadataAddr", address).start(1);
        expect(
            scene.guest("vm").namespace(),
            METADATA.ip(),
            Question::Tcp(80),
            expected,
        );
    }
}

#[test]
fn metadata_opens_no_other_service_on_loopback() {
    let scene = Scene::new(&["vm"]);
    scene.manifests().put(&allow_everything());
    let servers = [8775, 22].map(|port| Server::tcp(scene.host().namespace(), port));
    let _agent = scene
        .launcher()
        .with("DefaultEndpointToHostAction", "ACCEPT")
        .start(1);
    let vm = scene.guest("vm");
    let before = scene.launcher().drops(DropReason::Martian);
    for port in [8775, 22] {
        vm.tap()
            .send(&Frame::from(vm.vm(), 4000, at(Ipv4Addr::LOCALHOST, port)).udp(b"x"))
            .expect("write a frame");
    }
    // A written frame waits for the processor that takes it up; only when both are judged does silence say something.
    wait::until("both frames are dropped as martians", LIMIT, || {
        scene.launcher().drops(DropReason::Martian) == before + 2
    });
    expect(vm.namespace(), METADATA.ip(), Question::Tcp(22), Seen::Silent);
    let answer = reach_within(vm.namespace(), METADATA.ip(), Question::Tcp(80), STUCK);
    assert_eq!(answer, Seen::Open);
    // The client is connected before the server has taken the connection.
    wait::until("the service was asked", LIMIT, || servers[0].asked() > 0);
    assert_eq!(servers.map(|server| server.asked()), [1, 0]);
}

#[test]
fn scenario_20_a_request_to_metadata_finds_its_way_through_a_narrow_uplink() {
    let scene = Scene::new(&["vm"]);
    let _agent = scene
        .launcher()
        .with("MetadataAddr", &OUTSIDE_V4.to_string())
        .start(1);
    // Only the host's ICMP error tells the guest, which knows the service by another address and port.
    scene
        .host()
        .namespace()
        .ip(&format!("link set {UPLINK} mtu 1300"));
    let service = serve_once(scene.host().outside(), at(OUTSIDE_V4, 8775), 1000);
    assert_eq!(ask(scene.guest("vm").namespace(), METADATA, 1_000_000), 1000);
    let (asked, _) = service.join().expect("the service ends well");
    assert_eq!(asked, 1_000_000);
}

#[test]
fn contract_3_5_a_floating_address_is_reached_from_everywhere() {
    let (scene, _agent) = floating_scene();
    scene.manifests().put(&allow_everything());
    let b = scene.guest("b");
    let _servers = [Server::tcp(b.namespace(), 80), Server::udp(b.namespace(), 161)];
    let host = scene.host();
    time_until(
        scene.guest("a").namespace(),
        external()[0],
        Question::Ping,
        Seen::Open,
    );
    let askers = [
        ("another guest", scene.guest("a").namespace()),
        ("outside", host.outside()),
        ("the host", host.namespace()),
        ("itself", b.namespace()),
    ];
    for (who, asker) in askers {
        println!("{who}");
        for address in external() {
            for question in [Question::Tcp(80), Question::Udp(161), Question::Ping] {
                expect(asker, address, question, Seen::Open);
            }
            // The error is translated as well: it is taken for an answer to what was asked.
            expect(asker, address, Question::Tcp(81), Seen::Refused);
            expect(asker, address, Question::Udp(162), Seen::Refused);
        }
    }
}

#[test]
fn contract_3_5_policy_judges_floating_traffic_by_the_fixed_address() {
    let (scene, _agent) = floating_scene();
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    let _server = Server::tcp(b.namespace(), 80);
    for address in external() {
        expect(scene.host().namespace(), address, Question::Tcp(80), Seen::Open);
        expect(scene.host().outside(), address, Question::Tcp(80), Seen::Silent);
    }
    scene.manifests().put(&allow_all_egress());
    let mut policy = network_policy("from-a", "name == 'b'").with("types", json!(["Ingress"]));
    for address in b.vm().addresses() {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        policy = policy.ingress(json!({
            "action": "Allow",
            "source": {"selector": "name == 'a'"},
            "destination": {"nets": [format!("{address}/{prefix}")]},
        }));
    }
    scene.manifests().put(&policy);
    for address in external() {
        time_until(a.namespace(), address, Question::Tcp(80), Seen::Open);
        expect(scene.host().outside(), address, Question::Tcp(80), Seen::Silent);
    }
}

#[test]
fn contract_3_5_large_transfers_pass_uncut_to_floating_and_fixed_addresses_at_once() {
    let (scene, _agent) = floating_scene();
    scene.manifests().put(&allow_everything());
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    time_until(a.namespace(), external()[0], Question::Ping, Seen::Open);
    for (fixed, outer) in b.vm().addresses().into_iter().zip(external()) {
        let bytes = 4_000_000;
        let both = thread::scope(|scope| {
            let first =
                scope.spawn(|| transfer(a.namespace(), b.namespace(), SocketAddr::new(outer, 5001), bytes));
            let second =
                scope.spawn(|| transfer(a.namespace(), b.namespace(), SocketAddr::new(fixed, 5002), bytes));
            [first, second].map(|handle| handle.join().expect("no panic").expect("a transfer"))
        });
        assert!(both.iter().all(Outcome::is_whole), "{both:?}");
    }
    assert!(
        b.largest_frame() > 9000,
        "segments are cut: {}",
        b.largest_frame()
    );
}

#[test]
fn contract_3_5_the_answer_finds_its_way_through_a_narrow_uplink() {
    let (scene, _agent) = floating_scene();
    scene.manifests().put(&allow_everything());
    let b = scene.guest("b");
    let host = scene.host();
    time_until(host.outside(), external()[0], Question::Ping, Seen::Open);
    // The client does not know of it: only the host's ICMP error tells the guest.
    host.namespace().ip(&format!("link set {UPLINK} mtu 1300"));
    for (fixed, outer) in b.vm().addresses().into_iter().zip(external()) {
        let service = serve_once(b.namespace(), SocketAddr::new(fixed, 5001), 1_000_000);
        assert_eq!(ask(host.outside(), SocketAddr::new(outer, 5001), 10), 1_000_000);
        service.join().expect("the service ends well");
    }
}
