//! Files for a processor: they have to be inside of Debian packages. rpmbuild would change them, and make requirements
//! of package version 2.0.0 that no Fuel master meets.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Fails when there is an ELF file below `folder`.
///
/// # Errors
/// There is one, or a file cannot be read.
pub(super) fn forbid(folder: &Path) -> Result<()> {
    let mut found = Vec::new();
    collect(folder, &mut found)?;
    found.sort();
    let Some(first) = found.first() else {
        return Ok(());
    };
    let name = first.strip_prefix(folder).unwrap_or(first).display();
    let count = found.len();
    bail!("{name} is an ELF file ({count} in all): put it into a Debian package of fuel-plugin/packages.toml")
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            collect(&path, found)?;
        } else if kind.is_file() && begins_as_elf(&path)? {
            found.push(path);
        }
    }
    Ok(())
}

/// Tells whether a file begins as one for a processor.
///
/// # Errors
/// It cannot be read.
pub(super) fn begins_as_elf(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    let file = File::open(path).with_context(|| path.display().to_string())?;
    file.take(4)
        .read_to_end(&mut start)
        .with_context(|| path.display().to_string())?;
    Ok(start == b"\x7fELF")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_elf_file_is_named_wherever_it_lies() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inside = folder.path().join("deployment_scripts/a");
        fs::create_dir_all(&inside).expect("a folder");
        fs::write(inside.join("script.sh"), "#!/bin/sh\n").expect("a file");
        fs::write(inside.join("empty"), "").expect("a file");
        forbid(folder.path()).expect("no ELF file");
        fs::write(inside.join("agent"), b"\x7fELF\x02\x01").expect("a file");
        let error = forbid(folder.path()).expect_err("an ELF file").to_string();
        assert!(
            error.starts_with("deployment_scripts/a/agent is an ELF file"),
            "{error}"
        );
    }
}
