//! Where programs, maps and links are pinned, so that they outlive the agent, and the lock that keeps a second agent
//! off the host.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use calico_ebpf_common::maps::LAYOUT_VERSION;
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::state_file::{State, StateFile};

/// Name of the abstract socket that is the lock. Abstract names belong to a network namespace, as the taps do.
const LOCK_NAME: &[u8] = b"calico-ebpf/agent";
/// File in `RunDir` that is locked as well: two namespaces must not share one `RunDir`.
const LOCK_FILE: &str = "agent.lock";
/// File in `RunDir` that is locked by who reads the programs' events.
pub const WATCH_LOCK_FILE: &str = "watch.lock";

/// Paths of everything that is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// `BPFPinDir`.
    root: PathBuf,
    directory: PathBuf,
}

/// Why the pin directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    #[error("BPFPinDir {0:?} has no parent directory")]
    NoParent(PathBuf),
    #[error("{0:?} is neither a bpffs nor an empty directory on which one could be mounted")]
    NotEmpty(PathBuf),
    #[error("cannot mount a bpffs on {path:?}")]
    Mount { path: PathBuf, source: nix::Error },
    #[error("cannot prepare {path:?}")]
    Io { path: PathBuf, source: io::Error },
}

impl Pins {
    /// Returns the paths below `BPFPinDir` for this version's layout.
    pub fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            directory: root.join(format!("v{LAYOUT_VERSION}")),
        }
    }

    /// Returns `BPFPinDir`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where the map called `name` is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join("maps").join(name)
    }

    /// Removes the pins of maps whose names begin with `prefix`.
    ///
    /// # Errors
    /// When the directory cannot be read or a pin cannot be removed.
    pub fn remove_maps(&self, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(self.directory.join("maps"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Returns where the program called `name` is pinned.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join("programs").join(name)
    }

    /// Returns the directory of pinned links.
    pub fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// Makes the directories, on a bpffs that is mounted if there is none, and notes in `state` what was made.
    ///
    /// # Errors
    /// When there is no place for a bpffs, or not the right to mount one.
    pub fn prepare(&self, state: &mut StateFile) -> Result<(), PinsError> {
        let parent = self
            .root
            .parent()
            .ok_or_else(|| PinsError::NoParent(self.root.clone()))?;
        if !is_on_bpffs(nearest_existing(&self.root)).map_err(|source| io_error(&self.root, source))? {
            mount_bpffs(parent, state)?;
        }
        for directory in [self.root.clone(), self.directory.clone()]
            .into_iter()
            .chain(["maps", "programs", "links"].map(|name| self.directory.join(name)))
        {
            make_directory(&directory, state).map_err(|source| io_error(&directory, source))?;
        }
        Ok(())
    }
}

fn io_error(path: &Path, source: io::Error) -> PinsError {
    PinsError::Io {
        path: path.to_owned(),
        source,
    }
}

fn mount_bpffs(target: &Path, state: &mut StateFile) -> Result<(), PinsError> {
    make_directory(target, state).map_err(|source| io_error(target, source))?;
    let mut entries = fs::read_dir(target).map_err(|source| io_error(target, source))?;
    if entries.next().is_some() {
        return Err(PinsError::NotEmpty(target.to_owned()));
    }
    state.state.mounted_bpffs = Some(target.to_owned());
    state.save().map_err(|source| io_error(target, source))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if let Err(source) = mount(Some("bpf"), target, Some("bpf"), flags, Some("mode=0700")) {
        // Whatever is mounted there later is somebody else's.
        state.state.mounted_bpffs = None;
        state.save().map_err(|source| io_error(target, source))?;
        return Err(PinsError::Mount {
            path: target.to_owned(),
            source,
        });
    }
    tracing::info!(directory = %target.display(), "bpffs mounted");
    Ok(())
}

/// Makes a directory and its parents and notes the new ones.
fn make_directory(directory: &Path, state: &mut StateFile) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directory(parent, state)?;
    }
    note_directory(&mut state.state, directory);
    state.save()?;
    fs::create_dir(directory)
}

fn note_directory(state: &mut State, directory: &Path) {
    if !state.made_directories.iter().any(|made| made == directory) {
        state.made_directories.push(directory.to_owned());
    }
}

fn nearest_existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"))
}

/// Returns whether an existing path is on a bpffs.
///
/// # Errors
/// What statfs(2) says.
pub fn is_on_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Puts an object in the place of what is pinned at `path`, without a moment in which nothing is: `pin` pins it under
/// the path it is given, then that name is moved over the old one. bpffs allows no dots in names.
///
/// # Errors
/// When pinning or renaming fails; the old pin stays.
pub fn replace_pin(path: &Path, pin: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push("-new");
    let temporary = PathBuf::from(name);
    if temporary.exists() {
        fs::remove_file(&temporary)?;
    }
    pin(&temporary)?;
    fs::rename(&temporary, path)?;
    Ok(())
}

/// Held while an agent runs.
#[derive(Debug)]
pub struct HostLock {
    _listener: UnixListener,
    _file: File,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another calico-ebpf agent{} runs on this host: stop it first", by_pid(*.pid))]
    HeldOnHost { pid: Option<i32> },
    #[error("another calico-ebpf agent uses RunDir {0:?}: give this one its own RunDir and BPFPinDir")]
    HeldInRunDir(PathBuf),
    #[error("cannot take the agent's lock")]
    Io(#[from] io::Error),
}

fn by_pid(pid: Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl HostLock {
    /// Takes the lock of this host (network namespace) and of `run_dir`, which is made if absent.
    ///
    /// # Errors
    /// When another agent holds either.
    pub fn take(run_dir: &Path) -> Result<Self, LockError> {
        let address = SocketAddr::from_abstract_name(LOCK_NAME)?;
        let listener = match UnixListener::bind_addr(&address) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(LockError::HeldOnHost {
                    pid: holder(&address),
                });
            }
            Err(error) => return Err(error.into()),
        };
        fs::create_dir_all(run_dir)?;
        let file = File::create(run_dir.join(LOCK_FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                _listener: listener,
                _file: file,
            }),
            Err(TryLockError::WouldBlock) => Err(LockError::HeldInRunDir(run_dir.to_owned())),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Returns the files that the lock leaves in `run_dir`.
    pub fn files(run_dir: &Path) -> [PathBuf; 1] {
        [run_dir.join(LOCK_FILE)]
    }
}

/// Returns the process that holds the lock, if it is visible from here.
fn holder(address: &SocketAddr) -> Option<i32> {
    let stream = UnixStream::connect_addr(address).ok()?;
    let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
    (pid > 0).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_agent_is_refused_and_learns_the_pid_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let _first = HostLock::take(directory.path()).unwrap();
        let refused = HostLock::take(directory.path()).unwrap_err();
        let own = std::process::id().to_string();
        assert!(refused.to_string().contains(&own), "{refused}");
    }

    #[test]
    fn pins_of_another_layout_are_in_another_directory() {
        let pins = Pins::below(Path::new("/sys/fs/bpf/calico-ebpf"));
        let map = pins.map("CEBPF_ACTIVE");
        assert_eq!(
            map,
            Path::new(&format!(
                "/sys/fs/bpf/calico-ebpf/v{LAYOUT_VERSION}/maps/CEBPF_ACTIVE"
            ))
        );
    }
}
