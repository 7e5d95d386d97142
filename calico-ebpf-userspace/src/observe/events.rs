//! Events of the programs: reading them, while nobody else does.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aya::maps::{Array, MapData, MapError, MapInfo, RingBuf};
use calico_ebpf_common::event::{Budget, Event};
use calico_ebpf_common::maps;
use nix::time::{ClockId, clock_gettime};

use super::ObserveError;
use super::pinned::PinnedMaps;
use crate::dataplane::pins::WATCH_LOCK_FILE;

/// How long the programs go on writing events when nobody puts the deadline off.
const LEASE: Duration = Duration::from_secs(3);

/// Why events cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// One reader at a time.
    #[error("somebody watches already{}", by_pid(.0))]
    Watched(String),
    #[error("cannot lock {0:?}")]
    Lock(PathBuf, #[source] io::Error),
    #[error("cannot read events")]
    Map(#[from] MapError),
    #[error("cannot read the clock")]
    Clock(#[from] nix::Error),
}

fn by_pid(pid: &str) -> String {
    if pid.is_empty() {
        String::new()
    } else {
        format!(": process {pid}")
    }
}

/// Events that were not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// By the limit of an endpoint.
    pub suppressed: u32,
    /// The ring buffer had no room.
    pub lost: u32,
}

/// The only reader.
pub struct EventReader {
    events: RingBuf<MapData>,
    watched: Array<MapData, u64>,
    budgets: Array<MapData, Budget>,
    /// Budgets by slot when they were last looked at.
    seen: BTreeMap<u16, Budget>,
    map_id: u32,
    pin: PathBuf,
    /// Events before it are of another watch.
    begun_ns: u64,
    deadline_ns: u64,
    _lock: File,
}

impl EventReader {
    /// Begins to watch: from now on the programs write events.
    ///
    /// # Errors
    /// When there is no dataplane, or somebody else watches it.
    pub fn begin(run_dir: &Path, maps: &PinnedMaps) -> Result<Self, WatchError> {
        let lock = lock(&run_dir.join(WATCH_LOCK_FILE))?;
        let pin = maps.directory().join(maps::EVENTS);
        let events = maps.open(maps::EVENTS)?;
        let mut reader = Self {
            events,
            watched: maps.open(maps::WATCHED)?,
            budgets: maps.open(maps::BUDGETS)?,
            seen: BTreeMap::new(),
            map_id: MapInfo::from_pin(&pin)?.id(),
            pin,
            begun_ns: monotonic_ns()?,
            deadline_ns: 0,
            _lock: lock,
        };
        reader.renew()?;
        Ok(reader)
    }

    /// Puts the programs' deadline off. To be called at least every second. Returns whether it came in time: what happened
    /// after the deadline was not told.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn renew(&mut self) -> Result<bool, WatchError> {
        let lease = u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX);
        let now = monotonic_ns()?;
        let in_time = now < self.deadline_ns;
        self.deadline_ns = now.saturating_add(lease);
        self.watched.set(0, self.deadline_ns, 0)?;
        Ok(in_time)
    }

    /// Returns the next event, if there is one.
    pub fn take(&mut self) -> Option<Event> {
        while let Some(bytes) = self.events.next() {
            let event = bytes.get(..size_of::<Event>())?;
            let event: Event = bytemuck::pod_read_unaligned(event);
            if event.at_ns >= self.begun_ns {
                return Some(event);
            }
        }
        None
    }

    /// Returns what becomes readable when there is an event.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Returns what was missed of the endpoint at `slot` since the last call; at the first call, nothing.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn missed(&mut self, slot: u16) -> Result<Missed, WatchError> {
        let now = self.budgets.get(&u32::from(slot), 0)?;
        let before = self.seen.insert(slot, now).unwrap_or(now);
        Ok(Missed {
            suppressed: now.suppressed.wrapping_sub(before.suppressed),
            lost: now.lost.wrapping_sub(before.lost),
        })
    }

    /// Returns whether the programs in force still write here: `cleanup` takes the maps away.
    pub fn is_in_force(&self) -> bool {
        MapInfo::from_pin(&self.pin).is_ok_and(|info| info.id() == self.map_id)
    }
}

impl Drop for EventReader {
    /// Nobody watches any more.
    fn drop(&mut self) {
        if let Err(error) = self.watched.set(0, 0, 0) {
            tracing::debug!(%error, "the programs write events until the deadline has passed");
        }
    }
}

/// Returns the time on the wall at which the monotonic clock was `at_ns`.
///
/// # Errors
/// When the clock cannot be read.
pub fn time_of(at_ns: u64) -> Result<SystemTime, WatchError> {
    let ago = monotonic_ns()?.saturating_sub(at_ns);
    let now = SystemTime::now();
    Ok(now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now))
}

fn monotonic_ns() -> Result<u64, nix::Error> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// Takes the lock and writes the own process number into it.
fn lock(path: &Path) -> Result<File, WatchError> {
    let failed = |error| WatchError::Lock(path.to_owned(), error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Who it is helps, but is not needed.
            drop(file.read_to_string(&mut pid));
            return Err(WatchError::Watched(pid.trim().to_owned()));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_second_learns_who_watches() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(WATCH_LOCK_FILE);
        let _first = lock(&path).unwrap();
        let refused = lock(&path).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
    }

    #[test]
    fn a_lock_is_free_again_when_its_holder_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(WATCH_LOCK_FILE);
        drop(lock(&path).unwrap());
        lock(&path).unwrap();
    }

    #[test]
    fn the_clock_of_an_event_becomes_the_time_of_day() {
        let now = monotonic_ns().unwrap();
        let then = time_of(now.saturating_sub(5_000_000_000)).unwrap();
        let ago = SystemTime::now().duration_since(then).unwrap();
        assert!((5..7).contains(&ago.as_secs()), "{ago:?}");
    }
}
