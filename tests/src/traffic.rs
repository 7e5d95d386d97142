//! Real servers and real transfers inside namespaces.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::evidence;
use crate::netns::Netns;
use crate::probe::unspecified_like;

/// A connection that shows no progress for so long is given up.
const STUCK: Duration = Duration::from_secs(20);
const CHUNK: usize = 256 * 1024;

/// A server that answers until this value is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    asked: Arc<AtomicU64>,
}

impl Server {
    /// Answers TCP connections to a port of both families with the port's number and closes them.
    pub fn tcp(namespace: &Netns, port: u16) -> Self {
        let listener = namespace.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)));
        let listener = listener.unwrap_or_else(|error| panic!("listen on tcp/{port}: {error}"));
        Self::start(listener, move |listener, asked| {
            if let Ok((mut connection, _)) = listener.accept() {
                asked.fetch_add(1, Ordering::Relaxed);
                // The client may already be gone: reaching the port was all it wanted.
                drop(connection.write_all(port.to_string().as_bytes()));
            }
        })
    }

    /// Answers each UDP datagram to a port of both families with the same datagram.
    pub fn udp(namespace: &Netns, port: u16) -> Self {
        let socket = namespace.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)));
        Self::udp_on(socket.unwrap_or_else(|error| panic!("bind udp/{port}: {error}")))
    }

    /// Answers each UDP datagram that a socket receives with the same datagram.
    pub fn udp_on(socket: UdpSocket) -> Self {
        Self::start(socket, |socket, asked| {
            let mut datagram = [0; 2048];
            if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                asked.fetch_add(1, Ordering::Relaxed);
                // A datagram with the unspecified source (DHCP) cannot be answered by unicast.
                drop(socket.send_to(&datagram[..length], from));
            }
        })
    }

    fn start<S: AsFd + Send + 'static>(socket: S, serve: impl Fn(&S, &AtomicU64) + Send + 'static) -> Self {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("eventfd"));
        let asked = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&asked));
        let thread = thread::spawn(move || {
            while readable_before(socket.as_fd(), stopped.as_fd()) {
                serve(&socket, &counted);
            }
        });
        Self {
            stop,
            thread: Some(thread),
            asked,
        }
    }

    /// Number of connections or datagrams that reached the server.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.write(1).expect("eventfd takes a count");
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Returns true when `socket` is readable, false when `stop` is.
fn readable_before(socket: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> bool {
    let mut ready = [
        PollFd::new(stop, PollFlags::POLLIN),
        PollFd::new(socket, PollFlags::POLLIN),
    ];
    while poll(&mut ready, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
    ready[0].any() == Some(false)
}

/// What the receiver of a transfer saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: u64,
    /// FNV-1a over all words.
    pub hash: u64,
    pub duration: Duration,
    /// Longest time between two reads.
    pub longest_stall: Duration,
}

/// How much is sent.
#[derive(Clone, Debug)]
pub enum Amount {
    Bytes(u64),
    /// Until somebody sets the flag.
    Until(Arc<AtomicBool>),
}

impl Amount {
    fn goes_on(&self, sent: u64) -> bool {
        match self {
            Self::Bytes(bytes) => sent < *bytes,
            Self::Until(flag) => !flag.load(Ordering::Relaxed),
        }
    }
}

/// A TCP transfer that is under way.
#[derive(Debug)]
pub struct Transfer {
    receiver: JoinHandle<io::Result<Received>>,
    sender: JoinHandle<io::Result<(u64, u64)>>,
    arrived: Arc<AtomicU64>,
}

/// Outcome of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub sent: u64,
    /// FNV-1a over what was sent.
    pub sent_hash: u64,
    pub received: Received,
}

impl Outcome {
    /// Returns whether every byte arrived as it was sent.
    pub fn is_whole(&self) -> bool {
        self.sent == self.received.bytes && self.sent_hash == self.received.hash
    }

    /// Returns the throughput in Gbit/s.
    pub fn gigabits_per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let bits = self.received.bytes as f64 * 8.0;
        bits / self.received.duration.as_secs_f64() / 1e9
    }
}

