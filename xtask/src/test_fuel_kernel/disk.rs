//! A disk with a partition table in a file. Nothing is mounted and no loop device is needed: `mke2fs -d` fills file
//! systems, `debugfs` changes them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::progress::quietly;

const SECTOR: u64 = 512;

/// One MiB in front: room for the boot loader, as every partitioning program leaves it.
const BOOT_STARTS_AT: u64 = 2048 * SECTOR;

/// What Fuel gives /boot on every node.
const BOOT_SIZE: u64 = 200 << 20;

const ROOT_STARTS_AT: u64 = BOOT_STARTS_AT + BOOT_SIZE;
const ROOT_SIZE: u64 = 3 << 30;

/// Type of a partition with a Linux file system.
const LINUX: u8 = 0x83;

/// A disk: /boot with ext2 on the first partition, / with ext4 on the second.
pub(super) struct Disk {
    pub(super) file: PathBuf,
}

impl Disk {
    /// Makes a disk of a folder with a system. Afterwards the folder has no /boot any more.
    ///
    /// # Errors
    /// A program is missing, or the system does not fit.
    pub(super) fn of_folder(system: &Path, file: PathBuf) -> Result<Self> {
        let mut disk = File::create(&file).with_context(|| file.display().to_string())?;
        disk.set_len(ROOT_STARTS_AT + ROOT_SIZE)?;
        disk.write_all(&partition_table())?;
        drop(disk);
        let boot = system.with_extension("boot");
        command::run(Command::new("mv").arg("-T").arg(system.join("boot")).arg(&boot))?;
        std::fs::create_dir(system.join("boot"))?;
        make(&file, "ext2", "boot", &boot, BOOT_STARTS_AT, BOOT_SIZE)?;
        make(&file, "ext4", "root", system, ROOT_STARTS_AT, ROOT_SIZE)?;
        Ok(Self { file })
    }

    /// Returns another disk with the same content.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn copy(&self, file: PathBuf) -> Result<Self> {
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg("--reflink=auto");
        command::run(copy.arg(&self.file).arg(&file))?;
        Ok(Self { file })
    }

    /// Cuts a file of /boot after so many bytes.
    ///
    /// # Errors
    /// There is no such file, or debugfs fails.
    pub(super) fn cut_in_boot(&self, name: &str, length: u64) -> Result<()> {
        let whole = self.file.with_extension("whole");
        self.in_boot(&format!("dump /{name} {}", whole.display()))?;
        let file = OpenOptions::new().write(true).open(&whole)?;
        anyhow::ensure!(
            file.metadata()?.len() > length,
            "/boot/{name} is not longer than {length} bytes"
        );
        file.set_len(length)?;
        drop(file);
        self.in_boot(&format!("rm /{name}"))?;
        self.in_boot(&format!("write {} {name}", whole.display()))?;
        std::fs::remove_file(&whole)?;
        Ok(())
    }

    /// Lets debugfs carry out a request in /boot.
    fn in_boot(&self, request: &str) -> Result<()> {
        let mut debugfs = Command::new("debugfs");
        debugfs.args(["-w", "-R", request]);
        debugfs.arg(format!("{}?offset={BOOT_STARTS_AT}", self.file.display()));
        let output = debugfs.output().context("debugfs")?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        // It succeeds whatever happens; what it says beyond its version line is a complaint.
        let complaint = words.lines().find(|line| !line.starts_with("debugfs "));
        anyhow::ensure!(complaint.is_none(), "debugfs {request}: {words}");
        Ok(())
    }
}

fn make(disk: &Path, kind: &str, label: &str, content: &Path, offset: u64, size: u64) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", kind, "-L", label]);
    mke2fs.arg("-E").arg(format!("offset={offset},root_owner=0:0"));
    mke2fs
        .arg("-d")
        .arg(content)
        .arg(disk)
        .arg(format!("{}K", size / 1024));
    quietly(&format!("{label} of the disk ({kind})"), &mut mke2fs)
}

/// Returns the first sector: no program (GRUB puts its own there), two primary partitions, the signature.
fn partition_table() -> [u8; 512] {
    let mut sector = [0; 512];
    // The disk's identity, for /dev/disk and PARTUUID.
    sector[440..444].copy_from_slice(b"cali");
    for (index, (start, size, active)) in [(BOOT_STARTS_AT, BOOT_SIZE, 0x80), (ROOT_STARTS_AT, ROOT_SIZE, 0)]
        .into_iter()
        .enumerate()
    {
        let entry = &mut sector[446 + 16 * index..462 + 16 * index];
        entry[0] = active;
        // Cylinders and heads are not told: whoever sees this reads the sectors.
        entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[4] = LINUX;
        entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[8..12].copy_from_slice(&sectors(start).to_le_bytes());
        entry[12..16].copy_from_slice(&sectors(size).to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Returns a length in sectors.
///
/// # Panics
/// It does not fit: 2 TiB or more.
fn sectors(bytes: u64) -> u32 {
    u32::try_from(bytes / SECTOR).expect("the disk is smaller than 2 TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partitions_follow_each_other_and_the_first_is_bootable() {
        let table = partition_table();
        let number = |at: usize| u32::from_le_bytes([table[at], table[at + 1], table[at + 2], table[at + 3]]);
        assert_eq!((table[446], table[450], number(454)), (0x80, LINUX, 2048));
        assert_eq!((table[462], table[466]), (0, LINUX));
        assert_eq!(number(454) + number(458), number(470));
        assert_eq!(table[510..], [0x55, 0xaa]);
    }
}
