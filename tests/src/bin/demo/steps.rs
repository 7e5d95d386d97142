//! The steps, in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::agent::{Agent, Launcher};
use calico_ebpf_tests::capture::contains;
use calico_ebpf_tests::felix_rules;
use calico_ebpf_tests::frames::Frame;
use calico_ebpf_tests::guest::Guest;
use calico_ebpf_tests::manifests::{
    Object, allow_all_egress, allow_ping, allow_tcp, allow_udp, network_policy, only_from, workload_endpoint,
};
use calico_ebpf_tests::probe::{Question, Seen, time_until};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::snapshot::Snapshot;
use calico_ebpf_tests::traffic::{Amount, Server, Transfer, at};

use crate::matrix::{Matrix, OUTSIDE, Target, first_address, namespace};
use crate::speed::{self, Comparison};
use crate::story::{Cell, Story};

/// How often the agent is killed under the transfer.
const DEATHS: usize = 5;
/// A change of policy that takes longer did not happen.
const LIMIT: Duration = Duration::from_secs(5);

/// Tells the whole story.
pub(crate) fn tell(story: &mut Story) {
    story
        .screen
        .note("one host, three guests behind real taps (web, db, client), one machine outside");
    let scene = Scene::new(&["web", "db", "client"]);
    for guest in scene.guests() {
        scene.manifests().put(&endpoint(guest, guest.vm().name()));
    }
    let launcher = scene.launcher();
    let before = Snapshot::take(scene.host().namespace());
    let web_server = Server::tcp(namespace(&scene, "web"), 80);
    let servers = [
        Server::tcp(namespace(&scene, "web"), 22),
        Server::tcp(namespace(&scene, "db"), 5432),
    ];
    let mut agent = scene.start_agent();

    story.begin(
        "no policy: everything is denied",
        "the agent enforces from the first packet on",
    );
    show(story, &scene, |_, _| Seen::Silent);
    open_web(story, &scene);
    open_database(story, &scene);
    allow_pings(story, &scene);
    refuse_spoofed(story, &scene, &launcher);
    add_member(story, &scene);
    // From here on the transfers listen on web's port.
    drop(web_server);
    agent = survive_deaths(story, &scene, agent);
    compare_speed(story, &scene, agent, &launcher, &before);
    drop(servers);
}

/// The endpoint of a guest with the role that policies select by.
fn endpoint(guest: &Guest, role: &str) -> Object {
    workload_endpoint(guest.vm()).label("role", role)
}

fn show(story: &mut Story, scene: &Scene, expected: impl Fn(&str, Target) -> Seen) {
    let matrix = Matrix::ask(scene, expected);
    story.screen.matrix(&matrix);
    story.record(matrix.cells());
}

/// Waits until one question is answered with "open" and shows how long that took.
fn wait_in_force(story: &mut Story, scene: &Scene, from: &str, to: &str, question: Question) {
    let time = time_until(
        namespace(scene, from),
        first_address(scene, to),
        question,
        Seen::Open,
        LIMIT,
    );
    if let Some(time) = time {
        story.screen.in_force(time);
    }
}

fn open_web(story: &mut Story, scene: &Scene) {
    story.begin(
        "web may be reached on tcp/80 from anywhere",
        "two policies: all may send; role == 'web' receives tcp/80",
    );
    scene.manifests().put(&allow_all_egress());
    scene
        .manifests()
        .put(&network_policy("web", "role == 'web'").ingress(allow_tcp(80)));
    wait_in_force(story, scene, "client", "web", Question::Tcp(80));
    show(story, scene, |_, target| open_if(is_web(target)));
}

fn open_database(story: &mut Story, scene: &Scene) {
    story.begin(
        "the database may be reached only from web",
        "role == 'db' receives tcp/5432 from role == 'web'",
    );
    let rule = only_from(allow_tcp(5432), "role == 'web'");
    scene
        .manifests()
        .put(&network_policy("db", "role == 'db'").ingress(rule));
    wait_in_force(story, scene, "web", "db", Question::Tcp(5432));
    show(story, scene, |from, target| {
        open_if(is_web(target) || (is_database(target) && from == "web"))
    });
}

