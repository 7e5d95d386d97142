//! Reads the directory again and again; remembers the last good content of every file.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::manifest::Manifest;
use super::{MAX_FILE_SIZE, View};
use crate::datastore::feed::State;
use crate::model::problem::{Consequence, Place, Problem};
use crate::model::resource::Snapshot;

/// A file changed so shortly before it was read may have changed again with the same time stamp: file times have the
/// granularity of the kernel's tick.
const SETTLE: Duration = Duration::from_millis(50);

/// Reads one directory.
#[derive(Debug)]
pub(super) struct Reader {
    dir: PathBuf,
    /// Only this file of the directory, for `validate`.
    only: Option<OsString>,
    files: BTreeMap<OsString, KnownFile>,
    identity: Option<DirectoryIdentity>,
    view: View,
}

/// Device and inode: another directory under the same name is another one.
pub(super) type DirectoryIdentity = (u64, u64);

#[derive(Clone, Debug)]
struct KnownFile {
    stamp: Stamp,
    /// Whether a later change is sure to change the stamp.
    is_settled: bool,
    content_hash: Option<u64>,
    manifest: Arc<Manifest>,
}

/// Changes when the file does, but for `SETTLE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Reader {
    pub(super) fn new(dir: PathBuf) -> Self {
        let view = View {
            snapshot: Arc::default(),
            problems: Arc::default(),
            in_sync: false,
            state: State::Resync,
            revision: 0,
        };
        Self {
            dir,
            only: None,
            files: BTreeMap::new(),
            identity: None,
            view,
        }
    }

    /// Reads just one manifest.
    pub(super) fn of_file(path: &Path) -> Self {
        let dir = path
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        Self {
            only: path.file_name().map(ToOwned::to_owned),
            ..Self::new(dir.to_owned())
        }
    }

    /// Reads what changed and returns the newest view. While the directory cannot be read, the last one stays.
    pub(super) fn read(&mut self) -> View {
        let identity = directory_identity(&self.dir);
        let read = identity.and_then(|identity| {
            let files = self.read_files()?;
            // A directory that vanished under the reading looks like one whose files were deleted.
            let same = directory_identity(&self.dir)? == identity;
            same.then_some((identity, files))
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        });
        let revision = self.view.revision + 1;
        match read {
            Ok((identity, files)) => {
                self.identity = Some(identity);
                self.files = files;
                let (snapshot, problems) = combine(&self.files);
                self.view = View {
                    snapshot,
                    problems: Arc::new(problems),
                    in_sync: true,
                    state: State::InSync,
                    revision,
                };
                self.view.clone()
            }
            Err(error) => {
                self.identity = None;
                let in_sync = self.view.in_sync;
                let mut problems = vec![unreadable_directory(&self.dir, &error, in_sync)];
                problems.extend(self.view.problems.iter().cloned());
                self.view.revision = revision;
                View {
                    problems: Arc::new(problems),
                    state: State::Unreachable,
                    ..self.view.clone()
                }
            }
        }
    }

    /// Returns whether reading again could give another view, by a look at the time stamps only.
    pub(super) fn is_stale(&self) -> bool {
        if directory_identity(&self.dir).ok() != self.identity {
            return true;
        }
        let Ok(names) = self.manifest_names() else {
            return self.identity.is_some();
        };
        let known: BTreeSet<&OsString> = self.files.keys().collect();
        let is_known = |name: &OsString| {
            let stamp = fs::metadata(self.dir.join(name))
                .ok()
                .map(|metadata| Stamp::of(&metadata));
            self.files
                .get(name)
                .is_some_and(|file| file.is_settled && file.stamp == stamp.unwrap_or_default())
        };
        names.len() != known.len() || !names.iter().all(is_known)
    }

    fn read_files(&self) -> io::Result<BTreeMap<OsString, KnownFile>> {
        let mut files = BTreeMap::new();
        for name in self.manifest_names()? {
            if let Some(file) = self.read_file(&name) {
                files.insert(name, file);
            }
        }
        Ok(files)
    }

    fn manifest_names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let wanted = self
                .only
                .as_ref()
                .map_or_else(|| is_manifest_name(&name), |only| *only == name);
            // Looks through links, so that a link to a directory is one, too.
            if wanted && !entry.path().is_dir() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Returns `None` for a file that is gone.
    fn read_file(&self, name: &OsString) -> Option<KnownFile> {
        let path = self.dir.join(name);
        let before = self.files.get(name);
        let stamp = match fs::metadata(&path) {
            Ok(metadata) => Stamp::of(&metadata),
            Err(_) if fs::symlink_metadata(&path).is_err() => return None,
            Err(_) => Stamp::default(),
        };
        if let Some(known) = before.filter(|known| known.is_settled && known.stamp == stamp) {
            return Some(known.clone());
        }
        let is_settled = stamp.is_settled();
        let (content_hash, fresh) = match read_text(&path) {
            Ok(text) => {
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                let hash = hasher.finish();
                if let Some(known) = before.filter(|known| known.content_hash == Some(hash)) {
                    return Some(KnownFile {
                        stamp,
                        is_settled,
                        ..known.clone()
                    });
                }
                (Some(hash), Manifest::parse(&path, &text))
            }
            Err(Unreadable {
                line,
                found,
                expected,
            }) => (None, Manifest::unreadable(&path, line, found, expected)),
        };
        let manifest = match before {
            Some(known) => fresh.after(&known.manifest),
            None => fresh,
        };
        Some(KnownFile {
            stamp,
            is_settled,
            content_hash,
            manifest: Arc::new(manifest),
        })
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(&self) -> bool {
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1)) else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        SystemTime::now()
            .duration_since(changed)
            .is_ok_and(|age| age > SETTLE)
    }
}

