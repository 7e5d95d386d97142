//! Lines to syslog, as RFC 3164 has them and without a time: the daemon dates them.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Facility `daemon`.
const FACILITY: u8 = 3;
const INFO: u8 = 6;

/// The socket of the syslog daemon.
#[derive(Clone, Debug)]
pub(super) struct Syslog {
    socket: Arc<UnixDatagram>,
    path: Arc<PathBuf>,
}

impl Syslog {
    /// Makes a writer to the daemon at `path`, which may come later, or never.
    ///
    /// # Errors
    /// When there are no sockets left.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A daemon that does not read must not hold up the agent.
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: Arc::new(socket),
            path: Arc::new(path.to_owned()),
        })
    }
}

/// Writes one line.
#[derive(Debug)]
pub(super) struct Line {
    syslog: Syslog,
    severity: u8,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let priority = FACILITY * 8 + self.severity;
        let mut line = format!("<{priority}>calico-ebpf[{}]: ", std::process::id()).into_bytes();
        line.extend_from_slice(bytes.trim_ascii_end());
        // Without a daemon the line is lost, as with syslog(3).
        drop(self.syslog.socket.send_to(&line, self.syslog.path.as_path()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Syslog {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line {
            syslog: self.clone(),
            severity: INFO,
        }
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Line {
        let severity = match *metadata.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => INFO,
            Level::DEBUG | Level::TRACE => 7,
        };
        Line {
            syslog: self.clone(),
            severity,
        }
    }
}
