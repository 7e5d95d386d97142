//! Running other programs.

use std::io::stderr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Returns a command that runs in the workspace's root, without what `cargo run` put into this process's environment.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace::root());
    // Written by `cargo run` for this binary: library paths of another toolchain and names of another package.
    command.env_remove("LD_LIBRARY_PATH");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text == "CARGO_PRIMARY_PACKAGE"
        {
            command.env_remove(&name);
        }
    }
    command
}

/// Returns the cargo that runs this program.
pub(crate) fn cargo() -> Command {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
}

/// Runs the command with its output on standard error.
///
/// # Errors
/// The command cannot start or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    run_to(command, Stdio::from(stderr()))
}

/// Runs the command with its output on standard output: for results.
///
/// # Errors
/// The command cannot start or fails.
pub(crate) fn run_to_stdout(command: &mut Command) -> Result<()> {
    run_to(command, Stdio::inherit())
}

fn run_to(command: &mut Command, output: Stdio) -> Result<()> {
    let status = command
        .stdout(output)
        .status()
        .with_context(|| format!("cannot run `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", display(command));
    }
    Ok(())
}

/// Runs the command and returns its standard output; standard error passes through.
///
/// # Errors
/// The command cannot start, fails, or prints something that is not UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{}`", display(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", display(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", display(command)))
}

/// Returns the command's standard output when it can be run and succeeds; its errors are not shown.
pub(crate) fn probe(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the command as one would type it.
pub(crate) fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