/// Returns device and inode of a directory.
pub(super) fn directory_identity(dir: &Path) -> io::Result<DirectoryIdentity> {
    let metadata = fs::metadata(dir)?;
    if metadata.is_dir() {
        Ok((metadata.dev(), metadata.ino()))
    } else {
        Err(io::ErrorKind::NotADirectory.into())
    }
}

/// Hidden files and editors' backups (`.x.yaml.swp`, `#x.yaml#`, `x.yaml~`) are none.
fn is_manifest_name(name: &OsString) -> bool {
    let text = name.to_string_lossy();
    let extension = Path::new(name)
        .extension()
        .map(|extension| extension.to_string_lossy());
    !text.starts_with(['.', '#', '~']) && matches!(extension.as_deref(), Some("yaml" | "yml" | "json"))
}

/// Why a file has no text.
struct Unreadable {
    line: u64,
    found: String,
    expected: &'static str,
}

fn read_text(path: &Path) -> Result<String, Unreadable> {
    let unreadable = |error: io::Error| Unreadable {
        line: 1,
        found: error.to_string(),
        expected: "a readable file",
    };
    let too_large = |size: u64| Unreadable {
        line: 1,
        found: format!("{size} bytes or more"),
        expected: "a file of at most 16 MiB (its objects may be split over several files)",
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Unreadable {
            line: 1,
            found: "no regular file".to_owned(),
            expected: "a regular file",
        });
    }
    if metadata.len() > MAX_FILE_SIZE {
        return Err(too_large(metadata.len()));
    }
    // A pipe that took the file's place must not block the reader.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unreadable)?;
    let mut bytes = Vec::new();
    File::take(file, MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_SIZE {
        return Err(too_large(MAX_FILE_SIZE + 1));
    }
    String::from_utf8(bytes).map_err(|error| {
        let bad = error.utf8_error().valid_up_to();
        let lines: u64 = error.as_bytes()[..bad]
            .iter()
            .map(|byte| u64::from(*byte == b'\n'))
            .sum();
        let found = format!("byte 0x{:02x}", error.as_bytes()[bad]);
        Unreadable {
            line: lines + 1,
            found,
            expected: "text in UTF-8",
        }
    })
}

fn unreadable_directory(dir: &Path, error: &io::Error, in_sync: bool) -> Problem {
    let consequence = if in_sync {
        Consequence::LastGoodKept
    } else {
        Consequence::ObjectSkipped
    };
    Problem {
        object: None,
        field: String::new(),
        found: format!("{} ({error})", dir.display()),
        expected: "a readable directory of manifests".to_owned(),
        consequence,
        place: None,
    }
}

/// Puts the files together. Of two objects with one identity the first by file name and position counts.
fn combine(files: &BTreeMap<OsString, KnownFile>) -> (Arc<Snapshot>, Vec<Problem>) {
    let mut snapshot = Snapshot::new();
    let mut places: BTreeMap<_, &Place> = BTreeMap::new();
    let mut problems = Vec::new();
    for file in files.values() {
        let Manifest {
            objects,
            problems: of_objects,
            faults,
            ..
        } = &*file.manifest;
        let mut of_file: Vec<Problem> = faults.iter().chain(of_objects).cloned().collect();
        for object in objects {
            match snapshot.entry(object.key.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(Arc::clone(&object.resource));
                    places.insert(&object.key, &object.place);
                }
                Entry::Occupied(_) => of_file.push(Problem {
                    object: Some(object.key.clone()),
                    field: String::new(),
                    found: places.get(&object.key).map_or_else(String::new, |first| {
                        format!("the name of {}:{}", first.file, first.line)
                    }),
                    expected: "a name of its own (the first one counts)".to_owned(),
                    consequence: Consequence::ObjectSkipped,
                    place: Some(object.place.clone()),
                }),
            }
        }
        of_file.sort_by_key(|problem| problem.place.as_ref().map(|place| place.line));
        problems.extend(of_file);
    }
    (Arc::new(snapshot), problems)
}
