//! Where objects come from. Two datastores with one behaviour: `file` and `etcdv3`.

pub mod file;

use std::sync::Arc;

use crate::model::problem::Problem;
use crate::model::resource::Snapshot;

/// The newest state of the datastore. Sent over a `tokio::sync::watch` channel: a reader always gets the newest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Every valid object. Meaningless before the first `in_sync`.
    pub snapshot: Arc<Snapshot>,
    /// What was wrong with objects that are there now.
    pub problems: Arc<Vec<Problem>>,
    /// Whether a full read has been made; nothing is written to the kernel before.
    pub in_sync: bool,
    /// `wait-for-ready`, `resync`, `in-sync`, `unreachable`.
    pub state: &'static str,
    /// etcd revision, or number of reads of the directory.
    pub revision: u64,
}
