//! Whether Felix runs on this host.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

/// Name of Felix's program; the first versions were a script of this name.
const PROGRAM: &str = "calico-felix";
/// As in Calico's container image.
const IN_NODE: &str = "calico-node";

/// Returns the processes of Felix in this network namespace.
pub fn felix() -> Vec<u32> {
    let proc = Path::new("/proc");
    let own = fs::read_link(proc.join("self/ns/net")).ok();
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<u32> = pids
        .filter(|pid: &u32| {
            let process = proc.join(pid.to_string());
            is_felix(&fs::read(process.join("cmdline")).unwrap_or_default())
                && fs::read_link(process.join("ns/net")).ok() == own
        })
        .collect();
    found.sort_unstable();
    found
}

/// Judges a process by its command line. That of a zombie is empty.
fn is_felix(command_line: &[u8]) -> bool {
    let words: Vec<&str> = command_line
        .split(|byte| *byte == 0)
        .map(|word| std::str::from_utf8(word).unwrap_or_default())
        .collect();
    let names = |word: &str| Path::new(word).file_name().map(OsStr::to_owned);
    let is = |word: Option<&&str>, name: &str| {
        word.and_then(|word| names(word))
            .is_some_and(|found| found == name)
    };
    let is_script = words.first().and_then(|word| names(word)).is_some_and(|found| {
        let found = found.to_string_lossy().into_owned();
        found.starts_with("python") || found == "sh" || found == "bash"
    });
    is(words.first(), PROGRAM)
        || is_script && is(words.get(1), PROGRAM)
        || is(words.first(), IN_NODE) && words.contains(&"-felix")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn felix_is_known_by_its_command_line() {
        for line in [
            "/usr/bin/calico-felix\0--config-file=/etc/calico/felix.cfg\0",
            "calico-felix\0",
            "/usr/bin/python2\0/usr/bin/calico-felix\0",
            "calico-node\0-felix\0",
        ] {
            assert!(is_felix(line.as_bytes()), "{line:?}");
        }
        for line in [
            "",
            "vim\0/usr/bin/calico-felix\0",
            "/usr/bin/calico-felix-exporter\0",
            "calico-node\0-confd\0",
            "journalctl\0-u\0calico-felix\0",
        ] {
            assert!(!is_felix(line.as_bytes()), "{line:?}");
        }
    }
}
