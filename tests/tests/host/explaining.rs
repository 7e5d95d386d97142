//! `calico-ebpf explain` beside what really becomes of packets.

use std::net::{IpAddr, TcpListener, TcpStream};

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::agent::{Agent, Launcher};
use calico_ebpf_tests::guest::Vm;
use calico_ebpf_tests::host::{host_address_like, outside_address_like};
use calico_ebpf_tests::manifests::{
    allow_all_egress, allow_everything, allow_tcp, network_policy, only_from, profile, tier,
    workload_endpoint,
};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen, reach};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::snapshot::Snapshot;
use calico_ebpf_tests::traffic::at;
use calico_ebpf_tests::wait;
use serde_json::{Value, json};

use crate::expect::{expect, time_until};
use crate::observed::{observe, scene_with_forbidden_port};

/// Client and web, and passed, whose tier passes to its profile.
fn scene() -> (Scene, Agent) {
    let scene = Scene::new(&["client", "web", "passed"]);
    let manifests = scene.manifests();
    manifests.put(&allow_all_egress());
    manifests.put(&tier("late", 2_000_000, "Deny"));
    let deny = |port: u16| json!({ "action": "Deny", "protocol": "TCP", "destination": { "ports": [port] } });
    let web = network_policy("web", "name == 'web'")
        .ingress(deny(81))
        .ingress(allow_tcp(80))
        .ingress(only_from(allow_tcp(443), "name == 'client'"))
        .ingress(json!({ "action": "Allow", "ipVersion": 4, "protocol": "ICMP", "icmp": { "type": 8 } }))
        .ingress(json!({ "action": "Allow", "ipVersion": 6, "protocol": "ICMPv6", "icmp": { "type": 128 } }));
    manifests.put(&web);
    let passed = network_policy("late.passed", "name == 'passed'")
        .with("tier", "late")
        .with("types", json!(["Ingress"]))
        .ingress(json!({ "action": "Pass" }));
    manifests.put(&passed);
    manifests.put(&profile("visitors").ingress(allow_tcp(80)));
    let endpoint = workload_endpoint(scene.guest("passed").vm()).with("profiles", json!(["visitors"]));
    manifests.put(&endpoint);
    let agent = scene.start_agent();
    (scene, agent)
}

/// Asks and returns the answer; fails unless the exit status says the same.
#[track_caller]
fn explain(launcher: &Launcher, arguments: &[&str]) -> Value {
    let output = launcher.run(&[&["explain", "-o", "json"], arguments].concat());
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {complaint}"));
    let status = i32::from(answer["allowed"] != true);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {answer:#}");
    answer
}

/// What is asked of `explain` and of the network.
struct Case<'a> {
    sender: &'a Netns,
    from: String,
    to: IpAddr,
    question: Question,
    /// Whether the packet passes, the reason, and what answered.
    expected: Expected,
    /// Policy and index of the deciding ingress rule, or the end that denied.
    rule: Option<(&'static str, u64)>,
}

impl Case<'_> {
    #[track_caller]
    fn check(&self, launcher: &Launcher) {
        let (protocol, port) = match self.question {
            Question::Tcp(port) => ("tcp", Some(port)),
            Question::Udp(port) => ("udp", Some(port)),
            Question::Ping => ("icmp", None),
        };
        let (to, port) = (self.to.to_string(), port.map(|port| port.to_string()));
        let mut arguments = vec!["--from", &self.from, "--to", &to, "--protocol", protocol];
        if let Some(port) = &port {
            arguments.extend(["--port", port]);
        }
        let answer = explain(launcher, &arguments);
        let told = (
            answer["allowed"].as_bool().expect("a verdict"),
            answer["reason"].as_str().expect("a reason"),
            answer["answered_by"].as_str().expect("who answered"),
        );
        assert_eq!(told, self.expected, "{arguments:?}: {answer:#}");
        let decisions = answer["decisions"].as_array().expect("a list");
        let ingress = decisions
            .iter()
            .find(|decision| decision["direction"] == "ingress");
        let by = ingress.map(|decision| &decision["decided_by"]);
        let rule = by.and_then(|by| Some((by["policy"].as_str()?.to_owned(), by["index"].as_u64()?)));
        let expected = self.rule.map(|(policy, index)| (policy.to_owned(), index));
        assert_eq!(rule, expected, "{arguments:?}: {answer:#}");
        if rule.is_none() && told.1 == DropReason::IngressPolicy.name() {
            let end = &ingress.expect("a decision")["at_end_of"];
            assert_eq!(*end, json!(["end of tier default"]), "{answer:#}");
        }
        // The network says the same: nobody serves these ports, so that what arrives is refused.
        let seen = reach(self.sender, self.to, self.question);
        assert_eq!(seen != Seen::Silent, told.0, "{arguments:?}: {seen}: {answer:#}");
    }
}

