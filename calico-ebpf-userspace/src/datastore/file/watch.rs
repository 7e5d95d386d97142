//! Follows the directory: inotify for speed, a look at the time stamps for what inotify misses (other hosts' writes
//! to a network file system, overflow of its queue, the directory itself coming and going).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::View;
use super::reader::{DirectoryIdentity, Reader, directory_identity};
use crate::datastore::feed::{FeedSender, State, Status};
use crate::model::problem::Problem;
use crate::model::resource::{Snapshot, changes_between};

/// The files are read when nothing happened for this long ...
const QUIET: Duration = Duration::from_millis(60);
/// ... or this long after the first change.
const PATIENCE: Duration = Duration::from_millis(150);
/// How often the time stamps are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Follows `dir` until `stop`, or until nobody receives any more.
pub(super) async fn follow(dir: PathBuf, stop: CancellationToken, sender: FeedSender) {
    let changed = Arc::new(Notify::new());
    let mut followed = Followed {
        reader: Reader::new(dir.clone()),
        dir,
        watch: None,
        changed: changed.clone(),
    };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = Sent::default();
    let mut is_due = true;
    loop {
        if is_due {
            let read = spawn_blocking(move || {
                let view = followed.read();
                (followed, view)
            });
            let Some((again, view)) = unless_failed(read.await) else {
                return;
            };
            followed = again;
            publish(&sender, &mut sent, view);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sender.closed() => return,
            () = changed.notified() => is_due = true,
            _ = look.tick() => {
                let look = spawn_blocking(move || {
                    let is_stale = followed.reader.is_stale();
                    (followed, is_stale)
                });
                let Some((again, is_stale)) = unless_failed(look.await) else { return };
                followed = again;
                is_due = is_stale;
            }
        }
        if is_due {
            settle(&changed).await;
        }
    }
}

/// A panic of the reader ends the following, not the agent: the last view stays.
fn unless_failed<T>(outcome: Result<T, JoinError>) -> Option<T> {
    outcome
        .inspect_err(|failure| error!(%failure, "the reader of manifests failed; the last view stays"))
        .ok()
}

/// What was sent last.
#[derive(Default)]
struct Sent {
    snapshot: Arc<Snapshot>,
    problems: Arc<Vec<Problem>>,
}

/// Sends what differs from what was sent before, and logs problems that are new.
fn publish(sender: &FeedSender, sent: &mut Sent, view: View) {
    if sent.problems != view.problems {
        log_new(&sent.problems, &view.problems);
        sent.problems = Arc::clone(&view.problems);
    }
    let status = Status {
        in_sync: view.in_sync,
        state: view.state,
        revision: view.revision,
        reason: match view.state {
            State::Unreachable => view
                .problems
                .first()
                .map_or_else(String::new, ToString::to_string),
            State::InSync | State::Resync | State::WaitForReady => String::new(),
        },
        endpoint: String::new(),
    };
    sender.send(
        changes_between(&sent.snapshot, &view.snapshot),
        view.problems,
        status,
    );
    sent.snapshot = view.snapshot;
}

/// Logs problems that were not there before. One that has only moved to another line is not new.
fn log_new(before: &[Problem], now: &[Problem]) {
    let wherever = |problem: &Problem| Problem {
        place: None,
        ..problem.clone()
    };
    let before: BTreeSet<Problem> = before.iter().map(wherever).collect();
    for problem in now.iter().filter(|problem| !before.contains(&wherever(problem))) {
        warn!(consequence = problem.consequence.name(), "{problem}");
    }
}

/// Waits until a burst of changes, such as an editor's, is over.
async fn settle(changed: &Notify) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let quiet = deadline.min(Instant::now() + QUIET);
        tokio::select! {
            () = sleep_until(quiet) => return,
            () = changed.notified() => {}
        }
    }
}

struct Followed {
    dir: PathBuf,
    reader: Reader,
    watch: Option<Watch>,
    changed: Arc<Notify>,
}

struct Watch {
    identity: DirectoryIdentity,
    /// Watches as long as it lives; `None` when the kernel refused.
    _watcher: Option<RecommendedWatcher>,
}

impl Followed {
    /// Watches before it reads: what changes in between is read again.
    fn read(&mut self) -> View {
        let identity = directory_identity(&self.dir).ok();
        if self.watch.as_ref().map(|watch| watch.identity) != identity {
            self.watch = identity.map(|identity| Watch {
                identity,
                _watcher: self.watcher(),
            });
        }
        self.reader.read()
    }

    fn watcher(&self) -> Option<RecommendedWatcher> {
        let changed = self.changed.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| is_change(event.kind)) {
                changed.notify_one();
            }
        });
        let started = watcher
            .as_mut()
            .map_err(|failure| failure.to_string())
            .and_then(|watcher| {
                watcher
                    .watch(&self.dir, RecursiveMode::NonRecursive)
                    .map_err(|failure| failure.to_string())
            });
        if let Err(failure) = started {
            warn!(%failure, dir = %self.dir.display(), "no inotify watch; changes are found every half second");
            return None;
        }
        watcher.ok()
    }
}

/// Our own opening and reading is none.
fn is_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}
