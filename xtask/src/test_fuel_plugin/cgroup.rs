//! The control groups of a node. Its systemd takes what it finds for its own: nodes that shared one would end each other's
//! services. They also say which processes a node has, however it ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;

/// Where hierarchies with processes may be mounted: the one of systemd and the unified one, or that alone.
const HIERARCHIES: [&str; 3] = [
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup",
];

/// Moves itself into the groups before `--` and becomes the rest.
const ENTER: &str = r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@""#;

/// A group in each hierarchy. Their processes end with this value.
pub(super) struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    /// Makes groups of a name; what an interrupted run left in them is ended.
    pub(super) fn make(name: &str) -> Result<Self> {
        let hierarchies = HIERARCHIES.map(Path::new);
        let groups: Vec<PathBuf> = hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.join("cgroup.procs").exists())
            .map(|hierarchy| hierarchy.join(name))
            .collect();
        let groups = Self(groups);
        groups.end();
        for group in &groups.0 {
            fs::create_dir_all(group).with_context(|| group.display().to_string())?;
        }
        Ok(groups)
    }

    /// Returns a command that runs a program in the groups; its process is the program's.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", ENTER, "sh"])
            .args(&self.0)
            .args(["--", program]);
        command
    }

    /// Kills all processes in the groups.
    pub(super) fn end(&self) {
        let kill =
            "find \"$@\" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un | xargs -r kill -KILL";
        let mut shell = command::command("sh");
        drop(command::probe(shell.args(["-c", kill, "sh"]).args(&self.0)));
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.end();
        // Busy until the kernel is through with the last process.
        for _ in 0..50 {
            let mut remove = command::command("find");
            drop(command::probe(
                remove.args(&self.0).args(["-depth", "-type", "d", "-delete"]),
            ));
            if !self.0.iter().any(|group| group.exists()) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
