//! Two guests that talk: connections that are held, each of which says something every second in both directions, and
//! new ones all the time. One thread holds both ends of all of them, so that every byte is compared with what was said.

mod connection;
pub(crate) mod seen;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use calico_ebpf_tests::guest::Guest;
use calico_ebpf_tests::netns::Netns;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};

use crate::ports;
use connection::{CHUNK, Connection, End, LIMIT, Read};
use seen::{Loss, Phase, Seen, Sort};

/// Connections that are held.
pub(crate) const HELD: usize = 1000;
/// New connections a second.
pub(crate) const NEW: u32 = 100;

/// Time between two words of a held connection, in each direction.
const BEAT: Duration = Duration::from_secs(1);
/// Held connections that are opened a second.
const HELD_OPENED: u32 = 500;
/// Longest sleep of the loop.
const TICK: u16 = 2;
/// How often what is overdue is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// What the talk is told to do, and what it has seen.
#[derive(Debug)]
pub(crate) struct Cues {
    pub(crate) phase: Mutex<Phase>,
    /// New connections are opened.
    pub(crate) is_opening: AtomicBool,
    /// Say nothing more, wait for what is under way and end.
    pub(crate) is_over: AtomicBool,
    pub(crate) seen: Mutex<Seen>,
}

impl Cues {
    pub(crate) fn new() -> Self {
        Self {
            phase: Mutex::new(Phase::Around),
            is_opening: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().expect("the talk does not panic").clone()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        *self.phase.lock().expect("nobody panics here") = phase;
    }
}

/// Talks until it is told that it is over, and a little longer. For a thread of its own: it goes from namespace to
/// namespace.
///
/// # Errors
///
/// When the machine does not give what the talk needs; what becomes of connections is no error.
pub(crate) fn talk(guests: [&Guest; 2], cues: &Cues) -> anyhow::Result<()> {
    let mut talk = Talk::new(guests, cues)?;
    let start = Instant::now();
    let (mut beats, mut beats_start) = (0_u32, None);
    let (mut opened, mut openings_start) = (0_u32, None);
    let mut looked = start;
    loop {
        talk.wait()?;
        let now = Instant::now();
        let is_over = cues.is_over.load(Ordering::Relaxed);
        while !is_over && talk.held.len() < HELD && due(start, now, HELD_OPENED) > talk.held_begun() {
            talk.open(Sort::Held)?;
        }
        if !is_over && talk.held_begun() as usize == HELD {
            // Each beat is another connection's: they are spread over the second.
            let per_second = u32::try_from(HELD)? / u32::try_from(BEAT.as_secs())?;
            let from = *beats_start.get_or_insert(now);
            while beats < due(from, now, per_second) {
                talk.beat(beats as usize % HELD);
                beats += 1;
            }
        }
        if !is_over && cues.is_opening.load(Ordering::Relaxed) {
            let from = *openings_start.get_or_insert(now);
            while opened < due(from, now, NEW) {
                talk.open(Sort::New)?;
                opened += 1;
            }
        }
        if now.duration_since(looked) > LOOK {
            looked = now;
            talk.look_for_overdue(now);
            if is_over && talk.is_silent() {
                talk.finish();
                return Ok(());
            }
        }
    }
}

/// How many of `per_second` were due by now.
fn due(start: Instant, now: Instant, per_second: u32) -> u32 {
    let micros = now.duration_since(start).as_micros() * u128::from(per_second) / 1_000_000;
    u32::try_from(micros).unwrap_or(u32::MAX)
}

struct Talk<'a> {
    guests: [&'a Guest; 2],
    cues: &'a Cues,
    epoll: Epoll,
    /// By token; tokens below 2 are the listeners.
    listeners: [TcpListener; 2],
    ends: HashMap<u64, End>,
    next_token: u64,
    connections: HashMap<u64, Connection>,
    next_number: u64,
    /// Numbers of held connections, in the order in which they were begun; lost ones stay in it.
    held: Vec<u64>,
    /// New ones that did not come to their end yet.
    new: HashSet<u64>,
    phase: Phase,
}

impl<'a> Talk<'a> {
    fn new(guests: [&'a Guest; 2], cues: &'a Cues) -> anyhow::Result<Self> {
        let listen = |namespace: &Netns| -> io::Result<TcpListener> {
            namespace.enter()?;
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, ports::TALK))?;
            // More than come while this thread waits for a processor.
            socket::listen(&listener, socket::Backlog::MAXCONN)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listeners = [
            listen(guests[0].namespace()).context("listen")?,
            listen(guests[1].namespace()).context("listen")?,
        ];
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (token, listener) in (0..).zip(&listeners) {
            epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        Ok(Self {
            guests,
            cues,
            epoll,
            listeners,
            ends: HashMap::new(),
            next_token: 2,
            connections: HashMap::new(),
            next_number: 0,
            held: Vec::new(),
            new: HashSet::new(),
            phase: Phase::Around,
        })
    }

    fn held_begun(&self) -> u32 {
        u32::try_from(self.held.len()).unwrap_or(u32::MAX)
    }

    /// Waits for something to happen and deals with it.
    fn wait(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        let count = match self.epoll.wait(&mut events, TICK) {
            Err(Errno::EINTR) => 0,
            result => result?,
        };
        self.phase = *self.cues.phase.lock().expect("nobody panics here");
        for event in &events[..count] {
            match event.data() {
                listener @ 0..2 => self.accept(usize::from(listener == 1))?,
                token => self.serve(token)?,
            }
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> anyhow::Result<()> {
        loop {
            match self.listeners[listener].accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true)?;
                    // Without it, a chunk would wait for the answer to the one before.
                    socket.set_nodelay(true)?;
                    self.add(End::server(socket), EpollFlags::EPOLLIN)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // A client that went away again says so itself.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error).context("accept"),
            }
        }
    }

    fn add(&mut self, end: End, interest: EpollFlags) -> anyhow::Result<u64> {
        let token = self.next_token;
        self.next_token += 1;
        self.epoll.add(&end.socket, EpollEvent::new(interest, token))?;
        self.ends.insert(token, end);
        Ok(token)
    }

    /// Begins a connection: of four in a row, one each way in each family.
    fn open(&mut self, sort: Sort) -> anyhow::Result<()> {
        let number = self.next_number;
        self.next_number += 1;
        let (client, server) = if number.is_multiple_of(2) { (0, 1) } else { (1, 0) };
        let family = usize::from(number / 2 % 2 == 1);
        let (client, server) = (self.guests[client], self.guests[server]);
        let target = SocketAddr::new(server.vm().addresses()[family], ports::TALK);
        let words = format!("{} to {target}", client.vm().name());
        client.namespace().enter().context("enter a guest's namespace")?;
        let mut connection = Connection::new(number, sort, self.phase, words);
        match connect(target) {
            Ok(socket) => {
                let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
                connection.ends[0] = Some(self.add(End::client(socket, number), interest)?);
                self.connections.insert(number, connection);
            }
            Err(error) => {
                self.connections.insert(number, connection);
                self.lose(number, Loss::Unanswered, &error.to_string());
            }
        }
        match sort {
            Sort::Held => self.held.push(number),
            Sort::New => {
                self.new.insert(number);
                self.count(self.phase, |counts| counts.begun += 1);
            }
        }
        Ok(())
    }

    fn count(&self, phase: Phase, note: impl FnOnce(&mut seen::Counts)) {
        let mut seen = self.cues.seen.lock().expect("nobody panics here");
        note(seen.of(phase));
    }

    /// Goes on with an end that has something to say.
    fn serve(&mut self, token: u64) -> anyhow::Result<()> {
        let Some(end) = self.ends.get_mut(&token) else {
            return Ok(());
        };
        if end.is_client && !end.is_open {
            return self.has_connected(token);
        }
        loop {
            let Some(end) = self.ends.get_mut(&token) else {
                return Ok(());
            };
            let read = end.read();
            let (number, is_client) = (end.number, end.is_client);
            match (read, number) {
                (Read::Nothing, _) => return Ok(()),
                (Read::Bytes(bytes), Some(number)) => self.hear(token, number, is_client, &bytes),
                (Read::Bytes(_), None) => {}
                (Read::End, number) => self.ended(token, number, "it was closed"),
                (Read::Failed(error), number) => self.ended(token, number, &error.to_string()),
            }
        }
    }

    /// A client's connection is open, or will never be.
    fn has_connected(&mut self, token: u64) -> anyhow::Result<()> {
        let Some(end) = self.ends.get_mut(&token) else {
            return Ok(());
        };
        let number = end.number.context("a client has a number")?;
        if let Some(error) = end.socket.take_error()? {
            let loss = if error.kind() == io::ErrorKind::TimedOut {
                Loss::Unanswered
            } else {
                Loss::Refused
            };
            self.lose(number, loss, &error.to_string());
            return Ok(());
        }
        end.is_open = true;
        end.socket.set_nodelay(true)?;
        let mut interest = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.epoll.modify(&end.socket, &mut interest)?;
        let said = io::Write::write_all(&mut &end.socket, &number.to_le_bytes());
        let Some(connection) = self.connections.get_mut(&number) else {
            return Ok(());
        };
        let micros = micros(connection.begun.elapsed());
        let said = said.and_then(|()| match connection.sort {
            Sort::New => connection.ways[0].say(&end.socket),
            Sort::Held => Ok(()),
        });
        if connection.sort == Sort::New {
            let phase = connection.phase;
            self.count(phase, |counts| counts.openings.push(micros));
        }
        if let Err(error) = said {
            self.lose(number, Loss::Broken, &error.to_string());
        }
        Ok(())
    }

    fn hear(&mut self, token: u64, number: u64, is_client: bool, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&number) else {
            // It is lost already, or no connection of ours.
            self.drop_end(token);
            return;
        };
        let is_first = !is_client && connection.ends[1].replace(token).is_none();
        let way = usize::from(is_client);
        let mut delays = Vec::new();
        if !connection.ways[way].hear(bytes, |delay| delays.push(micros(delay))) {
            let place = connection.ways[way].heard();
            self.lose(number, Loss::Damaged, &format!("behind byte {place}"));
            return;
        }
        let is_new = connection.sort == Sort::New;
        let is_asked = is_new && !is_client && connection.ways[0].heard() == CHUNK as u64;
        let is_answered = is_new && is_client && connection.ways[1].heard() == CHUNK as u64;
        let mut failure = None;
        if is_asked && let Some(end) = self.ends.get(&token) {
            failure = connection.ways[1].say(&end.socket).err();
        }
        let phase = connection.phase;
        self.count(self.phase, |counts| {
            counts.bytes += bytes.len() as u64;
            counts.delays.extend(delays);
        });
        if is_answered {
            self.count(phase, |counts| counts.answered += 1);
        }
        if is_first && !is_new {
            self.cues.seen.lock().expect("nobody panics here").held += 1;
        }
        if let Some(error) = failure {
            self.lose(number, Loss::Broken, &error.to_string());
        }
        if is_answered {
            // The client closes; the server's end follows when it reads that.
            self.new.remove(&number);
            self.connections.remove(&number);
            self.drop_end(token);
        }
    }

