//! The system on the machine's disk: Debian 12, a kernel of its own that is older than ours, the scripts of the plugin,
//! and repositories with the kernel package, whole and cut in two.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::package::kernel::KernelPackage;
use crate::progress::quietly;
use crate::{command, debian_archive, workspace};

/// On the node, too: written by the Puppet class.
const SCRIPTS: &str = "usr/lib/calico-kernel";

/// Seconds after its boot at which a machine that nothing verifies goes back.
const DEADLINE: u64 = 90;

/// A folder with a system, and its kernel.
pub(super) struct System {
    pub(super) folder: PathBuf,
    /// What `uname -r` says on the kernel that it comes with.
    pub(super) release: String,
}

impl System {
    /// Makes the system in `folder`.
    ///
    /// # Errors
    /// Debian's archive cannot be reached, or has no older kernel.
    pub(super) fn make(folder: PathBuf, new: &KernelPackage, agent: &Path) -> Result<Self> {
        let old = older_kernel(&new.release)?;
        let release = old.trim_start_matches("linux-image-").to_owned();
        bootstrap(&folder, &old)?;
        let system = Self { folder, release };
        system.put_settings()?;
        system.put_proof(new)?;
        system.put_repository("whole", &new.file, None)?;
        system.put_repository("half", &new.file, Some(fs::metadata(&new.file)?.len() / 2))?;
        system.program("usr/bin/calico-ebpf", &fs::read(agent)?)?;
        Ok(system)
    }

    fn put_settings(&self) -> Result<()> {
        self.file(
            "etc/fstab",
            b"LABEL=root / ext4 defaults,errors=remount-ro 0 1\nLABEL=boot /boot ext2 defaults 0 2\n",
        )?;
        // As Fuel sets them, with the console of this machine.
        self.append(
            "etc/default/grub",
            "GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX_DEFAULT=\nGRUB_CMDLINE_LINUX=console=ttyS0\nGRUB_TERMINAL=serial\n\
             GRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"\n",
        )?;
        // The emulated processor would be busy for minutes with the drivers of all hardware; these are its own.
        self.file("etc/initramfs-tools/conf.d/machine", b"MODULES=list\n")?;
        self.append(
            "etc/initramfs-tools/modules",
            "virtio_pci\nvirtio_blk\next4\ncrc32c_generic\ncrc32c_intel\n",
        )?;
        self.file("etc/hostname", b"node-1\n")?;
        let network = include_bytes!("node/uplink.network");
        self.file("etc/systemd/network/uplink.network", network)?;
        for unit in [
            "apt-daily.timer",
            "apt-daily-upgrade.timer",
            "e2scrub_all.timer",
            "e2scrub_reap.service",
        ] {
            self.chroot(&["systemctl", "mask", unit])?;
        }
        self.chroot(&["systemctl", "enable", "systemd-networkd.service"])
    }

    fn put_proof(&self, new: &KernelPackage) -> Result<()> {
        let scripts = workspace::root()
            .join("fuel-plugin/common/deployment_scripts/puppet/modules/calico/files/kernel");
        for entry in fs::read_dir(&scripts).with_context(|| scripts.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
            let text = fs::read(&path)?;
            self.program(&format!("{SCRIPTS}/{name}"), &text)?;
        }
        self.program("var/lib/proof/deployment", include_bytes!("node/deployment"))?;
        self.file("var/lib/proof/old-release", self.release.as_bytes())?;
        self.file("var/lib/proof/new-release", new.release.as_bytes())?;
        self.file("var/lib/proof/deadline", DEADLINE.to_string().as_bytes())?;
        let unit = include_bytes!("node/deployment.service");
        self.file("etc/systemd/system/deployment.service", unit)?;
        self.chroot(&["systemctl", "enable", "deployment.service"])
    }

    /// Makes a folder that apt can install the package from; with a length, the package's file ends there.
    fn put_repository(&self, name: &str, package: &Path, length: Option<u64>) -> Result<()> {
        let control = command::output(Command::new("dpkg-deb").arg("-f").arg(package))?;
        let sum = command::output(Command::new("sha256sum").arg(package))?;
        let sum = sum
            .split_whitespace()
            .next()
            .context("sha256sum printed nothing")?;
        let file_name = package.file_name().context("a name")?.to_string_lossy();
        let size = fs::metadata(package)?.len();
        let index = format!("{control}Filename: ./{file_name}\nSize: {size}\nSHA256: {sum}\n");
        self.file(&format!("srv/{name}/Packages"), index.as_bytes())?;
        let copy = self.folder.join(format!("srv/{name}/{file_name}"));
        fs::copy(package, &copy).with_context(|| copy.display().to_string())?;
        if let Some(length) = length {
            fs::File::options().write(true).open(&copy)?.set_len(length)?;
        }
        Ok(())
    }

    fn file(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        fs::write(&path, content).with_context(|| path.display().to_string())
    }

    fn program(&self, name: &str, content: &[u8]) -> Result<()> {
        self.file(name, content)?;
        let path = self.folder.join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| path.display().to_string())
    }

    fn append(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        let before = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        self.file(name, (before + text).as_bytes())
    }

    fn chroot(&self, words: &[&str]) -> Result<()> {
        quietly(
            &words.join(" "),
            Command::new("chroot").arg(&self.folder).args(words),
        )
    }
}

/// Returns the newest of Debian's kernels for virtual machines that sorts before `release`: GRUB would take ours for the
/// default by itself.
fn older_kernel(release: &str) -> Result<String> {
    let mut names = debian_archive::names("linux-image-6.1");
    if names.is_empty() {
        debian_archive::update()?;
        names = debian_archive::names("linux-image-6.1");
    }
    newest_before(names.into_iter(), release)
        .with_context(|| format!("apt knows no linux-image-6.1*-cloud-amd64 before {release}"))
}

fn newest_before(names: impl Iterator<Item = String>, release: &str) -> Option<String> {
    names
        .filter(|name| name.ends_with("-cloud-amd64") && numbers(name).len() > 3)
        .filter(|name| numbers(name) < numbers(release))
        .max_by_key(|name| numbers(name))
}

/// Returns the numbers of a release, without that of the architecture.
fn numbers(name: &str) -> Vec<u64> {
    name.trim_end_matches("-amd64")
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn bootstrap(folder: &Path, kernel: &str) -> Result<()> {
    let packages = format!("systemd-sysv,udev,kmod,initramfs-tools,grub-pc,e2fsprogs,{kernel}");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--variant=minbase", "--mode=root", "--include"])
        .arg(packages);
    mmdebstrap.arg(
        "--essential-hook=echo grub-pc grub-pc/install_devices_empty boolean true | chroot \"$1\" debconf-set-selections",
    );
    mmdebstrap.arg("bookworm").arg(folder);
    quietly(&format!("Debian 12 with {kernel}"), &mut mmdebstrap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_kernel_is_the_newest_one_before_ours() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-55-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-54-amd64",
            "linux-image-6.1-cloud-amd64",
        ];
        let names = names.into_iter().map(str::to_owned);
        assert_eq!(
            newest_before(names, "6.1.0-56-amd64").as_deref(),
            Some("linux-image-6.1.0-55-cloud-amd64")
        );
    }
}
