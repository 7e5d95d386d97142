//! Programs from Debian 12 for nodes of 2014: with a C library of their own beside them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::control::Control;
use super::download::{Wanted, from_debian};
use super::list::{DebianPackage, FromDebian};
use crate::command;
use crate::fuel_plugin::elf::begins_as_elf;
use crate::package::tree::{Tree, printed_by};
use crate::progress::quietly;

/// Where the libraries are on a node.
const LIBRARIES: &str = "/usr/lib/calico/lib";

/// Makes the package's tree in place of what is at `root`.
///
/// # Errors
/// A package of Debian cannot be had, lacks a file, or a program needs a library that is not there.
pub(super) fn tree(package: &FromDebian, root: &Path) -> Result<Tree> {
    let tree = Tree::new(root.to_owned())?;
    let unpacked = root.with_extension("debian");
    for from in &package.from {
        take(from, &unpacked, &tree)?;
    }
    let origin: Vec<String> = package
        .from
        .iter()
        .map(|from| format!("{} {}", from.package, from.version))
        .collect();
    let control = Control {
        name: &package.name,
        // Above Ubuntu's own, and told apart from Debian's.
        version: format!("{}+calico1", package.version),
        architecture: "amd64",
        depends: &package.depends,
        description: &package.description,
        details: format!("From Debian 12: {}.", origin.join(", ")),
    };
    control.put(&tree)?;
    Ok(tree)
}

fn take(from: &DebianPackage, unpacked: &Path, tree: &Tree) -> Result<()> {
    let wanted = Wanted {
        name: &from.package,
        version: &from.version,
        sha256: &from.sha256,
    };
    let deb = from_debian(&wanted)?;
    if unpacked.exists() {
        fs::remove_dir_all(unpacked).with_context(|| unpacked.display().to_string())?;
    }
    let what = format!("unpack {}", from.package);
    quietly(&what, Command::new("dpkg-deb").arg("-x").args([&deb, unpacked]))?;
    for (path, to) in &from.files {
        let file = unpacked.join(path);
        let content =
            fs::read(&file).with_context(|| format!("{} {}: {path}", from.package, from.version))?;
        if !begins_as_elf(&file)? {
            tree.file(to, &content)?;
            continue;
        }
        tree.program(to, &content)?;
        let placed = tree.root().join(to);
        if to.starts_with("usr/bin/") || to.starts_with("usr/sbin/") {
            lead_to_libraries(&placed)?;
        } else if !to.ends_with("/ld-linux-x86-64.so.2") && !to.ends_with("/libc.so.6") {
            patchelf(&placed, &["--set-rpath", LIBRARIES])?;
        }
    }
    fs::remove_dir_all(unpacked).with_context(|| unpacked.display().to_string())
}

/// Makes a program use nothing of the node but the kernel.
fn lead_to_libraries(program: &Path) -> Result<()> {
    let loader = format!("{LIBRARIES}/ld-linux-x86-64.so.2");
    patchelf(program, &["--set-interpreter", &loader, "--set-rpath", LIBRARIES])
}

fn patchelf(file: &Path, arguments: &[&str]) -> Result<()> {
    command::run(Command::new("patchelf").args(arguments).arg(file))
}

/// Starts each program with nothing around it but the files of the trees.
///
/// # Errors
/// One does not start.
pub(super) fn start_programs(trees: &[(&str, &Tree)], root: &Path) -> Result<()> {
    let together = Tree::new(root.to_owned())?;
    for (_, tree) in trees {
        for file in tree.files()? {
            let path = tree.root().join(&file);
            let content = fs::read(&path).with_context(|| path.display().to_string())?;
            together.program(&file, &content)?;
        }
    }
    let programs = together.files()?.into_iter();
    for program in programs.filter(|file| file.starts_with("usr/bin/") || file.starts_with("usr/sbin/")) {
        // A namespace of its own makes everybody root in it.
        let mut chroot = Command::new("unshare");
        chroot
            .args(["--map-root-user", "chroot"])
            .arg(root)
            .arg(format!("/{program}"));
        // birdc knows no option of this kind; its answer to it says that it runs.
        let ends_well = !program.ends_with("/birdc");
        let argument = if program.ends_with("/etcdctl") {
            "version"
        } else {
            "--version"
        };
        let output = chroot.arg(argument).output().context("unshare")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let is_itself = said.contains("ersion") || said.contains("Usage: /usr/sbin/birdc");
        if output.status.success() != ends_well || !is_itself {
            bail!(
                "/{program} does not run without the node's libraries: {}",
                said.trim()
            );
        }
    }
    fs::remove_dir_all(root).with_context(|| root.display().to_string())
}

/// Fails when a program of one of the trees needs a library that none of them has.
///
/// # Errors
/// It does, or patchelf fails.
pub(super) fn check_libraries(trees: &[(&str, &Tree)]) -> Result<()> {
    let mut there = Vec::new();
    for (_, tree) in trees {
        there.extend(tree.files()?);
    }
    for (name, tree) in trees {
        for file in tree.files()? {
            let path = tree.root().join(&file);
            if file.starts_with("DEBIAN/") || !begins_as_elf(&path)? {
                continue;
            }
            let needed = printed_by(Command::new("patchelf").arg("--print-needed").arg(&path))?;
            for library in String::from_utf8_lossy(&needed).lines() {
                let expected = format!("{}/{library}", LIBRARIES.trim_start_matches('/'));
                if !there.contains(&expected) {
                    bail!(
                        "{name}: /{file} needs {library}, which is not in {LIBRARIES}: add the Debian package with it to \
                         calico-libs in fuel-plugin/packages.toml"
                    );
                }
            }
        }
    }
    Ok(())
}
