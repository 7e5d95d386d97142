//! Kernels from Debian's archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress::{headline, quietly};
use crate::{debian_archive, workspace};

/// What the program ring may need beyond what is compiled in. Absent ones are built in, or the kernel lacks them.
const MODULES: &[&str] = &[
    "act_bpf",
    "act_gact",
    "act_mirred",
    "act_skbedit",
    "cls_bpf",
    "dummy",
    "ifb",
    "sch_ingress",
    "tap",
    "tun",
    "veth",
];

/// An unpacked kernel package.
pub(super) struct Kernel {
    /// The package's name.
    pub(super) name: String,
    /// The bootable file.
    pub(super) image: PathBuf,
    root: PathBuf,
}

/// Returns the newest kernel whose version begins with `version`: one from the cache, else from Debian's archive.
///
/// # Errors
/// No such kernel, no apt, no network.
pub(super) fn fetch(version: &str) -> Result<Kernel> {
    let cache = workspace::cache_dir()?.join("kernels");
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let cached = fs::read_dir(&cache)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let name = match newest(cached, version) {
        Some(name) => name,
        None => download(version, &cache)?,
    };
    let root = cache.join(&name);
    let image = debian_archive::entry_with_prefix(&root.join("boot"), "vmlinuz-")?;
    Ok(Kernel { name, image, root })
}

impl Kernel {
    /// Returns the modules that are there, by file name without compression, with their bytes.
    ///
    /// # Errors
    /// The package has no modules at all, or one cannot be read.
    pub(super) fn modules(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let folder = [self.root.join("lib/modules"), self.root.join("usr/lib/modules")]
            .into_iter()
            .find(|folder| folder.is_dir())
            .with_context(|| format!("{} has no modules", self.name))?;
        let mut modules = Vec::new();
        collect(&folder, &mut modules)?;
        Ok(modules)
    }
}

fn collect(folder: &Path, modules: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, modules)?;
            continue;
        }
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let Some((module, extension)) = file.split_once('.') else {
            continue;
        };
        if !MODULES.contains(&module) {
            continue;
        }
        let bytes = match extension {
            "ko" => fs::read(&path)?,
            "ko.xz" => decompress(&path)?,
            _ => continue,
        };
        modules.push((format!("{module}.ko"), bytes));
    }
    Ok(())
}

fn decompress(path: &Path) -> Result<Vec<u8>> {
    let output = Command::new("xz").arg("-dc").arg(path).output().context("xz")?;
    if !output.status.success() {
        bail!(
            "xz -dc {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}

fn download(version: &str, cache: &Path) -> Result<String> {
    let known = || newest(debian_archive::names("linux-image-").into_iter(), version);
    let name = if let Some(name) = known() {
        name
    } else {
        debian_archive::update()?;
        known().with_context(|| {
            format!("apt knows no linux-image-{version}*-amd64; see /etc/apt/sources.list")
        })?
    };
    headline(&format!("{name} from Debian's archive"));
    let folder = cache.join(format!(".{name}.download"));
    let package = debian_archive::download(&name, &folder)?;
    let unpacked = folder.join("unpacked");
    quietly(
        &format!("unpack {name}"),
        Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked),
    )?;
    fs::rename(&unpacked, cache.join(&name)).with_context(|| name.clone())?;
    fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(name)
}

/// Returns the package name with the highest version among those that begin with `version`.
fn newest(names: impl Iterator<Item = String>, version: &str) -> Option<String> {
    names
        .filter(|name| is_plain_kernel(name, version))
        .max_by_key(|name| numbers(name))
}

fn is_plain_kernel(name: &str, version: &str) -> bool {
    let rest = name
        .strip_prefix("linux-image-")
        .and_then(|rest| rest.strip_suffix("-amd64"));
    let Some(rest) = rest.and_then(|rest| rest.strip_prefix(version)) else {
        return false;
    };
    // More of the version has to follow: `linux-image-6.12-amd64` only depends on the newest.
    rest.starts_with(['.', '-', '+'])
        && !["cloud", "rt"]
            .iter()
            .any(|kind| rest.ends_with(&format!("-{kind}")))
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest_of(names: &[&str], version: &str) -> Option<String> {
        newest(names.iter().map(|name| (*name).to_owned()), version)
    }

    #[test]
    fn the_newest_package_of_a_version_wins_by_number_not_by_text() {
        let names = [
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.12.1+deb12-amd64",
        ];
        assert_eq!(
            newest_of(&names, "6.1").as_deref(),
            Some("linux-image-6.1.0-56-amd64")
        );
        assert_eq!(
            newest_of(&names, "6.12").as_deref(),
            Some("linux-image-6.12.1+deb12-amd64")
        );
    }

    #[test]
    fn variants_symbols_and_meta_packages_are_no_kernels() {
        let names = [
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-rt-amd64",
            "linux-image-6.1.0-56-amd64-dbg",
            "linux-image-6.1.0-56-amd64-unsigned",
            "linux-image-6.1-amd64",
        ];
        assert_eq!(newest_of(&names, "6.1"), None);
    }
}
