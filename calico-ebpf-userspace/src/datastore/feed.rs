//! The way from a datastore to the agent: changes by object, so that the reader's cost follows the change.
//!
//! What is not taken yet coalesces: a reader that was away for long gets each object once, in its newest version.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::model::problem::Problem;
use crate::model::resource::Changes;

/// How far the datastore has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether it has been read as a whole once and was ready then. Never false again: what was read stays in force.
    pub in_sync: bool,
    pub state: State,
    /// etcd revision, or number of reads of the directory.
    pub revision: u64,
    /// Why the state is what it is, for people; empty when all is well.
    pub reason: String,
    /// The member of etcd that answers; empty when there is none.
    pub endpoint: String,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            in_sync: false,
            state: State::Resync,
            revision: 0,
            reason: String::new(),
            endpoint: String::new(),
        }
    }
}

/// What the datastore is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// `ClusterInformation` does not say `datastoreReady` (contract 1.5).
    WaitForReady,
    /// It is being read as a whole.
    Resync,
    /// Everything was read, changes are followed.
    InSync,
    /// It does not answer, or refuses; tried again.
    Unreachable,
}

impl State {
    /// Returns the name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::WaitForReady => "wait-for-ready",
            Self::Resync => "resync",
            Self::InSync => "in-sync",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What happened since the last one was taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// Empty until the datastore was read as a whole, and while it is not ready.
    pub changes: Changes,
    /// Everything that is wrong with objects that are there now.
    pub problems: Arc<Vec<Problem>>,
    pub status: Status,
    /// When the oldest of `changes` came; `None` without changes.
    pub arrived: Option<Instant>,
}

/// Returns both ends of a feed.
pub fn feed() -> (FeedSender, Feed) {
    let shared = Arc::new(Shared::default());
    (FeedSender(Arc::clone(&shared)), Feed(shared))
}

/// The datastore's end.
#[derive(Debug)]
pub struct FeedSender(Arc<Shared>);

/// The agent's end.
#[derive(Debug)]
pub struct Feed(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Notify,
    closed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    update: Update,
    is_new: bool,
    sender_is_gone: bool,
    reader_is_gone: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Whoever panicked left a whole update behind: it is changed under the lock by moves only.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FeedSender {
    /// Sends what has changed; `problems` are all there are now. Another revision alone is no news: it comes along with
    /// the next.
    pub fn send(&self, changes: Changes, problems: Arc<Vec<Problem>>, status: Status) {
        let mut pending = self.0.lock();
        let update = &mut pending.update;
        let is_same_status = Status {
            revision: status.revision,
            ..update.status.clone()
        } == status;
        let is_new = !changes.is_empty() || update.problems != problems || !is_same_status;
        if !changes.is_empty() {
            update.arrived.get_or_insert_with(Instant::now);
        }
        update.changes.extend(changes);
        update.problems = problems;
        update.status = status;
        pending.is_new |= is_new;
        drop(pending);
        if is_new {
            self.0.changed.notify_one();
        }
    }

    /// Returns when nobody reads any more.
    pub async fn closed(&self) {
        let closed = self.0.closed.notified();
        if !self.0.lock().reader_is_gone {
            closed.await;
        }
    }
}

impl Drop for FeedSender {
    fn drop(&mut self) {
        self.0.lock().sender_is_gone = true;
        self.0.changed.notify_one();
    }
}

impl Feed {
    /// Waits for news. `None` when the datastore is no longer followed and nothing is left. Cancel-safe: news that
    /// are not returned stay.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            {
                let mut pending = self.0.lock();
                if pending.is_new {
                    pending.is_new = false;
                    let changes = std::mem::take(&mut pending.update.changes);
                    let arrived = pending.update.arrived.take();
                    return Some(Update {
                        changes,
                        arrived,
                        ..pending.update.clone()
                    });
                }
                if pending.sender_is_gone {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.lock().reader_is_gone = true;
        self.0.closed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::{Kind, ResourceKey};
    use crate::model::resource::{Resource, Tier};

    fn key(name: &str) -> ResourceKey {
        ResourceKey {
            kind: Kind::Tier,
            namespace: String::new(),
            name: name.to_owned(),
        }
    }

    fn tier(order: f64) -> Arc<Resource> {
        Arc::new(Resource::Tier(Tier {
            order: Some(order),
            default_pass: false,
        }))
    }

    fn in_sync(revision: u64) -> Status {
        Status {
            in_sync: true,
            state: State::InSync,
            revision,
            ..Status::default()
        }
    }

    #[tokio::test]
    async fn what_was_not_taken_coalesces_to_the_newest_version() {
        let (sender, mut feed) = feed();
        sender.send(
            Changes::from([(key("a"), Some(tier(1.0))), (key("b"), Some(tier(1.0)))]),
            Arc::default(),
            in_sync(1),
        );
        sender.send(
            Changes::from([(key("a"), Some(tier(2.0))), (key("b"), None)]),
            Arc::default(),
            in_sync(2),
        );
        let update = feed.next().await.expect("news");
        assert_eq!(
            update.changes,
            Changes::from([(key("a"), Some(tier(2.0))), (key("b"), None)])
        );
        assert_eq!(update.status, in_sync(2));
    }

    #[tokio::test]
    async fn the_arrival_of_the_oldest_change_is_told_and_only_with_changes() {
        let (sender, mut feed) = feed();
        let before = Instant::now();
        let changes = || Changes::from([(key("a"), None)]);
        sender.send(changes(), Arc::default(), in_sync(1));
        let between = Instant::now();
        sender.send(changes(), Arc::default(), in_sync(2));
        let arrived = feed.next().await.expect("news").arrived.expect("changes");
        assert!((before..=between).contains(&arrived));
        sender.send(Changes::new(), Arc::default(), Status::default());
        assert_eq!(feed.next().await.expect("news").arrived, None);
    }

    #[tokio::test]
    async fn news_that_are_none_wake_nobody_and_the_end_is_told() {
        let (sender, mut feed) = feed();
        sender.send(Changes::new(), Arc::default(), Status::default());
        sender.send(Changes::new(), Arc::default(), in_sync(1));
        drop(sender);
        assert_eq!(feed.next().await.map(|update| update.status), Some(in_sync(1)));
        assert_eq!(feed.next().await, None);
    }

    #[tokio::test]
    async fn the_sender_hears_that_nobody_reads() {
        let (sender, feed) = feed();
        drop(feed);
        sender.closed().await;
    }
}
