//! Can one reach the other: short questions with a limit.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, sockopt};
use nix::sys::time::TimeVal;
use serde::Serialize;

use crate::evidence;
use crate::netns::Netns;
use crate::wait;

/// How long a question may stay unanswered. Below the second after which TCP asks again.
pub const LIMIT: Duration = Duration::from_millis(800);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A TCP connection to this port.
    Tcp(u16),
    /// A UDP datagram to this port that is answered.
    Udp(u16),
    /// An ICMP or ICMPv6 echo.
    Ping,
}

impl fmt::Display for Question {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(formatter, "tcp/{port}"),
            Self::Udp(port) => write!(formatter, "udp/{port}"),
            Self::Ping => write!(formatter, "ping"),
        }
    }
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// An answer.
    Open,
    /// A refusal: the packet arrived and nobody serves the port, or somebody on the way says no.
    Refused,
    /// Nothing.
    Silent,
}

impl fmt::Display for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Silent => "silent",
        })
    }
}

/// Asks once from a namespace and waits for [`LIMIT`] at most.
pub fn reach(from: &Netns, to: IpAddr, question: Question) -> Seen {
    reach_within(from, to, question, LIMIT)
}

/// Asks once from a namespace and waits for `limit` at most, which is not zero.
pub fn reach_within(from: &Netns, to: IpAddr, question: Question, limit: Duration) -> Seen {
    evidence::packet_to(to);
    let answer = from.run(|| match question {
        Question::Tcp(port) => TcpStream::connect_timeout(&SocketAddr::new(to, port), limit).map(drop),
        Question::Udp(port) => ask_udp(SocketAddr::new(to, port), limit),
        Question::Ping => ping(to, limit),
    });
    match answer {
        Ok(()) => Seen::Open,
        Err(error) => seen_in(&error),
    }
}

/// Asks until the answer is as expected and returns how long that took; `None` after `limit`.
pub fn time_until(
    from: &Netns,
    to: IpAddr,
    question: Question,
    expected: Seen,
    limit: Duration,
) -> Option<Duration> {
    const QUICK: Duration = Duration::from_millis(100);
    let start = Instant::now();
    wait::poll(limit, || {
        (reach_within(from, to, question, QUICK) == expected).then(|| start.elapsed())
    })
}

fn seen_in(error: &io::Error) -> Seen {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::EACCES) => Seen::Refused,
        _ => Seen::Silent,
    }
}

fn ask_udp(to: SocketAddr, limit: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(unspecified_like(to.ip()), 0))?;
    socket.set_read_timeout(Some(limit))?;
    socket.connect(to)?;
    socket.send(b"are you there")?;
    let mut answer = [0; 64];
    socket.recv(&mut answer).map(drop)
}

/// Sends one echo request through a ping socket, to which the kernel gives the identifier and the checksum.
fn ping(to: IpAddr, limit: Duration) -> io::Result<()> {
    let (family, protocol, request) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, libc::IPPROTO_ICMP, 8),
        IpAddr::V6(_) => (AddressFamily::Inet6, libc::IPPROTO_ICMPV6, 128),
    };
    let kind = SockType::Datagram as libc::c_int | SockFlag::SOCK_CLOEXEC.bits();
    // SAFETY: a system call that takes three integers.
    let descriptor = Errno::result(unsafe { libc::socket(family as libc::c_int, kind, protocol) })?;
    // SAFETY: the descriptor was just opened and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let seconds = i64::try_from(limit.as_secs()).map_err(io::Error::other)?;
    let limit = TimeVal::new(seconds, i64::from(limit.subsec_micros()));
    socket::setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    let message = [request, 0, 0, 0, 0, 0, 0, 1, b'p', b'i', b'n', b'g'];
    let target = SockaddrStorage::from(SocketAddr::new(to, 0));
    socket::sendto(socket.as_raw_fd(), &message, &target, MsgFlags::empty())?;
    let mut answer = [0; 64];
    socket::recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    Ok(())
}

/// The wildcard address of a family.
pub fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
