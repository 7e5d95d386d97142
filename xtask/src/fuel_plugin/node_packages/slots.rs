//! Packages that cannot be had freely: taken from a folder, by the checksums that lie in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::download::sha256;
use super::list::Slot;
use crate::command;
use crate::fuel_plugin::generation::Generation;

/// Name of the file with checksums, in the form of `sha256sum`.
const SUMS: &str = "SHA256SUMS";

/// What the slots of a package are filled with.
#[derive(Debug, Default)]
pub(super) struct Filled<'a> {
    /// By slot: the file and its SHA-256.
    pub(super) packages: BTreeMap<&'a str, (PathBuf, String)>,
    /// Slots that nothing is in.
    pub(super) empty: Vec<&'a Slot>,
}

/// Looks for the slots' packages in `<folder>/v2` or `<folder>/v4`; without a folder all are empty.
///
/// # Errors
/// A file has another checksum than the list says or none there, is no package, or one for no slot.
pub(super) fn fill<'a>(
    slots: &'a [Slot],
    generation: Generation,
    folder: Option<&Path>,
) -> Result<Filled<'a>> {
    let mut filled = Filled::default();
    if let Some(folder) = folder {
        if !folder.is_dir() {
            bail!("--slots {}: no such folder", folder.display());
        }
        let folder = folder.join(generation.folder());
        for file in packages_in(&folder)? {
            let sum = verify(&file, &folder)?;
            let (slot, name) = slot_of(&file, slots)?;
            if filled.packages.insert(slot, (file, sum)).is_some() {
                bail!("{}: two packages {name}; leave one", folder.display());
            }
        }
    }
    filled.empty = slots
        .iter()
        .filter(|slot| !filled.packages.contains_key(slot.name.as_str()))
        .collect();
    Ok(filled)
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            packages.push(path);
        }
    }
    packages.sort();
    Ok(packages)
}

/// Returns the file's SHA-256 when the list beside it says the same.
fn verify(file: &Path, folder: &Path) -> Result<String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let list = folder.join(SUMS);
    let text = fs::read_to_string(&list).with_context(|| {
        format!(
            "{}: write it with `sha256sum *.deb > {SUMS}` where {name} is known to be whole",
            list.display()
        )
    })?;
    let expected = text.lines().find_map(|line| {
        let (sum, of) = line.split_once(char::is_whitespace)?;
        (of.trim_start().trim_start_matches('*') == name).then_some(sum)
    });
    let Some(expected) = expected else {
        bail!(
            "{}: no line for {name}; add its checksum, or take the file away",
            list.display()
        );
    };
    let sum = sha256(file)?;
    if sum != expected {
        bail!(
            "{} has the SHA-256 {sum}, {SUMS} says {expected}: it is damaged or half of it; copy it again",
            file.display()
        );
    }
    Ok(sum)
}

fn slot_of<'a>(file: &Path, slots: &'a [Slot]) -> Result<(&'a str, String)> {
    let mut dpkg = Command::new("dpkg-deb");
    let fields = command::probe(dpkg.args(["--field"]).arg(file).arg("Package")).with_context(|| {
        format!(
            "{} is no Debian package, or half of one: copy it again",
            file.display()
        )
    })?;
    let name = fields.trim().to_owned();
    let slot = slots.iter().find(|slot| slot.name == name);
    let slot = slot.with_context(|| {
        let names: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
        format!(
            "{} is the package {name}, for which there is no slot; slots: {}",
            file.display(),
            names.join(", ")
        )
    })?;
    Ok((&slot.name, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> Vec<Slot> {
        let slot = |name: &str| Slot {
            name: name.to_owned(),
            needed_for: "a test".to_owned(),
            origin: "nowhere".to_owned(),
        };
        vec![slot("calico-felix"), slot("dnsmasq-base")]
    }

    /// A folder `v4` with a package in it.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn with(package: &str) -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let tree = folder.path().join("tree");
            fs::create_dir_all(tree.join("DEBIAN")).expect("a folder");
            let control = format!(
                "Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: a\n"
            );
            fs::write(tree.join("DEBIAN/control"), control).expect("a file");
            let this = Self(folder);
            fs::create_dir(this.v4()).expect("a folder");
            let built = Command::new("dpkg-deb")
                .args(["--build"])
                .args([tree, this.file()])
                .output();
            assert!(built.expect("dpkg-deb").status.success());
            this
        }

        fn v4(&self) -> PathBuf {
            self.0.path().join("v4")
        }

        fn file(&self) -> PathBuf {
            self.v4().join("file.deb")
        }

        fn write_sum(&self) {
            let sum = sha256(&self.file()).expect("a sum");
            fs::write(self.v4().join(SUMS), format!("{sum}  file.deb\n")).expect("a file");
        }

        fn error(&self) -> String {
            let slots = slots();
            let error = fill(&slots, Generation::V4, Some(self.0.path())).expect_err("an error");
            format!("{error:#}")
        }
    }

    #[test]
    fn a_package_with_its_checksum_fills_its_slot() {
        let folder = Folder::with("calico-felix");
        folder.write_sum();
        let slots = slots();
        let filled = fill(&slots, Generation::V4, Some(folder.0.path())).expect("filled");
        assert!(filled.packages.contains_key("calico-felix"));
        let empty: Vec<&str> = filled.empty.iter().map(|slot| slot.name.as_str()).collect();
        assert_eq!(empty, ["dnsmasq-base"]);
        let other = fill(&slots, Generation::V2, Some(folder.0.path())).expect("empty");
        assert_eq!(other.empty.len(), 2);
    }

    #[test]
    fn a_package_without_a_checksum_is_not_trusted() {
        let folder = Folder::with("calico-felix");
        assert!(
            folder.error().contains("SHA256SUMS: write it"),
            "{}",
            folder.error()
        );
        fs::write(folder.v4().join(SUMS), "00  other.deb\n").expect("a file");
        assert!(
            folder.error().contains("no line for file.deb"),
            "{}",
            folder.error()
        );
    }

    #[test]
    fn half_a_package_is_told_by_its_checksum() {
        let folder = Folder::with("calico-felix");
        folder.write_sum();
        let content = fs::read(folder.file()).expect("a file");
        fs::write(folder.file(), &content[..100]).expect("a file");
        assert!(
            folder.error().contains("damaged or half of it"),
            "{}",
            folder.error()
        );
        folder.write_sum();
        assert!(
            folder.error().contains("is no Debian package"),
            "{}",
            folder.error()
        );
    }

    #[test]
    fn a_package_for_no_slot_is_named_with_the_slots() {
        let folder = Folder::with("nginx");
        folder.write_sum();
        let error = folder.error();
        assert!(
            error.contains("package nginx") && error.contains("calico-felix, dnsmasq-base"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let slots = slots();
        let error = fill(&slots, Generation::V4, Some(Path::new("/nowhere"))).expect_err("an error");
        assert_eq!(error.to_string(), "--slots /nowhere: no such folder");
    }
}
