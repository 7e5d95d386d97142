//! What is in a built package, and what it asks of a Fuel master.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::elf;
use super::generation::{Generation, target};
use super::stage::REPOSITORY;
use crate::command;
use crate::package::tree::Tree;
use crate::progress::quietly;

/// What every Fuel master has. Anything else would make `yum install --disablerepo='*'` fail there.
const REQUIRES: [&str; 5] = [
    "/bin/sh",
    "/bin/bash",
    "rpmlib(CompressedFileNames)",
    "rpmlib(FileDigests)",
    "rpmlib(PayloadFilesHavePrefix)",
];

/// What fuel-plugin-builder adds to a stage.
const ADDED: [&str; 3] = [
    "checksums.sha1",
    "repositories/ubuntu/Packages.gz",
    "repositories/ubuntu/Release",
];

/// Checks a built package against the stage that it was made of.
///
/// # Errors
/// It has other files, requires something, contains an ELF file outside of Debian packages, or its lists are wrong.
pub(super) fn check(package: &Path, generation: Generation, stage: &Tree) -> Result<()> {
    let top = format!("/var/www/nailgun/plugins/{}", generation.package_name()?);
    check_files(package, &top, stage)?;
    check_requires(package)?;
    check_description(package, generation)?;
    let unpacked = target()?.join("unpacked").join(generation.folder());
    unpack(package, &unpacked)?;
    let inside = unpacked.join(top.trim_start_matches('/'));
    elf::forbid(&inside)?;
    check_repository(&inside.join(REPOSITORY), generation)?;
    fs::remove_dir_all(&unpacked).with_context(|| unpacked.display().to_string())
}

fn query(package: &Path, arguments: &[&str]) -> Result<String> {
    command::output(Command::new("rpm").arg("-qp").args(arguments).arg(package))
}

fn check_files(package: &Path, top: &str, stage: &Tree) -> Result<()> {
    let listed = query(package, &["--queryformat", "[%{FILEMODES:perms} %{FILENAMES}\n]"])?;
    let mut found = BTreeSet::new();
    for line in listed.lines() {
        let (mode, path) = line.split_once(' ').context("rpm -qp --queryformat")?;
        let inside = path.strip_prefix(top);
        let inside = inside.with_context(|| format!("{path} is outside of {top}"))?;
        if mode.starts_with('-') {
            found.insert(inside.trim_start_matches('/').to_owned());
        }
    }
    let mut expected: BTreeSet<String> = stage.files()?.into_iter().collect();
    expected.extend(ADDED.map(str::to_owned));
    let missing: Vec<&String> = expected.difference(&found).collect();
    let strange: Vec<&String> = found.difference(&expected).collect();
    ensure!(
        missing.is_empty() && strange.is_empty(),
        "{}: missing {missing:?}, not of the stage {strange:?}",
        package.display()
    );
    Ok(())
}

fn check_requires(package: &Path) -> Result<()> {
    let strange = strange_requires(&query(package, &["--requires"])?);
    if let Some(first) = strange.first() {
        bail!(
            "{} requires {first}, which a Fuel master may not have: only *.sh may be executable, with /bin/sh or /bin/bash \
             in the first line",
            package.display()
        );
    }
    Ok(())
}

/// Returns what is required beyond [`REQUIRES`].
fn strange_requires(printed: &str) -> Vec<String> {
    let names = printed.lines().filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| !REQUIRES.contains(name))
        .map(str::to_owned)
        .collect()
}

fn check_description(package: &Path, generation: Generation) -> Result<()> {
    let format = "%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{PAYLOADCOMPRESSOR} %{BUILDHOST}";
    let found = query(package, &["--queryformat", format])?;
    let name = generation.package_name()?;
    let expected = format!("{name} {} 1 noarch gzip reproducible", generation.version()?);
    ensure!(
        found == expected,
        "{}: {found}, expected {expected}",
        package.display()
    );
    Ok(())
}

fn unpack(package: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| to.display().to_string())?;
    }
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    let mut shell = Command::new("sh");
    shell.current_dir(to).env("PACKAGE", package);
    // rpm2cpio fails silently in a pipe: its result is a file first.
    shell.args([
        "-c",
        "rpm2cpio \"$PACKAGE\" >../cpio && cpio -idm --quiet <../cpio && rm ../cpio",
    ]);
    quietly("unpack the package", &mut shell)
}

/// The list has every package once, and dpkg 1.17 can read each.
fn check_repository(repository: &Path, generation: Generation) -> Result<()> {
    let release = repository.join("Release");
    let text = fs::read_to_string(&release).with_context(|| release.display().to_string())?;
    // Fuel 6.1 reads it as YAML and pins packages by these two lines.
    let name = generation.package_name()?;
    let (label, version) = name.rsplit_once('-').context("the package's name")?;
    ensure!(
        text.lines()
            .eq([format!("Label: {label}"), format!("Version: {version}")]),
        "Release is {text:?}"
    );
    let list = command::output(
        Command::new("gzip")
            .arg("-dc")
            .arg(repository.join("Packages.gz")),
    )?;
    let mut listed: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_prefix("Filename: ./"))
        .collect();
    listed.sort_unstable();
    let mut there = Vec::new();
    for entry in fs::read_dir(repository).with_context(|| repository.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            check_members(&path)?;
            there.push(
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
    }
    there.sort_unstable();
    ensure!(
        listed == there,
        "Packages.gz lists {listed:?}, there are {there:?}"
    );
    Ok(())
}

/// dpkg 1.17.5 reads `control.tar.gz` only, and of zstd nothing.
fn check_members(package: &Path) -> Result<()> {
    let members = command::output(Command::new("ar").arg("t").arg(package))?;
    let members: Vec<&str> = members.lines().collect();
    ensure!(
        matches!(
            members[..],
            ["debian-binary", "control.tar.gz", "data.tar.gz" | "data.tar.xz"]
        ),
        "{} has the members {members:?}: dpkg of Ubuntu 14.04 wants control.tar.gz and data.tar.gz or data.tar.xz; repack it \
         with `dpkg-deb -Zxz --no-uniform-compression`",
        package.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fuel_master_may_lack_is_found() {
        let printed =
            "/bin/sh  \nrpmlib(FileDigests) <= 4.6.0-1\n/usr/bin/ruby\nlibc.so.6(GLIBC_2.34)(64bit)\n";
        assert_eq!(
            strange_requires(printed),
            ["/usr/bin/ruby", "libc.so.6(GLIBC_2.34)(64bit)"]
        );
        assert_eq!(strange_requires("/bin/bash\n"), [""; 0]);
    }
}