impl Transfer {
    /// Connects from one namespace to an address of the other and starts sending as fast as possible.
    ///
    /// # Errors
    ///
    /// When the connection is not made within a few seconds.
    pub fn start(from: &Netns, to: &Netns, address: SocketAddr, amount: Amount) -> io::Result<Self> {
        Self::start_paced(from, to, address, amount, u32::MAX)
    }

    /// As [`Self::start`], at no more than a number of bytes per second, so that no queue on the way overflows
    /// while the processors are busy with something else. [`u32::MAX`] is no limit.
    ///
    /// # Errors
    ///
    /// As for [`Self::start`].
    pub fn start_paced(
        from: &Netns,
        to: &Netns,
        address: SocketAddr,
        amount: Amount,
        bytes_per_second: u32,
    ) -> io::Result<Self> {
        evidence::packet_to(address.ip());
        let any = SocketAddr::new(unspecified_like(address.ip()), address.port());
        let listener = to.run(|| TcpListener::bind(any))?;
        let mut outgoing = from.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?;
        let (mut incoming, _) = listener.accept()?;
        outgoing.set_write_timeout(Some(STUCK))?;
        incoming.set_read_timeout(Some(STUCK))?;
        pace(&outgoing, bytes_per_second)?;
        let arrived = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&arrived);
        let receiver = thread::spawn(move || receive(&mut incoming, &counter));
        let sender = thread::spawn(move || send(&mut outgoing, &amount));
        Ok(Self {
            receiver,
            sender,
            arrived,
        })
    }

    /// Bytes that arrived so far.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// When either side's connection broke or made no progress for 20 seconds.
    pub fn finish(self) -> io::Result<Outcome> {
        let sent = self.sender.join().expect("the sender does not panic");
        let received = self.receiver.join().expect("the receiver does not panic");
        let (sent, sent_hash) = sent?;
        Ok(Outcome {
            sent,
            sent_hash,
            received: received?,
        })
    }
}

/// Sends bytes over TCP and waits until all have arrived.
///
/// # Errors
///
/// As for [`Transfer::start`] and [`Transfer::finish`].
pub fn transfer(from: &Netns, to: &Netns, address: SocketAddr, bytes: u64) -> io::Result<Outcome> {
    Transfer::start(from, to, address, Amount::Bytes(bytes))?.finish()
}

