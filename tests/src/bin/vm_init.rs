//! The first program of a test machine: mounts, loads modules, runs the test binary, says how it ended, powers off.
//!
//! `cargo xtask test vm` puts it into an initramfs as `/init`, the tests as `/program`, modules below `/modules`.
#![expect(clippy::print_stdout, reason = "the console is all that the machine has")]

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, setrlimit};

/// Loaded programs and maps of one set of settings are about a hundred, and the tests keep each set for the next test.
const OPEN_FILES: u64 = 65_536;

/// Type, place.
const FILE_SYSTEMS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("bpf", "/sys/fs/bpf"),
    ("debugfs", "/sys/kernel/debug"),
];

fn main() {
    let status = run().unwrap_or_else(|error| {
        println!("init: {error:#}");
        255
    });
    // `cargo xtask test vm` waits for this line.
    println!("calico-ebpf-vm: exit status {status}");
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    println!("init: power off: {error}");
}

fn run() -> Result<i32> {
    for (kind, place) in FILE_SYSTEMS {
        fs::create_dir_all(place).with_context(|| (*place).to_owned())?;
        mount(Some(*kind), *place, Some(*kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("{kind} on {place}"))?;
    }
    load_modules().context("/modules")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("/proc/sys/kernel/osrelease")?;
    println!("init: kernel {}", release.trim());
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).context("allow open files")?;
    // Words after two dashes on the kernel's command line come here.
    let filters = std::env::args().skip(1);
    let status = Command::new("/program")
        .arg("--test-threads=1")
        .args(filters)
        .env("CALICO_EBPF_OBJECT", "/calico-ebpf.o")
        .env("CALICO_EBPF_BENCH_OBJECT", "/calico-ebpf-bench.o")
        .env("RUST_BACKTRACE", "1")
        .env("PATH", "/")
        .status()
        .context("/program")?;
    status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .ok_or_else(|| anyhow!("no exit status"))
}

/// Loads every module; one that needs another is tried again after it.
fn load_modules() -> Result<()> {
    let mut waiting = Vec::new();
    for entry in fs::read_dir("/modules")? {
        waiting.push(entry?.path());
    }
    loop {
        let before = waiting.len();
        let mut refused = Vec::new();
        for path in waiting {
            let file = File::open(&path).with_context(|| path.display().to_string())?;
            if let Err(error) = finit_module(&file, c"", ModuleInitFlags::empty()) {
                refused.push((path, error));
            }
        }
        if refused.is_empty() {
            return Ok(());
        }
        if refused.len() == before {
            for (path, error) in refused {
                println!("init: {}: {error}", path.display());
            }
            return Ok(());
        }
        waiting = refused.into_iter().map(|(path, _error)| path).collect();
    }
}
