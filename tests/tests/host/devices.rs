//! What QEMU and operators may do with a tap: several queues, another MTU while it runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::programs::TcAttachType;
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::capture::contains;
use calico_ebpf_tests::frames::Frame;
use calico_ebpf_tests::guest::Vm;
use calico_ebpf_tests::manifests::{
    allow_all_egress, allow_ping, allow_tcp, allow_udp, network_policy, workload_endpoint,
};
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::snapshot::{json, programs_at};
use calico_ebpf_tests::tap::{LARGEST, Tap, VNET_HEADER};
use calico_ebpf_tests::traffic::{Amount, Server, Transfer, at};
use calico_ebpf_tests::wait;

use crate::expect::{LIMIT, expect};

/// What a test says about itself in a packet: whether it may pass, its family and its number.
fn text(allowed: bool, family: usize, number: u16) -> String {
    let verdict = if allowed { "allowed" } else { "denied" };
    format!("{verdict} {family} {number:04}.")
}

/// Flows to each port in each family: by their number one queue does not get them all.
const FLOWS: u16 = 32;
/// Their first source port, which is their number, too.
const FIRST_FLOW: u16 = 6000;

#[test]
fn policy_holds_on_every_queue_of_a_tap() {
    let scene = Scene::new(&["peer"]);
    let (host, peer) = (scene.host().namespace(), scene.guest("peer"));
    let vm = Vm::new("wide", 7);
    let queues = Tap::create_queues(host, &vm.interface(), 2);
    let mac = vm.host_mac().map(|byte| format!("{byte:02x}")).join(":");
    host.ip(&format!("link set {} address {mac} up", vm.interface()));
    scene.manifests().put(&workload_endpoint(&vm));
    let wide = network_policy("wide", "name == 'wide'")
        .egress(allow_udp(4001))
        .ingress(allow_udp(4001));
    let peers = network_policy("peer", "name == 'peer'")
        .egress(allow_udp(4001))
        .egress(allow_udp(4002))
        .ingress(allow_udp(4001))
        .ingress(allow_udp(4002));
    scene.manifests().put(&wide);
    scene.manifests().put(&peers);
    let _agent = scene.launcher().start(2);

    // From the guest, by either queue.
    let capture = peer.capture();
    for (number, queue) in (0..).zip(&queues) {
        for (family, address) in peer.vm().addresses().into_iter().enumerate() {
            for (allowed, port) in [(false, 4002), (true, 4001)] {
                let frame = Frame::from(&vm, 5000 + number, at(address, port));
                queue
                    .send(&frame.udp(text(allowed, family, number).as_bytes()))
                    .expect("write a frame");
            }
        }
    }
    let seen = capture.settle(host, peer);
    let count = |text: &str| {
        seen.iter()
            .filter(|frame| contains(frame, text.as_bytes()))
            .count()
    };
    for (family, number) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        assert_eq!(
            count(&text(true, family, number)),
            1,
            "family {family}, queue {number}"
        );
    }
    assert_eq!(count("denied"), 0);
    assert_eq!(scene.launcher().drops(DropReason::EgressPolicy), 4);

    // To the guest: the kernel spreads flows over the queues. The peer's refusals of what came first are there, too.
    let mut expected = BTreeSet::new();
    for (family, address) in vm.addresses().into_iter().enumerate() {
        for flow in FIRST_FLOW..FIRST_FLOW + FLOWS {
            for (allowed, port) in [(false, 4002), (true, 4001)] {
                let frame = Frame::from(peer.vm(), flow, at(address, port));
                let text = text(allowed, family, flow);
                peer.tap()
                    .send(&frame.udp(text.as_bytes()))
                    .expect("write a frame");
                if allowed {
                    expected.insert(text);
                }
            }
        }
    }
    let mut buffer = vec![0; LARGEST];
    let mut arrived = vec![BTreeSet::new(); queues.len()];
    wait::until("every allowed datagram arrives", LIMIT, || {
        for (queue, arrived) in queues.iter().zip(&mut arrived) {
            while let Ok(length) = queue.read(&mut buffer) {
                let frame = &buffer[VNET_HEADER..length];
                let payload = String::from_utf8_lossy(frame.get(42..).unwrap_or_default()).into_owned();
                assert!(!payload.contains("denied"), "{payload}");
                // IPv6 has twenty bytes more in front.
                let text = payload.split_once("allowed");
                let text = text.map(|(_, number)| format!("allowed{number}"));
                arrived.extend(text.filter(|text| expected.contains(text)));
            }
        }
        arrived.iter().map(BTreeSet::len).sum::<usize>() == expected.len()
    });
    assert!(
        arrived.iter().all(|queue| !queue.is_empty()),
        "both queues are used"
    );
    let denied = u64::from(FLOWS) * 2;
    wait::until("the others are dropped and counted", LIMIT, || {
        scene.launcher().drops(DropReason::IngressPolicy) == denied
    });
}

#[test]
fn another_mtu_while_a_tap_runs_costs_no_flow_and_no_policy_and_stays() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client"), scene.guest("web"));
    let host = scene.host().namespace();
    let _server = Server::tcp(web.namespace(), 81);
    scene.manifests().put(&allow_all_egress());
    let [ping4, ping6] = allow_ping();
    let policy = network_policy("web", "name == 'web'")
        .ingress(allow_tcp(9000))
        .ingress(ping4)
        .ingress(ping6);
    scene.manifests().put(&policy);
    let _agent = scene.start_agent();
    let taps = [client, web].map(|guest| guest.vm().interface());
    let programs = || {
        let sides = [TcAttachType::Ingress, TcAttachType::Egress];
        taps.each_ref()
            .map(|tap| sides.map(|side| programs_at(host, tap, side)))
    };
    let before = programs();
    for address in web.vm().addresses() {
        let end = Arc::default();
        let amount = Amount::Until(Arc::clone(&end));
        let transfer = Transfer::start(client.namespace(), web.namespace(), at(address, 9000), amount);
        let transfer = transfer.expect("transfer");
        for mtu in [1400_u32, 9000, 1500] {
            for (guest, tap) in [client, web].into_iter().zip(&taps) {
                host.ip(&format!("link set {tap} mtu {mtu}"));
                guest.namespace().ip(&format!("link set eth0 mtu {mtu}"));
            }
            // What a guest learned of a shorter path while the taps shrank one by one, it keeps for minutes.
            for family in ["-4", "-6"] {
                for guest in [client, web] {
                    guest
                        .namespace()
                        .stdout("ip", &[family, "route", "flush", "cache"]);
                }
            }
            let arrived = transfer.arrived();
            wait::until("the transfer goes on", LIMIT, || {
                transfer.arrived() > arrived + (4 << 20)
            });
            // The largest packet that fits, which nobody may cut.
            let headers = if address.is_ipv4() { 28 } else { 48 };
            let (size, target) = ((mtu - headers).to_string(), address.to_string());
            let printed = client.namespace().stdout(
                "ping",
                &[
                    "-n", "-c", "2", "-i", "0.01", "-M", "do", "-s", &size, "-W", "2", &target,
                ],
            );
            assert!(printed.contains("2 received"), "{printed}");
            expect(client.namespace(), address, Question::Tcp(81), Seen::Silent);
            for tap in &taps {
                let link = json(host, "ip", &["-j", "link", "show", "dev", tap]);
                assert_eq!(link[0]["mtu"], mtu, "{tap} keeps what it was given");
            }
        }
        end.store(true, Ordering::Relaxed);
        let outcome = transfer.finish().expect("the transfer ends well");
        assert!(outcome.is_whole(), "{outcome:?}");
    }
    assert_eq!(programs(), before);
}
