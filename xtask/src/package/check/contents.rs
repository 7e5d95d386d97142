//! What the packages install, file by file.

use std::process::Command;

use anyhow::{Result, ensure};

use super::super::agent::Agent;
use super::Packages;
use crate::command;

/// Beginnings of the paths that a package may have, apart from those of the manual.
const COMMON: &[&str] = &[
    "/usr/bin/calico-ebpf",
    "/etc/calico/felix.cfg",
    "/etc/modules-load.d/calico-ebpf.conf",
    "/etc/sysctl.d/60-calico-ebpf.conf",
    "/usr/share/bash-completion/completions/calico-ebpf",
    "/usr/share/fish/vendor_completions.d/calico-ebpf.fish",
    "/usr/share/doc/calico-ebpf/changelog.gz",
    "/usr/share/doc/calico-ebpf/copyright",
    "/usr/share/doc/calico-ebpf/third-party.gz",
    "/usr/share/man/man8/calico-ebpf.8.gz",
    "/usr/share/man/man8/calico-ebpf-run.8.gz",
    "/usr/share/man/man8/calico-ebpf-cleanup.8.gz",
];

const DEB: &[&str] = &[
    "/lib/systemd/system/calico-ebpf.service",
    "/etc/init/calico-ebpf.conf",
    "/usr/share/zsh/vendor-completions/_calico-ebpf",
];

const RPM: &[&str] = &[
    "/usr/lib/systemd/system/calico-ebpf.service",
    "/usr/share/zsh/site-functions/_calico-ebpf",
];

pub(super) fn deb(_: &Agent, packages: &Packages) -> Result<()> {
    let listed = command::output(Command::new("dpkg-deb").arg("--contents").arg(&packages.deb))?;
    let mut files = Vec::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, .., path] = words[..] else {
            continue;
        };
        ensure!(owner == "root/root", "{path} belongs to {owner}");
        let path = path.trim_start_matches('.');
        let expected = match path {
            _ if path.ends_with('/') => "drwxr-xr-x",
            "/usr/bin/calico-ebpf" => "-rwxr-xr-x",
            _ => "-rw-r--r--",
        };
        ensure!(
            mode == expected,
            "{path} has the mode {mode}, expected {expected}"
        );
        if !path.ends_with('/') {
            files.push(path.to_owned());
        }
    }
    compare(files, DEB)?;
    let conffiles = command::output(
        Command::new("dpkg-deb")
            .arg("--info")
            .arg(&packages.deb)
            .arg("conffiles"),
    )?;
    let (in_etc, kept): (Vec<&str>, Vec<&str>) = (
        listed
            .split_whitespace()
            .filter_map(|word| word.strip_prefix('.'))
            .filter(|path| path.starts_with("/etc/") && !path.ends_with('/'))
            .collect(),
        conffiles.lines().collect(),
    );
    ensure!(
        in_etc == kept,
        "in /etc is {in_etc:?}, but conffiles are {kept:?}"
    );
    Ok(())
}

pub(super) fn rpm(_: &Agent, packages: &Packages) -> Result<()> {
    let query = |arguments: &[&str]| {
        command::output(Command::new("rpm").arg("-qp").args(arguments).arg(&packages.rpm))
    };
    let files = query(&["--qf", "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES}\\n]"])?;
    let mut paths = Vec::new();
    for line in files.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, path] = words[..] else { continue };
        ensure!(owner == "root", "{path} belongs to {owner}");
        ensure!(!mode.contains(['s', 't']), "{path} has the mode {mode}");
        if !mode.starts_with('d') {
            paths.push(path.to_owned());
        }
    }
    compare(paths, RPM)?;
    let requires = query(&["--requires"])?;
    let foreign: Vec<&str> = requires
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("rpmlib(") && !["/bin/sh", "systemd"].contains(line))
        .filter(|line| !line.starts_with("config("))
        .collect();
    ensure!(
        foreign.is_empty(),
        "it requires {foreign:?}: a static binary needs none of them"
    );
    let payload = query(&["--qf", "%{PAYLOADCOMPRESSOR}"])?;
    ensure!(payload == "gzip", "the payload is {payload}: old RPMs read gzip");
    Ok(())
}

/// Compares files of a package with what it should have; pages of the manual come and go with commands.
fn compare(mut files: Vec<String>, special: &[&str]) -> Result<()> {
    files.sort();
    let expected: Vec<&str> = COMMON.iter().chain(special).copied().collect();
    let missing: Vec<_> = expected
        .iter()
        .filter(|path| !files.iter().any(|file| file == *path))
        .collect();
    let surplus: Vec<_> = files
        .iter()
        .filter(|file| {
            !expected.contains(&file.as_str()) && !file.starts_with("/usr/share/man/man8/calico-ebpf-")
        })
        .collect();
    ensure!(
        missing.is_empty() && surplus.is_empty(),
        "missing: {missing:?}; not expected: {surplus:?}"
    );
    Ok(())
}