const WEB: &str = "NetworkPolicy(openstack/web)";

/// What is expected of a packet that policy judges on its way to a workload: allowed, the reason, what answered.
type Expected = (bool, &'static str, &'static str);
const TO_LOCAL: Expected = (true, "local-workload", "policy");
const FROM_REMOTE: Expected = (true, "from-remote", "policy");
const DENIED: Expected = (false, "ingress-policy", "policy");

/// Cases between guests, for the family of an address of web.
fn local_cases(scene: &Scene, web: IpAddr) -> Vec<Case<'_>> {
    let client = scene.guest("client");
    let case = |from: String, to, question, expected, rule| Case {
        sender: client.namespace(),
        from,
        to,
        question,
        expected,
        rule,
    };
    let tap = || client.vm().interface();
    let own = client.vm().address_like(web).to_string();
    let passed = scene.guest("passed").vm().address_like(web);
    let ping = if web.is_ipv4() { 3 } else { 4 };
    vec![
        // Allowed by a rule, denied by one, denied by the end of the tier, by another protocol.
        case(tap(), web, Question::Tcp(80), TO_LOCAL, Some((WEB, 1))),
        case(tap(), web, Question::Tcp(81), DENIED, Some((WEB, 0))),
        case(tap(), web, Question::Tcp(82), DENIED, None),
        case(tap(), web, Question::Udp(80), DENIED, None),
        case(tap(), web, Question::Ping, TO_LOCAL, Some((WEB, ping))),
        // By the sender's address, to what only it may.
        case(own, web, Question::Tcp(443), TO_LOCAL, Some((WEB, 2))),
        // Passed on to a profile.
        case(tap(), passed, Question::Tcp(80), TO_LOCAL, Some(("visitors", 0))),
    ]
}

/// Cases with one end outside or at the host.
fn far_cases(scene: &Scene, web: IpAddr) -> Vec<Case<'_>> {
    let (host, outside) = (scene.host().namespace(), scene.host().outside());
    let client = scene.guest("client");
    let case = |sender, from: String, to, question, expected, rule| Case {
        sender,
        from,
        to,
        question,
        expected,
        rule,
    };
    let (far, here) = (outside_address_like(web), host_address_like(web));
    let (from_far, tap) = (|| far.to_string(), || client.vm().interface());
    let to_outside = (true, "remote", "policy");
    let to_host = (false, "endpoint-to-host", "check");
    let from_host = (true, "from-host", "always-allowed");
    vec![
        case(
            outside,
            from_far(),
            web,
            Question::Tcp(80),
            FROM_REMOTE,
            Some((WEB, 1)),
        ),
        case(outside, from_far(), web, Question::Tcp(443), DENIED, None),
        case(
            outside,
            from_far(),
            web,
            Question::Tcp(81),
            DENIED,
            Some((WEB, 0)),
        ),
        case(
            client.namespace(),
            tap(),
            far,
            Question::Tcp(80),
            to_outside,
            None,
        ),
        case(client.namespace(), tap(), here, Question::Tcp(80), to_host, None),
        case(host, here.to_string(), web, Question::Tcp(82), from_host, None),
    ]
}

#[test]
fn what_is_explained_is_what_happens() {
    let (scene, _agent) = scene();
    let launcher = scene.launcher();
    for address in scene.guest("web").vm().addresses() {
        for case in local_cases(&scene, address)
            .iter()
            .chain(&far_cases(&scene, address))
        {
            case.check(&launcher);
        }
    }
}

#[test]
fn a_sender_that_is_not_what_it_says_is_explained_by_the_check_that_drops_it() {
    let (scene, _agent) = scene();
    let launcher = scene.launcher();
    let tap = scene.guest("client").vm().interface();
    for (address, spoofed) in scene
        .guest("web")
        .vm()
        .addresses()
        .into_iter()
        .zip(["10.65.0.99", "fd00:65::99"])
    {
        let to = address.to_string();
        let line = ["--from", &tap, "--to", &to, "--protocol", "tcp", "--port", "80"];
        let answer = explain(&launcher, &[&line[..], &["--source-address", spoofed]].concat());
        assert_eq!(
            [&answer["reason"], &answer["answered_by"]],
            ["source-address", "check"],
            "{answer:#}"
        );
        assert_eq!(answer["decisions"], json!([]), "{answer:#}");
        let answer = explain(
            &launcher,
            &[&line[..], &["--source-mac", "02:00:00:00:00:99"]].concat(),
        );
        assert_eq!(answer["reason"], "source-mac", "{answer:#}");
        assert_eq!(explain(&launcher, &line)["allowed"], true);
    }
}

