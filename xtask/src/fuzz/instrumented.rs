//! Fuzzers of our own, with a flag for each edge of one crate's code.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// A flag for each edge, and where the edge is. Stable Rust has all of it.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
    -Cllvm-args=-sanitizer-coverage-inline-bool-flag -Cllvm-args=-sanitizer-coverage-pc-table";

/// A fuzzer among the programs of `calico-ebpf-tests`.
pub(super) struct Fuzzer {
    pub(super) name: &'static str,
    pub(super) features: &'static [&'static str],
    /// The crate that is looked at, as the compiler calls it.
    pub(super) looked_at: &'static str,
    /// Crates that are optimized: with all checks of a debug build, and without building every dependency again.
    pub(super) optimized: &'static [&'static str],
}

impl Fuzzer {
    /// Builds the program and returns its path.
    pub(super) fn build(&self) -> Result<PathBuf> {
        let mut cargo = command::cargo();
        cargo.args(["build", "--package=calico-ebpf-tests", "--bin", self.name]);
        cargo.args(
            self.features
                .iter()
                .map(|feature| format!("--features={feature}")),
        );
        for name in self.optimized {
            cargo.arg(format!("--config=profile.dev.package.{name}.opt-level=2"));
        }
        cargo.env("RUSTC_WORKSPACE_WRAPPER", self.wrapper()?);
        command::run(&mut cargo)?;
        Ok(workspace::target_dir()?.join("debug").join(self.name))
    }

    /// Writes what stands between cargo and the compiler: flags for the one crate that is looked at.
    fn wrapper(&self) -> Result<PathBuf> {
        let folder = workspace::target_dir()?.join("fuzz");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(format!("{}-rustc", self.name));
        let script = format!(
            "#!/bin/sh\nrustc=$1\nshift\ncase \" $* \" in\n*\" --crate-name {} \"*) \
             set -- \"$@\" {INSTRUMENTATION} ;;\nesac\nexec \"$rustc\" \"$@\"\n",
            self.looked_at
        );
        // Written anew it would have another time, and everything would be built again.
        if fs::read_to_string(&path).ok().as_deref() != Some(&*script) {
            fs::write(&path, script).with_context(|| path.display().to_string())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .with_context(|| path.display().to_string())?;
        }
        Ok(path)
    }
}
