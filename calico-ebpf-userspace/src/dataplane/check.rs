//! What this kernel and host offer: each feature is tried, and taken back.
//!
//! Version numbers are not looked at: vendors carry features back. What needs an interface is tried on the loopback
//! of a network namespace that lives as long as the try.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::thread;

use aya_obj::generated::bpf_map_type;
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde::Serialize;

use super::bpf_probe::{
    Instruction, attach_tcx, compiled_length, create_map, create_ring_buffer, load_classifier,
    map_into_memory, read_batch, run_classifier,
};
use crate::config::Config;

/// Whether the agent can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    Required,
    /// Without it there is a fall-back, or another program needs it.
    Optional,
}

/// What trying it showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Present,
    Missing,
    /// It could not be tried, because something else is missing.
    Unknown,
}

/// One feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub feature: &'static str,
    pub need: Need,
    pub outcome: Outcome,
    /// What was seen, and the cure where there is one.
    pub detail: String,
    /// The kernel that has it first, or what else brings it.
    pub since: &'static str,
    /// Whether the kernel answered "not permitted".
    #[serde(skip)]
    pub was_refused: bool,
}

impl Finding {
    /// Returns whether the agent cannot run for this.
    pub fn is_missing_and_required(&self) -> bool {
        self.outcome == Outcome::Missing && self.need == Need::Required
    }
}

/// Tries every feature that the agent uses, in order of how much depends on it.
pub fn check(config: &Config) -> Vec<Finding> {
    let program = load_classifier(&PROGRAM);
    let privileges = privileges();
    let mut findings = vec![
        tried(
            "bpf system call",
            "4.4, CONFIG_BPF_SYSCALL",
            "maps can be made",
            bpf_call(),
        ),
        tried(
            "TC programs",
            "5.5",
            "the helpers and instructions of ours load and run",
            run(&program),
        ),
        tried(
            "BPF JIT",
            "CONFIG_BPF_JIT",
            "programs are compiled",
            jit(&program),
        ),
        tried(
            "mapped arrays",
            "5.5",
            "the policy table can be mapped into the agent",
            mapped_array(),
        ),
        tried(
            "batched map reads",
            "5.6",
            "flows can be swept in batches",
            batched_reads(),
        ),
        tried(
            "ring buffer",
            "5.8",
            "`watch` can show drops as they happen",
            ring_buffer(),
        ),
        bpffs(&config.bpf_pin_dir),
        tried("netlink", "2.2", "interfaces can be listed", netlink()),
    ];
    findings.extend(in_a_namespace(program.ok()));
    findings.extend([tun(), btf()]);
    if privileges.outcome != Outcome::Present {
        findings
            .iter_mut()
            .filter(|finding| finding.was_refused)
            .for_each(blame_privileges);
    }
    findings.insert(0, privileges);
    findings
}

/// Makes a finding of a required feature from the try of it.
fn tried(feature: &'static str, since: &'static str, good: &str, result: io::Result<()>) -> Finding {
    let was_refused = result
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let (outcome, detail) = match result {
        Ok(()) => (Outcome::Present, good.to_owned()),
        Err(error) => (Outcome::Missing, error.to_string()),
    };
    Finding {
        feature,
        need: Need::Required,
        outcome,
        detail,
        since,
        was_refused,
    }
}

/// Says of a try that was refused that nothing is known: who lacks the right learns nothing about the kernel.
fn blame_privileges(finding: &mut Finding) {
    finding.outcome = Outcome::Unknown;
    "not permitted without root; nothing is known about it".clone_into(&mut finding.detail);
}

/// Tells whether this process may do what the agent does. A root of a user namespace only may not.
fn privileges() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let (outcome, detail) = judge_privileges(&status, &map, nix::unistd::geteuid().is_root());
    Finding {
        feature: "root",
        need: Need::Required,
        outcome,
        detail,
        since: "-",
        was_refused: false,
    }
}

fn judge_privileges(status: &str, uid_map: &str, is_root: bool) -> (Outcome, String) {
    /// Bits of `CapEff`, capabilities(7).
    const NEEDED: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)];
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or(0);
    let absent: Vec<&str> = NEEDED
        .iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect();
    let whole = uid_map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
    if !absent.is_empty() {
        let who = if is_root {
            "root, but without"
        } else {
            "not root: without"
        };
        return (
            Outcome::Missing,
            format!("{who} {}; run it as root", absent.join(" and ")),
        );
    }
    if !whole {
        let detail =
            "root of a user namespace only, not of the host: the kernel refuses BPF and routes to it";
        return (Outcome::Missing, detail.to_owned());
    }
    (Outcome::Present, "all capabilities that are needed".to_owned())
}

