//! Files from Debian's archive and PyPI, kept in `~/.cache/calico-ebpf/fuel-packages` and never trusted without their
//! SHA-256.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::fuel_plugin::builder::Builder;
use crate::progress::{headline, quietly};
use crate::{command, workspace};

/// A file that is to be had, and what is known of it.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    pub(super) sha256: &'a str,
}

/// Returns one of Debian's packages.
///
/// # Errors
/// The archive does not have that version (any more), or another file under its name.
pub(super) fn from_debian(wanted: &Wanted) -> Result<PathBuf> {
    // As apt names the file: an epoch's colon is written `%3a`.
    let file = format!("{}_{}_amd64.deb", wanted.name, wanted.version.replace(':', "%3a"));
    fetch(&file, wanted, |folder| {
        let package = format!("{}={}", wanted.name, wanted.version);
        let what = format!("download of {package}");
        let mut apt = Command::new("apt-get");
        apt.current_dir(folder).args(["download", "-q", &package]);
        if quietly(&what, &mut apt).is_err() {
            // The list of packages may be older than the archive.
            quietly("apt-get update", Command::new("apt-get").args(["update", "-q"]))?;
            if let Err(error) = quietly(&what, &mut apt) {
                bail!(
                    "{}: put {file} into {} (snapshot.debian.org keeps old ones), or move version and sha256 in \
                     fuel-plugin/packages.toml to what Debian has now: {}",
                    first_line(&error),
                    cache()?.display(),
                    candidate(wanted.name)
                );
            }
        }
        Ok(())
    })
}

/// Returns a source archive (`tar.gz`) of PyPI.
///
/// # Errors
/// PyPI cannot be reached, or has another file under its name.
pub(super) fn source_from_pypi(wanted: &Wanted, builder: &Builder) -> Result<PathBuf> {
    let file = format!("{}-{}.tar.gz", wanted.name, wanted.version);
    // No isolation: it would fetch newer build tools without a pin.
    pip(
        &file,
        wanted,
        builder,
        &["--no-binary", ":all:", "--no-build-isolation"],
    )
}

/// Returns a wheel of PyPI that Python 2.7 can use on any machine.
///
/// # Errors
/// PyPI cannot be reached, or has another file under its name.
pub(super) fn wheel_from_pypi(wanted: &Wanted, builder: &Builder) -> Result<PathBuf> {
    let tag = if wanted.name == "futures" {
        "py2"
    } else {
        "py2.py3"
    };
    let file = format!("{}-{}-{tag}-none-any.whl", wanted.name, wanted.version);
    let target = [
        "--python-version",
        "27",
        "--implementation",
        "py",
        "--abi",
        "none",
        "--platform",
        "any",
    ];
    let arguments = [&["--only-binary", ":all:"], &target[..]].concat();
    pip(&file, wanted, builder, &arguments)
}

fn pip(file: &str, wanted: &Wanted, builder: &Builder, arguments: &[&str]) -> Result<PathBuf> {
    fetch(file, wanted, |folder| {
        let mut pip = builder.python();
        pip.current_dir(folder);
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]);
        pip.args(arguments)
            .arg(format!("{}=={}", wanted.name, wanted.version));
        quietly(&format!("download of {file}"), &mut pip)
    })
}

/// Returns the folder of what was downloaded before.
///
/// # Errors
/// There is no home folder, or it cannot be written.
pub(super) fn cache() -> Result<PathBuf> {
    let cache = workspace::cache_dir()?.join("fuel-packages");
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    Ok(cache)
}

/// Returns a file from the cache, else downloads it into an empty folder first.
fn fetch(file: &str, wanted: &Wanted, download: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    fetch_into(&cache()?, file, wanted, download)
}

fn fetch_into(
    cache: &Path,
    file: &str,
    wanted: &Wanted,
    download: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let kept = cache.join(file);
    if kept.is_file() {
        if sha256(&kept)? == wanted.sha256 {
            return Ok(kept);
        }
        headline(&format!(
            "{file} in {} is another or half of it: again",
            cache.display()
        ));
    }
    let folder = cache.join(format!(".{file}.download"));
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    download(&folder)?;
    let got = folder.join(file);
    if !got.is_file() {
        bail!(
            "the download of {} {} brought no {file}",
            wanted.name,
            wanted.version
        );
    }
    let sum = sha256(&got)?;
    if sum != wanted.sha256 {
        bail!(
            "{file} as downloaded has the SHA-256 {sum}, fuel-plugin/packages.toml wants {}: if the new one is right, \
             write it there",
            wanted.sha256
        );
    }
    fs::rename(&got, &kept).with_context(|| kept.display().to_string())?;
    fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(kept)
}

/// Returns a file's SHA-256 in hexadecimal.
///
/// # Errors
/// It cannot be read.
pub(in crate::fuel_plugin) fn sha256(path: &Path) -> Result<String> {
    let mut sum = Command::new("sha256sum");
    // On standard input: a name with a backslash would change the form of the line.
    sum.stdin(fs::File::open(path).with_context(|| path.display().to_string())?);
    let line = command::output(&mut sum)?;
    let sum = line.split_whitespace().next().unwrap_or_default();
    Ok(sum.to_owned())
}

fn candidate(name: &str) -> String {
    let policy = command::probe(Command::new("apt-cache").args(["policy", name])).unwrap_or_default();
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "));
    version.unwrap_or("no such package").to_owned()
}

fn first_line(error: &anyhow::Error) -> String {
    let text = error.to_string();
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches(':')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "whole".
    const SUM: &str = "0a05d0d4e3ec0e0dad0b0f7b47e9ac5f0a1b1b0a8d5a4f5d0c1a4a5cb0f8b3f3";

    fn fetch_text(cache: &Path, sha256: &str, downloaded: &str) -> Result<String> {
        let wanted = Wanted {
            name: "a",
            version: "1",
            sha256,
        };
        let file = fetch_into(cache, "a_1.deb", &wanted, |folder| {
            Ok(fs::write(folder.join("a_1.deb"), downloaded)?)
        })?;
        Ok(fs::read_to_string(file)?)
    }

    fn sum_of(text: &str) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("file");
        fs::write(&file, text).expect("a file");
        sha256(&file).expect("a sum")
    }

    #[test]
    fn a_whole_file_in_the_cache_is_taken_and_half_of_one_is_fetched_again() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let sum = sum_of("whole");
        fs::write(cache.path().join("a_1.deb"), "who").expect("a file");
        assert_eq!(fetch_text(cache.path(), &sum, "whole").expect("a file"), "whole");
        assert_eq!(
            fetch_text(cache.path(), &sum, "not asked for").expect("a file"),
            "whole"
        );
    }

    #[test]
    fn a_download_with_another_checksum_is_refused_with_both() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let error = fetch_text(cache.path(), SUM, "another")
            .expect_err("another")
            .to_string();
        assert!(
            error.contains(SUM) && error.contains(&sum_of("another")),
            "{error}"
        );
        assert!(error.contains("fuel-plugin/packages.toml"), "{error}");
        assert!(!cache.path().join("a_1.deb").exists());
    }
}