fn allow_pings(story: &mut Story, scene: &Scene) {
    story.begin(
        "ping is allowed between all",
        "echo requests of both families; their answers pass as flows",
    );
    let [v4, v6] = allow_ping();
    scene.manifests().put(
        &network_policy("ping", "all()")
            .with("types", vec!["Ingress"])
            .ingress(v4)
            .ingress(v6),
    );
    wait_in_force(story, scene, "client", "db", Question::Ping);
    show(story, scene, |from, target| {
        open_if(is_web(target) || is_ping(target) || (is_database(target) && from == "web"))
    });
}

fn refuse_spoofed(story: &mut Story, scene: &Scene, launcher: &Launcher) {
    story.begin(
        "a spoofed packet is refused",
        "client writes frames with web's address, once with web's MAC, to its tap",
    );
    let (client, db) = (scene.guest("client"), scene.guest("db"));
    let web = scene.guest("web").vm();
    let capture = db.capture();
    for (target, source) in db.vm().addresses().into_iter().zip(web.addresses()) {
        let family = if target.is_ipv4() { "IPv4" } else { "IPv6" };
        let honest = Frame::from(client.vm(), 4000, at(target, 5432));
        let address = honest.clone().with_source(source);
        let mac = Frame {
            source_mac: web.mac(),
            ..address.clone()
        };
        for (what, frame, reason) in [
            ("address", address, DropReason::SourceAddress),
            ("address and MAC", mac, DropReason::SourceMac),
        ] {
            let dropped = launcher.drops(reason);
            client
                .tap()
                .send(&frame.udp(b"spoofed"))
                .expect("write to the tap");
            let arrived = capture
                .settle(scene.host().namespace(), db)
                .iter()
                .any(|frame| contains(frame, b"spoofed"));
            let seen = if arrived { "arrived" } else { "refused" };
            story.tell(Cell::new(
                "client",
                "db",
                &format!("{family} with web's {what}"),
                "refused",
                seen,
            ));
            let counted = (launcher.drops(reason) - dropped).to_string();
            story.tell(Cell::new(
                "client",
                "db",
                &format!("counted as {}", reason.name()),
                "1",
                counted,
            ));
        }
    }
}

fn add_member(story: &mut Story, scene: &Scene) {
    story.begin(
        "client becomes a member of web",
        "its endpoint's label changes to role=web: no policy is touched",
    );
    scene.manifests().put(&endpoint(scene.guest("client"), "web"));
    wait_in_force(story, scene, "client", "db", Question::Tcp(5432));
    show(story, scene, |from, target| {
        open_if(
            is_web(target) || is_ping(target) || (is_database(target) && ["web", "client"].contains(&from)),
        )
    });
}

/// Kills and starts the agent under a transfer from client to web and returns the last one.
fn survive_deaths(story: &mut Story, scene: &Scene, mut agent: Agent) -> Agent {
    story.begin(
        "the agent dies under traffic",
        "kill -9 and start again, five times, while client sends to web",
    );
    let web = scene.guest("web");
    let end = Arc::default();
    let target = at(web.vm().v4(), 80);
    let transfer = Transfer::start(
        namespace(scene, "client"),
        web.namespace(),
        target,
        Amount::Until(Arc::clone(&end)),
    );
    let transfer = transfer.expect("client connects to web");
    let denied = || {
        let answers = web.vm().addresses().map(|address| {
            calico_ebpf_tests::probe::reach(namespace(scene, OUTSIDE), address, Question::Tcp(22)).to_string()
        });
        if answers[0] == answers[1] {
            answers[0].clone()
        } else {
            answers.join("/")
        }
    };
    for death in 1..=DEATHS {
        let arrived = transfer.arrived();
        agent.kill();
        if death == 1 {
            story.tell(Cell::new(
                OUTSIDE,
                "web",
                "tcp/22 while the agent is dead",
                "silent",
                denied(),
            ));
        }
        agent = scene.start_agent();
        let seen = if transfer.arrived() > arrived {
            "goes on"
        } else {
            "stands still"
        };
        story.tell(Cell::new(
            "client",
            "web",
            &format!("transfer over death {death}"),
            "goes on",
            seen,
        ));
    }
    story.tell(Cell::new(
        OUTSIDE,
        "web",
        "tcp/22 after the last start",
        "silent",
        denied(),
    ));
    end.store(true, Ordering::Relaxed);
    let outcome = transfer.finish();
    let whole = outcome
        .as_ref()
        .is_ok_and(calico_ebpf_tests::traffic::Outcome::is_whole);
    let seen = if whole { "equal" } else { "different" };
    story.tell(Cell::new(
        "client",
        "web",
        "hash of what was sent and received",
        "equal",
        seen,
    ));
    if let Ok(outcome) = outcome {
        let (megabytes, stall) = (outcome.sent >> 20, outcome.received.longest_stall.as_millis());
        story.screen.note(&format!(
            "{megabytes} MiB, longest time without a byte {stall} ms"
        ));
    }
    agent
}

