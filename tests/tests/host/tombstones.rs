//! Connections of guests to a guest that is deleted.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{
    HOSTNAME, allow_all_egress, allow_everything, allow_tcp, network_policy, only_from, workload_endpoint,
    workload_endpoint_on,
};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen, unspecified_like};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Server, at};
use calico_ebpf_tests::wait;

use crate::expect::expect_both;

/// A deletion waits three seconds, and TCP that was not answered meanwhile sends again after at most twice as long.
const LIMIT: Duration = Duration::from_secs(20);

/// A sweep comes every ten seconds.
const SWEPT: Duration = Duration::from_secs(25);

/// Both ends of a connection that has carried data.
struct Connection {
    here: TcpStream,
    there: TcpStream,
}

impl Connection {
    /// Connects from one guest to an address of another.
    fn open(from: &Netns, to: &Netns, target: SocketAddr) -> Self {
        let any = SocketAddr::new(unspecified_like(target.ip()), target.port());
        let listener = to.run(|| TcpListener::bind(any)).expect("listen");
        let here = from.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)));
        let (there, _) = listener.accept().expect("accept");
        let mut connection = Self {
            here: here.expect("connect"),
            there,
        };
        let mut heard = [0; 4];
        connection.here.write_all(b"ping").expect("write");
        connection.there.read_exact(&mut heard).expect("read");
        connection.there.write_all(b"pong").expect("write");
        connection.here.read_exact(&mut heard).expect("read");
        for end in [&connection.here, &connection.there] {
            end.set_nonblocking(true).expect("a socket");
        }
        connection
    }
}

/// Says something and returns what became of the connection: `None` while nothing did.
fn say(mut end: &TcpStream) -> Option<ErrorKind> {
    let failed = |result: io::Result<usize>| match result {
        Ok(0) => Some(ErrorKind::UnexpectedEof),
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => Some(error.kind()),
    };
    // Reading tells the error itself; writing after it would tell of a broken pipe only.
    failed(end.read(&mut [0; 16])).or_else(|| failed(end.write(b"still there?")))
}

#[track_caller]
fn expect_reset(end: &TcpStream, what: &str) {
    let became = wait::poll(LIMIT, || say(end));
    assert_eq!(became, Some(ErrorKind::ConnectionReset), "{what}");
}

#[test]
fn scenario_70_the_peers_of_a_guest_that_is_deleted_see_a_reset_whoever_connected() {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene.manifests().put(&allow_all_egress());
    // Who belongs to nothing any more is let in by no group: that must not hide the end of the connection.
    for (name, peer) in [("a", "b"), ("b", "a"), ("c", "a")] {
        let rule = only_from(allow_tcp(9000), &format!("name == '{peer}'"));
        let policy = network_policy(&format!("to-{name}"), &format!("name == '{name}'"));
        scene.manifests().put(&policy.ingress(rule));
    }
    let agent = scene.start_agent();
    let [a, b, c] = ["a", "b", "c"].map(|name| scene.guest(name));
    let address = |of: &calico_ebpf_tests::guest::Guest, index: usize| at(of.vm().addresses()[index], 9000);
    let opened = [0, 1].map(|index| Connection::open(a.namespace(), b.namespace(), address(b, index)));
    let taken = [0, 1].map(|index| Connection::open(b.namespace(), a.namespace(), address(a, index)));
    let others = [0, 1].map(|index| Connection::open(a.namespace(), c.namespace(), address(c, index)));
    scene.manifests().remove(&workload_endpoint(b.vm()));
    scene.unplug("b");
    for connection in &opened {
        expect_reset(&connection.here, "who connected");
    }
    for connection in &taken {
        expect_reset(&connection.there, "who was connected to");
    }
    assert!(scene.launcher().drops(DropReason::WorkloadGone) >= 4);
    assert!(scene.launcher().passes(PassReason::Answered) >= 4);
    assert!(
        agent.log().contains("gone: its TCP connections are reset"),
        "the log says why"
    );
    // The others never noticed.
    for connection in &others {
        assert_eq!(say(&connection.here), None);
        wait::until("what was said arrives", LIMIT, || {
            (&connection.there)
                .read(&mut [0; 64])
                .is_ok_and(|bytes| bytes > 0)
        });
    }
}

