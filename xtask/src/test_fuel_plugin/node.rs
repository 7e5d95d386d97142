//! A node: Debian 12 under its own systemd, in namespaces of its own, with a root folder over the image.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cgroup::Cgroups;
use super::environment::{self, NODES};
use super::image::Image;
use super::puppet_folder;
use crate::command;

const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// A running node. It ends with this value, and its files with it.
pub(super) struct Node {
    pub(super) uid: u8,
    folder: PathBuf,
    machine: Child,
    leader: String,
    cgroups: Cgroups,
}

/// How a command in a node ended.
pub(super) struct Outcome {
    pub(super) status: i32,
    /// Standard output and standard error.
    pub(super) text: String,
}

impl Node {
    /// Boots a node. Without `writable`, /proc/sys is only read there: a kernel that cannot run the agent.
    pub(super) fn boot(
        uid: u8,
        image: &Image,
        folder: &Path,
        namespace: &str,
        writable: bool,
    ) -> Result<Self> {
        let folder = folder.join(format!("node-{uid}"));
        for part in ["upper", "work", "root"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            image.root.display(),
            folder.join("upper").display(),
            folder.join("work").display()
        );
        let root = folder.join("root");
        command::run(
            command::command("mount")
                .args(["-t", "overlay", "overlay", "-o", &layers])
                .arg(&root),
        )?;
        fs::write(root.join("etc/hostname"), environment::fqdn(uid) + "\n")?;
        fs::write(root.join("etc/hosts"), hosts())?;
        let log = File::create(folder.join("boot.log"))?;
        let name = format!("calico-fuel-{uid}");
        let cgroups = Cgroups::make(&name)?;
        let mut nspawn = cgroups.command("systemd-nspawn");
        nspawn
            .args([
                "--quiet",
                "--boot",
                "--console=pipe",
                "--register=no",
                "--keep-unit",
                "-D",
            ])
            .arg(&root)
            // Its folders under /run/systemd/nspawn are named by it.
            .arg(format!("--machine={name}"))
            .arg(format!("--hostname={}", environment::fqdn(uid)))
            .arg(format!("--network-namespace-path=/run/netns/{namespace}"))
            .args(["--capability=all", "--system-call-filter=bpf perf_event_open"])
            .arg(format!("--bind-ro={}:/plugin/puppet", puppet_folder().display()))
            .arg(format!(
                "--bind-ro={}:/plugin/repository",
                image.repository.display()
            ))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if writable {
            nspawn.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes");
        }
        let machine = nspawn.spawn().context("systemd-nspawn")?;
        let mut node = Self {
            uid,
            folder,
            machine,
            leader: String::new(),
            cgroups,
        };
        node.wait_for_boot()?;
        node.shell("apt-get -q update")?;
        Ok(node)
    }

    fn wait_for_boot(&mut self) -> Result<()> {
        let started = Instant::now();
        let children = format!("/proc/{0}/task/{0}/children", self.machine.id());
        loop {
            if let Some(status) = self.machine.try_wait()? {
                let log = fs::read_to_string(self.folder.join("boot.log")).unwrap_or_default();
                bail!("node-{} ended ({status}):\n{log}", self.uid);
            }
            if let Some(leader) = fs::read_to_string(&children)?.split_whitespace().next() {
                leader.clone_into(&mut self.leader);
                let state = self.run(&["systemctl", "is-system-running"])?;
                if matches!(state.text.trim(), "running" | "degraded") {
                    return Ok(());
                }
            }
            if started.elapsed() > BOOT_LIMIT {
                bail!("node-{} did not boot within {} s", self.uid, BOOT_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Runs a command there.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<Outcome> {
        let output = command::command("timeout")
            .args([
                "-k",
                "10",
                "400",
                "nsenter",
                "-t",
                &self.leader,
                "-a",
                "env",
                "-i",
            ])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("nsenter")?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(Outcome {
            status: output.status.code().unwrap_or(-1),
            text,
        })
    }

    /// Runs a line of shell and returns what it printed.
    ///
    /// # Errors
    /// It fails; the message has what it printed.
    pub(super) fn shell(&self, line: &str) -> Result<String> {
        let outcome = self.run(&["sh", "-c", line])?;
        if outcome.status != 0 {
            bail!(
                "node-{}: `{line}` ended with {}:\n{}",
                self.uid,
                outcome.status,
                outcome.text
            );
        }
        Ok(outcome.text)
    }

    /// Gives the node its settings: what Fuel writes before its tasks run.
    pub(super) fn configure(&self, changes: &Value) -> Result<()> {
        self.configure_without(changes, &[])
    }

    /// The same, in an environment that some nodes have left.
    pub(super) fn configure_without(&self, changes: &Value, gone: &[u8]) -> Result<()> {
        let path = self.folder.join("root/etc/hiera/astute.yaml");
        fs::write(path, environment::astute(self.uid, changes, gone)).context("astute.yaml")
    }

    /// Applies a task's manifest as Fuel does.
    pub(super) fn apply(&self, task: &str) -> Result<Outcome> {
        let manifest = format!("/plugin/puppet/manifests/{task}.pp");
        self.run(&[
            "RUBYOPT=-r/plugin/repository/random_order.rb",
            "puppet",
            "apply",
            "--color=false",
            "--detailed-exitcodes",
            "--modulepath=/plugin/puppet/modules:/etc/puppet/modules",
            &manifest,
        ])
    }

    /// Applies a task's manifest twice: the first run must not fail, the second must change nothing.
    pub(super) fn apply_twice(&self, task: &str) -> Result<()> {
        let first = self.apply(task)?;
        if !matches!(first.status, 0 | 2) {
            bail!(
                "node-{}: {task} ended with {}:\n{}",
                self.uid,
                first.status,
                first.text
            );
        }
        self.apply_again(task)
    }

    /// Applies a task's manifest, which must change nothing.
    pub(super) fn apply_again(&self, task: &str) -> Result<()> {
        let again = self.apply(task)?;
        if again.status != 0 {
            bail!(
                "node-{}: {task}, again, ended with {}:\n{}",
                self.uid,
                again.status,
                again.text
            );
        }
        Ok(())
    }

    /// Applies a task's manifest, which must fail and say all of `words` in one line.
    pub(super) fn apply_fails(&self, task: &str, words: &[&str]) -> Result<()> {
        let outcome = self.apply(task)?;
        if matches!(outcome.status, 0 | 2) {
            bail!("node-{}: {task} should have failed:\n{}", self.uid, outcome.text);
        }
        if !outcome
            .text
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
        {
            bail!(
                "node-{}: {task} failed, but no line has {words:?}:\n{}",
                self.uid,
                outcome.text
            );
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Its own systemd, too: killing systemd-nspawn alone would leave it.
        self.cgroups.end();
        drop(self.machine.wait());
        let mut unmount = command::command("umount");
        drop(unmount.arg("--lazy").arg(self.folder.join("root")).status());
    }
}

fn hosts() -> String {
    let nodes = NODES.map(|(uid, _)| format!("192.168.0.{uid} node-{uid}.domain.tld node-{uid}\n"));
    format!("127.0.0.1 localhost\n{}", nodes.concat())
}