#[test]
fn a_packet_of_a_live_flow_is_answered_by_it_until_policy_changes() {
    let (scene, mut agent) = scene();
    let launcher = scene.launcher();
    let (client, web) = (scene.guest("client"), scene.guest("web"));
    let listener = web
        .namespace()
        .run(|| TcpListener::bind("[::]:80"))
        .expect("listen");
    let connections = web.vm().addresses().map(|address| {
        let stream = client.namespace().run(|| TcpStream::connect(at(address, 80)));
        (stream.expect("connect"), listener.accept().expect("accept"))
    });
    let streams = connections.iter().map(|(stream, _)| stream);
    let line = |stream: &TcpStream| {
        let (own, peer) = (
            stream.local_addr().expect("own"),
            stream.peer_addr().expect("peer"),
        );
        [
            own.ip().to_string(),
            own.port().to_string(),
            peer.ip().to_string(),
        ]
    };
    let ask = |stream: &TcpStream, more: &[&str]| {
        let [own, port, peer] = line(stream);
        let there = [
            "--from",
            &own,
            "--to",
            &peer,
            "--protocol",
            "tcp",
            "--port",
            "80",
            "--source-port",
            &port,
        ];
        explain(&launcher, &[&there[..], more].concat())
    };
    for stream in streams.clone() {
        let answer = ask(stream, &[]);
        assert_eq!(
            [&answer["reason"], &answer["answered_by"]],
            ["local-workload", "live-flow"],
            "{answer:#}"
        );
        assert_eq!(answer["flow"]["state"], "established", "{answer:#}");
        assert_eq!(answer["decisions"][1]["decided_by"]["policy"], WEB, "{answer:#}");
        let new = ask(stream, &["--new"]);
        assert_eq!(
            [&new["reason"], &new["answered_by"]],
            ["local-workload", "policy"],
            "{new:#}"
        );
        // The way back goes by the same flow.
        let [own, port, peer] = line(stream);
        let back = [
            "--from",
            &peer,
            "--to",
            &own,
            "--protocol",
            "tcp",
            "--port",
            &port,
            "--source-port",
            "80",
        ];
        let answer = explain(&launcher, &back);
        assert_eq!(answer["answered_by"], "live-flow", "{answer:#}");
    }
    let epoch = agent.report().expect("a report").epoch;
    let closed = network_policy("web", "name == 'web'").ingress(allow_tcp(443));
    scene.manifests().put(&closed);
    agent.wait_for("the rule is gone", |report| report.epoch > epoch);
    for stream in streams {
        let answer = ask(stream, &[]);
        assert_eq!(
            [&answer["reason"], &answer["answered_by"]],
            ["ingress-policy", "policy"],
            "{answer:#}"
        );
    }
}

#[test]
fn a_floating_address_is_explained_with_what_it_is_translated_to() {
    let (scene, mut agent) = crate::nat::floating_scene();
    let launcher = scene.launcher();
    let epoch = agent.report().expect("a report").epoch;
    scene.manifests().put(&allow_everything());
    agent.wait_for("the policy", |report| report.epoch > epoch);
    let report = launcher.query(&["endpoints"]);
    let endpoints = report["endpoints"]
        .as_array()
        .or_else(|| report.as_array())
        .expect("a list");
    let floating = endpoints
        .iter()
        .find_map(|endpoint| endpoint["floating"].as_array().filter(|list| !list.is_empty()))
        .expect("floating addresses");
    for nat in floating {
        let (external, internal) = (
            nat["external"].as_str().expect("text"),
            nat["internal"].as_str().expect("text"),
        );
        let line = [
            "--from",
            &scene.guest("a").vm().interface(),
            "--to",
            external,
            "--protocol",
            "tcp",
            "--port",
            "80",
        ];
        let answer = explain(&launcher, &line);
        assert_eq!(answer["translated_to"], json!([internal, 80]), "{answer:#}");
        assert_eq!(
            answer["to_interface"],
            scene.guest("b").vm().interface(),
            "{answer:#}"
        );
    }
}

