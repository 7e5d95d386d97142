//! One connection and what both of its ends have said and heard.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::seen::{Loss, Phase, Sort};
use crate::stream::Stream;

/// Bytes of a connection's number, which its client says first.
pub(super) const NUMBER: usize = 8;
/// Bytes that an end says at once.
pub(super) const CHUNK: usize = 256;
/// How long anything may take: to be opened, or to arrive. TCP tries three times within it.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// A connection, seen from both ends.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sort: Sort,
    /// When it was begun.
    pub(super) phase: Phase,
    /// Who opened it.
    pub(super) words: String,
    pub(super) begun: Instant,
    /// Descriptors of client and server end, as the loop numbers them.
    pub(super) ends: [Option<u64>; 2],
    /// From the client, and to it.
    pub(super) ways: [Way; 2],
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Way {
    stream: Stream,
    said: u64,
    heard: u64,
    /// End of each chunk that is on its way, and since when.
    pending: VecDeque<(u64, Instant)>,
}

impl Connection {
    pub(super) fn new(number: u64, sort: Sort, phase: Phase, words: String) -> Self {
        let way = |from_client| Way {
            stream: Stream::new(number, from_client),
            said: 0,
            heard: 0,
            pending: VecDeque::new(),
        };
        Self {
            sort,
            phase,
            words,
            begun: Instant::now(),
            ends: [None; 2],
            ways: [way(true), way(false)],
        }
    }

    /// Whether something was said that did not arrive.
    pub(super) fn is_waiting(&self) -> bool {
        self.ways.iter().any(|way| !way.pending.is_empty())
    }

    /// What is wrong with it by the clock.
    pub(super) fn overdue(&self, now: Instant) -> Option<Loss> {
        let oldest = self.ways.iter().filter_map(|way| way.pending.front());
        if oldest
            .into_iter()
            .any(|(_, since)| now.duration_since(*since) > LIMIT)
        {
            return Some(Loss::Stalled);
        }
        let is_late = now.duration_since(self.begun) > LIMIT;
        let [is_open, is_heard] = [self.ends[1].is_some(), self.ways[1].heard > 0];
        match self.sort {
            Sort::New if is_late && !is_heard => Some(Loss::Unanswered),
            Sort::Held if is_late && !is_open => Some(Loss::Unanswered),
            Sort::New | Sort::Held => None,
        }
    }
}

impl Way {
    /// Says the next chunk. A socket that has no room says less: the rest comes with the next one.
    pub(super) fn say(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        let bytes = self.stream.bytes(self.said, CHUNK);
        match socket.write(&bytes) {
            Ok(length) => {
                self.said += length as u64;
                self.pending.push_back((self.said, Instant::now()));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes what was heard; `arrived` is told how long each chunk took. Returns whether it is what was said.
    pub(super) fn hear(&mut self, bytes: &[u8], mut arrived: impl FnMut(Duration)) -> bool {
        if !self.stream.says(self.heard, bytes) {
            return false;
        }
        self.heard += bytes.len() as u64;
        while let Some((end, since)) = self.pending.front()
            && *end <= self.heard
        {
            arrived(since.elapsed());
            self.pending.pop_front();
        }
        true
    }

    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// Whether all that was said was heard.
    pub(super) fn is_whole(&self) -> bool {
        self.said == self.heard
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub(super) socket: TcpStream,
    pub(super) is_client: bool,
    /// The connection's number; a server reads it first.
    pub(super) number: Option<u64>,
    /// Of the number, what a server has read so far.
    heading: Vec<u8>,
    /// Whether a client's connection is there.
    pub(super) is_open: bool,
}

/// What came out of reading.
pub(super) enum Read {
    Bytes(Vec<u8>),
    Nothing,
    End,
    Failed(io::Error),
}

impl End {
    pub(super) fn client(socket: TcpStream, number: u64) -> Self {
        Self {
            socket,
            is_client: true,
            number: Some(number),
            heading: Vec::new(),
            is_open: false,
        }
    }

    pub(super) fn server(socket: TcpStream) -> Self {
        Self {
            socket,
            is_client: false,
            number: None,
            heading: Vec::new(),
            is_open: true,
        }
    }

    /// Reads what is there, without the connection's number.
    pub(super) fn read(&mut self) -> Read {
        let mut buffer = [0; 4096];
        let length = match (&self.socket).read(&mut buffer) {
            Ok(0) => return Read::End,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Read::Nothing,
            Err(error) => return Read::Failed(error),
        };
        let mut bytes = &buffer[..length];
        if self.number.is_none() {
            let (heading, rest) = bytes.split_at(bytes.len().min(NUMBER - self.heading.len()));
            self.heading.extend(heading);
            bytes = rest;
            self.number = self.heading.as_slice().try_into().ok().map(u64::from_le_bytes);
        }
        Read::Bytes(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn pair() -> [TcpStream; 2] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        [client, server]
    }

    #[test]
    fn a_server_learns_whose_connection_it_is_and_checks_what_it_hears() {
        let [client, server] = pair();
        let number = 0x0123_4567_89ab_cdef_u64;
        let mut connection = Connection::new(number, Sort::Held, Phase::Around, String::new());
        (&client).write_all(&number.to_le_bytes()).expect("write");
        connection.ways[0].say(&client).expect("write");
        assert!(connection.is_waiting());
        let mut end = End::server(server);
        let mut chunks = 0;
        while connection.is_waiting() {
            let Read::Bytes(bytes) = end.read() else {
                panic!("nothing to read")
            };
            assert!(connection.ways[0].hear(&bytes, |_| chunks += 1));
        }
        assert_eq!((end.number, chunks), (Some(number), 1));
        assert!(connection.ways[0].is_whole() && connection.ways[0].heard() == CHUNK as u64);
        assert!(!connection.ways[0].hear(&[0; 8], |_| {}), "not what comes next");
    }

    #[test]
    fn what_does_not_arrive_or_is_not_answered_is_overdue_after_the_limit() {
        let [client, _server] = pair();
        let late = Instant::now() + LIMIT + Duration::from_secs(1);
        let mut held = Connection::new(1, Sort::Held, Phase::Around, String::new());
        assert_eq!(held.overdue(Instant::now()), None);
        assert_eq!(held.overdue(late), Some(Loss::Unanswered));
        held.ends[1] = Some(2);
        assert_eq!(held.overdue(late), None);
        held.ways[0].say(&client).expect("write");
        assert_eq!(held.overdue(late), Some(Loss::Stalled));
        let mut new = Connection::new(3, Sort::New, Phase::Around, String::new());
        new.ends[1] = Some(4);
        assert_eq!(new.overdue(late), Some(Loss::Unanswered));
        assert_eq!(new.overdue(Instant::now()), None);
    }
}
