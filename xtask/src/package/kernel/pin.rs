//! Which package of Debian is packed: `fuel-plugin/kernel/pin.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::progress::headline;
use crate::{command, debian_archive, workspace};

/// A version of a package, known by its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    /// Debian's name; it contains what `uname -r` says.
    pub(crate) package: String,
    /// Debian's version.
    pub(crate) version: String,
    /// Of the package's file, in lower case hexadecimal digits.
    pub(crate) sha256: String,
}

impl Pin {
    /// Reads the file in the source.
    ///
    /// # Errors
    /// It is not there, or not in the form.
    pub(crate) fn read() -> Result<Self> {
        let path = path();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let pin: Self = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        pin.release()?;
        Ok(pin)
    }

    /// Returns what `uname -r` says on this kernel.
    ///
    /// # Errors
    /// The package is not named like a kernel.
    pub(crate) fn release(&self) -> Result<&str> {
        self.package
            .strip_prefix("linux-image-")
            .with_context(|| format!("{}: expected the name of a kernel, linux-image-*", self.package))
    }

    /// Returns the version of what is packed of it.
    pub(super) fn packed_version(&self) -> String {
        format!("{}+calico1", self.version)
    }

    /// Returns the file's name in the archive.
    pub(super) fn file_name(&self) -> String {
        format!("{}_{}_amd64.deb", self.package, self.version)
    }

    /// Fails when a file is not the pinned one.
    ///
    /// # Errors
    /// It is another one, or only half of it.
    pub(super) fn verify(&self, file: &Path) -> Result<()> {
        let found = sha256(file)?;
        if found != self.sha256 {
            bail!(
                "{}: SHA-256 is {found}, pinned is {} ({} {}); take the pinned file, or `--move-pin`",
                file.display(),
                self.sha256,
                self.package,
                self.version
            );
        }
        Ok(())
    }

    /// Returns the newest kernel with the same two first numbers, and writes it into the source.
    pub(super) fn moved(&self) -> Result<Self> {
        debian_archive::update()?;
        let series = series(self.release()?)?;
        let names = debian_archive::names(&format!("linux-image-{series}."));
        let package = names
            .into_iter()
            .filter(|name| is_plain(name))
            .max_by_key(|name| numbers(name))
            .with_context(|| {
                format!("apt knows no linux-image-{series}.*-amd64: this needs Debian 12's archive")
            })?;
        let folder = workspace::cache_dir()?.join("kernel-debs/.pin");
        let file = debian_archive::download(&package, &folder)?;
        let version = command::output(Command::new("dpkg-deb").arg("-f").arg(&file).arg("Version"))?;
        let pin = Self {
            package,
            version: version.trim().to_owned(),
            sha256: sha256(&file)?,
        };
        super::keep(&file, &folder.with_file_name(pin.file_name()))?;
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let text = serde_json::to_string_pretty(&pin)? + "\n";
        fs::write(path(), text).with_context(|| path().display().to_string())?;
        headline(&format!("pinned: {} {}", pin.package, pin.version));
        Ok(pin)
    }
}

fn path() -> PathBuf {
    workspace::root().join("fuel-plugin/kernel/pin.json")
}

fn sha256(file: &Path) -> Result<String> {
    let output = command::output(Command::new("sha256sum").arg(file))?;
    let digits = output.split_whitespace().next();
    digits.map(str::to_owned).context("sha256sum printed nothing")
}

/// Returns the first two numbers of a release.
fn series(release: &str) -> Result<String> {
    let mut parts = release.split('.');
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) => Ok(format!("{major}.{minor}")),
        _ => bail!("{release}: expected a kernel's release"),
    }
}

/// Tells whether a package is a kernel for all hardware, neither another kind nor debugging symbols.
fn is_plain(name: &str) -> bool {
    let middle = name
        .strip_prefix("linux-image-")
        .and_then(|rest| rest.strip_suffix("-amd64"));
    middle.is_some_and(|middle| !middle.contains("cloud") && !middle.contains("rt") && middle.contains('-'))
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> Pin {
        Pin {
            package: "linux-image-6.1.0-56-amd64".to_owned(),
            version: "6.1.192-2".to_owned(),
            // Of no bytes at all.
            sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".to_owned(),
        }
    }

    #[test]
    fn the_pin_in_the_source_is_a_kernel_of_6_1() {
        let pin = Pin::read().expect("a pin");
        assert_eq!(
            series(pin.release().expect("a release")).expect("two numbers"),
            "6.1"
        );
        assert!(is_plain(&pin.package));
        assert_eq!(pin.sha256.len(), 64);
    }

    #[test]
    fn a_file_with_other_bytes_is_refused_with_both_sums_and_the_cure() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("half.deb");
        fs::write(&file, "").expect("a writable folder");
        pin().verify(&file).expect("the pinned bytes");
        fs::write(&file, "half").expect("a writable folder");
        let error = pin().verify(&file).expect_err("other bytes").to_string();
        assert!(
            error.contains("e3b0c442") && error.contains("--move-pin"),
            "{error}"
        );
    }

    #[test]
    fn the_pin_moves_to_plain_kernels_only_and_by_number() {
        assert!(is_plain("linux-image-6.1.0-56-amd64"));
        for other in [
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-rt-amd64",
            "linux-image-6.1.0-56-amd64-dbg",
            "linux-image-6.1-amd64",
        ] {
            assert!(!is_plain(other), "{other}");
        }
        assert!(numbers("linux-image-6.1.0-100-amd64") > numbers("linux-image-6.1.0-56-amd64"));
    }
}
