//! `cargo xtask test fuel-kernel`: a node of a real boot loader, from its old kernel to ours and back.

mod disk;
mod machine;
#[cfg(test)]
mod scripts;
mod system;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::package::kernel::{self, KernelPackage};
use crate::progress::headline;
use crate::setup::{self, Need};
use crate::test_report::TestReport;
use crate::{build, command, workspace};
use disk::Disk;
use machine::Run;
use system::System;

/// Boots a node in QEMU into the new kernel and back: a good kernel, one that panics, one that nothing reaches
///
/// Debian 12 with a kernel of its own, /boot on a partition as Fuel makes it, and GRUB on the disk. Inside, the plugin's
/// scripts install the kernel package with apt, boot it once, verify it with `calico-ebpf check`, make it the default,
/// and remove it. The serial consoles are in `target/fuel-kernel/*.log`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the tests of the scripts, in folders instead of machines; needs no root
    #[arg(long)]
    scripts_only: bool,

    /// This agent instead of one that is built now
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,

    /// Ends a machine after this time
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    time_limit: u64,
}

/// A way that a kernel can go, and what the console has to say, in this order.
struct Case {
    name: &'static str,
    title: &'static str,
    expected: fn(old: &str, new: &str) -> Vec<String>,
}

/// What comes first, and leaves the disk that the cases begin with.
const INSTALLATION: &str = "kernel package installed, damaged one refused";

const CASES: [Case; 3] = [
    Case {
        name: "good",
        title: "good kernel",
        expected: |old, new| {
            vec![
                format!("proof: good: {new} runs"),
                format!("{new} is verified and the default now"),
                format!("proof: good: {new} runs"),
                "proof: good: the new kernel stays the default".to_owned(),
                format!("proof: good: {old} runs"),
                "proof: good: passed".to_owned(),
            ]
        },
    },
    Case {
        name: "bad",
        title: "bad kernel",
        expected: |old, new| {
            vec![
                "Kernel panic".to_owned(),
                format!("proof: bad: {old} runs"),
                format!("{new} did not come up"),
                "proof: bad: the old kernel stays the default".to_owned(),
                "proof: bad: passed".to_owned(),
            ]
        },
    },
    Case {
        name: "silent",
        title: "kernel that nothing reaches",
        expected: |old, new| {
            vec![
                format!("proof: silent: {new} runs"),
                format!("proof: silent: {old} runs"),
                "proof: silent: passed".to_owned(),
            ]
        },
    },
];

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.scripts_only {
        setup::ensure(&[Need::Nextest])?;
        return command::run(command::cargo().args([
            "nextest",
            "run",
            "-p",
            "xtask",
            "test_fuel_kernel::scripts",
        ]));
    }
    setup::require_root("the node's file systems are filled with files of root")?;
    setup::ensure(&[Need::Machine, Need::FuelKernel])?;
    let mut report = TestReport::start("fuel-kernel");
    let result = prove(arguments, &mut report);
    report.skipped(
        "kernel on Ubuntu 14.04",
        "no image of it can be had here; the node of this test is Debian 12",
    );
    report.write()?;
    result
}

fn prove(arguments: &Arguments, report: &mut TestReport) -> Result<()> {
    let new = kernel::build()?;
    let agent = match &arguments.agent {
        Some(agent) => agent.clone(),
        None => build::build(&[])?.agent,
    };
    let logs = workspace::target_dir()?.join("fuel-kernel");
    fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    let node = Node {
        folder: Scratch::new(logs.join("node"))?,
        time_limit: Duration::from_secs(arguments.time_limit),
        logs,
    };
    let (system, disk) = report.note(INSTALLATION, node.install(&new, &agent))?;
    report.version("old kernel", &system.release);
    report.version("new kernel", &new.release);
    if let Some(words) = command::probe(std::process::Command::new("qemu-system-x86_64").arg("--version")) {
        report.version("QEMU", words.lines().next().unwrap_or_default());
    }
    let mut disks = Vec::new();
    for case in &CASES {
        disks.push(disk.copy(node.folder.path.join(format!("{}.disk", case.name)))?);
    }
    if let Some(bad) = disks.get(1) {
        // Without an initial file system it has no driver for its disk, and panics.
        bad.cut_in_boot(&format!("initrd.img-{}", new.release), 4096)?;
    }
    let results = thread::scope(|scope| {
        let runs: Vec<_> = CASES
            .iter()
            .zip(&disks)
            .map(|(case, disk)| {
                let expected = (case.expected)(&system.release, &new.release);
                let node = &node;
                scope.spawn(move || node.boot(case.name, disk, None, &expected))
            })
            .collect();
        runs.into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect::<Vec<_>>()
    });
    let mut failed = Vec::new();
    for (case, result) in CASES.iter().zip(results) {
        let result = result.unwrap_or_else(|_panic| bail!("the test panicked"));
        match report.note(case.title, result) {
            Ok(()) => headline(&format!("{}: passed", case.title)),
            Err(error) => {
                headline(&format!("{}: {error:#}", case.title));
                failed.push(case.title);
            }
        }
    }
    if !failed.is_empty() {
        bail!(
            "failed: {}; the consoles are in {}",
            failed.join(", "),
            node.logs.display()
        );
    }
    headline(&format!(
        "all passed; the consoles are in {}",
        node.logs.display()
    ));
    Ok(())
}

/// Where the node is made, and how long its machines may take.
struct Node {
    folder: Scratch,
    logs: PathBuf,
    time_limit: Duration,
}

impl Node {
    /// Makes the node's disk, lets it install its boot loader, and then the kernel package.
    fn install(&self, new: &KernelPackage, agent: &Path) -> Result<(System, Disk)> {
        let system = System::make(self.folder.path.join("system"), new, agent)?;
        let boot = |name: &str| {
            let file = self.folder.path.join(format!("first-{name}"));
            let from = system.folder.join(format!("boot/{name}-{}", system.release));
            fs::copy(&from, &file).with_context(|| from.display().to_string())?;
            anyhow::Ok(file)
        };
        let (kernel, initrd) = (boot("vmlinuz")?, boot("initrd.img")?);
        let disk = Disk::of_folder(&system.folder, self.folder.path.join("install.disk"))?;
        fs::remove_dir_all(&system.folder)?;
        let words = "root=LABEL=root rw console=ttyS0";
        for name in ["install"].iter().chain(CASES.iter().map(|case| &case.name)) {
            let log = self.log(name);
            if log.exists() {
                fs::remove_file(&log)?;
            }
        }
        let provisioned = [format!("proof: install: {} runs", system.release)];
        self.boot("install", &disk, Some((&kernel, &initrd, words)), &provisioned)?;
        let installed = [
            "GRUB".to_owned(),
            "proof: install: a damaged package changed nothing".to_owned(),
            "proof: install: armed".to_owned(),
        ];
        self.boot("install", &disk, None, &installed)?;
        Ok((system, disk))
    }

    fn boot(
        &self,
        case: &str,
        disk: &Disk,
        kernel: Option<(&Path, &Path, &str)>,
        expected: &[String],
    ) -> Result<()> {
        let run = Run {
            case,
            disk,
            kernel,
            expected,
            log: self.log(case),
            // The installation runs alone, the cases beside each other.
            processors: if case == "install" { 2 } else { 1 },
            time_limit: self.time_limit,
        };
        run.until_off()
    }

    fn log(&self, case: &str) -> PathBuf {
        self.logs.join(format!("{case}.log"))
    }
}

/// A folder that is removed with everything in it, also after a failure.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{}: {error}", self.path.display());
        }
    }
}
