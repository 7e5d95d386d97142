//! A folder that holds what a package installs, with the modes and times that it gets there.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::epoch::Epoch;
use crate::command;

/// How much time is taken for a small package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// For nodes.
    Small,
    /// For tests.
    Fast,
}

/// The folder; paths are those on the node, without the leading slash.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Begins an empty folder in place of what is there.
    ///
    /// # Errors
    /// The folder cannot be removed or made.
    pub(crate) fn new(root: PathBuf) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
        }
        fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
        Ok(Self { root })
    }

    /// Returns the folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Puts a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn file(&self, path: &str, content: &[u8]) -> Result<()> {
        let path = self.root.join(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        set_mode(&path, 0o644)
    }

    /// Puts a file that can be executed.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn program(&self, path: &str, content: &[u8]) -> Result<()> {
        self.file(path, content)?;
        set_mode(&self.root.join(path), 0o755)
    }

    /// Puts a compressed file; `.gz` is added to its name.
    ///
    /// # Errors
    /// It cannot be written or compressed.
    pub(crate) fn compressed(&self, path: &str, content: &[u8]) -> Result<()> {
        self.file(path, content)?;
        // Without name and time of the original, which would be those of the build.
        command::run(Command::new("gzip").args(["-9nf"]).arg(self.root.join(path)))
    }

    /// Returns every file below, in alphabetical order.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        walk(&self.root, &mut |path| {
            if path.is_file() {
                files.push(path.strip_prefix(&self.root)?.to_string_lossy().into_owned());
            }
            Ok(())
        })?;
        files.sort();
        Ok(files)
    }

    /// Gives everything its time, and folders their mode.
    ///
    /// # Errors
    /// Something resists.
    pub(crate) fn finish(&self, epoch: Epoch) -> Result<()> {
        walk(&self.root, &mut |path| {
            if path.is_dir() {
                set_mode(path, 0o755)?;
            }
            let file = File::open(path).with_context(|| path.display().to_string())?;
            file.set_modified(epoch.time())
                .with_context(|| path.display().to_string())
        })
    }
}

/// Visits a folder and everything below, folders after what is in them.
fn walk(folder: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, visit)?;
        } else {
            visit(&path)?;
        }
    }
    visit(folder)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| path.display().to_string())
}

/// Runs a program of the package for what it prints.
///
/// # Errors
/// It cannot start or fails.
pub(crate) fn printed_by(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| command::display(command))?;
    anyhow::ensure!(
        output.status.success(),
        "`{}` failed ({})",
        command::display(command),
        output.status
    );
    Ok(output.stdout)
}
