//! A node that is a folder.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::workspace;

pub(super) const OLD: &str = "3.13.0-170-generic";
pub(super) const NEW: &str = "6.1.0-56-amd64";
pub(super) const OLD_ENTRY: &str =
    "saved_entry=gnulinux-advanced-7d7c>gnulinux-3.13.0-170-generic-advanced-7d7c";
pub(super) const NEW_ENTRY: &str = "saved_entry=gnulinux-advanced-7d7c>gnulinux-6.1.0-56-amd64-advanced-7d7c";

/// What the scripts call and what a test answers for. Everything else is this machine's.
const PROGRAMS: [&str; 15] = [
    "apt-get",
    "apt-mark",
    "calico-ebpf",
    "df",
    "dmesg",
    "dpkg",
    "dpkg-query",
    "grub-editenv",
    "grub-probe",
    "grub-reboot",
    "grub-set-default",
    "sync",
    "uname",
    "update-grub",
    "virsh",
];

/// A node that is a folder.
pub(super) struct Node {
    root: TempDir,
}

/// How a command ended.
pub(super) struct Ending {
    pub(super) succeeded: bool,
    /// All that it said.
    pub(super) words: String,
}

impl Node {
    /// A compute node as Fuel leaves it: Ubuntu's kernel, GRUB, one network card that is up.
    pub(super) fn new() -> Self {
        let node = Self {
            root: tempfile::tempdir().expect("a temporary folder"),
        };
        let programs = workspace::root().join("xtask/src/test_fuel_kernel/node/programs");
        fs::create_dir(node.path("bin")).expect("a writable folder");
        for program in PROGRAMS {
            if program == "sync" {
                symlink("/bin/true", node.path("bin/sync")).expect("a writable folder");
                continue;
            }
            symlink(&programs, node.path("bin").join(program)).expect("a writable folder");
        }
        node.put("facts/running", OLD);
        node.put("boot/grub/grubenv", "");
        node.put(&format!("boot/vmlinuz-{OLD}"), "image");
        node.put("etc/default/grub", "GRUB_DEFAULT=0\n");
        node.put(
            "etc/fstab",
            "UUID=7d7c / ext4 defaults 0 1\nUUID=b007 /boot ext2 defaults,nobootwait 0 2\n",
        );
        for folder in ["etc/grub.d", "etc/init", "lib/modules", "usr/share"] {
            fs::create_dir_all(node.path(folder)).expect("a writable folder");
        }
        node.put("proc/mounts", "/dev/vda2 / ext4 rw 0 0\n");
        node.put("proc/cmdline", "root=UUID=7d7c ro\n");
        node.put("sys/kernel/btf/vmlinux", "types");
        node.put("sys/class/net/eth0/device", "");
        node.put("sys/class/net/eth0/flags", "0x1003\n");
        node.put("sys/class/net/eth0/carrier", "1\n");
        node.put("sys/class/net/eth0/address", "52:54:00:00:00:01\n");
        node.boot(OLD);
        node.run_program("update-grub");
        node
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(super) fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        fs::write(path, text).expect("a writable folder");
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// As after a reboot into this kernel.
    pub(super) fn boot(&self, release: &str) {
        self.put("facts/running", release);
        let before = self.read("proc/sys/kernel/random/boot_id");
        self.put("proc/sys/kernel/random/boot_id", &format!("{before}1"));
        // What GRUB does with the one-time entry.
        let environment = self.read("boot/grub/grubenv");
        let kept: String = environment
            .lines()
            .filter(|line| !line.starts_with("next_entry="))
            .flat_map(|line| [line, "\n"])
            .collect();
        self.put("boot/grub/grubenv", &kept);
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("CALICO_KERNEL_ROOT", self.root.path());
        command.env("CALICO_KERNEL_PATIENCE", "0");
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        command
    }

    fn run_program(&self, name: &str) {
        let status = self
            .command(&self.path("bin").join(name))
            .status()
            .expect("a shell");
        assert!(status.success(), "{name}");
    }

    pub(super) fn run(&self, words: &str) -> Ending {
        let script = "fuel-plugin/common/deployment_scripts/puppet/modules/calico/files/kernel/calico-kernel";
        let mut command = self.command(&workspace::root().join(script));
        let output = command.args(words.split(' ')).output().expect("a shell");
        Ending {
            succeeded: output.status.success(),
            words: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        }
    }

    /// Every file with its content, but for those that the test writes and what the scripts remember and tell.
    pub(super) fn inventory(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        collect(self.root.path(), &mut files);
        let ours = ["facts", "bin", "proc", "sys", "var", "etc/calico"].map(|name| self.path(name));
        files.retain(|path, _| !ours.iter().any(|folder| path.starts_with(folder)));
        files
    }

    pub(super) fn marker(&self) -> String {
        self.read("etc/calico/ebpf-unavailable")
    }

    /// Both policies: the node is as before, the line names setting, node, what was found and cure.
    pub(super) fn stops_before_harm(&self, found: &str) {
        let before = self.inventory();
        let ending = self.run("try --policy iptables");
        assert!(ending.succeeded, "{}", ending.words);
        ending.has_one_reason(found);
        assert_eq!(self.inventory(), before);
        let marker = self.marker();
        assert_eq!(marker.lines().count(), 1, "{marker}");
        assert!(
            marker.starts_with("node node-1: setting ") && marker.contains(found),
            "{marker}"
        );
        let ending = self.run("try --policy fail");
        assert!(!ending.succeeded, "{}", ending.words);
        ending.has_one_reason(found);
        assert_eq!(self.inventory(), before);
        assert_eq!(self.marker(), "");
    }

    /// Installed and rebooted into the new kernel.
    pub(super) fn tried() -> Self {
        let node = Self::new();
        let ending = node.run("try --policy iptables");
        assert!(ending.succeeded, "{}", ending.words);
        node.boot(NEW);
        node
    }
}

impl Ending {
    pub(super) fn has_one_reason(&self, found: &str) {
        let reasons: Vec<_> = self
            .words
            .lines()
            .filter(|line| line.contains("; cure: "))
            .collect();
        let [reason] = reasons.as_slice() else {
            panic!("expected one line with a cure: {}", self.words);
        };
        assert!(
            reason.starts_with("calico-kernel: node node-1: setting "),
            "{reason}"
        );
        assert!(reason.contains(found), "expected `{found}`: {reason}");
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.insert(path.clone(), "folder".to_owned());
            collect(&path, files);
        } else {
            let mode = path
                .metadata()
                .map(|metadata| metadata.permissions().mode())
                .unwrap_or_default();
            let text = fs::read(&path).unwrap_or_default();
            files.insert(path, format!("{mode:o} {}", String::from_utf8_lossy(&text)));
        }
    }
}
