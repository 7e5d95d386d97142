//! The `file` datastore: a directory of YAML and JSON manifests, as for `calicoctl apply -f`.
//!
//! Files named `*.yaml`, `*.yml` and `*.json` count, hidden ones and subdirectories do not; a file may hold several
//! documents. What is wrong is told with file, line and field. A file that cannot be read or parsed, and an object
//! that cannot be decoded, keep their last good version in force; the first read takes what is good.

mod document;
mod manifest;
#[cfg(any(test, feature = "test-generators"))]
pub mod properties;
mod reader;
#[cfg(test)]
mod tests;
mod tree;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::reader::Reader;
use super::feed::{Feed, State, feed};
use crate::model::name::Kind;
use crate::model::problem::Problem;
use crate::model::resource::Snapshot;

/// Larger files are refused, in bytes.
pub const MAX_FILE_SIZE: u64 = 16 * 1024 * 1024;

/// What `validate` found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ValidateReport {
    /// Number of valid objects by kind.
    pub objects: BTreeMap<Kind, usize>,
    /// In order of file and line.
    pub problems: Vec<Problem>,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Every valid object. Meaningless before the first `in_sync`.
    pub snapshot: Arc<Snapshot>,
    /// What was wrong with objects that are there now.
    pub problems: Arc<Vec<Problem>>,
    /// Whether the directory could be read once.
    pub in_sync: bool,
    pub state: State,
    /// Number of reads of the directory.
    pub revision: u64,
}

/// Follows a directory until `stop`: nothing is sent before the first whole read, and then changes come within a few
/// hundred milliseconds. Spawns its task on the current tokio runtime; files are read off the async threads.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn watch_directory(dir: PathBuf, stop: CancellationToken) -> Feed {
    let (sender, feed) = feed();
    tokio::spawn(watch::follow(dir, stop, sender));
    feed
}

/// Reads a directory once. A directory that cannot be read gives a view that is not in sync and says why.
pub fn read_directory(dir: &Path) -> View {
    Reader::new(dir.to_owned()).read()
}

/// Reads a directory, or one manifest, and counts what is valid.
pub fn validate(path: &Path) -> ValidateReport {
    let view = if path.is_file() {
        Reader::of_file(path).read()
    } else {
        read_directory(path)
    };
    let mut objects = BTreeMap::new();
    for key in view.snapshot.keys() {
        *objects.entry(key.kind).or_default() += 1;
    }
    ValidateReport {
        objects,
        problems: view.problems.to_vec(),
    }
}
