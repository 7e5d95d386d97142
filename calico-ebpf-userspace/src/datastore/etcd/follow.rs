//! Reads, watches, and begins again.

use std::time::Duration;

use etcd_client::GetOptions;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::objects::Objects;
use super::watches::{News, Watches};
use super::{Position, listing};
use crate::datastore::feed::{FeedSender, State, Status};
use crate::etcd::{Cause, Connection, Etcd, Failure, Pause};
use crate::model::resource::Changes;

/// A connection that worked for this long is not one of a row of failures.
const STABLE: Duration = Duration::from_secs(5);
/// Longest time for one small answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Follows etcd until `stop`, or until nobody receives any more.
pub(super) async fn follow(etcd: Etcd, stop: CancellationToken, sender: FeedSender) {
    let mut follower = Follower {
        etcd: &etcd,
        sender: &sender,
        objects: Objects::default(),
        position: None,
        status: Status::default(),
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = sender.closed() => {}
        () = follower.run() => {}
    }
}

struct Follower<'a> {
    etcd: &'a Etcd,
    sender: &'a FeedSender,
    objects: Objects,
    /// `None` until everything was read, and when it must be read again.
    position: Option<Position>,
    status: Status,
}

impl Follower<'_> {
    async fn run(&mut self) {
        let mut pause = Pause::default();
        loop {
            match self.etcd.connection().await {
                Ok(connection) => {
                    info!(endpoint = connection.endpoint(), "connected to etcd");
                    connection.endpoint().clone_into(&mut self.status.endpoint);
                    let start = Instant::now();
                    let Err(failure) = self.use_connection(&connection).await;
                    self.etcd.give_up(&connection).await;
                    if start.elapsed() >= STABLE {
                        pause.reset();
                    }
                    self.tell_unreachable(failure.to_string());
                }
                Err(unavailable) => self.tell_unreachable(unavailable.to_string()),
            }
            pause.wait().await;
        }
    }

    /// Goes on where the last connection ended, or reads everything; then watches. Ends with the connection.
    async fn use_connection(&mut self, connection: &Connection) -> Result<std::convert::Infallible, Failure> {
        loop {
            if !self.can_go_on(connection).await? {
                self.read_everything(connection).await?;
            }
            self.tell();
            match self.watch(connection).await {
                Err(failure) if matches!(failure.cause, Cause::Compacted) => {
                    info!(
                        endpoint = connection.endpoint(),
                        "etcd has forgotten what we missed"
                    );
                    self.position = None;
                }
                Err(failure) => return Err(failure),
                Ok(HasBecomeReady) => self.position = None,
            }
        }
    }

    /// Returns whether etcd still has the history that our position belongs to: the newest key that we know must have
    /// been written by the revision that we know.
    async fn can_go_on(&self, connection: &Connection) -> Result<bool, Failure> {
        let (Some(position), Some((key, revision))) = (&self.position, self.objects.newest()) else {
            return Ok(false);
        };
        let mut client = connection.client();
        let options = GetOptions::new()
            .with_keys_only()
            .with_revision(position.revision);
        let answer = timeout(ANSWER_LIMIT, client.get(key, Some(options)))
            .await
            .map_err(|_elapsed| connection.silence())?;
        match answer {
            Ok(answer) => {
                let is_cluster = answer
                    .header()
                    .is_some_and(|header| header.cluster_id() == position.cluster);
                let is_written = answer
                    .kvs()
                    .first()
                    .is_some_and(|pair| pair.mod_revision() == revision);
                Ok(is_cluster && is_written)
            }
            Err(error) => {
                let failure = connection.failure(&error, &format!("read {}", String::from_utf8_lossy(key)));
                if matches!(failure.cause, Cause::Compacted | Cause::OtherHistory) {
                    return Ok(false);
                }
                Err(failure)
            }
        }
    }

    async fn read_everything(&mut self, connection: &Connection) -> Result<(), Failure> {
        self.position = None;
        self.status.state = State::Resync;
        self.status.reason.clear();
        self.send(Changes::new());
        let listing = listing::read(connection).await?;
        info!(
            keys = listing.entries.len(),
            revision = listing.position.revision,
            "etcd was read as a whole"
        );
        self.status.revision = unsigned(listing.position.revision);
        self.objects.replace(listing.entries);
        self.position = Some(listing.position);
        Ok(())
    }

    /// Follows changes. Returns when a datastore that was not ready has become so: what came meanwhile on several
    /// watches may be of several moments, so that everything must be read again.
    async fn watch(&mut self, connection: &Connection) -> Result<HasBecomeReady, Failure> {
        let Some(position) = &self.position else {
            return Ok(HasBecomeReady);
        };
        let mut watches = Watches::open(connection, position).await?;
        loop {
            let batch = watches.next().await?;
            if let (Some(position), Some(kind)) = (&mut self.position, batch.kind) {
                position.revision = position.revision.max(batch.told);
                position.next.insert(kind, batch.next());
            }
            self.status.revision = self.status.revision.max(unsigned(batch.revision));
            let was_ready = self.objects.readiness().is_ok();
            for news in batch.news {
                match news {
                    News::Put(entry) => self.objects.put(entry),
                    News::Gone(key) => self.objects.delete(&key),
                }
            }
            if !was_ready && self.objects.readiness().is_ok() {
                return Ok(HasBecomeReady);
            }
            self.tell();
        }
    }

    /// Sends what is new if the datastore is ready, else that it is not.
    fn tell(&mut self) {
        let changes = match self.objects.readiness() {
            Ok(()) => {
                self.status.in_sync = true;
                self.status.state = State::InSync;
                self.status.reason.clear();
                self.objects.take_changes()
            }
            Err(reason) => {
                if self.status.state != State::WaitForReady {
                    warn!(reason, "the datastore is not ready; what is in force stays");
                }
                self.status.state = State::WaitForReady;
                reason.clone_into(&mut self.status.reason);
                Changes::new()
            }
        };
        self.send(changes);
    }

    fn tell_unreachable(&mut self, reason: String) {
        if self.status.state != State::Unreachable || self.status.reason != reason {
            warn!(reason, "etcd cannot be used; what is in force stays");
        }
        self.status.state = State::Unreachable;
        self.status.reason = reason;
        self.status.endpoint.clear();
        self.send(Changes::new());
    }

    fn send(&mut self, changes: Changes) {
        self.sender
            .send(changes, self.objects.problems(), self.status.clone());
    }
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or_default()
}

/// The datastore was not ready and now is.
struct HasBecomeReady;
