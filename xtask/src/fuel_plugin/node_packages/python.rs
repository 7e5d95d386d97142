//! Python modules of PyPI for Python 2.7 of the nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::control::Control;
use super::download::{Wanted, source_from_pypi, wheel_from_pypi};
use super::list::FromPypi;
use crate::fuel_plugin::builder::Builder;
use crate::fuel_plugin::generation::source;
use crate::package::tree::Tree;
use crate::progress::quietly;

/// Where Debian's and Ubuntu's Python 2.7 looks.
const MODULES: &str = "usr/lib/python2.7/dist-packages";

/// Makes the package's tree in place of what is at `root`.
///
/// # Errors
/// A file of PyPI cannot be had, or is not as expected.
pub(super) fn tree(package: &FromPypi, root: &Path, builder: &Builder) -> Result<Tree> {
    let tree = Tree::new(root.to_owned())?;
    let unpacked = root.with_extension("pypi");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).with_context(|| unpacked.display().to_string())?;
    }
    fs::create_dir_all(&unpacked).with_context(|| unpacked.display().to_string())?;
    put_source(package, &unpacked, &tree, builder)?;
    put_beside(package, &unpacked, &tree, builder)?;
    put_programs(package, &tree)?;
    let beside: Vec<String> = package
        .beside
        .iter()
        .map(|wheel| format!("{} {}", wheel.name, wheel.version))
        .collect();
    let control = Control {
        name: &package.name,
        version: format!("{}+calico1", package.version),
        architecture: "all",
        depends: &package.depends,
        description: &package.description,
        details: format!("From PyPI, with {}.", beside.join(", ")),
    };
    control.put(&tree)?;
    fs::remove_dir_all(&unpacked).with_context(|| unpacked.display().to_string())?;
    Ok(tree)
}

/// The modules, and what tells other packages of them (entry points).
fn put_source(package: &FromPypi, unpacked: &Path, tree: &Tree, builder: &Builder) -> Result<()> {
    let wanted = Wanted {
        name: &package.name,
        version: &package.version,
        sha256: &package.sha256,
    };
    let archive = source_from_pypi(&wanted, builder)?;
    quietly(
        &format!("unpack {}", package.name),
        Command::new("tar")
            .arg("-xzf")
            .arg(&archive)
            .arg("-C")
            .arg(unpacked),
    )?;
    let from = unpacked.join(format!("{}-{}", package.name, package.version));
    let module = package.name.replace('-', "_");
    copy(&from.join(&module), &format!("{MODULES}/{module}"), tree)?;
    let about = format!("{MODULES}/{module}-{}.egg-info", package.version);
    copy(&from.join(format!("{module}.egg-info")), &about, tree)?;
    let licence = from.join("LICENSE");
    let licence = fs::read(&licence).with_context(|| licence.display().to_string())?;
    tree.file(&format!("usr/share/doc/{}/copyright", package.name), &licence)
}

/// What it needs: behind everything else on Python's path, so that the node's own modules count.
fn put_beside(package: &FromPypi, unpacked: &Path, tree: &Tree, builder: &Builder) -> Result<()> {
    let beside = format!("usr/share/{}/lib", package.name);
    for wheel in &package.beside {
        let wanted = Wanted {
            name: &wheel.name,
            version: &wheel.version,
            sha256: &wheel.sha256,
        };
        let file = wheel_from_pypi(&wanted, builder)?;
        let to = unpacked.join(&wheel.name);
        let mut unzip = builder.python();
        unzip.args(["-m", "zipfile", "-e"]).arg(&file).arg(&to);
        quietly(&format!("unpack {}", wheel.name), &mut unzip)?;
        copy(&to, &beside, tree)?;
    }
    let path = format!("{MODULES}/{}.pth", package.name);
    tree.file(&path, format!("/{beside}\n").as_bytes())
}

/// Files of `fuel-plugin/packages/<name>` that are no maintainer scripts.
fn put_programs(package: &FromPypi, tree: &Tree) -> Result<()> {
    let folder = source().join("packages").join(&package.name);
    for path in sorted(&folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !matches!(&*name, "postinst" | "prerm") {
            let content = fs::read(&path).with_context(|| path.display().to_string())?;
            tree.program(&format!("usr/bin/{name}"), &content)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &str, tree: &Tree) -> Result<()> {
    for path in sorted(from)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = format!("{to}/{name}");
        if path.is_dir() {
            // Tests need what no node has.
            if name != "tests" {
                copy(&path, &to, tree)?;
            }
        } else {
            let content = fs::read(&path).with_context(|| path.display().to_string())?;
            tree.file(&to, &content)?;
        }
    }
    Ok(())
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}
