//! Reads everything at one revision, in pages.

use std::time::Duration;

use etcd_client::{GetOptions, KvClient};
use tokio::time::timeout;

use super::entry::Entry;
use super::{Position, keys};
use crate::etcd::{Cause, Connection, Failure};
use crate::model::name::Kind;

/// Keys to a page: endpoints of 3 KB make pages of 1.5 MB.
const PAGE: i64 = 500;
/// Largest answer that is taken, in bytes. Larger pages are halved.
pub(super) const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Longest time for a page.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

/// Everything that etcd held at one revision.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) entries: Vec<Entry>,
    pub(super) position: Position,
}

/// Reads all kinds.
///
/// # Errors
/// When the member fails or refuses.
pub(super) async fn read(connection: &Connection) -> Result<Listing, Failure> {
    let mut reader = Reader {
        connection,
        client: connection
            .client()
            .kv_client()
            .max_decoding_message_size(MAX_ANSWER),
        page: PAGE,
        cluster: 0,
        revision: 0,
        entries: Vec::new(),
    };
    for kind in Kind::ALL {
        reader.read_kind(*kind).await?;
    }
    let next = Kind::ALL
        .iter()
        .map(|kind| (*kind, reader.revision + 1))
        .collect();
    Ok(Listing {
        entries: reader.entries,
        position: Position {
            cluster: reader.cluster,
            revision: reader.revision,
            next,
        },
    })
}

struct Reader<'a> {
    connection: &'a Connection,
    client: KvClient,
    page: i64,
    cluster: u64,
    /// 0 before the first page, which says what the others are read at.
    revision: i64,
    entries: Vec<Entry>,
}

impl Reader<'_> {
    async fn read_kind(&mut self, kind: Kind) -> Result<(), Failure> {
        let prefix = keys::prefix(kind);
        let end = end_of(&prefix);
        let mut start = prefix.clone().into_bytes();
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(self.page)
                .with_revision(self.revision);
            let answer = timeout(PAGE_LIMIT, self.client.get(start.clone(), Some(options)))
                .await
                .map_err(|_elapsed| self.connection.silence())?;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    let failure = self.connection.failure(&error, &format!("read {prefix}"));
                    if self.page > 1 && matches!(failure.cause, Cause::TooLarge(_)) {
                        self.page /= 2;
                        continue;
                    }
                    return Err(failure);
                }
            };
            if let Some(header) = answer.header().filter(|_| self.revision == 0) {
                (self.cluster, self.revision) = (header.cluster_id(), header.revision());
            }
            for pair in answer.kvs() {
                self.entries
                    .push(Entry::decode(kind, pair.key(), pair.value(), pair.mod_revision()));
            }
            let Some(last) = answer.kvs().last().filter(|_| answer.more()) else {
                return Ok(());
            };
            start = last.key().to_vec();
            start.push(0);
        }
    }
}

/// Returns the first key behind all those that begin with `prefix`, which ends with a slash.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.trim_end_matches('/').as_bytes().to_vec();
    end.push(b'/' + 1);
    end
}
