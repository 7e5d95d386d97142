//! `calico-ebpf watch` while something happens.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::agent::Launcher;
use crate::wait;

/// How long the command may take to begin or to end.
const LIMIT: Duration = Duration::from_secs(10);

/// The command and what it printed. It is ended with its test.
#[derive(Debug)]
pub struct Watching {
    child: Child,
    output: PathBuf,
    complaints: PathBuf,
}

impl Watching {
    /// Starts the command with JSON output and waits until it watches.
    ///
    /// # Panics
    ///
    /// When it ends, or does not begin within 10 seconds.
    pub fn start(launcher: &Launcher, arguments: &[&str]) -> Self {
        let mut watching = Self::spawn(launcher, arguments);
        wait::until("the command watches", LIMIT, || {
            let complaints = watching.complaints();
            let ended = watching.child.try_wait().expect("wait for the command");
            assert!(ended.is_none(), "watch ended: {complaints}");
            complaints.contains("Watching")
        });
        watching
    }

    /// As [`Self::start`], without waiting.
    pub fn spawn(launcher: &Launcher, arguments: &[&str]) -> Self {
        let directory = launcher.run_dir();
        let number = fs::read_dir(directory.parent().expect("a parent")).map_or(0, Iterator::count);
        let path = |name: &str| directory.with_file_name(format!("watch-{number}.{name}"));
        let (output, complaints) = (path("out"), path("err"));
        let child = launcher
            .command()
            .args(["watch", "-o", "json"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&output).expect("a file for output"))
            .stderr(File::create(&complaints).expect("a file for complaints"))
            .spawn()
            .expect("the binary starts");
        Self {
            child,
            output,
            complaints,
        }
    }

    /// Process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the documents that were printed so far.
    ///
    /// # Panics
    ///
    /// When a line is no document.
    pub fn documents(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        whole.lines().map(parse).collect()
    }

    /// Waits for a document that fulfils a condition.
    ///
    /// # Panics
    ///
    /// When there is none within `limit`.
    #[track_caller]
    pub fn wait_for(&self, what: &str, limit: Duration, condition: impl Fn(&Value) -> bool) -> Value {
        let found = wait::poll(limit, || self.documents().into_iter().find(&condition));
        found.unwrap_or_else(|| panic!("not within {limit:?}: {what}; told: {:#?}", self.documents()))
    }

    /// Returns what was printed on standard error.
    pub fn complaints(&self) -> String {
        fs::read_to_string(&self.complaints).unwrap_or_default()
    }

    /// Ends the command as Ctrl-C does.
    ///
    /// # Panics
    ///
    /// When it does not end within 10 seconds.
    pub fn interrupt(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGINT).expect("signal the command");
        self.wait_for_end()
    }

    /// Waits until the command ends by itself.
    ///
    /// # Panics
    ///
    /// When it does not within 10 seconds.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let ended = wait::poll(LIMIT, || self.child.try_wait().expect("wait for the command"));
        ended.expect("the command ends")
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
