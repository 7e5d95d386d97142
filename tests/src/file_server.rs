//! A web server for one large file.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread::{self, JoinHandle};

use crate::netns::Netns;

/// Distance between two words of a file that are not zero. No two words are equal, so none can be lost or swapped unseen.
const SPACING: usize = 1 << 20;

/// Makes a file with holes in it: it has a length, but takes hardly any room.
///
/// # Errors
///
/// What the file system says.
pub fn make_sparse_file(path: &Path, bytes: u64) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(bytes)?;
    for (number, offset) in (1_u64..).zip((0..bytes.saturating_sub(8)).step_by(SPACING)) {
        file.write_all_at(&number.to_be_bytes(), offset)?;
    }
    Ok(())
}

/// Answers a number of HTTP requests at port 80 of both families with a file, then ends.
#[derive(Debug)]
pub struct FileServer(JoinHandle<()>);

impl FileServer {
    /// Listens in a namespace.
    pub fn start(namespace: &Netns, file: &Path, requests: usize) -> Self {
        let listener = namespace.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)));
        let listener = listener.unwrap_or_else(|error| panic!("listen on tcp/80: {error}"));
        let file = file.to_owned();
        let thread = thread::spawn(move || {
            for _ in 0..requests {
                let (connection, _) = listener.accept().expect("a connection");
                // A client that goes away before the end says so itself.
                drop(answer(connection, &file));
            }
        });
        Self(thread)
    }

    /// Waits until every request is answered.
    ///
    /// # Panics
    ///
    /// When the server did.
    pub fn finish(self) {
        self.0.join().expect("the server does not panic");
    }
}

fn answer(mut connection: TcpStream, file: &Path) -> io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    // From a file to a socket this is sendfile(2).
    io::copy(&mut file, &mut connection)?;
    Ok(())
}