/// Everything that explaining might change: pins, and what the maps say.
fn state(scene: &Scene) -> (Snapshot, Vec<Value>) {
    let launcher = scene.launcher();
    let mut flows = launcher.query(&["flows", "--limit", "0"]);
    for flow in flows["flows"].as_array_mut().expect("a list") {
        // Told against the clock.
        let flow = flow.as_object_mut().expect("an object");
        flow.remove("age_secs");
        flow.remove("idle_secs");
    }
    let mut counters = launcher.query(&["counters"]);
    let passed = counters["passed"].as_array_mut().expect("a list");
    // Neighbour discovery never rests. None of the questions is about it.
    passed.retain(|counter| counter["reason"] != "neighbor" && counter["reason"] != "from-host");
    let values = vec![
        flows,
        counters,
        launcher.query(&["policy"]),
        launcher.query(&["endpoints"]),
    ];
    (Snapshot::take(scene.host().namespace()), values)
}

/// Asks questions of every kind.
fn explain_everything(scene: &Scene) {
    let launcher = scene.launcher();
    let tap = scene.guests()[0].vm().interface();
    let web = scene.guest("web").vm();
    let ask = |vm: &Vm, from: &str, port: &str, more: &[&str]| {
        for address in vm.addresses().map(|address| address.to_string()) {
            let is_v6 = address.contains(':');
            let from = if from.is_empty() {
                if is_v6 { "2001:db8::2" } else { "192.0.2.2" }
            } else {
                from
            };
            let line = [
                "--from",
                from,
                "--to",
                &address,
                "--protocol",
                "tcp",
                "--port",
                port,
            ];
            explain(&launcher, &[&line[..], more].concat());
        }
    };
    ask(web, &tap, "9000", &[]);
    ask(web, &tap, "9000", &["--new"]);
    ask(web, &tap, "5000", &[]);
    ask(web, &tap, "5000", &["--source-mac", "02:00:00:00:00:01"]);
    ask(web, "", "9000", &[]);
    ask(web, "", "5000", &[]);
}

#[test]
fn explaining_writes_nothing() {
    let (scene, _forbidden) = scene_with_forbidden_port();
    // A flow must not expire meanwhile.
    let launcher = scene.launcher().with("BPFConntrackTimeoutsTCPReset", "3600");
    let _agent = launcher.start(2);
    let (client, web) = (scene.guest("client"), scene.guest("web"));
    expect(
        client.namespace(),
        web.vm().v4().into(),
        Question::Tcp(9000),
        Seen::Refused,
    );
    expect(
        client.namespace(),
        web.vm().v6().into(),
        Question::Tcp(5000),
        Seen::Silent,
    );
    let before = state(&scene);
    explain_everything(&scene);
    let after = state(&scene);
    after.0.assert_same_as(&before.0);
    assert_eq!(after.1, before.1);
}

#[test]
fn explaining_disturbs_no_traffic() {
    let (scene, _forbidden) = scene_with_forbidden_port();
    let _agent = scene.start_agent();
    let client = scene.guest("client").namespace();
    let observed = observe(&scene, client, || explain_everything(&scene));
    let time = observed.duration();
    let undisturbed = observe(&scene, client, || {
        assert!(wait::poll(time, || None::<()>).is_none());
    });
    observed.assert_as_undisturbed_as(&undisturbed);
}

#[test]
fn explaining_says_what_is_wrong_with_the_question() {
    let scene = Scene::new(&["client", "web"]);
    let launcher = scene.launcher();
    let complaint = |status: i32, arguments: &[&str]| {
        let output = launcher.run(&[&["explain", "--protocol", "icmp"], arguments].concat());
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {complaint}");
        assert!(output.stdout.is_empty());
        complaint
    };
    let tap = scene.guest("client").vm().interface();
    assert!(complaint(3, &["--from", &tap, "--to", "10.65.0.12"]).contains("calico-ebpf run"));
    let _agent = scene.start_agent();
    assert!(complaint(2, &["--from", "tapnone", "--to", "10.65.0.12"]).contains("calico-ebpf endpoints"));
    assert!(complaint(2, &["--from", "192.0.2.9", "--to", "192.0.2.10"]).contains("neither"));
    // The text for people says the same as the document.
    let shown = launcher.run(&[
        "explain",
        "--from",
        &tap,
        "--to",
        "10.65.0.12",
        "--protocol",
        "icmp",
    ]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.starts_with("dropped: egress-policy"), "{text}");
    time_until(
        scene.guest("client").namespace(),
        scene.guest("web").vm().v4().into(),
        Question::Ping,
        Seen::Silent,
    );
}
