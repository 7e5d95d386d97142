//! The project's own files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::slashes;

/// Folders that hold what was built or downloaded.
const NOT_OURS: &[&str] = &[".git", "target", ".repositories", "__pycache__"];

/// Returns the files with one of the extensions, from the root, in alphabetical order.
///
/// # Errors
/// A folder cannot be read.
pub(super) fn with_extensions(root: &Path, extensions: &[&str]) -> Result<Vec<String>> {
    let files = all(root)?.into_iter();
    let has_extension = |file: &String| {
        file.rsplit_once('.')
            .is_some_and(|(_stem, extension)| extensions.contains(&extension))
    };
    Ok(files.filter(has_extension).collect())
}

/// Returns the files whose first line names a shell.
///
/// # Errors
/// A folder or file cannot be read.
pub(super) fn shell_scripts(root: &Path) -> Result<Vec<String>> {
    let mut scripts = Vec::new();
    for file in all(root)? {
        let bytes = fs::read(root.join(&file)).with_context(|| file.clone())?;
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        if first.starts_with("#!")
            && ["sh", "bash", "dash"]
                .iter()
                .any(|shell| first.trim_end().ends_with(shell))
        {
            scripts.push(file);
        }
    }
    Ok(scripts)
}

/// Returns a file's text.
///
/// # Errors
/// The file cannot be read or is not UTF-8.
pub(super) fn read(root: &Path, file: &str) -> Result<String> {
    fs::read_to_string(root.join(file)).with_context(|| file.to_owned())
}

fn all(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    walk(root, root, &mut files)?;
    files.sort();
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                walk(root, &entry.path(), files)?;
            }
        } else if kind.is_file() {
            files.push(slashes(entry.path().strip_prefix(root)?));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_known_by_their_first_line_and_built_files_are_left_out() {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (file, text) in [
            (".ci/run", "#!/usr/bin/env bash\n"),
            ("a.rs", ""),
            ("target/b.rs", "#!/bin/sh\n"),
            ("x/c.py", "#!/usr/bin/python3\n"),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
            fs::write(path, text).expect("a writable folder");
        }
        assert_eq!(shell_scripts(root.path()).expect("readable files"), [".ci/run"]);
        assert_eq!(
            with_extensions(root.path(), &["rs", "py"]).expect("readable folders"),
            ["a.rs", "x/c.py"]
        );
    }
}