fn bpf_call() -> io::Result<()> {
    create_map(bpf_map_type::BPF_MAP_TYPE_ARRAY, false)
        .map(drop)
        .map_err(|error| explain_bpf(&error))
}

/// Says what a refusal of bpf(2) means.
fn explain_bpf(error: &io::Error) -> io::Error {
    let meaning = match error.raw_os_error() {
        Some(libc::EPERM) => "refused by the kernel; as root this is lockdown or a security module",
        Some(libc::ENOSYS) => "the kernel was built without CONFIG_BPF_SYSCALL",
        Some(libc::EINVAL) => "the kernel does not know it",
        Some(libc::ENOMEM) => "not enough memory may be locked: raise the limit (ulimit -l)",
        _ => return io::Error::new(error.kind(), error.to_string()),
    };
    io::Error::new(error.kind(), format!("{meaning} ({error})"))
}

/// A program with what is newest in ours: the helper for the coarse clock (number 118, Linux 5.5) and a 32-bit
/// comparison (cpu v3, Linux 5.1). Returns `TC_ACT_UNSPEC`.
const PROGRAM: [Instruction; 5] = [
    (0x85, 0, 0, 118), // call bpf_jiffies64
    (0xb7, 1, 0, 7),   // r1 = 7
    (0x16, 1, 1, 9),   // if w1 == 9 skip the next
    (0xb7, 0, 0, -1),  // r0 = -1
    (0x95, 0, 0, 0),   // exit
];

fn run(program: &io::Result<OwnedFd>) -> io::Result<()> {
    const TC_ACT_UNSPEC: u32 = u32::MAX;
    let program = program.as_ref().map_err(explain_bpf)?;
    match run_classifier(program).map_err(|error| explain_bpf(&error))? {
        TC_ACT_UNSPEC => Ok(()),
        verdict => Err(io::Error::other(format!("the program runs, but says {verdict}"))),
    }
}

fn jit(program: &io::Result<OwnedFd>) -> io::Result<()> {
    let program = program.as_ref().map_err(explain_bpf)?;
    if compiled_length(program)? == 0 {
        return Err(io::Error::other(
            "programs are interpreted; set the sysctl net.core.bpf_jit_enable to 1",
        ));
    }
    Ok(())
}

fn mapped_array() -> io::Result<()> {
    let map = create_map(bpf_map_type::BPF_MAP_TYPE_ARRAY, true).map_err(|error| explain_bpf(&error))?;
    map_into_memory(&map)
}

fn batched_reads() -> io::Result<()> {
    let map = create_map(bpf_map_type::BPF_MAP_TYPE_HASH, false).map_err(|error| explain_bpf(&error))?;
    read_batch(&map).map_err(|error| explain_bpf(&error))
}

fn ring_buffer() -> io::Result<()> {
    create_ring_buffer()
        .map(drop)
        .map_err(|error| explain_bpf(&error))
}

/// Tells whether the pin directory is on a bpffs, or could be put on one.
fn bpffs(pin_dir: &Path) -> Finding {
    let nearest = pin_dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let is_there = statfs(nearest).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_known = filesystems
        .lines()
        .any(|line| line.split_whitespace().last() == Some("bpf"));
    let (outcome, detail) = match (is_there, is_known) {
        (true, _) => (
            Outcome::Present,
            format!("mounted; {} is on it", pin_dir.display()),
        ),
        (false, true) => (Outcome::Present, "not mounted; `run` mounts it".to_owned()),
        (false, false) => (Outcome::Missing, "the kernel has no bpf filesystem".to_owned()),
    };
    Finding {
        feature: "bpffs",
        need: Need::Required,
        outcome,
        detail,
        since: "4.4",
        was_refused: false,
    }
}

fn netlink() -> io::Result<()> {
    nix::ifaddrs::getifaddrs().map(drop).map_err(io::Error::from)
}

/// Tries what needs an interface in a new network namespace, so that nothing of this host is touched.
fn in_a_namespace(program: Option<OwnedFd>) -> Vec<Finding> {
    let tried = thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => on_loopback(program.as_ref()),
        Err(error) => without_namespace(error),
    });
    tried.join().unwrap_or_default()
}

