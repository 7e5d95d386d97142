//! The compiler and linker of the kernel side.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{command, workspace};

/// Version of bpf-linker that `setup` installs.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// LLVM that the linker is built against; it reads bitcode of this and of older versions.
pub(crate) const LINKER_LLVM: u32 = 22;

/// Debian's compiler, which comes with a ready-made `core` for the kernel target.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Target of the kernel side. Both toolchains know it.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Flags of the kernel side. Instructions of version 3 (32-bit registers and jumps, Linux 5.1); headers behind an
/// Ethernet header lie at odd half-words, and an unaligned load is one instruction where byte by byte it is seven.
const FLAGS: &str = "-Clinker=bpf-linker -Clink-arg=--btf -Ctarget-cpu=v3 \
                    ";

/// Which compiler builds the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// rustup's when it has `rust-src` and the linker reads its bitcode, else Debian's
    Auto,
    /// rustup's nightly with the component `rust-src`
    Rustup,
    /// Debian's packages `rustc-web` and `libstd-rust-web-dev-bpf`
    Debian,
}

/// A compiler that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// `cargo +nightly -Zbuild-std=core`.
    Rustup,
    /// `RUSTC=/usr/bin/rustc`.
    Debian,
}

impl Toolchain {
    /// Returns the compiler to use, or nothing when `choice` is not installed.
    pub(crate) fn find(choice: Choice) -> Option<Self> {
        let (try_rustup, try_debian) = match choice {
            Choice::Auto => (true, true),
            Choice::Rustup => (true, false),
            Choice::Debian => (false, true),
        };
        if try_rustup && rustup_nightly_is_usable() {
            return Some(Self::Rustup);
        }
        (try_debian && debian_core_is_installed()).then_some(Self::Debian)
    }

    /// Returns one line that names the compiler and its version.
    pub(crate) fn describe(self) -> String {
        let version = match self {
            Self::Rustup => command::probe(nightly("rustc").arg("--version")),
            Self::Debian => command::probe(Command::new(DEBIAN_RUSTC).arg("--version")),
        };
        let origin = match self {
            Self::Rustup => "rustup",
            Self::Debian => "Debian",
        };
        format!("{origin}: {}", version.unwrap_or_default().trim())
    }

    /// Returns `cargo`, with compiler, linker and flags of the kernel side in its environment; the caller adds the
    /// subcommand. [`Toolchain::target_arguments`] go behind it.
    ///
    /// # Errors
    /// The linker is not installed.
    pub(crate) fn cargo(self) -> Result<Command> {
        let mut cargo = match self {
            Self::Rustup => nightly("cargo"),
            Self::Debian => {
                let mut cargo = command::cargo();
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
        };
        let linker = linker().context("bpf-linker is not installed: run `cargo xtask setup`")?;
        if let Some(directory) = linker.parent() {
            cargo.env("PATH", path_with(directory)?);
        }
        cargo.env("RUSTFLAGS", FLAGS);
        cargo
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET");
        cargo.env("CARGO_TARGET_DIR", workspace::target_dir()?.join("bpf"));
        Ok(cargo)
    }

    /// Returns the arguments that choose the kernel target.
    pub(crate) fn target_arguments(self) -> Vec<&'static str> {
        match self {
            Self::Rustup => vec!["--target", TARGET, "-Zbuild-std=core"],
            Self::Debian => vec!["--target", TARGET],
        }
    }
}

/// Returns the linker's path: the cached one, else one on `PATH` of the same minor version.
pub(crate) fn linker() -> Option<PathBuf> {
    let cached = workspace::tool_root("bpf-linker", LINKER_VERSION)
        .ok()?
        .join("bin/bpf-linker");
    let wanted = LINKER_VERSION
        .rsplit_once('.')
        .map_or(LINKER_VERSION, |(minor, _patch)| minor);
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|directory| directory.join("bpf-linker"));
    std::iter::once(cached)
        .chain(on_path)
        .filter(|path| path.is_file())
        .find(|path| {
            command::probe(Command::new(path).arg("--version"))
                .is_some_and(|version| version.starts_with(&format!("bpf-linker {wanted}.")))
        })
}

fn path_with(directory: &Path) -> Result<OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(directory.to_path_buf()).chain(env::split_paths(&rest));
    env::join_paths(all).context("PATH")
}

fn nightly(program: &str) -> Command {
    let mut rustup = command::command("rustup");
    // `cargo run` exports its own toolchain; it would win over the argument in a nested cargo.
    rustup
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("RUSTC");
    rustup
        .env("RUSTUP_AUTO_INSTALL", "0")
        .args(["run", "nightly", program]);
    rustup
}

fn rustup_nightly_is_usable() -> bool {
    let Some(sysroot) = command::probe(nightly("rustc").args(["--print", "sysroot"])) else {
        return false;
    };
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    let version = command::probe(nightly("rustc").arg("-vV")).unwrap_or_default();
    source.is_file() && llvm_major(&version).is_some_and(|major| major <= LINKER_LLVM)
}

fn llvm_major(rustc_version: &str) -> Option<u32> {
    let line = rustc_version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

fn debian_core_is_installed() -> bool {
    let Some(libraries) =
        command::probe(Command::new(DEBIAN_RUSTC).args(["--print", "target-libdir", "--target", TARGET]))
    else {
        return false;
    };
    std::fs::read_dir(libraries.trim()).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// Fails with what to install when no compiler fits `choice`.
///
/// # Errors
/// None is installed.
pub(crate) fn require(choice: Choice) -> Result<Toolchain> {
    let Some(toolchain) = Toolchain::find(choice) else {
        bail!(
            "no compiler for {TARGET}: install Debian's rustc-web and libstd-rust-web-dev-bpf, or \
             `rustup toolchain install nightly --component rust-src`"
        );
    };
    Ok(toolchain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_from_the_compilers_own_words() {
        assert_eq!(
            llvm_major("rustc 1.97.0-nightly\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.5\n"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.97.0-nightly\n"), None);
    }
}
