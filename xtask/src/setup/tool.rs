//! Programs from the crate registry.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::Missing;
use crate::kernel_toolchain::LINKER_VERSION;
use crate::progress::quietly;
use crate::{command, workspace};

/// A crate's program, of one version.
#[derive(Clone, Copy)]
pub(crate) struct CachedTool {
    name: &'static str,
    version: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A folder of the cache, by version.
    Cache,
    /// Where `cargo install` puts things by itself: for subcommands that people type.
    Cargo,
}

/// The linker of the kernel side. Both variables are read: one by its own build script, one by llvm-sys.
pub(super) const BPF_LINKER: CachedTool = CachedTool {
    name: "bpf-linker",
    version: LINKER_VERSION,
    arguments: &["--no-default-features", "--features", "llvm-22"],
    environment: &[
        ("LLVM_PREFIX", "/usr/lib/llvm-22"),
        ("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22"),
    ],
    place: Place::Cache,
};

/// The test runner.
pub(super) const NEXTEST: CachedTool = CachedTool {
    name: "cargo-nextest",
    version: "0.9.143",
    arguments: &[],
    environment: &[],
    place: Place::Cargo,
};

/// The licence and source checker.
pub(crate) const CARGO_DENY: CachedTool = CachedTool {
    name: "cargo-deny",
    version: "0.19.0",
    arguments: &[],
    environment: &[],
    place: Place::Cache,
};

impl CachedTool {
    /// Returns the program's path when it is installed in the cache.
    pub(crate) fn cached(&self) -> Option<PathBuf> {
        let path = workspace::tool_root(self.name, self.version)
            .ok()?
            .join("bin")
            .join(self.name);
        path.is_file().then_some(path)
    }

    pub(super) fn if_absent(self) -> Option<Missing> {
        let present = match self.place {
            Place::Cache => self.cached().is_some(),
            Place::Cargo => super::requirement::find_program(self.name).is_some(),
        };
        (!present).then_some(Missing::Tool(self))
    }

    /// Builds and installs the program.
    pub(super) fn install(&self) -> Result<()> {
        let mut cargo = command::cargo();
        // A temporary one, so that this neither waits for nor spoils the project's.
        cargo.env_remove("CARGO_TARGET_DIR");
        cargo
            .args(self.install_arguments())
            .envs(self.environment.iter().copied());
        if self.place == Place::Cache {
            cargo
                .arg("--root")
                .arg(workspace::tool_root(self.name, self.version)?);
        }
        quietly(&format!("{} {} from source", self.name, self.version), &mut cargo)
    }

    /// Returns what a person would type.
    pub(super) fn command_line(&self) -> String {
        let mut words: Vec<String> = self
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut cargo = Command::new("cargo");
        cargo.args(self.install_arguments());
        words.push(command::display(&cargo));
        if let (Place::Cache, Ok(root)) = (self.place, workspace::tool_root(self.name, self.version)) {
            words.push(format!("--root {}", root.display()));
        }
        words.join(" ")
    }

    fn install_arguments(&self) -> Vec<&'static str> {
        let mut arguments = vec!["install", self.name, "--version", self.version, "--locked"];
        arguments.extend(self.arguments);
        arguments
    }
}
