//! The iptables of this host: both families, both back ends, as far as their programs are installed.

use std::env;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use anyhow::Context;

use super::ruleset::{self, Table};

/// Programs by name of the back end, which come before the plain ones: `save`, then `restore`.
const EXPLICIT: [[&str; 3]; 4] = [
    [
        "iptables-legacy",
        "iptables-legacy-save",
        "iptables-legacy-restore",
    ],
    ["iptables-nft", "iptables-nft-save", "iptables-nft-restore"],
    [
        "ip6tables-legacy",
        "ip6tables-legacy-save",
        "ip6tables-legacy-restore",
    ],
    ["ip6tables-nft", "ip6tables-nft-save", "ip6tables-nft-restore"],
];
/// Before iptables 1.8 there was one back end, without a name.
const PLAIN: [[&str; 3]; 2] = [
    ["iptables", "iptables-save", "iptables-restore"],
    ["ip6tables", "ip6tables-save", "ip6tables-restore"],
];
/// Seconds to wait for another program's lock.
const LOCK_SECONDS: &str = "10";

/// One family of one back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// `iptables-legacy`, `ip6tables-nft` ...
    pub name: &'static str,
    save: &'static str,
    restore: &'static str,
}

impl Backend {
    /// Returns those whose programs are installed.
    pub fn installed() -> Vec<Self> {
        let of = |names: &[[&'static str; 3]]| -> Vec<Self> {
            let backends = names
                .iter()
                .map(|&[name, save, restore]| Self { name, save, restore });
            backends
                .filter(|backend| is_installed(backend.save) && is_installed(backend.restore))
                .collect()
        };
        let explicit = of(&EXPLICIT);
        if explicit.is_empty() { of(&PLAIN) } else { explicit }
    }

    /// Returns whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.name.starts_with("ip6")
    }

    /// Reads every table.
    ///
    /// # Errors
    /// When the program fails.
    pub fn read(&self) -> anyhow::Result<Vec<Table>> {
        let output = run(self.save, &[], "")?;
        anyhow::ensure!(output.status.success(), "{}: {}", self.save, complaint(&output));
        Ok(ruleset::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Changes one table by the lines of `text`, all or nothing.
    ///
    /// # Errors
    /// When the program refuses; the table is as before then.
    pub fn restore(&self, text: &str) -> anyhow::Result<()> {
        let mut output = run(self.restore, &["--noflush", "-w", LOCK_SECONDS], text)?;
        if !output.status.success() && complaint(&output).contains("option") {
            // iptables before 1.6.2 knows no lock here.
            output = run(self.restore, &["--noflush"], text)?;
        }
        anyhow::ensure!(
            output.status.success(),
            "{}: {}",
            self.restore,
            complaint(&output)
        );
        Ok(())
    }
}

/// Returns whether a program is in `PATH`.
pub fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Runs a program with `input`.
pub(super) fn run(program: &str, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
    let start = || -> io::Result<Output> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that refuses its input may close it early; its status tells.
            match stdin.write_all(input.as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        child.wait_with_output()
    };
    start().with_context(|| format!("cannot run {program}"))
}

/// Returns what a program said on standard error, on one line.
pub(super) fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        return output.status.to_string();
    }
    lines.join("; ")
}
