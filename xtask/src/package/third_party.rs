//! The crates inside of the agent, with their licences: most ask that their notice comes along with a binary.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{command, release};

/// Beginnings of the names of files that hold a licence or notice.
const NOTICES: &[&str] = &[
    "license",
    "licence",
    "copying",
    "notice",
    "unlicense",
    "copyright",
];

/// Returns the notices of everything that is linked into the agent.
///
/// # Errors
/// Cargo does not tell the dependencies, or a file cannot be read.
pub(super) fn notices() -> Result<String> {
    let listed = command::output(command::cargo().args([
        "tree",
        "--package=calico-ebpf-userspace",
        "--edges=normal",
        "--prefix=none",
        "--format={p}",
        "--target",
        release::TARGET,
    ]))?;
    let linked: Vec<(&str, &str)> = listed.lines().filter_map(name_and_version).collect();
    let metadata = command::output(command::cargo().args(["metadata", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let mut texts = BTreeMap::new();
    for package in metadata["packages"]
        .as_array()
        .context("cargo metadata: packages")?
    {
        let text = |field: &str| package[field].as_str().unwrap_or_default();
        if package["source"].is_null() || !linked.contains(&(text("name"), text("version"))) {
            continue;
        }
        let folder = Path::new(text("manifest_path"))
            .parent()
            .context("manifest_path")?;
        let head = format!("{} {}", text("name"), text("version"));
        let licence = package["license"].as_str().unwrap_or("see below");
        texts.insert(head, format!("Licence: {licence}\n{}", files_of(folder)?));
    }
    let mut all = String::from("What /usr/bin/calico-ebpf contains beside its own code.\n");
    for (head, text) in texts {
        write!(all, "\n{}\n{head}\n{text}", "=".repeat(80))?;
    }
    Ok(all)
}

/// Reads `name v1.2.3 (...)`.
fn name_and_version(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    Some((words.next()?, words.next()?.strip_prefix('v')?))
}

fn files_of(folder: &Path) -> Result<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|name| {
        let name = name.to_lowercase();
        NOTICES.iter().any(|beginning| name.starts_with(beginning))
    });
    names.sort();
    let mut text = String::new();
    for name in names {
        let content = fs::read(folder.join(&name)).with_context(|| name.clone())?;
        write!(text, "\n--- {name}\n\n{}", String::from_utf8_lossy(&content))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_list_of_crates_is_read() {
        assert_eq!(
            name_and_version("tokio v1.54.1 (proc-macro)"),
            Some(("tokio", "1.54.1"))
        );
        assert_eq!(name_and_version(""), None);
    }
}
