//! Release binaries that need nothing beside them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{command, workspace};

/// Target of everything that runs on a compute node.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// glibc linked in: the node's own may be ten years older.
const STATIC: &str = r#"target.x86_64-unknown-linux-gnu.rustflags = ["-Ctarget-feature=+crt-static"]"#;

/// Builds binaries of the workspace, statically linked and optimised, and returns their paths in the same order.
///
/// # Errors
/// The build fails, for example because there is no such binary.
pub(crate) fn binaries(names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut cargo = cargo("build")?;
    for name in names {
        cargo.args(["--bin", name]);
    }
    command::run(&mut cargo)?;
    let directory = directory()?.join(TARGET).join("release");
    Ok(names.iter().map(|name| directory.join(name)).collect())
}

/// Builds an integration test, statically linked and optimised, and returns its path.
///
/// # Errors
/// The build fails, for example because there is no such test.
pub(crate) fn test(name: &str) -> Result<PathBuf> {
    let messages = command::output(cargo("test")?.args([
        "--no-run",
        "--message-format=json-render-diagnostics",
        "--test",
        name,
    ]))?;
    let executable = messages.lines().find_map(|line| test_executable(line, name));
    executable.with_context(|| format!("cargo named no executable for the test `{name}`"))
}

/// Returns the folder for these builds. It is not the usual one: with other flags, each switch would rebuild all.
fn directory() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("static"))
}

fn cargo(subcommand: &str) -> Result<Command> {
    let mut cargo = command::cargo();
    cargo
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("CARGO_TARGET_DIR", directory()?);
    // The whole workspace, so that features of dependencies are the same whatever is built.
    cargo.args([
        subcommand,
        "--workspace",
        "--release",
        "--target",
        TARGET,
        "--config",
        STATIC,
    ]);
    Ok(cargo)
}

/// Reads one of cargo's messages: the executable, when it is that of the integration test.
fn test_executable(message: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = message.get("target")?;
    let is_test = target.get("kind")?.as_array()?.iter().any(|kind| kind == "test");
    if !is_test || target.get("name")? != name {
        return None;
    }
    message.get("executable")?.as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_test_of_that_name_is_taken_from_cargos_messages() {
        let message = |kind: &str, name: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":"/t/{name}-1"}}"#
            )
        };
        assert_eq!(
            test_executable(&message("test", "program"), "program"),
            Some(PathBuf::from("/t/program-1"))
        );
        assert_eq!(test_executable(&message("bin", "program"), "program"), None);
        assert_eq!(test_executable(&message("test", "host"), "program"), None);
        assert_eq!(test_executable("not a message", "program"), None);
    }
}
