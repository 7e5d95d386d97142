//! What those notice whom policy denies something: at once, later, or not at all.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use calico_ebpf_tests::manifests::{Object, allow_all_egress, allow_tcp, network_policy};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Amount, Server, Transfer, at};
use calico_ebpf_tests::wait;
use nix::errno::Errno;
use serde_json::json;

use crate::expect::{LIMIT, expect_both, time_until};

/// Below the second after which TCP asks again.
const AT_ONCE: Duration = Duration::from_millis(500);

fn configuration(parameter: &str, value: &str) -> Object {
    Object::new("FelixConfiguration", "", "default", &json!({ parameter: value }))
}

fn connect(from: &Netns, to: SocketAddr) -> io::Error {
    from.run(|| TcpStream::connect_timeout(&to, LIMIT))
        .expect_err("policy denies it")
}

/// Sends datagrams until the kernel tells of an error.
fn send(from: &Netns, to: SocketAddr) -> io::Error {
    let own: IpAddr = if to.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    from.run(|| {
        let socket = UdpSocket::bind((own, 0)).expect("a socket");
        socket.connect(to).expect("a route");
        socket.set_read_timeout(Some(AT_ONCE)).expect("a limit");
        socket.send(&[7; 900]).expect("send");
        socket.recv(&mut [0; 4]).expect_err("policy denies it")
    })
}

#[track_caller]
fn expect_error(error: &io::Error, expected: Errno, since: Instant) {
    assert_eq!(
        error.raw_os_error().map(Errno::from_raw),
        Some(expected),
        "{error}"
    );
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
}

#[test]
fn denied_senders_are_told_at_once_if_that_is_wanted() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _server = Server::tcp(web.namespace(), 80);
    scene.manifests().put(&allow_all_egress());
    scene
        .manifests()
        .put(&network_policy("web", "name == 'web'").ingress(allow_tcp(80)));
    let _agent = scene.start_agent();
    expect_both(client, web, Question::Tcp(81), Seen::Silent);
    scene
        .manifests()
        .put(&configuration("iptablesFilterDenyAction", "Reject"));
    for address in web.vm().addresses() {
        time_until(client, address, Question::Tcp(81), Seen::Refused);
    }
    for sender in [client, &**scene.host().outside()] {
        for address in web.vm().addresses() {
            let since = Instant::now();
            expect_error(&connect(sender, at(address, 81)), Errno::ECONNREFUSED, since);
            let prohibited = if address.is_ipv4() {
                Errno::EHOSTUNREACH
            } else {
                Errno::EACCES
            };
            let since = Instant::now();
            expect_error(&send(sender, at(address, 53)), prohibited, since);
        }
    }
    expect_both(client, web, Question::Tcp(80), Seen::Open);
    let counters = scene.launcher().query(&["counters"]);
    assert!(counters.to_string().contains("answered"), "{counters}");
}

#[test]
fn a_connection_is_reset_when_policy_ends_it_if_that_is_wanted() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _server = Server::tcp(web.namespace(), 80);
    scene.manifests().put(&allow_all_egress());
    let open = network_policy("web", "name == 'web'")
        .ingress(allow_tcp(80))
        .ingress(allow_tcp(9000));
    let _agent = scene
        .launcher()
        .with("IptablesFilterDenyAction", "REJECT")
        .start(2);
    for address in web.vm().addresses() {
        let target = at(address, 9000);
        scene.manifests().put(&open);
        time_until(client, address, Question::Tcp(80), Seen::Open);
        let transfer = Transfer::start_paced(
            client,
            web.namespace(),
            target,
            Amount::Bytes(1 << 40),
            10_000_000,
        )
        .expect("a connection");
        wait::until("the transfer is under way", LIMIT, || {
            transfer.arrived() > 1_000_000
        });
        scene.manifests().remove(&open);
        let error = transfer.finish().expect_err("policy ends it");
        assert!(error.to_string().contains("reset"), "{error}");
    }
}

#[test]
fn keep_taken_from_the_datastore_lets_connections_go_on_and_refuses_new_ones_until_it_is_taken_back() {
    let scene = Scene::new(&["client", "web"]);
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let _server = Server::tcp(web.namespace(), 80);
    let policy = network_policy("web", "name == 'web'")
        .ingress(allow_tcp(80))
        .ingress(allow_tcp(9000));
    for object in [
        allow_all_egress(),
        policy.clone(),
        configuration("establishedFlows", "Keep"),
    ] {
        scene.manifests().put(&object);
    }
    let agent = scene.start_agent();
    let address = web.vm().v4().into();
    expect_both(client, web, Question::Tcp(80), Seen::Open);
    let transfer = Transfer::start_paced(
        client,
        web.namespace(),
        at(address, 9000),
        Amount::Bytes(1 << 40),
        10_000_000,
    )
    .expect("a connection");
    let goes_on = || {
        let arrived = transfer.arrived();
        wait::poll(LIMIT, || (transfer.arrived() > arrived + 1_000_000).then_some(())).is_some()
    };
    assert!(goes_on());
    scene.manifests().remove(&policy);
    time_until(client, address, Question::Tcp(80), Seen::Silent);
    assert!(goes_on(), "kept");
    // Another run knows it still.
    drop(agent);
    let _agent = scene.start_agent();
    assert!(goes_on(), "kept over a restart");
    scene
        .manifests()
        .put(&configuration("establishedFlows", "Rejudge"));
    wait::until("the connection stops", LIMIT, || {
        let arrived = transfer.arrived();
        assert!(wait::poll(Duration::from_millis(300), || None::<()>).is_none());
        transfer.arrived() == arrived
    });
}
