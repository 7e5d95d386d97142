//! The log file, which may become another one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use tracing_subscriber::fmt::MakeWriter;

/// A file, or none, that all clones share.
#[derive(Clone, Debug, Default)]
pub(super) struct LogFile(Arc<Mutex<Option<Open>>>);

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Goes on in the file at `path`, or in none.
    ///
    /// # Errors
    /// When it cannot be opened; the one before stays.
    pub(super) fn reopen(&self, path: Option<&Path>) -> anyhow::Result<()> {
        let mut current = self.lock();
        if current.as_ref().map(|open| open.path.as_path()) == path {
            return Ok(());
        }
        *current = match path {
            None => None,
            Some(path) => Some(Open {
                path: path.to_owned(),
                file: open(path)?,
            }),
        };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        // Whoever panicked left a whole file behind: it is changed by moves only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.lock().as_mut() {
            Some(open) => open.file.write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().as_mut().map_or(Ok(()), |open| open.file.flush())
    }
}

impl MakeWriter<'_> for LogFile {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| {
            format!(
                "cannot make {}, the directory of LogFilePath",
                directory.display()
            )
        })?;
    }
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.with_context(|| format!("cannot open the log file {} (LogFilePath)", path.display()))
}
