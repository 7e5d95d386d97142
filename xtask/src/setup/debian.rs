//! Packages on Debian and Ubuntu.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::requirement::{DEBIAN_COMPILER, find_program};
use crate::command;
use crate::progress::quietly;

/// Asked by maintainer scripts before they start a service; 101 means no.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Packages that enable a service for the next boot, and its unit. The tests start their own.
const SERVICES: [(&str, &str); 3] = [
    ("etcd-server", "etcd.service"),
    ("bird2", "bird.service"),
    ("puppet", "puppet.service"),
];

/// Says why packages cannot be installed here, if so.
pub(super) fn can_install(packages: &[&str]) -> Result<(), String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let distribution = field(&release, "ID").unwrap_or("unknown");
    if !matches!(distribution, "debian" | "ubuntu") {
        return Err(format!(
            "This is {distribution}: packages are installed only on Debian and Ubuntu."
        ));
    }
    if distribution == "ubuntu" && packages.iter().any(|package| DEBIAN_COMPILER.contains(package)) {
        return Err(
            "Ubuntu has no rustc-web: run `rustup toolchain install nightly --component rust-src`."
                .to_owned(),
        );
    }
    if !is_root() {
        return Err("Installing packages needs root.".to_owned());
    }
    Ok(())
}

/// Installs packages without starting the services among them.
///
/// # Errors
/// apt-get fails; the message carries its output.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    quietly(
        "apt-get update",
        command::command("apt-get").args(["update", "-q"]),
    )?;
    let policy = ServicePolicy::forbid()?;
    let installed = quietly(
        &format!("apt-get install {}", packages.join(" ")),
        command::command("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(packages),
    );
    drop(policy);
    installed?;
    if find_program("systemctl").is_none() {
        return Ok(());
    }
    for (_, unit) in SERVICES.iter().filter(|(package, _)| packages.contains(package)) {
        quietly(
            &format!("systemctl disable {unit}"),
            command::command("systemctl").args(["disable", unit]),
        )?;
    }
    Ok(())
}

/// Tells whether this process has all rights of the machine's administrator.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let user_ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    user_ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Forbids maintainer scripts to start services while it lives. One that was there before stays as it is.
struct ServicePolicy {
    ours: bool,
}

impl ServicePolicy {
    fn forbid() -> Result<Self> {
        let path = Path::new(SERVICE_POLICY);
        let ours = !path.exists();
        if ours {
            fs::write(path, "#!/bin/sh\nexit 101\n").context(SERVICE_POLICY)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context(SERVICE_POLICY)?;
        }
        Ok(Self { ours })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(SERVICE_POLICY)
        {
            eprintln!("{SERVICE_POLICY}: {error}");
        }
    }
}

fn field<'a>(release: &'a str, name: &str) -> Option<&'a str> {
    let value = release
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_read_with_and_without_quotes() {
        let release = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(field(release, "ID"), Some("debian"));
        assert_eq!(field(release, "VERSION_ID"), Some("12"));
        assert_eq!(field(release, "ID_LIKE"), None);
    }
}