    /// The other side closed or reset an end's connection.
    fn ended(&mut self, token: u64, number: Option<u64>, why: &str) {
        self.drop_end(token);
        if let Some(number) = number {
            self.lose(number, Loss::Broken, why);
        }
    }

    fn drop_end(&mut self, token: u64) {
        // A closed descriptor leaves epoll by itself.
        self.ends.remove(&token);
    }

    /// Notes that a connection is lost and closes it. One that came to its end cannot be lost any more.
    fn lose(&mut self, number: u64, loss: Loss, why: &str) {
        let Some(connection) = self.connections.remove(&number) else {
            return;
        };
        self.new.remove(&number);
        let mut seen = self.cues.seen.lock().expect("nobody panics here");
        let sort = connection.sort;
        if sort == Sort::Held && connection.ends[1].is_some() {
            seen.held -= 1;
        }
        // A new one is lost to what it was begun under, also when that shows only later.
        let phase = match sort {
            Sort::Held => self.phase,
            Sort::New => connection.phase,
        };
        seen.lose(phase, sort, loss, || {
            let age = connection.begun.elapsed().as_secs_f64();
            format!(
                "{sort:?} {number}, {}: {loss:?} after {age:.1} s: {why}",
                connection.words
            )
        });
        drop(seen);
        for token in connection.ends.into_iter().flatten() {
            self.drop_end(token);
        }
    }

