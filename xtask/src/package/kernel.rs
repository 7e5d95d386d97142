//! `cargo xtask package kernel`: Debian's kernel, packed for systems of 2014 and later.

mod pin;
mod repack;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::headline;
use crate::{debian_archive, workspace};
pub(crate) use pin::Pin;

/// Packs Debian's kernel for Ubuntu 14.04 and later: `target/package/calico-ebpf-kernel_<version>_amd64.deb`
///
/// The version and its SHA-256 are pinned in `fuel-plugin/kernel/pin.json`. The download is kept in
/// `~/.cache/calico-ebpf/kernel-debs`. Debian's archive removes versions after some months: then `--move-pin` takes
/// the newest 6.1 of today, after which `cargo xtask test fuel-kernel` has to pass.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Takes Debian's package from this file instead; its SHA-256 must be the pinned one
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// Pins the newest 6.1 that apt knows before anything else
    #[arg(long, conflicts_with = "from")]
    move_pin: bool,
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut pin = Pin::read()?;
    if arguments.move_pin {
        pin = pin.moved()?;
    }
    let original = match &arguments.from {
        Some(file) => file.clone(),
        None => fetch(&pin)?,
    };
    pin.verify(&original)?;
    let package = repack::repack(&pin, &original)?;
    let size = fs::metadata(&package.file)?.len();
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", package.file.display())?;
    writeln!(output, "  {} MB, kernel {}", size / 1_000_000, package.release)?;
    Ok(())
}

/// A packed kernel.
pub(crate) struct KernelPackage {
    /// The deb.
    pub(crate) file: PathBuf,
    /// What `uname -r` says on it.
    pub(crate) release: String,
    /// Of the deb.
    pub(crate) version: String,
}

/// Packs the pinned kernel, or returns the package that is there from the last time.
///
/// # Errors
/// The archive does not have it, its SHA-256 is another one, or dpkg-deb fails.
pub(crate) fn build() -> Result<KernelPackage> {
    let pin = Pin::read()?;
    if let Some(package) = repack::present(&pin)? {
        return Ok(package);
    }
    let original = fetch(&pin)?;
    pin.verify(&original)?;
    repack::repack(&pin, &original)
}

/// Returns Debian's package from the cache, else from the archive.
fn fetch(pin: &Pin) -> Result<PathBuf> {
    let cache = workspace::cache_dir()?.join("kernel-debs");
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let kept = cache.join(pin.file_name());
    if kept.exists() && pin.verify(&kept).is_ok() {
        return Ok(kept);
    }
    headline(&format!("{} {} from Debian's archive", pin.package, pin.version));
    let folder = cache.join(".download");
    let Ok(file) = debian_archive::download(&format!("{}={}", pin.package, pin.version), &folder) else {
        bail!(
            "Debian's archive has no {} {} (any more). `cargo xtask package kernel --move-pin` pins the newest 6.1; \
             `--from FILE` takes the pinned one from a file, for example from snapshot.debian.org",
            pin.package,
            pin.version
        );
    };
    keep(&file, &kept)?;
    fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(kept)
}

fn keep(file: &Path, kept: &Path) -> Result<()> {
    fs::rename(file, kept).with_context(|| kept.display().to_string())
}