fn pace(connection: &TcpStream, bytes_per_second: u32) -> io::Result<()> {
    // SAFETY: SO_MAX_PACING_RATE reads one u32, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            connection.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const bytes_per_second).cast(),
            4,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn receive(connection: &mut TcpStream, arrived: &AtomicU64) -> io::Result<Received> {
    let mut buffer = vec![0; CHUNK];
    let mut hash = Fnv::default();
    let start = Instant::now();
    let (mut last, mut longest_stall, mut bytes) = (start, Duration::ZERO, 0);
    loop {
        let length = connection.read(&mut buffer)?;
        let now = Instant::now();
        longest_stall = longest_stall.max(now - last);
        last = now;
        if length == 0 {
            return Ok(Received {
                bytes,
                hash: hash.finish(),
                duration: now - start,
                longest_stall,
            });
        }
        hash.add(&buffer[..length]);
        bytes += length as u64;
        arrived.store(bytes, Ordering::Relaxed);
    }
}

fn send(connection: &mut TcpStream, amount: &Amount) -> io::Result<(u64, u64)> {
    let mut hash = Fnv::default();
    let (mut sent, mut state) = (0, 1_u64);
    let mut buffer = vec![0; CHUNK];
    while amount.goes_on(sent) {
        let length = match amount {
            Amount::Bytes(bytes) => CHUNK.min(usize::try_from(bytes - sent).unwrap_or(CHUNK)),
            Amount::Until(_) => CHUNK,
        };
        fill(&mut buffer[..length], &mut state);
        connection.write_all(&buffer[..length])?;
        hash.add(&buffer[..length]);
        sent += length as u64;
    }
    connection.shutdown(std::net::Shutdown::Write)?;
    Ok((sent, hash.finish()))
}

/// Fills with numbers that never repeat, so that a chunk lost, doubled or swapped changes the hash (xorshift64).
fn fill(buffer: &mut [u8], state: &mut u64) {
    for word in buffer.chunks_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
}

/// FNV-1a over 64-bit words, so that it costs little beside the transfer; the result does not depend on how the
/// stream is cut.
struct Fnv {
    state: u64,
    /// Bytes that do not fill a word yet.
    rest: Vec<u8>,
}

impl Default for Fnv {
    fn default() -> Self {
        Self {
            state: 0xcbf2_9ce4_8422_2325,
            rest: Vec::with_capacity(8),
        }
    }
}

impl Fnv {
    fn add(&mut self, mut bytes: &[u8]) {
        if !self.rest.is_empty() {
            let (filling, after) = bytes.split_at(bytes.len().min(8 - self.rest.len()));
            self.rest.extend_from_slice(filling);
            bytes = after;
            if let Ok(word) = <[u8; 8]>::try_from(self.rest.as_slice()) {
                self.state = Self::step(self.state, word);
                self.rest.clear();
            }
        }
        let (words, rest) = bytes.as_chunks::<8>();
        self.state = words
            .iter()
            .fold(self.state, |state, word| Self::step(state, *word));
        self.rest.extend_from_slice(rest);
    }

    fn finish(&self) -> u64 {
        let mut word = [0; 8];
        word[..self.rest.len()].copy_from_slice(&self.rest);
        Self::step(self.state, word)
    }

    fn step(state: u64, word: [u8; 8]) -> u64 {
        (state ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3)
    }
}

/// Counts of a stream of small datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    pub sent: u64,
    pub arrived: u64,
    pub duration: Duration,
}

/// Sends 64-byte UDP datagrams as fast as possible for a time and counts those that arrive.
///
/// # Errors
///
/// When a socket cannot be made.
pub fn datagrams(from: &Netns, to: &Netns, address: SocketAddr, time: Duration) -> io::Result<Stream> {
    evidence::packet_to(address.ip());
    let sink = to.run(|| UdpSocket::bind(address))?;
    sink.set_read_timeout(Some(Duration::from_millis(200)))?;
    let source = from.run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(unspecified_like(address.ip()), 0))?;
        socket.connect(address)?;
        Ok::<_, io::Error>(socket)
    })?;
    let start = Instant::now();
    let done = AtomicBool::new(false);
    let (sent, arrived) = thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut arrived, mut buffer) = (0, [0; 128]);
            loop {
                match sink.recv(&mut buffer) {
                    Ok(_) => arrived += 1,
                    Err(_) if done.load(Ordering::Relaxed) => return arrived,
                    Err(_) => {}
                }
            }
        });
        let mut sent = 0;
        while start.elapsed() < time {
            sent += u64::from(source.send(&[0x55; 64]).is_ok());
        }
        done.store(true, Ordering::Relaxed);
        (sent, receiver.join().expect("the receiver does not panic"))
    });
    Ok(Stream {
        sent,
        arrived,
        duration: time,
    })
}

/// Returns the socket address of a port at an address.
pub fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_does_not_depend_on_how_the_stream_is_cut_and_sees_a_swap() {
        let bytes: Vec<u8> = (0..=255).collect();
        let hash = |parts: &[&[u8]]| {
            let mut hash = Fnv::default();
            for part in parts {
                hash.add(part);
            }
            hash.finish()
        };
        let whole = hash(&[&bytes]);
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(hash(&[head, tail]), whole, "cut at {cut}");
            assert_eq!(
                hash(&[head, &[], &tail[..tail.len() / 3], &tail[tail.len() / 3..]]),
                whole
            );
        }
        assert_ne!(hash(&[&bytes[8..16], &bytes[..8], &bytes[16..]]), whole);
    }
}
