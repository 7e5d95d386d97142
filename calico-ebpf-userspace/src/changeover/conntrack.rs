//! The kernel's own connection tracking (`nf_conntrack`), by which Felix's rules let established connections pass:
//! read and written over ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

/// `NFNL_SUBSYS_CTNETLINK << 8`, and the messages `IPCTNL_MSG_CT_NEW`, `_GET` and `_DELETE`.
const CT_NEW: u16 = 0x100;
const CT_GET: u16 = 0x101;
const CT_DELETE: u16 = 0x102;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const F_REQUEST: u16 = 1;
const F_ACK: u16 = 4;
const F_DUMP: u16 = 0x300;
const F_EXCL: u16 = 0x200;
const F_CREATE: u16 = 0x400;
/// Lengths of `nlmsghdr` and of `nfgenmsg` behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// The kernel fills at most half of it at once.
const LARGEST_ANSWER: usize = 64 * 1024;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const TIMEOUT: u16 = 7;
const NAT_DST: u16 = 13;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;
const PROTONAT_PORT_MIN: u16 = 1;
const PROTONAT_PORT_MAX: u16 = 2;

/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`.
const SEEN_REPLY: u32 = 2;
const ASSURED: u32 = 4;
const CONFIRMED: u32 = 8;
/// `TCP_CONNTRACK_ESTABLISHED` up to `TCP_CONNTRACK_CLOSE_WAIT`: data may flow, one side may have closed.
const TCP_ESTABLISHED: u8 = 3;
const TCP_CLOSE_WAIT: u8 = 5;
/// `IP_CT_TCP_FLAG_BE_LIBERAL`: windows are not judged, which nobody has followed.
const BE_LIBERAL: u8 = 8;

/// Addresses and ports of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
}

impl Tuple {
    /// Returns the tuple of the answers, untranslated.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
        }
    }
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub protocol: u8,
    /// As its originator sends.
    pub original: Tuple,
    /// As its answers come, before they are translated back.
    pub reply: Tuple,
    /// Whether both sides have spoken and TCP is neither being opened nor closed by both.
    pub established: bool,
}

/// A socket to connection tracking.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
    sequence: u32,
}

impl Conntrack {
    /// Opens the socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Reads every TCP and UDP connection of both families.
    ///
    /// # Errors
    /// What the kernel says: without the module `nf_conntrack_netlink` it is invalid.
    pub fn read(&mut self) -> io::Result<Vec<Connection>> {
        self.send(CT_GET, F_REQUEST | F_DUMP, 0, &[])?;
        let mut found = Vec::new();
        loop {
            let answer = self.receive()?;
            for (kind, body) in messages(&answer) {
                match kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => error_of(body)?,
                    CT_NEW => found.extend(body.get(GENERIC..).and_then(connection_of)),
                    _ => {}
                }
            }
        }
    }

    /// Tells connection tracking of an established connection, or that one that it knows lives, whatever its windows.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn keep(&mut self, connection: &Connection, timeout_seconds: u32) -> io::Result<()> {
        let translated = connection.reply != connection.original.reversed();
        let body = entry(connection, timeout_seconds, translated);
        match self.write(connection, F_EXCL, &body) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // The translation of one that is known cannot be changed.
                self.write(connection, 0, &entry(connection, timeout_seconds, false))
            }
            other => other,
        }
    }

    /// Has connection tracking forget a connection; one that it does not know is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forget(&mut self, connection: &Connection) -> io::Result<()> {
        let mut body = Vec::new();
        put_tuple(&mut body, TUPLE_ORIG, connection.protocol, &connection.original);
        self.send(CT_DELETE, F_REQUEST | F_ACK, family_of(connection)?, &body)?;
        match self.receive_acknowledgement() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn write(&mut self, connection: &Connection, flags: u16, body: &[u8]) -> io::Result<()> {
        let flags = F_REQUEST | F_ACK | F_CREATE | flags;
        self.send(CT_NEW, flags, family_of(connection)?, body)?;
        self.receive_acknowledgement()
    }

    fn receive_acknowledgement(&self) -> io::Result<()> {
        let answer = self.receive()?;
        for (kind, body) in messages(&answer) {
            if kind == NLMSG_ERROR {
                error_of(body)?;
            }
        }
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(LARGEST_ANSWER);
        self.socket.recv(&mut buffer, 0)?;
        Ok(buffer)
    }

    fn send(&mut self, kind: u16, flags: u16, family: u8, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + GENERIC + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::new();
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend([family, 0, 0, 0]);
        message.extend(body);
        self.socket.send(&message, 0)?;
        Ok(())
    }
}

fn family_of(connection: &Connection) -> io::Result<u8> {
    let family = if connection.original.source.0.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    u8::try_from(family).map_err(io::Error::other)
}

/// Cuts what was received into messages: kind and body.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (number32(bytes, 0), number16(bytes, 4)) {
        let length = usize::try_from(length).unwrap_or(0);
        let Some(body) = bytes.get(HEADER..length) else {
            break;
        };
        found.push((kind, body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The kernel's answer to a request is an error whose number is 0 if all is well.
fn error_of(body: &[u8]) -> io::Result<()> {
    match number32(body, 0).unwrap_or(0).cast_signed() {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Returns the payload of the first attribute of a kind.
fn find(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(number16(bytes, 0)?);
        let kind = number16(bytes, 2)? & TYPE_MASK;
        let payload = bytes.get(4..length)?;
        if kind == wanted {
            return Some(payload);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn connection_of(attributes: &[u8]) -> Option<Connection> {
    let (protocol, original) = tuple_of(find(attributes, TUPLE_ORIG)?)?;
    let (_, reply) = tuple_of(find(attributes, TUPLE_REPLY)?)?;
    let status = u32::from_be_bytes(find(attributes, STATUS)?.try_into().ok()?);
    let tcp = find(attributes, PROTOINFO)
        .and_then(|info| find(info, PROTOINFO_TCP))
        .and_then(|tcp| find(tcp, TCP_STATE)?.first().copied());
    let flows = tcp.is_none_or(|state| (TCP_ESTABLISHED..=TCP_CLOSE_WAIT).contains(&state));
    Some(Connection {
        protocol,
        original,
        reply,
        established: status & SEEN_REPLY != 0 && flows,
    })
}

/// Returns protocol and tuple; `None` for protocols without ports.
fn tuple_of(attributes: &[u8]) -> Option<(u8, Tuple)> {
    let ip = find(attributes, TUPLE_IP)?;
    let proto = find(attributes, TUPLE_PROTO)?;
    let address = |v4: u16| -> Option<IpAddr> {
        if let Some(bytes) = find(ip, v4) {
            return Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
        }
        let bytes = find(ip, v4 + 2)?;
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
    };
    let port = |kind| Some(u16::from_be_bytes(find(proto, kind)?.try_into().ok()?));
    let tuple = Tuple {
        source: (address(1)?, port(PROTO_SRC_PORT)?),
        destination: (address(2)?, port(PROTO_DST_PORT)?),
    };
    Some((*find(proto, PROTO_NUM)?.first()?, tuple))
}

fn put(into: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
    into.extend(length.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(payload);
    into.resize(into.len().next_multiple_of(4), 0);
}

fn nest(into: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    put(into, kind | NESTED, &inner);
}

fn put_tuple(into: &mut Vec<u8>, kind: u16, protocol: u8, tuple: &Tuple) {
    nest(into, kind, |into| {
        nest(into, TUPLE_IP, |into| {
            for (number, address) in [(1, tuple.source.0), (2, tuple.destination.0)] {
                match address {
                    IpAddr::V4(address) => put(into, number, &address.octets()),
                    IpAddr::V6(address) => put(into, number + 2, &address.octets()),
                }
            }
        });
        nest(into, TUPLE_PROTO, |into| {
            put(into, PROTO_NUM, &[protocol]);
            put(into, PROTO_SRC_PORT, &tuple.source.1.to_be_bytes());
            put(into, PROTO_DST_PORT, &tuple.destination.1.to_be_bytes());
        });
    });
}

/// Returns the attributes of a connection that lives.
fn entry(connection: &Connection, timeout_seconds: u32, translated: bool) -> Vec<u8> {
    let Connection {
        protocol,
        original,
        reply,
        ..
    } = connection;
    let mut body = Vec::new();
    put_tuple(&mut body, TUPLE_ORIG, *protocol, original);
    // The kernel changes the answers' tuple itself by the translation.
    put_tuple(&mut body, TUPLE_REPLY, *protocol, &original.reversed());
    put(
        &mut body,
        STATUS,
        &(SEEN_REPLY | ASSURED | CONFIRMED).to_be_bytes(),
    );
    put(&mut body, TIMEOUT, &timeout_seconds.to_be_bytes());
    if translated {
        let (address, port) = reply.source;
        nest(&mut body, NAT_DST, |into| {
            for bound in [0, 1] {
                match address {
                    IpAddr::V4(address) => put(into, 1 + bound, &address.octets()),
                    IpAddr::V6(address) => put(into, 4 + bound, &address.octets()),
                }
            }
            nest(into, 3, |into| {
                put(into, PROTONAT_PORT_MIN, &port.to_be_bytes());
                put(into, PROTONAT_PORT_MAX, &port.to_be_bytes());
            });
        });
    }
    if i32::from(*protocol) == libc::IPPROTO_TCP {
        nest(&mut body, PROTOINFO, |into| {
            nest(into, PROTOINFO_TCP, |into| {
                put(into, TCP_STATE, &[TCP_ESTABLISHED]);
                put(into, TCP_FLAGS_ORIGINAL, &[BE_LIBERAL, BE_LIBERAL]);
                put(into, TCP_FLAGS_REPLY, &[BE_LIBERAL, BE_LIBERAL]);
            });
        });
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(source: &str, destination: &str) -> Connection {
        let original = Tuple {
            source: (source.parse().unwrap(), 40000),
            destination: (destination.parse().unwrap(), 80),
        };
        Connection {
            protocol: 6,
            original,
            reply: original.reversed(),
            established: true,
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for (source, destination) in [("10.65.0.2", "10.65.0.3"), ("fd00::2", "fd00::3")] {
            let connection = connection(source, destination);
            assert_eq!(connection_of(&entry(&connection, 600, false)), Some(connection));
        }
    }

    #[test]
    fn bytes_that_are_cut_off_anywhere_are_no_connection_and_no_panic() {
        let body = entry(&connection("10.65.0.2", "10.65.0.3"), 600, true);
        for length in 0..body.len() - 40 {
            let _ = connection_of(&body[..length]);
            let _ = messages(&body[..length]);
        }
        assert_eq!(connection_of(&[0; 64]), None);
    }
}
