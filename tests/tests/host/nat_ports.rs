//! One port of a client speaks to the floating and to the fixed address of a guest at once (contract 3.5).

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;

use calico_ebpf_tests::manifests::allow_everything;
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::traffic::Server;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::expect::{LIMIT, time_until};
use crate::nat::{external, floating_scene};

/// The client's port.
const PORT: u16 = 4000;

fn any_like(address: IpAddr) -> SocketAddr {
    let any: IpAddr = if address.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(any, PORT)
}

/// Connects from [`PORT`], which other connections may use as well.
fn connect_from_port(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let descriptor = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&descriptor, sockopt::ReuseAddr, &true)?;
    setsockopt(&descriptor, sockopt::ReusePort, &true)?;
    let limit = TimeVal::new(LIMIT.as_secs().cast_signed(), 0);
    setsockopt(&descriptor, sockopt::SendTimeout, &limit)?;
    setsockopt(&descriptor, sockopt::ReceiveTimeout, &limit)?;
    bind(descriptor.as_raw_fd(), &SockaddrStorage::from(any_like(to.ip())))?;
    connect(descriptor.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(descriptor.into())
}

/// Connects to both, then reads what each server says.
fn read_from_both(client: &Netns, both: [SocketAddr; 2]) -> [String; 2] {
    let streams = client.run(|| both.map(connect_from_port));
    streams.map(|stream| {
        let mut said = String::new();
        stream
            .and_then(|mut stream| stream.read_to_string(&mut said))
            .unwrap_or_else(|error| panic!("{both:?}: {error}"));
        said
    })
}

/// Sends a datagram to each by turns from one socket and expects each to come back from where it was sent to.
fn ask_both(client: &Netns, both: [SocketAddr; 2]) {
    let socket = client
        .run(|| UdpSocket::bind(any_like(both[0].ip())))
        .expect("bind");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    for round in 0..3 {
        for to in both {
            let asked = format!("{to} {round}");
            socket.send_to(asked.as_bytes(), to).expect("send");
            let mut answer = [0; 100];
            let (length, from) = socket.recv_from(&mut answer).expect("an answer");
            assert_eq!((&answer[..length], from), (asked.as_bytes(), to));
        }
    }
}

#[test]
fn contract_3_5_floating_and_fixed_address_answer_one_port_at_once() {
    let (scene, _agent) = floating_scene();
    scene.manifests().put(&allow_everything());
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    time_until(a.namespace(), external()[0], Question::Ping, Seen::Open);
    let (tcp, udp) = (Server::tcp(b.namespace(), 80), Server::udp(b.namespace(), 161));
    let mut asked = 0;
    let host = scene.host();
    for client in [a.namespace(), host.outside(), host.namespace()] {
        for (fixed, outer) in b.vm().addresses().into_iter().zip(external()) {
            for order in [[fixed, outer], [outer, fixed]] {
                // The flows of the order before are of the same port.
                let port = if order[0] == fixed { 80 } else { 8080 };
                let _other = (port == 8080).then(|| Server::tcp(b.namespace(), 8080));
                let said = read_from_both(client, order.map(|to| SocketAddr::new(to, port)));
                assert_eq!(said, [port.to_string(), port.to_string()]);
                asked += u64::from(port == 80) * 2;
            }
            ask_both(client, [fixed, outer].map(|to| SocketAddr::new(to, 161)));
        }
    }
    assert_eq!(tcp.asked(), asked);
    assert_eq!(udp.asked(), 6 * 6);
}
