//! The `etcdv3` datastore: Calico's objects as the Neutron driver and `calicoctl` keep them (contract 1.1).
//!
//! Everything is read at one revision, kind by kind, and then watched from there on; a lost connection is taken up where
//! it ended, at whichever member answers. When etcd has forgotten that place (compaction) or is another one than before
//! (restored, or begun anew), everything is read again and the difference is sent, deletions included. Nothing is sent
//! while `ClusterInformation` does not say that the datastore is ready (contract 1.5): an etcd that lost its data tears
//! nothing down.

mod entry;
mod follow;
mod keys;
mod listing;
mod objects;
#[cfg(any(test, feature = "test-generators"))]
pub mod properties;
mod watches;

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::feed::{Feed, feed};
use crate::etcd::Etcd;
use crate::model::name::Kind;

/// Follows etcd until `stop`: nothing is sent before the first whole read of a ready datastore, and then changes come at
/// once. An etcd that cannot be reached is waited for. Spawns its task on the current tokio runtime.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn watch(etcd: &Etcd, stop: CancellationToken) -> Feed {
    let (sender, feed) = feed();
    tokio::spawn(Box::pin(follow::follow(etcd.clone(), stop, sender)));
    feed
}

/// How far etcd has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    /// Identity of the cluster.
    cluster: u64,
    /// Newest revision that we heard of.
    revision: i64,
    /// Where the watch of each kind goes on.
    next: BTreeMap<Kind, i64>,
}