fn without_namespace(error: nix::Error) -> Vec<Finding> {
    let error = || {
        io::Error::new(
            io::Error::from(error).kind(),
            format!("no network namespace to try it in: {error}"),
        )
    };
    vec![
        tried("attachment", ATTACH_SINCE, "", Err(error())),
        tried("sysctls", SYSCTL_SINCE, "", Err(error())),
    ]
}

const ATTACH_SINCE: &str = "4.5 (clsact), 6.6 (tcx)";
const SYSCTL_SINCE: &str = "2.2";

fn on_loopback(program: Option<&OwnedFd>) -> Vec<Finding> {
    vec![
        attachment(program),
        tried(
            "sysctls",
            SYSCTL_SINCE,
            "forwarding can be set by interface",
            sysctls(),
        ),
    ]
}

fn attachment(program: Option<&OwnedFd>) -> Finding {
    /// The loopback of a new namespace.
    const LOOPBACK: u32 = 1;
    let Some(program) = program else {
        let refused = io::Error::new(io::ErrorKind::PermissionDenied, "no program to attach");
        return tried("attachment", ATTACH_SINCE, "", Err(refused));
    };
    let (outcome, detail) = match attach_tcx(program.as_fd(), LOOPBACK) {
        Ok(()) => (Outcome::Present, "by tcx".to_owned()),
        Err(_) => match aya::programs::tc::qdisc_add_clsact("lo") {
            Ok(()) => (Outcome::Present, "by clsact; no tcx".to_owned()),
            Err(error) => (
                Outcome::Missing,
                format!(
                    "no tcx, and no clsact: {error}; CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS bring it"
                ),
            ),
        },
    };
    Finding {
        feature: "attachment",
        need: Need::Required,
        outcome,
        detail,
        since: ATTACH_SINCE,
        was_refused: false,
    }
}

/// Writes to this namespace's own switches.
fn sysctls() -> io::Result<()> {
    for path in [
        "/proc/sys/net/ipv4/conf/lo/forwarding",
        "/proc/sys/net/ipv4/conf/lo/proxy_arp",
    ] {
        fs::write(path, "1").map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    }
    Ok(())
}

fn tun() -> Finding {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let (outcome, detail) = match opened {
        Ok(_) => (Outcome::Present, "taps can be made".to_owned()),
        Err(error) => (
            Outcome::Missing,
            format!("/dev/net/tun: {error}; virtual machines need taps (modprobe tun)"),
        ),
    };
    Finding {
        feature: "tun",
        need: Need::Optional,
        outcome,
        detail,
        since: "2.4, CONFIG_TUN",
        was_refused: false,
    }
}

fn btf() -> Finding {
    let (outcome, detail) = if Path::new("/sys/kernel/btf/vmlinux").exists() {
        (Outcome::Present, "tools can name the fields of our maps")
    } else {
        (
            Outcome::Missing,
            "the kernel does not describe its types; the agent does without",
        )
    };
    let since = "5.4, CONFIG_DEBUG_INFO_BTF";
    Finding {
        feature: "BTF",
        need: Need::Optional,
        outcome,
        detail: detail.to_owned(),
        since,
        was_refused: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "         0          0 4294967295\n";

    #[test]
    fn root_of_the_host_is_root() {
        let status = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        assert_eq!(judge_privileges(status, WHOLE, true).0, Outcome::Present);
    }

    #[test]
    fn root_of_a_user_namespace_is_not_root() {
        let (outcome, detail) = judge_privileges("CapEff:\t000001ffffffffff\n", "0 1000 1\n", true);
        assert_eq!(outcome, Outcome::Missing);
        assert!(detail.contains("user namespace"), "{detail}");
    }

    #[test]
    fn other_users_are_told_what_they_lack() {
        let (outcome, detail) = judge_privileges("CapEff:\t0000000000000000\n", WHOLE, false);
        assert_eq!(outcome, Outcome::Missing);
        assert!(
            detail.contains("not root") && detail.contains("CAP_NET_ADMIN"),
            "{detail}"
        );
    }

    #[test]
    fn every_feature_is_told_once_whoever_asks() {
        let findings = check(&Config::default());
        let features: Vec<&str> = findings.iter().map(|finding| finding.feature).collect();
        for feature in [
            "root",
            "TC programs",
            "BPF JIT",
            "mapped arrays",
            "ring buffer",
            "attachment",
            "tun",
            "BTF",
        ] {
            assert_eq!(
                features.iter().filter(|found| **found == feature).count(),
                1,
                "{feature}"
            );
        }
    }
}
