//! One watch to a kind, all on one stream.

use etcd_client::{EventType, WatchOptions, WatchStream};
use tokio::time::timeout;

use super::entry::Entry;
use super::listing::MAX_ANSWER;
use super::{Position, keys};
use crate::etcd::{Cause, Connection, Failure};
use crate::model::name::Kind;

/// Longest time for the stream to be opened.
const OPEN_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// The stream of one connection.
#[derive(Debug)]
pub(super) struct Watches<'a> {
    connection: &'a Connection,
    stream: WatchStream,
}

/// What one response says: of one kind, in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// `None`: nothing but the newest revision.
    pub(super) kind: Option<Kind>,
    pub(super) news: Vec<News>,
    /// The revision up to which events of this kind were told, but for others of that same revision.
    pub(super) told: i64,
    /// Newest revision of etcd.
    pub(super) revision: i64,
}

impl Batch {
    /// Returns where the watch of this kind would go on. One revision may come in several responses: it is asked for
    /// again rather than missed.
    pub(super) fn next(&self) -> i64 {
        if self.news.is_empty() {
            self.told + 1
        } else {
            self.told
        }
    }
}

/// One event.
#[derive(Debug)]
pub(super) enum News {
    Put(Entry),
    Gone(Vec<u8>),
}

impl<'a> Watches<'a> {
    /// Opens the stream, with each kind's watch where the position says.
    ///
    /// # Errors
    /// When the member fails or refuses.
    pub(super) async fn open(connection: &'a Connection, position: &Position) -> Result<Self, Failure> {
        let doing = |kind: Kind| format!("read {}", keys::prefix(kind));
        let mut client = connection
            .client()
            .watch_client()
            .max_decoding_message_size(MAX_ANSWER);
        let mut opened: Option<WatchStream> = None;
        for (kind, id) in Kind::ALL.iter().zip(1..) {
            let start = position.next.get(kind).copied().unwrap_or(position.revision + 1);
            // Progress is told on quiet kinds, too, so that compaction does not overtake them.
            let options = WatchOptions::new()
                .with_prefix()
                .with_start_revision(start)
                .with_watch_id(id)
                .with_fragment()
                .with_progress_notify();
            let asked = match &mut opened {
                None => {
                    let opening = client.watch(keys::prefix(*kind), Some(options));
                    let stream = timeout(OPEN_LIMIT, opening)
                        .await
                        .map_err(|_elapsed| connection.silence())?;
                    stream.map(|stream| opened = Some(stream))
                }
                Some(stream) => stream.watch(keys::prefix(*kind), Some(options)).await,
            };
            asked.map_err(|error| connection.failure(&error, &doing(*kind)))?;
        }
        let stream = opened.ok_or_else(|| connection.silence())?;
        Ok(Self { connection, stream })
    }

    /// Waits for the next response.
    ///
    /// # Errors
    /// When the stream or one of its watches ends.
    pub(super) async fn next(&mut self) -> Result<Batch, Failure> {
        let message = self.stream.message().await;
        let message = message.map_err(|error| self.connection.failure(&error, "watch objects"))?;
        let Some(response) = message else {
            return Err(self.ended(Cause::Lost("the stream has ended".to_owned())));
        };
        let kind = usize::try_from(response.watch_id() - 1)
            .ok()
            .and_then(|index| Kind::ALL.get(index).copied());
        if response.compact_revision() != 0 {
            return Err(self.ended(Cause::Compacted));
        }
        if response.canceled() {
            let doing = kind.map_or_else(
                || "watch objects".to_owned(),
                |kind| format!("read {}", keys::prefix(kind)),
            );
            return Err(self.ended(Cause::of_cancelled_watch(response.cancel_reason(), &doing)));
        }
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        let Some(kind) = kind.filter(|_| !response.created()) else {
            return Ok(Batch {
                revision,
                ..Batch::default()
            });
        };
        let mut pairs = response
            .events()
            .iter()
            .filter_map(|event| Some((event.event_type(), event.kv()?)));
        let news: Vec<_> = pairs
            .clone()
            .map(|(what, pair)| match what {
                EventType::Put => {
                    News::Put(Entry::decode(kind, pair.key(), pair.value(), pair.mod_revision()))
                }
                EventType::Delete => News::Gone(pair.key().to_vec()),
            })
            .collect();
        // Without events the response says that nothing is under way up to its revision.
        let told = pairs
            .next_back()
            .map_or(revision, |(_, pair)| pair.mod_revision());
        Ok(Batch {
            kind: Some(kind),
            news,
            told,
            revision,
        })
    }

    fn ended(&self, cause: Cause) -> Failure {
        Failure {
            endpoint: self.connection.endpoint().to_owned(),
            cause,
        }
    }
}
