//! `calico-ebpf watch`: drops and `Log` rules as they happen.

use std::net::{IpAddr, UdpSocket};
use std::time::Instant;

use calico_ebpf_common::event::EVENTS_A_SECOND;
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::frames::Frame;
use calico_ebpf_tests::manifests::{allow_all_egress, allow_udp, network_policy};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen, reach};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Server, at};
use calico_ebpf_tests::watching::Watching;
use serde_json::{Value, json};

use crate::expect::{IN_FORCE, LIMIT, expect_both};

/// The policy of web: 82 is logged and denied, 80 logged and allowed, 81 denied.
const WEB: &str = "NetworkPolicy(openstack/web)";

/// A client that may send anything, and web with [`WEB`].
fn scene() -> Scene {
    let scene = Scene::new(&["client", "web"]);
    scene.manifests().put(&allow_all_egress());
    let port = |action: &str, port: u16| json!({ "action": action, "protocol": "UDP", "destination": { "ports": [port] } });
    let web = network_policy("web", "name == 'web'")
        .ingress(port("Deny", 81))
        .ingress(port("Log", 80))
        .ingress(port("Log", 82))
        .ingress(port("Deny", 82))
        .ingress(allow_udp(80));
    scene.manifests().put(&web);
    scene
}

/// Sends datagrams from one socket and returns its port.
fn send(from: &Netns, to: IpAddr, port: u16, count: usize) -> u16 {
    let local: IpAddr = match to {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = from.run(|| UdpSocket::bind((local, 0))).expect("a socket");
    for _ in 0..count {
        socket.send_to(b"hello", at(to, port)).expect("send");
    }
    socket.local_addr().expect("an address").port()
}

fn is_about(event: &Value, kind: &str, port: u16) -> bool {
    event["kind"] == kind && event["packet"]["source_port"] == port
}

#[test]
fn a_denied_packet_is_told_with_the_rule_that_denied_it() {
    let scene = scene();
    let _agent = scene.start_agent();
    let (client, web) = (scene.guest("client"), scene.guest("web"));
    let watching = Watching::start(&scene.launcher(), &[]);
    for address in web.vm().addresses() {
        let sent = Instant::now();
        let port = send(client.namespace(), address, 81, 1);
        let event = watching.wait_for("the denied packet", LIMIT, |event| is_about(event, "drop", port));
        assert!(sent.elapsed() < IN_FORCE, "told after {:?}", sent.elapsed());
        assert_eq!(event["reason"], "ingress-policy", "{event:#}");
        assert_eq!(event["interface"], client.vm().interface(), "{event:#}");
        assert_eq!(event["hook"], "from-workload", "{event:#}");
        let packet = &event["packet"];
        assert_eq!(packet["protocol"], "udp", "{event:#}");
        assert_eq!(
            packet["source"],
            client.vm().address_like(address).to_string(),
            "{event:#}"
        );
        assert_eq!(packet["destination"], address.to_string(), "{event:#}");
        assert_eq!(packet["destination_port"], 81, "{event:#}");
        assert_eq!(packet["source_mac"], client.vm().mac_text(), "{event:#}");
        let decisions = event["decisions"].as_array().expect("a list");
        let [egress, ingress] = &decisions[..] else {
            panic!("both ends were asked: {event:#}");
        };
        assert_eq!(egress["verdict"], "allow", "{event:#}");
        assert_eq!(ingress["verdict"], "deny", "{event:#}");
        assert_eq!(ingress["interface"], web.vm().interface(), "{event:#}");
        let rule = &ingress["decided_by"];
        assert_eq!(
            [&rule["tier"], &rule["policy"], &rule["index"], &rule["action"]],
            [&json!("default"), &json!(WEB), &json!(0), &json!("deny")],
            "{event:#}"
        );
        assert_eq!(ingress["logged_by"], json!([]), "{event:#}");
        // What no rule decides ends at the end of the tier.
        let port = send(client.namespace(), address, 83, 1);
        let event = watching.wait_for("the end of the tier", LIMIT, |event| {
            is_about(event, "drop", port)
        });
        let ingress = &event["decisions"][1];
        assert_eq!(ingress["decided_by"], Value::Null, "{event:#}");
        assert_eq!(ingress["at_end_of"], json!(["end of tier default"]), "{event:#}");
    }
}

#[test]
fn a_log_rule_is_told_by_name_once_a_flow_and_also_when_the_packet_is_denied() {
    let scene = scene();
    let _agent = scene.start_agent();
    let (client, web) = (scene.guest("client"), scene.guest("web"));
    let _server = Server::udp(web.namespace(), 80);
    let watching = Watching::start(&scene.launcher(), &["--logs"]);
    for address in web.vm().addresses() {
        let port = send(client.namespace(), address, 80, 5);
        let event = watching.wait_for("the logged packet", LIMIT, |event| is_about(event, "log", port));
        let ingress = &event["decisions"][1];
        assert_eq!(ingress["decided_by"]["index"], 4, "{event:#}");
        // Two Log rules stand before the rule that allows: the programs do not know which it was.
        let logged: Vec<_> = [1, 2].map(|index| json!(index)).into();
        let told: Vec<_> = ingress["logged_by"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|rule| rule["index"].clone())
            .collect();
        assert_eq!(told, logged, "{event:#}");
        let denied = send(client.namespace(), address, 82, 1);
        let event = watching.wait_for("denied and logged", LIMIT, |event| {
            is_about(event, "drop", denied)
        });
        assert_eq!(event["decisions"][1]["decided_by"]["index"], 3, "{event:#}");
        assert_eq!(event["decisions"][1]["logged_by"][0]["policy"], WEB, "{event:#}");
        let of_flow = watching
            .documents()
            .into_iter()
            .filter(|event| is_about(event, "log", port))
            .count();
        assert_eq!(of_flow, 1, "packets of a settled flow are not judged");
        // Not logged: not shown.
        send(client.namespace(), address, 81, 1);
    }
    let mut watching = watching;
    assert!(watching.interrupt().success());
    let reasons: Vec<_> = watching.documents();
    assert!(
        reasons
            .iter()
            .all(|event| event["packet"]["destination_port"] != 81),
        "{reasons:#?}"
    );
}

#[test]
fn a_flood_of_one_endpoint_is_limited_counted_and_hides_nobody_else() {
    const FLOOD: u64 = 5000;
    let scene = scene();
    let _agent = scene.start_agent();
    let (client, web) = (scene.guest("client"), scene.guest("web"));
    let mut watching = Watching::start(&scene.launcher(), &["--drops"]);
    let before = scene.launcher().drops(DropReason::SourceAddress);
    let spoofed = Frame::from(client.vm(), 4000, at(web.vm().v4(), 80))
        .with_source([192, 0, 2, 99].into())
        .udp(b"spoofed");
    let start = Instant::now();
    for _ in 0..FLOOD {
        client.tap().send(&spoofed).expect("write a frame");
    }
    let seconds = start.elapsed().as_secs();
    let port = send(web.namespace(), client.vm().v4().into(), 9, 1);
    watching.wait_for("the packet of another endpoint", LIMIT, |event| {
        is_about(event, "drop", port)
    });
    let flooded = |event: &Value| event["reason"] == "source-address";
    let missed = watching.wait_for("what was suppressed", LIMIT, |event| event["kind"] == "missed");
    assert_eq!(missed["interface"], client.vm().interface(), "{missed:#}");
    assert!(watching.interrupt().success());

    let documents = watching.documents();
    let told = documents.iter().filter(|event| flooded(event)).count() as u64;
    let count = |field: &str| {
        let values = documents.iter().filter_map(|event| event[field].as_u64());
        values.sum::<u64>()
    };
    let limit = (seconds + 2) * u64::from(EVENTS_A_SECOND);
    assert!(told <= limit && told > 0, "{told} told in {seconds} s");
    assert_eq!(scene.launcher().drops(DropReason::SourceAddress) - before, FLOOD);
    assert_eq!(
        told + count("suppressed") + count("lost"),
        FLOOD,
        "each is told or counted as missed"
    );
    let complaints = watching.complaints();
    assert!(complaints.contains("suppressed"), "{complaints}");
}

#[test]
fn one_process_watches_and_the_next_learns_which() {
    let scene = scene();
    let _agent = scene.start_agent();
    let launcher = scene.launcher();
    let mut first = Watching::start(&launcher, &[]);
    let refused = launcher.run(&["watch", "--count", "1"]);
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains(&format!("process {}", first.pid())),
        "{complaint}"
    );
    assert!(first.interrupt().success());
    let second = launcher.run(&["watch", "--for", "0"]);
    assert!(
        second.status.success(),
        "{}",
        String::from_utf8_lossy(&second.stderr)
    );
}

