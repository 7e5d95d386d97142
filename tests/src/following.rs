//! Follows a datastore as the agent does, without a dataplane.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use calico_ebpf_userspace::config::Config;
use calico_ebpf_userspace::datastore::feed::{Feed, State, Status};
use calico_ebpf_userspace::datastore::{etcd, file};
use calico_ebpf_userspace::etcd::Etcd;
use calico_ebpf_userspace::model::problem::Problem;
use calico_ebpf_userspace::model::resource::{Snapshot, apply_changes};
use tokio_util::sync::CancellationToken;

use crate::netns::Netns;
use crate::wait;

/// Far more than anything may take, so that a busy machine fails no test.
const LIMIT: Duration = Duration::from_mins(1);

/// What was told so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub snapshot: Snapshot,
    pub problems: Arc<Vec<Problem>>,
    pub status: Status,
    /// Number of changes in each update that had some.
    pub updates: Vec<usize>,
    /// States, as they followed each other.
    pub states: Vec<State>,
}

impl Seen {
    /// Names of the objects, in order.
    pub fn names(&self) -> Vec<&str> {
        self.snapshot.keys().map(|key| key.name.as_str()).collect()
    }

    /// The problems as text.
    pub fn told(&self) -> Vec<String> {
        self.problems.iter().map(ToString::to_string).collect()
    }

    /// Whether everything was read and is followed.
    pub fn is_in_sync(&self) -> bool {
        self.status.in_sync && self.status.state == State::InSync
    }
}

/// A reader of a datastore in a thread of its own; it ends with the test.
#[derive(Debug)]
pub struct Follower {
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Follows etcd from inside a namespace.
    pub fn of_etcd(namespace: &Arc<Netns>, config: Config) -> Self {
        let namespace = Arc::clone(namespace);
        Self::start(move |stop| {
            namespace.enter().expect("setns");
            move || etcd::watch(&Etcd::new(&config), stop)
        })
    }

    /// Follows a directory of manifests.
    pub fn of_directory(directory: &Path) -> Self {
        let directory = directory.to_owned();
        Self::start(move |stop| move || file::watch_directory(directory, stop))
    }

    fn start<F: FnOnce() -> Feed>(prepare: impl FnOnce(CancellationToken) -> F + Send + 'static) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), CancellationToken::new());
        let (writer, stop_watch) = (Arc::clone(&seen), stop.clone());
        let thread = thread::spawn(move || {
            let watch = prepare(stop_watch);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut feed = watch();
                while let Some(update) = feed.next().await {
                    let mut seen = writer.lock().unwrap_or_else(PoisonError::into_inner);
                    apply_changes(&mut seen.snapshot, &update.changes);
                    if !update.changes.is_empty() {
                        seen.updates.push(update.changes.len());
                    }
                    if seen.states.last() != Some(&update.status.state) {
                        seen.states.push(update.status.state);
                    }
                    seen.problems = update.problems;
                    seen.status = update.status;
                }
            });
        });
        Self {
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// Returns what was told so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until what was told fulfils a condition.
    ///
    /// # Panics
    ///
    /// When it does not within a minute.
    #[track_caller]
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Seen) -> bool) -> Seen {
        let found = wait::poll(LIMIT, || Some(self.seen()).filter(&condition));
        found.unwrap_or_else(|| {
            let seen = self.seen();
            panic!(
                "never {what}: {:?} {:?} {:?} {:?}",
                seen.status,
                seen.states,
                seen.told(),
                seen.names()
            )
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(
                ended.is_some_and(|ended| ended.is_ok()),
                "the follower has panicked"
            );
        }
    }
}