/// Measures, cleans up, checks that nothing is left, and measures the same with iptables.
fn compare_speed(story: &mut Story, scene: &Scene, agent: Agent, launcher: &Launcher, before: &Snapshot) {
    story.begin(
        "cleanup leaves nothing",
        "programs, maps, routes, neighbours and sysctls as before the first start",
    );
    let udp = network_policy("web-udp", "role == 'web'").ingress(allow_udp(80));
    scene.manifests().put(&udp);
    let server = Server::udp(namespace(scene, "web"), 80);
    wait_in_force(story, scene, OUTSIDE, "web", Question::Udp(80));
    drop(server);
    story
        .screen
        .note("its speed is measured first, to compare it below");
    let (ebpf, ebpf_cell) = speed::measure(scene, "calico-ebpf");
    agent.terminate();
    launcher.clean_up();
    let difference = Snapshot::take(scene.host().namespace()).difference(before);
    let seen = if difference.is_empty() {
        "as before"
    } else {
        "changed"
    };
    story.tell(Cell::new(
        "host",
        "host",
        "links, filters, routes, sysctls, bpffs",
        "as before",
        seen,
    ));
    difference.lines().for_each(|line| story.screen.note(line));

    story.begin(
        "speed beside iptables",
        "the same guests, taps and policy with rules as classic Felix writes them",
    );
    story.tell(ebpf_cell);
    let guests: Vec<_> = scene.guests().iter().collect();
    scene.host().forward_plainly(&guests);
    let endpoints: Vec<_> = guests
        .iter()
        .map(|guest| (guest.vm(), guest.vm().name()))
        .collect();
    let rules = match felix_rules::apply(scene.host().namespace(), &endpoints) {
        Ok(rules) => rules,
        Err(refusals) => {
            story
                .screen
                .note("no iptables of this host takes the rules, so there is no comparison:");
            refusals.lines().for_each(|line| story.screen.note(line));
            return;
        }
    };
    let (iptables, cell) = speed::measure(scene, rules);
    story.tell(cell);
    let denied = calico_ebpf_tests::probe::reach(
        namespace(scene, OUTSIDE),
        first_address(scene, "web"),
        Question::Tcp(22),
    );
    story.tell(Cell::new(
        OUTSIDE,
        "web",
        "tcp/22 under iptables",
        "silent",
        denied.to_string(),
    ));
    story.compare(Comparison {
        ebpf,
        iptables,
        rules: rules.to_owned(),
        note: speed::NOTE,
    });
}

fn open_if(open: bool) -> Seen {
    if open { Seen::Open } else { Seen::Silent }
}

fn is_web(target: Target) -> bool {
    target.guest == "web" && target.question == Question::Tcp(80)
}

fn is_database(target: Target) -> bool {
    target.guest == "db" && target.question == Question::Tcp(5432)
}

fn is_ping(target: Target) -> bool {
    target.question == Question::Ping
}