#[test]
fn events_are_told_without_an_agent_and_under_a_new_one() {
    let scene = scene();
    let agent = scene.start_agent();
    let (client, web) = (scene.guest("client"), scene.guest("web"));
    let address: IpAddr = web.vm().v4().into();
    agent.kill();
    let mut watching = Watching::start(&scene.launcher(), &["--reason", "ingress-policy", "--count", "2"]);
    let port = send(client.namespace(), address, 81, 1);
    let event = watching.wait_for("a drop without an agent", LIMIT, |event| {
        is_about(event, "drop", port)
    });
    assert_eq!(event["decisions"][1]["decided_by"]["policy"], WEB, "{event:#}");
    // The next run takes the maps of events over.
    let _agent = scene.start_agent();
    let spoofed = Frame::from(client.vm(), 4000, at(web.vm().v4(), 80)).with_source([192, 0, 2, 99].into());
    client
        .tap()
        .send(&spoofed.udp(b"not asked for"))
        .expect("write a frame");
    let port = send(client.namespace(), address, 81, 1);
    watching.wait_for("a drop under the next agent", LIMIT, |event| {
        is_about(event, "drop", port)
    });
    assert!(watching.wait_for_end().success(), "two were asked for");
    let documents = watching.documents();
    assert!(
        documents.iter().all(|event| event["reason"] != "source-address"),
        "{documents:#?}"
    );
}

#[test]
fn watching_says_what_is_wrong_with_the_question() {
    let scene = scene();
    let launcher = scene.launcher();
    let nothing = launcher.run(&["watch"]);
    assert_eq!(nothing.status.code(), Some(3), "no agent has run");
    let agent = scene.start_agent();
    let unknown = launcher.run(&["watch", "--iface", "tapnone"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("tapnone"));
    // With nobody watching, packets pass and drop as ever.
    let web = scene.guest("web");
    expect_both(
        scene.guest("client").namespace(),
        web,
        Question::Udp(81),
        Seen::Silent,
    );
    assert_eq!(
        reach(web.namespace(), web.vm().v4().into(), Question::Ping),
        Seen::Open
    );
    // `cleanup` takes the maps away under who watches, and the lock's file with them.
    let mut watching = Watching::start(&launcher, &[]);
    assert!(agent.terminate().success());
    launcher.clean_up();
    assert_eq!(
        watching.wait_for_end().code(),
        Some(3),
        "{}",
        watching.complaints()
    );
}
