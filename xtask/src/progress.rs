//! What a developer sees while a step runs. Everything goes to standard error: standard output belongs to results.

use std::io::{BufRead, BufReader, IsTerminal, stderr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::command::display;

/// Lines of output that a failed step shows.
const SHOWN_ON_FAILURE: usize = 40;

/// Says what comes next.
pub(crate) fn headline(text: &str) {
    eprintln!("==> {text}");
}

/// Runs a chatty command behind one line: a spinner with its latest output on a terminal, a line at the beginning and
/// one at the end elsewhere.
///
/// # Errors
/// The command cannot start or fails; the message carries the last lines of its output.
pub(crate) fn quietly(what: &str, command: &mut Command) -> Result<()> {
    let started = Instant::now();
    let bar = stderr().is_terminal().then(|| spinner(what));
    if bar.is_none() {
        headline(what);
    }
    let (reader, writer) = std::io::pipe().context("pipe")?;
    let errors = writer.try_clone().context("pipe")?;
    command.stdin(Stdio::null()).stdout(writer).stderr(errors);
    let mut child = command.spawn().with_context(|| display(command))?;
    // The command holds the pipe's write ends until they are replaced; the reader would wait for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut lines = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("pipe")?).into_owned();
        if let Some(bar) = &bar {
            bar.set_message(line.trim().to_owned());
        }
        lines.push(line);
    }
    let status = child.wait().with_context(|| display(command))?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let seconds = started.elapsed().as_secs();
    if !status.success() {
        let tail = &lines[lines.len().saturating_sub(SHOWN_ON_FAILURE)..];
        bail!(
            "{what}: `{}` failed ({status}):\n{}",
            display(command),
            tail.join("\n")
        );
    }
    headline(&format!("{what}: done in {seconds} s"));
    Ok(())
}

fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_prefix(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
