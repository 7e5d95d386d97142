//! What every node begins with: Debian 12 with systemd and Puppet, and the plugin's repository as its only one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::felix;
use crate::progress::quietly;
use crate::{command, workspace};

/// Debian's release, and the number of this recipe: a change of what is below needs a new one.
const RECIPE: &str = "bookworm-1";

/// What a node of Fuel has before a plugin comes. The modules are Fuel's, too.
const BASE: &str = "systemd,systemd-sysv,dbus,puppet,puppet-module-puppetlabs-inifile,puppet-module-puppetlabs-stdlib,\
                    puppet-module-puppetlabs-firewall,iptables,iptables-persistent,ipset,iproute2,kmod,openssl,\
                    ca-certificates";

/// What the plugin's repository gets from Debian.
const FROM_DEBIAN: [&str; 3] = ["bird", "etcd-server", "etcd-client"];

/// Fuel's hiera, of the first generation: later ones read this, too.
const HIERA: &str = "---
:backends:
  - yaml
:hierarchy:
  - astute
:yaml:
  :datadir: /etc/hiera
:merge_behavior: deeper
";

/// A root folder that is only read, and the plugin's repository.
pub(super) struct Image {
    pub(super) root: PathBuf,
    pub(super) repository: PathBuf,
}

impl Image {
    /// Builds the image, or takes the cached one, and fills the repository.
    pub(super) fn build(agent: &Path) -> Result<Self> {
        let cache = workspace::cache_dir()?.join(format!("fuel-node-{RECIPE}"));
        if !cache.exists() {
            bootstrap(&cache)?;
        }
        let repository = workspace::target_dir()?.join("fuel-plugin-test/repository");
        drop(fs::remove_dir_all(&repository));
        fs::create_dir_all(&repository)?;
        for deb in fs::read_dir(cache.join("debs"))? {
            let deb = deb?;
            fs::copy(deb.path(), repository.join(deb.file_name()))?;
        }
        let name = agent.file_name().context("a package's path")?;
        fs::copy(agent, repository.join(name)).with_context(|| agent.display().to_string())?;
        felix::pack(&repository)?;
        fs::write(
            repository.join("random_order.rb"),
            include_str!("random_order.rb"),
        )?;
        let mut scan = command::command("dpkg-scanpackages");
        let index = command::output(scan.args(["-m", "."]).current_dir(&repository))?;
        fs::write(repository.join("Packages"), index)?;
        Ok(Self {
            root: cache.join("root"),
            repository,
        })
    }
}

/// Makes root folder and packages beside `cache` and moves them there when they are complete.
fn bootstrap(cache: &Path) -> Result<()> {
    let building = cache.with_extension("new");
    drop(fs::remove_dir_all(&building));
    fs::create_dir_all(building.join("debs"))?;
    let root = building.join("root");
    quietly(
        "debootstrap of a node",
        command::command("debootstrap")
            .args(["--variant=minbase", &format!("--include={BASE}"), "bookworm"])
            .arg(&root)
            .arg("http://deb.debian.org/debian"),
    )?;
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf"))?;
    let download = format!(
        "apt-get clean && apt-get -q update && apt-get -q -y -d --no-install-recommends install {}",
        FROM_DEBIAN.join(" ")
    );
    quietly(
        "packages for the plugin's repository",
        command::command("chroot")
            .arg(&root)
            .args(["sh", "-c", &download]),
    )?;
    for deb in fs::read_dir(root.join("var/cache/apt/archives"))? {
        let deb = deb?;
        if deb.path().extension().is_some_and(|extension| extension == "deb") {
            fs::copy(deb.path(), building.join("debs").join(deb.file_name()))?;
        }
    }
    let tidy = "apt-get clean; rm -rf /var/lib/apt/lists/* /etc/resolv.conf /etc/apt/sources.list.d/*";
    command::run(command::command("chroot").arg(&root).args(["sh", "-c", tidy]))?;
    // Only what the plugin brings: a package that is missing there is missing.
    fs::write(
        root.join("etc/apt/sources.list"),
        "deb [trusted=yes] file:/plugin/repository ./\n",
    )?;
    fs::write(root.join("etc/puppet/hiera.yaml"), HIERA)?;
    fs::create_dir_all(root.join("etc/hiera"))?;
    fs::create_dir_all(root.join("plugin"))?;
    fs::create_dir_all(root.join("etc/puppet/modules"))?;
    for module in ["stdlib", "inifile", "firewall"] {
        let link = root.join("etc/puppet/modules").join(module);
        std::os::unix::fs::symlink(format!("/usr/share/puppet/modules/{module}"), link)?;
    }
    let keys = root.join("var/lib/astute/neutron");
    fs::create_dir_all(&keys)?;
    command::run(
        command::command("ssh-keygen")
            .args(["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f"])
            .arg(keys.join("neutron")),
    )?;
    fs::rename(&building, cache).with_context(|| cache.display().to_string())
}
