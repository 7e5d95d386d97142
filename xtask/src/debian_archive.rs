//! Packages from Debian's archive, by this machine's apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::progress::quietly;

/// Downloads a package, `NAME` or `NAME=VERSION`, into `folder` and returns its file. apt checks that it is the
/// archive's.
///
/// # Errors
/// apt does not know it, or there is no network.
pub(crate) fn download(package: &str, folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let what = format!("download of {package}");
    let mut fetch = Command::new("apt-get");
    fetch.current_dir(folder).args(["download", "-q", package]);
    if quietly(&what, &mut fetch).is_err() {
        // The list of packages may be older than the archive.
        update()?;
        quietly(&what, &mut fetch)?;
    }
    let name = package.split_once('=').map_or(package, |(name, _version)| name);
    entry_with_prefix(folder, &format!("{name}_"))
}

/// Returns the names that apt knows with this beginning.
pub(crate) fn names(prefix: &str) -> Vec<String> {
    let names = command::probe(Command::new("apt-cache").args(["pkgnames", prefix])).unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}

/// Fetches the archive's lists anew.
///
/// # Errors
/// There is no apt or no network.
pub(crate) fn update() -> Result<()> {
    quietly("apt-get update", Command::new("apt-get").args(["update", "-q"]))
}

/// Returns the first entry of a folder whose name begins so.
///
/// # Errors
/// There is none, or the folder cannot be read.
pub(crate) fn entry_with_prefix(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .with_context(|| format!("no {prefix}* in {}", folder.display()))
}
