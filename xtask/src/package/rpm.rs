//! The package for distributions with RPM and systemd, made by rpmbuild. Compressed with gzip, which each RPM reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::agent::{Agent, Places, VERSION, template};
use super::epoch;
use super::tree::Compression;
use crate::progress::{headline, quietly};

const PLACES: Places = Places {
    systemd_units: "usr/lib/systemd/system",
    zsh_completions: "usr/share/zsh/site-functions",
};

/// What makes two builds equal, and keeps rpmbuild from changing what was staged.
const DEFINITIONS: &[&str] = &[
    "_buildhost calico-ebpf",
    "use_source_date_epoch_as_buildtime 1",
    "clamp_mtime_to_source_date_epoch 1",
    "source_date_epoch_from_changelog 0",
    "_build_id_links none",
    "debug_package %{nil}",
    "__os_install_post %{nil}",
];

/// Packs the agent into `directory` and returns the package.
///
/// # Errors
/// A source is missing, or rpmbuild fails.
pub(super) fn pack(agent: &Agent, directory: &Path, compression: Compression) -> Result<PathBuf> {
    headline("rpm");
    let tree = agent.stage(directory.join("rpm.tree"), &PLACES)?;
    tree.finish(agent.epoch)?;
    let top = directory.join("rpmbuild");
    if top.exists() {
        fs::remove_dir_all(&top).with_context(|| top.display().to_string())?;
    }
    fs::create_dir_all(&top).with_context(|| top.display().to_string())?;
    let spec = top.join("calico-ebpf.spec");
    fs::write(&spec, template("rpm/calico-ebpf.spec")?).with_context(|| spec.display().to_string())?;
    let mut rpmbuild = Command::new("rpmbuild");
    rpmbuild.env(epoch::VARIABLE, agent.epoch.text());
    rpmbuild.args(["-bb", "--target", "x86_64"]);
    for definition in DEFINITIONS {
        rpmbuild.args(["--define", definition]);
    }
    rpmbuild.args([
        "--define",
        match compression {
            Compression::Small => "_binary_payload w9.gzdio",
            Compression::Fast => "_binary_payload w1.gzdio",
        },
    ]);
    rpmbuild.args(["--define", &format!("_topdir {}", top.display())]);
    rpmbuild.args(["--define", &format!("staged {}", tree.root().display())]);
    quietly("rpmbuild", rpmbuild.arg(&spec))?;
    let name = format!("calico-ebpf-{VERSION}-1.x86_64.rpm");
    let package = directory.join(&name);
    let built = top.join("RPMS/x86_64").join(&name);
    fs::rename(&built, &package).with_context(|| built.display().to_string())?;
    Ok(package)
}
