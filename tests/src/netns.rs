//! Network namespaces without names: they live as long as a file descriptor of this process, so that nothing is
//! left behind even when the process is killed.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::panic;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, for a host with a mount namespace of its own.
#[derive(Debug)]
pub struct Netns {
    net: OwnedFd,
    /// Present for a host: `/sys` of that network namespace, an own bpffs and an own `/run`.
    mounts: Option<OwnedFd>,
}

impl Netns {
    /// Makes a network namespace for a guest; its loopback is up.
    pub fn guest() -> Self {
        Self::make(CloneFlags::CLONE_NEWNET)
    }

    /// Makes a network namespace with private mounts: sysfs of the namespace on `/sys`, a bpffs on `/sys/fs/bpf`
    /// and a tmpfs on `/run`. The mounts outlive each process that runs inside.
    pub fn host() -> Self {
        Self::make(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
    }

    fn make(flags: CloneFlags) -> Self {
        let namespace = in_fresh_thread(|| {
            unshare(flags).expect("unshare (needs root)");
            let mounts = flags.contains(CloneFlags::CLONE_NEWNS).then(|| {
                mount_privately();
                open("/proc/thread-self/ns/mnt")
            });
            Self {
                net: open("/proc/thread-self/ns/net"),
                mounts,
            }
        });
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `work` in a fresh thread inside the namespace and returns what it returns. Sockets that it makes keep
    /// belonging to the namespace. It must not spawn processes: they would end with the thread.
    ///
    /// # Panics
    ///
    /// When `work` does, with its panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_fresh_thread(|| {
            self.enter().expect("setns");
            work()
        })
    }

    /// Moves the calling thread into the namespace. It cannot be moved back: for threads that end there.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub fn enter(&self) -> io::Result<()> {
        if let Some(mounts) = &self.mounts {
            unshare(CloneFlags::CLONE_FS)?;
            setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
        }
        setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(())
    }

    /// Returns a command that will run inside the namespace and is killed when the calling thread ends.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let net = self.net.as_raw_fd();
        let mounts = self.mounts.as_ref().map(OwnedFd::as_raw_fd);
        // SAFETY: the closure only makes system calls; it allocates nothing and takes no lock. The descriptors
        // stay open in the child until it executes the program.
        unsafe { command.pre_exec(move || enter_after_fork(net, mounts)) };
        command
    }

    /// Runs a command inside the namespace and returns its output whatever its exit status is.
    pub fn output(&self, program: &str, arguments: &[impl AsRef<str>]) -> Output {
        self.command(program)
            .args(arguments.iter().map(AsRef::as_ref))
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"))
    }

    /// Runs a command inside the namespace and returns its standard output.
    ///
    /// # Panics
    ///
    /// When it fails, with its standard error.
    pub fn stdout(&self, program: &str, arguments: &[impl AsRef<str> + Debug]) -> String {
        let output = self.output(program, arguments);
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs commands of `ip`, one per line, in one process.
    pub fn ip(&self, lines: &str) {
        self.feed("ip", &["-batch", "-"], lines);
    }

    /// Runs a command with `input` on its standard input.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) {
        self.try_feed(program, arguments, input)
            .unwrap_or_else(|error| panic!("{program} {arguments:?} of\n{input}\n{error}"));
    }

    /// Runs a command with `input` on its standard input.
    ///
    /// # Errors
    ///
    /// When it does not start or fails, with what it said.
    pub fn try_feed(&self, program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
        let mut child = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    }

    /// Returns a setting below `/proc/sys` of the namespace, without the newline.
    pub fn sysctl(&self, path: &str) -> String {
        let file = format!("/proc/sys/{path}");
        let text = self.run(|| fs::read_to_string(&file));
        text.unwrap_or_else(|error| panic!("{path}: {error}"))
            .trim_end()
            .to_owned()
    }

    /// Writes a setting below `/proc/sys` of the namespace.
    pub fn set_sysctl(&self, path: &str, value: &str) {
        self.set_sysctls(&[(path, value)]);
    }

    /// Writes settings below `/proc/sys` of the namespace, in order.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) {
        self.run(|| {
            for (path, value) in settings {
                fs::write(format!("/proc/sys/{path}"), value)
                    .unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
            }
        });
    }

    /// Returns a counter of `/proc/net/snmp`, such as (`Tcp`, `RetransSegs`).
    pub fn snmp(&self, protocol: &str, counter: &str) -> u64 {
        self.counter("snmp", protocol, counter)
    }

    /// Returns a counter of `/proc/net/netstat`, such as (`TcpExt`, `TCPDSACKRecvSegs`).
    pub fn netstat(&self, protocol: &str, counter: &str) -> u64 {
        self.counter("netstat", protocol, counter)
    }

    fn counter(&self, file: &str, protocol: &str, counter: &str) -> u64 {
        let text = self
            .run(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")))
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        let prefix = format!("{protocol}: ");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let position = names
            .split(' ')
            .position(|name| name == counter)
            .expect("counter is known");
        values
            .split(' ')
            .nth(position)
            .and_then(|value| value.parse().ok())
            .expect("a number")
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.net.as_raw_fd()
    }
}

fn in_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|cause| panic::resume_unwind(cause))
}

fn open(path: &str) -> OwnedFd {
    File::open(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .into()
}

fn mount_privately() {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).expect("private mounts");
    for (kind, target) in [("sysfs", "/sys"), ("bpf", "/sys/fs/bpf"), ("tmpfs", "/run")] {
        mount(Some(kind), target, Some(kind), MsFlags::empty(), NONE)
            .unwrap_or_else(|error| panic!("mount {kind} on {target}: {error}"));
    }
}

/// Enters the namespaces in a forked child and ties it to its parent's life.
fn enter_after_fork(net: RawFd, mounts: Option<RawFd>) -> io::Result<()> {
    let check = |result: libc::c_int| {
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    if let Some(mounts) = mounts {
        // SAFETY: a system call on a descriptor that the parent keeps open.
        check(unsafe { libc::setns(mounts, libc::CLONE_NEWNS) })?;
    }
    // SAFETY: a system call on a descriptor that the parent keeps open.
    check(unsafe { libc::setns(net, libc::CLONE_NEWNET) })?;
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}
