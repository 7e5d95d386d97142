//! A file system for the kernel's first program: a cpio archive in the "newc" form
//! (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

/// An archive under construction.
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            entries: 0,
        }
    }

    /// Adds empty folders.
    pub(super) fn folders(&mut self, names: &[&str]) {
        for name in names {
            self.entry(name, FOLDER, &[]);
        }
    }

    /// Adds a file that can be read.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, FILE, content);
    }

    /// Adds a file that can be run.
    pub(super) fn program(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, content);
    }

    /// Ends the archive and writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(mut self, path: &Path) -> Result<()> {
        self.entry(TRAILER, 0, &[]);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        fs::write(path, self.bytes).with_context(|| path.display().to_string())
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        self.bytes.extend(b"070701");
        // inode, mode, uid, gid, links, time, size, device (2), device that a node stands for (2), name, checksum
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size(content),
            0,
            0,
            0,
            0,
            size(name.as_bytes()) + 1,
            0,
        ];
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Returns a length as the archive states it.
///
/// # Panics
/// 4 GiB or more, which the form cannot hold.
fn size(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("no file of an initramfs has 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_contents_are_aligned_and_the_trailer_ends_the_archive() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a/b.cpio");
        let mut archive = Archive::new();
        archive.folders(&["dev"]);
        archive.program("init", b"12345");
        archive.write(&path).expect("a writable folder");
        let bytes = fs::read(path).expect("the archive");
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000041ed");
        let init = 6 + 13 * 8 + 6;
        assert_eq!(
            &bytes[init..init + 6],
            b"070701",
            "the name `dev` and its end fill the header up to four"
        );
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("12345\0\0\x00070701"));
        assert!(text.contains(TRAILER));
    }
}
