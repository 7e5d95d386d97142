//! What a host looks like before and after, as text that is compared byte by byte.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_links};
use serde_json::Value;

use crate::netns::Netns;

/// Sections by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, String>);

impl Snapshot {
    /// Reads everything that the agent may change on a host.
    pub fn take(host: &Netns) -> Self {
        let attached = attached(host);
        Self(BTreeMap::from([
            ("tc filter", filters(host)),
            ("tc qdisc", sorted(&host.stdout("tc", &["qdisc", "show"]))),
            ("bpf links", links(&attached)),
            (
                "tcx programs",
                lines(
                    attached
                        .iter()
                        .map(|(place, program)| format!("{place}: {}", program.id())),
                ),
            ),
            (
                "routes",
                sorted(&host.stdout("ip", &["-4", "route", "show", "table", "all"])),
            ),
            (
                "routes 6",
                sorted(&host.stdout("ip", &["-6", "route", "show", "table", "all"])),
            ),
            (
                "rules",
                host.stdout("ip", &["-4", "rule"]) + &host.stdout("ip", &["-6", "rule"]),
            ),
            (
                "neighbours",
                host.stdout("ip", &["neigh", "show", "nud", "permanent"]),
            ),
            (
                "neighbour proxies",
                host.stdout("ip", &["-6", "neigh", "show", "proxy"]),
            ),
            ("sysctls", sysctls(host)),
            ("bpffs", tree(host, Path::new("/sys/fs/bpf"))),
            ("mounts", mounts(host)),
        ]))
    }

    /// Panics with the lines that differ from an earlier snapshot.
    #[track_caller]
    pub fn assert_same_as(&self, before: &Self) {
        let difference = self.difference(before);
        assert!(
            difference.is_empty(),
            "the host is not as it was before:\n{difference}"
        );
    }

    /// Returns the lines that are only here (`+`) or only in an earlier snapshot (`-`).
    pub fn difference(&self, before: &Self) -> String {
        let mut text = String::new();
        for (section, after) in &self.0 {
            let before = before.0.get(section).map_or("", String::as_str);
            if after == before {
                continue;
            }
            writeln!(text, "{section}:").expect("write to memory");
            for (sign, these, those) in [('-', before, after.as_str()), ('+', after.as_str(), before)] {
                let missing = these
                    .lines()
                    .filter(|line| !those.lines().any(|other| other == *line));
                for line in missing {
                    writeln!(text, "  {sign} {line}").expect("write to memory");
                }
            }
            if after.len() != before.len() && text.ends_with(":\n") {
                text.push_str("  order or repetition of lines\n");
            }
        }
        text
    }
}

/// Names of the interfaces of a host.
pub fn interfaces(host: &Netns) -> Vec<String> {
    let mut names: Vec<String> = json(host, "ip", &["-j", "link", "show"])
        .as_array()
        .expect("a list of links")
        .iter()
        .map(|link| link["ifname"].as_str().expect("a name").to_owned())
        .collect();
    names.sort();
    names
}

/// Returns the names of the tcx programs of one side of an interface, in the order in which they run; none before
/// kernel 6.6, which has no tcx.
pub fn programs_at(host: &Netns, interface: &str, side: TcAttachType) -> Vec<String> {
    let programs = tcx_programs(host, interface, side);
    programs
        .iter()
        .map(|program| program.name_as_str().unwrap_or_default().to_owned())
        .collect()
}

fn tcx_programs(host: &Netns, interface: &str, side: TcAttachType) -> Vec<ProgramInfo> {
    host.run(|| SchedClassifier::query_tcx(interface, side))
        .map_or_else(|_| Vec::new(), |(_, programs)| programs)
}

fn attached(host: &Netns) -> Vec<(String, ProgramInfo)> {
    let mut attached = Vec::new();
    for interface in interfaces(host) {
        for (side, name) in [
            (TcAttachType::Ingress, "ingress"),
            (TcAttachType::Egress, "egress"),
        ] {
            let here = tcx_programs(host, &interface, side);
            attached.extend(
                here.into_iter()
                    .map(|program| (format!("{interface} {name}"), program)),
            );
        }
    }
    attached
}

/// Runs a command that prints JSON.
pub fn json(host: &Netns, program: &str, arguments: &[&str]) -> Value {
    let text = host.stdout(program, arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}: {text}"))
}

/// The kernel lists links of all namespaces: those kept are of programs on interfaces of this one. A link that is
/// held otherwise is a file of the bpffs.
fn links(attached: &[(String, ProgramInfo)]) -> String {
    let links = loaded_links().filter_map(Result::ok);
    let ours = links.filter(|link| {
        attached
            .iter()
            .any(|(_, program)| program.id() == link.program_id())
    });
    lines(ours.map(|link| format!("link {} of program {}", link.id(), link.program_id())))
}

fn filters(host: &Netns) -> String {
    let mut text = String::new();
    for name in interfaces(host) {
        for side in ["ingress", "egress"] {
            let filters = host.stdout("tc", &["filter", "show", "dev", &name, side]);
            writeln!(text, "{name} {side}:\n{filters}").expect("write to memory");
        }
    }
    text
}

fn sysctls(host: &Netns) -> String {
    const ROOTS: [&str; 4] = [
        "net/ipv4/conf",
        "net/ipv6/conf",
        "net/ipv4/neigh",
        "net/ipv6/neigh",
    ];
    const SINGLE: [&str; 1] = ["net/ipv4/ip_forward"];
    host.run(|| {
        let mut text = String::new();
        for root in ROOTS.iter().chain(&SINGLE) {
            for file in files(&Path::new("/proc/sys").join(root)) {
                // `stable_secret` cannot be read before it was written.
                let value = fs::read_to_string(&file).unwrap_or_default();
                let name = file.strip_prefix("/proc/sys").expect("a setting").display();
                writeln!(text, "{name} = {}", value.trim_end()).expect("write to memory");
            }
        }
        text
    })
}

fn tree(host: &Netns, root: &Path) -> String {
    host.run(|| lines(entries(root).iter().map(|path| path.display())))
}

/// The calling process sees all mounts of its own namespace only.
fn mounts(host: &Netns) -> String {
    let text = host
        .run(|| fs::read_to_string("/proc/thread-self/mounts"))
        .expect("mounts");
    // Named namespaces of other runs on this machine come and go.
    let own: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("nsfs /run/netns/"))
        .collect();
    sorted(&own.join("\n"))
}

/// The kernel lists routes and queues in the order in which they were made.
fn sorted(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn lines(items: impl IntoIterator<Item: std::fmt::Display>) -> String {
    items
        .into_iter()
        .fold(String::new(), |text, item| text + &item.to_string() + "\n")
}

/// Every file below a path, or the path itself when it is one.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    entries(path).into_iter().filter(|path| path.is_file()).collect()
}

/// Everything below a directory, sorted.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(list) = fs::read_dir(directory) else {
        return found;
    };
    for entry in list.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(entries(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}
