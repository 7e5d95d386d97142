//! The requests to etcd. Each has a limit; one that fails leaves it unknown whether it took effect.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use etcd_client::{GetOptions, PutOptions, ResponseHeader, Txn, TxnOp};
use tokio::time::timeout;

use super::endpoints::Write;
use super::keys::StatusKeys;
use crate::etcd::{Cause, Connection, Etcd, Failure, Unavailable};

/// Longest time for one answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Writes in one request: below etcd's own limit of 128.
pub(super) const BATCH: usize = 100;

/// Why nothing was read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("{0}")]
    Failed(Failure),
}

/// The way to etcd, and which history it told last.
#[derive(Debug)]
pub(super) struct Store {
    etcd: Etcd,
    /// Cluster and revision of the last answer.
    seen: Option<(u64, i64)>,
    /// Whether the last answer was of another cluster, or of an older state, than the one before.
    has_other_history: bool,
}

impl Store {
    pub(super) fn new(etcd: Etcd) -> Self {
        Self {
            etcd,
            seen: None,
            has_other_history: false,
        }
    }

    /// Returns, once, whether etcd has lost what it had: it was emptied, or restored from a backup.
    pub(super) fn has_forgotten(&mut self) -> bool {
        std::mem::take(&mut self.has_other_history)
    }

    /// Returns all status keys of this host's endpoints.
    pub(super) async fn list(&mut self, keys: &StatusKeys) -> Result<BTreeMap<String, String>, StoreError> {
        let connection = Box::pin(self.etcd.connection()).await?;
        let (mut client, prefix) = (connection.client(), keys.endpoints());
        let options = GetOptions::new().with_prefix();
        let request = Box::pin(client.get(prefix.as_bytes(), Some(options)));
        let response = self.answer(&connection, request, "read", &prefix).await?;
        self.note(response.header());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let pairs = response.kvs().iter();
        Ok(pairs.map(|pair| (text(pair.key()), text(pair.value()))).collect())
    }

    /// Makes at most [`BATCH`] writes, all or none.
    pub(super) async fn write(&mut self, writes: &[Write], keys: &StatusKeys) -> Result<(), StoreError> {
        let operation = |write: &Write| match write {
            Write::Put { key, value } => TxnOp::put(key.as_str(), *value, None),
            Write::Delete { key } => TxnOp::delete(key.as_str(), None),
        };
        let operations: Vec<_> = writes.iter().map(operation).collect();
        let connection = Box::pin(self.etcd.connection()).await?;
        let mut client = connection.client();
        let request = Box::pin(client.txn(Txn::new().and_then(operations)));
        let response = self
            .answer(&connection, request, "write", &keys.endpoints())
            .await?;
        self.note(response.header());
        Ok(())
    }

    /// Writes liveness, which expires after `ttl` (never for zero), and beside it the same without an end.
    ///
    /// Each report has a lease of its own, and the one before is left to expire. So a lease that was lost with etcd's
    /// data, or ran out while etcd was away, needs no treatment, and etcd has no more to do than with one that is kept
    /// alive: the key has to be written each time anyway, because Neutron counts versions of it.
    pub(super) async fn report(
        &mut self,
        keys: &StatusKeys,
        value: &str,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let connection = Box::pin(self.etcd.connection()).await?;
        let (mut client, key) = (connection.client(), keys.liveness());
        let options = match lease_seconds(ttl) {
            0 => None,
            seconds => {
                let grant = Box::pin(client.lease_grant(seconds, None));
                let lease = self.answer(&connection, grant, "lease for", &key).await?;
                Some(PutOptions::new().with_lease(lease.id()))
            }
        };
        let operations = [
            TxnOp::put(key.as_str(), value, options),
            TxnOp::put(keys.last_liveness(), value, None),
        ];
        let request = Box::pin(client.txn(Txn::new().and_then(operations)));
        let response = self.answer(&connection, request, "write", &key).await?;
        self.note(response.header());
        Ok(())
    }

    async fn answer<T>(
        &self,
        connection: &Connection,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
        verb: &str,
        key: &str,
    ) -> Result<T, StoreError> {
        let failure = match timeout(LIMIT, request).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => connection.failure(&error, &format!("{verb} {key}")),
            Err(_elapsed) => connection.silence(),
        };
        // Another member would refuse, too.
        if !matches!(failure.cause, Cause::PermissionDenied { .. }) {
            Box::pin(self.etcd.give_up(connection)).await;
        }
        Err(StoreError::Failed(failure))
    }

    fn note(&mut self, header: Option<&ResponseHeader>) {
        let Some(header) = header else {
            return;
        };
        let now = (header.cluster_id(), header.revision());
        if let Some((cluster, revision)) = self.seen {
            self.has_other_history |= now.0 != cluster || now.1 < revision;
        }
        self.seen = Some(now);
    }
}

/// Returns whole seconds, rounded up.
fn lease_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_have_whole_seconds_and_are_never_shorter_than_asked_for() {
        assert_eq!(lease_seconds(Duration::ZERO), 0);
        assert_eq!(lease_seconds(Duration::from_millis(1)), 1);
        assert_eq!(lease_seconds(Duration::from_secs(90)), 90);
        assert_eq!(lease_seconds(Duration::from_millis(1500)), 2);
    }
}