#[test]
fn scenario_70_connections_of_a_guest_that_moves_to_another_host_are_not_reset() {
    let mut scene = Scene::new(&["a", "moves", "goes"]);
    scene.manifests().put(&allow_everything());
    let agent = scene.start_agent();
    let [a, moves, goes] = ["a", "moves", "goes"].map(|name| scene.guest(name));
    let connect = |to: &calico_ebpf_tests::guest::Guest| {
        let addresses: [IpAddr; 2] = to.vm().addresses();
        addresses.map(|address| Connection::open(a.namespace(), to.namespace(), at(address, 9000)))
    };
    let (kept, ended) = (connect(moves), connect(goes));
    // As Calico's driver of Neutron does at the end of a live migration: in this order, and at once.
    let (here, there) = (
        workload_endpoint(moves.vm()),
        workload_endpoint_on("compute-2", moves.vm()),
    );
    assert_ne!(HOSTNAME, "compute-2");
    scene.manifests().remove(&here);
    wait::until("the deletion is in force", LIMIT, || {
        scene
            .launcher()
            .query(&["endpoints"])
            .as_array()
            .is_some_and(|rows| rows.len() == 2)
    });
    for connection in &kept {
        assert_eq!(say(&connection.here), None);
    }
    scene.manifests().put(&there);
    wait::until("the endpoint is seen at the other host", LIMIT, || {
        agent.log().contains("tombstone cleared")
    });
    let goes_away = workload_endpoint(goes.vm());
    scene.manifests().remove(&goes_away);
    scene.unplug("moves");
    scene.unplug("goes");
    // Who went later is known as gone by now: then the other one would be, too.
    for connection in &ended {
        expect_reset(&connection.here, "to who went");
    }
    let told = scene.launcher().drops(DropReason::WorkloadGone);
    let sent = scene.launcher().passes(PassReason::Remote);
    for connection in &kept {
        assert_eq!(say(&connection.here), None);
    }
    wait::until(
        "what is said to who moved leaves for the other host",
        LIMIT,
        || scene.launcher().passes(PassReason::Remote) > sent,
    );
    for connection in &kept {
        assert_eq!(say(&connection.here), None);
        let error = connection.here.take_error().expect("a socket");
        assert!(
            error.is_none_or(|error| error.kind() != ErrorKind::ConnectionReset),
            "reset"
        );
    }
    assert_eq!(scene.launcher().drops(DropReason::WorkloadGone), told);
}

#[test]
fn scenario_70_what_is_left_of_guests_that_are_gone_is_swept_out() {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene.manifests().put(&allow_everything());
    let _agent = scene.start_agent();
    let flows = |scene: &Scene| {
        let rows = scene.launcher().query(&["flows"]);
        rows["flows"].as_array().expect("a list of flows").len()
    };
    let mut open = Vec::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| scene.guest(name));
    for (from, to) in [(a, b), (a, c)] {
        for address in to.vm().addresses() {
            open.push(Connection::open(
                from.namespace(),
                to.namespace(),
                at(address, 9000),
            ));
        }
    }
    assert_eq!(flows(&scene), 4);
    // Comes back with another slot, and may go on with its connections.
    for (count, is_there) in [(2, false), (3, true)] {
        if is_there {
            scene.manifests().put(&workload_endpoint(c.vm()));
        } else {
            scene.manifests().remove(&workload_endpoint(c.vm()));
        }
        wait::until("the change is in force", LIMIT, || {
            let rows = scene.launcher().query(&["endpoints"]);
            rows.as_array().is_some_and(|rows| rows.len() == count)
        });
    }
    for guest in [a, b] {
        // The tombstones fall as soon as somebody has the addresses.
        scene.manifests().remove(&workload_endpoint(guest.vm()));
        scene
            .manifests()
            .put(&workload_endpoint_on("compute-2", guest.vm()));
    }
    scene.unplug("a");
    scene.unplug("b");
    // Long before any timeout. A flow whose other end is here may go on with who has moved: it stays.
    wait::until("flows of which no end is here have ended", SWEPT, || {
        flows(&scene) == 2
    });
    assert!(wait::poll(SWEPT, || (flows(&scene) != 2).then_some(())).is_none());
}

#[test]
fn scenario_70_a_guest_that_is_there_again_is_not_refused_by_what_is_left_of_it() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    let mut agent = scene.start_agent();
    let object = workload_endpoint(scene.guest("b").vm());
    let connections = {
        let [a, b] = ["a", "b"].map(|name| scene.guest(name));
        let addresses = b.vm().addresses();
        addresses.map(|address| Connection::open(a.namespace(), b.namespace(), at(address, 9000)))
    };
    scene.manifests().remove(&object);
    scene.unplug("b");
    for connection in &connections {
        expect_reset(&connection.here, "to who went");
    }
    scene.plug("b");
    scene.manifests().put(&object);
    agent.wait_for("both are up", |report| {
        let up = report.endpoints.iter().filter(|endpoint| endpoint.state == "up");
        up.count() == 2
    });
    let b = scene.guest("b");
    let _server = Server::tcp(b.namespace(), 80);
    expect_both(scene.guest("a").namespace(), b, Question::Tcp(80), Seen::Open);
}