    /// Both ends of a held connection say something.
    fn beat(&mut self, index: usize) {
        let number = self.held[index];
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let mut failure = None;
        for (token, way) in connection.ends.iter().zip(&mut connection.ways) {
            let end = token.and_then(|token| self.ends.get(&token));
            if let Some(end) = end.filter(|end| end.is_open) {
                failure = failure.or(way.say(&end.socket).err());
            }
        }
        if let Some(error) = failure {
            self.lose(number, Loss::Broken, &error.to_string());
        }
    }

    fn look_for_overdue(&mut self, now: Instant) {
        let overdue =
            |(number, connection): (&u64, &Connection)| connection.overdue(now).map(|loss| (*number, loss));
        let overdue: Vec<_> = self.connections.iter().filter_map(overdue).collect();
        for (number, loss) in overdue {
            self.lose(number, loss, &format!("nothing within {LIMIT:?}"));
        }
    }

    /// Whether nothing is under way any more. What is lost ends by the clock.
    fn is_silent(&self) -> bool {
        self.new.is_empty() && !self.connections.values().any(Connection::is_waiting)
    }

    /// Notes whether all that was said was heard.
    fn finish(&self) {
        let whole = |connection: &Connection| connection.ways.iter().all(connection::Way::is_whole);
        let is_whole = self.connections.values().all(whole);
        let mut seen = self.cues.seen.lock().expect("nobody panics here");
        seen.is_whole = Some(is_whole);
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// Begins to connect, from the namespace of the calling thread.
fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let family = match target.ip() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Waits until all held connections are open and each has said something.
///
/// # Errors
///
/// One of them was lost, or it takes too long.
pub(crate) fn wait_until_held(cues: &Cues) -> anyhow::Result<()> {
    let limit = LIMIT * 2;
    let held = calico_ebpf_tests::wait::poll(limit, || {
        let seen = cues.seen();
        (seen.held == HELD || seen.all_losses() > 0).then_some(seen)
    });
    let seen = held.with_context(|| format!("not within {limit:?}: {HELD} connections"))?;
    ensure!(
        seen.all_losses() == 0,
        "connections are lost before any attack: {}",
        seen.examples.join("; ")
    );
    Ok(())
}
