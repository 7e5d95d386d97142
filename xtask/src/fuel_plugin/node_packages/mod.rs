//! What the plugin's packages carry for the nodes.

mod control;
mod download;
mod list;
mod python;
mod repack;
mod slots;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::builder::Builder;
use super::generation::{Generation, target};
use super::stage::REPOSITORY;
use crate::command;
use crate::package::deb;
use crate::package::epoch::Epoch;
use crate::package::tree::Tree;
use crate::progress::headline;
pub(super) use download::sha256;
use list::{Built, List, Slot};

/// Names the packages that are inside, for whoever looks at the Fuel master.
const CONTENTS: &str = "PACKAGES.md";

/// Where the source of what is inside can be had: a duty of its licences.
const SOURCES: &str = "\nSource code: of what comes from Debian, its source packages of the versions that `dpkg-deb -I` tells \
                       (<https://snapshot.debian.org>); of the rest, PyPI and the plugin's homepage.\n";

/// Packages for the nodes that are the same for every Fuel.
pub(super) struct NodePackages {
    list: List,
    packages: Vec<NodePackage>,
}

struct NodePackage {
    file: PathBuf,
    sha256: String,
    licence: String,
}

impl NodePackages {
    /// Reads the list and makes or fetches everything but the slots, and but what `prebuilt` has of this project's own.
    ///
    /// # Errors
    /// Something cannot be made or fetched, or is not what the list says.
    pub(super) fn make(builder: &Builder, prebuilt: Option<&Path>) -> Result<Self> {
        let list = list::read()?;
        let folder = target()?.join("packages");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut packages = Vec::new();
        let mut put = |file: PathBuf, licence: &str| -> Result<()> {
            packages.push(NodePackage {
                sha256: sha256(&file)?,
                file,
                licence: licence.to_owned(),
            });
            Ok(())
        };
        let mut trees = Vec::new();
        for package in &list.debian {
            let tree = repack::tree(package, &folder.join(&package.name))?;
            trees.push((package.name.as_str(), tree));
        }
        let of_debian: Vec<(&str, &Tree)> = trees.iter().map(|(name, tree)| (*name, tree)).collect();
        repack::check_libraries(&of_debian)?;
        repack::start_programs(&of_debian, &folder.join("root"))?;
        for (package, (_, tree)) in list.debian.iter().zip(&trees) {
            put(
                pack(tree, &folder, &package.name, &package.version, "amd64")?,
                &package.licence,
            )?;
        }
        for package in &list.python {
            let tree = python::tree(package, &folder.join(&package.name), builder)?;
            put(
                pack(&tree, &folder, &package.name, &package.version, "all")?,
                &package.licence,
            )?;
        }
        for package in &list.built {
            let there = prebuilt
                .map(|folder| find(package, folder))
                .transpose()?
                .flatten();
            let file = there.map_or_else(|| build(package), Ok)?;
            put(file, &package.licence)?;
        }
        Ok(Self { list, packages })
    }

    /// Puts everything into a stage, with a list of it; the slots from a folder.
    ///
    /// # Errors
    /// A slot's package is not as it has to be.
    pub(super) fn put(&self, tree: &Tree, generation: Generation, slots: Option<&Path>) -> Result<()> {
        let filled = slots::fill(&self.list.slot, generation, slots)?;
        let mut contents =
            "# Packages for the nodes\n\n| file | SHA-256 | licence |\n|---|---|---|\n".to_owned();
        let own = self.packages.iter();
        let own = own.map(|package| (&package.file, &package.sha256, package.licence.as_str()));
        let brought = filled
            .packages
            .values()
            .map(|(file, sum)| (file, sum, "see the package"));
        for (file, sum, licence) in own.chain(brought) {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let content = fs::read(file).with_context(|| file.display().to_string())?;
            tree.file(&format!("{REPOSITORY}/{name}"), &content)?;
            writeln!(contents, "| {name} | {sum} | {licence} |")?;
        }
        contents += SOURCES;
        contents += "\n## Empty slots\n\n";
        if filled.empty.is_empty() {
            contents += "None.\n";
        }
        for slot in &filled.empty {
            writeln!(
                contents,
                "- `{}`: not inside. Needed for {}. To be had from {}; the build takes it with `--slots`.",
                slot.name, slot.needed_for, slot.origin
            )?;
        }
        tree.file(CONTENTS, contents.as_bytes())
    }
}

/// Checks the packages in the slots' folder, and tells which slots are empty.
///
/// # Errors
/// A package is not as it has to be, or `require` and a slot is empty.
pub(super) fn check_slots(generation: Generation, slots: Option<&Path>, require: bool) -> Result<()> {
    let list = list::read()?;
    for slot in slots::fill(&list.slot, generation, slots)?.empty {
        let how = how_to_fill(slot, generation, slots);
        if require {
            bail!("{how}");
        }
        headline(&format!("EMPTY: {how}"));
    }
    Ok(())
}

fn how_to_fill(slot: &Slot, generation: Generation, slots: Option<&Path>) -> String {
    let folder = slots.map_or_else(|| "DIR".to_owned(), |folder| folder.display().to_string());
    format!(
        "slot {} of {}, needed for {}: put its deb ({}) and a line in SHA256SUMS into {folder}/{}, and build \
         with `--slots {folder}`",
        slot.name,
        generation.folder(),
        slot.needed_for,
        slot.origin,
        generation.folder()
    )
}

fn pack(tree: &Tree, folder: &Path, name: &str, version: &str, architecture: &str) -> Result<PathBuf> {
    let epoch = Epoch::find()?;
    tree.finish(epoch)?;
    let file = folder.join(format!("{name}_{version}+calico1_{architecture}.deb"));
    deb::build(tree, &file, &epoch.text())?;
    Ok(file)
}

/// Returns the one file of a package in a folder, if there is one.
fn find(package: &Built, folder: &Path) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("--prebuilt {}", folder.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_package = path.extension().is_some_and(|extension| extension == "deb");
        if is_package && name.starts_with(&format!("{}_", package.name)) {
            found.push(path);
        }
    }
    if found.len() > 1 {
        bail!(
            "--prebuilt {}: several files of {}; leave the one to take",
            folder.display(),
            package.name
        );
    }
    Ok(found.pop())
}

/// Runs the subcommand that makes a package and returns the path that it prints first.
fn build(package: &Built) -> Result<PathBuf> {
    let words = package.command.join(" ");
    headline(&format!("cargo xtask {words}"));
    let program = std::env::current_exe().context("this program's own path")?;
    let mut xtask = std::process::Command::new(program);
    let printed = command::output(xtask.args(&package.command))
        .with_context(|| format!("{}: `cargo xtask {words}` failed", package.name))?;
    let path = PathBuf::from(printed.lines().next().unwrap_or_default());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !path.is_file() || !name.starts_with(&format!("{}_", package.name)) {
        bail!(
            "`cargo xtask {words}` printed {printed:?}, expected the path of {}_*.deb",
            package.name
        );
    }
    Ok(path)
}
