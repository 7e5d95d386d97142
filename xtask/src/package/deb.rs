//! The package for Debian and Ubuntu, made by dpkg-deb so that dpkg 1.17 (Ubuntu 14.04) reads it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::agent::{Agent, Places, VERSION, source, template};
use super::epoch;
use super::tree::{Compression, Tree, printed_by};
use crate::progress::{headline, quietly};

/// In `/lib`, where also systems look whose `/lib` is not a link into `/usr`.
const PLACES: Places = Places {
    systemd_units: "lib/systemd/system",
    zsh_completions: "usr/share/zsh/vendor-completions",
};

/// Packs the agent into `directory` and returns the package.
///
/// # Errors
/// A source is missing, or dpkg-deb fails.
pub(super) fn pack(agent: &Agent, directory: &Path, compression: Compression) -> Result<PathBuf> {
    headline("deb");
    let tree = agent.stage(directory.join("deb.tree"), &PLACES)?;
    tree.file("etc/init/calico-ebpf.conf", &source("calico-ebpf.upstart")?)?;
    put_control(&tree)?;
    tree.finish(agent.epoch)?;
    let package = directory.join(format!("calico-ebpf_{VERSION}_amd64.deb"));
    let source_date_epoch = agent.epoch.text();
    match compression {
        Compression::Small => build(&tree, &package, &source_date_epoch)?,
        Compression::Fast => build_with(&tree, &package, &source_date_epoch, compression)?,
    }
    Ok(package)
}

/// Builds a package of a tree with a `DEBIAN` folder: `control.tar.gz` and `data.tar.xz`, the same bytes each time.
///
/// # Errors
/// dpkg-deb fails.
pub(crate) fn build(tree: &Tree, package: &Path, source_date_epoch: &str) -> Result<()> {
    build_with(tree, package, source_date_epoch, Compression::Small)
}

fn build_with(tree: &Tree, package: &Path, source_date_epoch: &str, compression: Compression) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.env(epoch::VARIABLE, source_date_epoch);
    // dpkg 1.17.5 knows no `control.tar.xz`; xz with several threads writes other bytes.
    dpkg.args([
        "--no-uniform-compression",
        "--threads-max=1",
        "--root-owner-group",
    ]);
    dpkg.args(match compression {
        Compression::Small => &["-Zxz"][..],
        Compression::Fast => &["-Zgzip", "-z1"],
    });
    quietly("dpkg-deb", dpkg.arg("--build").arg(tree.root()).arg(package))
}

fn put_control(tree: &Tree) -> Result<()> {
    let files = tree.files()?;
    let sums = printed_by(Command::new("md5sum").args(&files).current_dir(tree.root()))?;
    let mut bytes = 0;
    for file in &files {
        let path = tree.root().join(file);
        bytes += fs::metadata(&path)
            .with_context(|| path.display().to_string())?
            .len();
    }
    let control = template("debian/control")?.replace("@INSTALLED_SIZE@", &bytes.div_ceil(1024).to_string());
    tree.file("DEBIAN/control", control.as_bytes())?;
    tree.file("DEBIAN/conffiles", &source("debian/conffiles")?)?;
    tree.file("DEBIAN/md5sums", &sums)?;
    for script in ["postinst", "prerm", "postrm"] {
        tree.program(&format!("DEBIAN/{script}"), &source(&format!("debian/{script}"))?)?;
    }
    Ok(())
}
