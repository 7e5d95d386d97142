//! The folder of which fuel-plugin-builder makes a package: whatever is in it lands on the Fuel master.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::generation::{Generation, source, target};
use crate::package::epoch::Epoch;
use crate::package::tree::Tree;
use crate::workspace;

/// Where packages for the nodes are, inside of the stage.
pub(super) const REPOSITORY: &str = "repositories/ubuntu";

/// Returns the folder with the stages of both packages.
///
/// # Errors
/// `CARGO_TARGET_DIR` makes no sense.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(target()?.join("stage"))
}

/// Stages a package anew, without packages for the nodes.
///
/// # Errors
/// A file cannot be read or written, or is not as it has to be.
pub(super) fn stage(generation: Generation) -> Result<Tree> {
    let tree = Tree::new(folder()?.join(generation.folder()))?;
    copy(&source().join("common"), "", &tree)?;
    copy(&source().join(generation.folder()), "", &tree)?;
    tree.file("README.md", &read(&source().join("README.md"))?)?;
    tree.file("LICENSE", &read(&workspace::root().join("LICENSE-APACHE"))?)?;
    fs::create_dir_all(tree.root().join(REPOSITORY)).context(REPOSITORY)?;
    match generation {
        Generation::V2 => edit(
            &tree,
            "environment_config.yaml",
            "environment_config.yaml",
            settings_for_v2,
        )?,
        Generation::V4 => edit(
            &tree,
            "deployment_tasks.yaml",
            "deployment_tasks_8.0.yaml",
            tasks_for_8_0,
        )?,
    }
    Ok(tree)
}

/// Gives everything the time of the source; to be called when the stage is complete.
///
/// # Errors
/// A time cannot be set.
pub(super) fn finish(tree: &Tree) -> Result<()> {
    tree.finish(Epoch::find()?)
}

fn copy(from: &Path, to: &str, tree: &Tree) -> Result<()> {
    let mut entries = fs::read_dir(from)
        .with_context(|| from.display().to_string())?
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if !is_for_the_master(&path, &name) {
            continue;
        }
        let to = if to.is_empty() {
            name
        } else {
            format!("{to}/{name}")
        };
        if path.is_dir() {
            copy(&path, &to, tree)?;
        } else if is_script(&path) {
            tree.program(&to, &read(&path)?)?;
        } else {
            tree.file(&to, &read(&path)?)?;
        }
    }
    Ok(())
}

/// Specs of Puppet modules and hidden files are for developers.
fn is_for_the_master(path: &Path, name: &str) -> bool {
    let is_spec = name == "spec" && path.is_dir();
    !is_spec && !name.starts_with('.') && name != "__pycache__"
}

/// Only scripts are executable: of each executable file rpmbuild makes a requirement of package version 2.0.0.
fn is_script(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sh")
}

fn edit(tree: &Tree, from: &str, to: &str, change: fn(&str) -> Result<String>) -> Result<()> {
    let path = tree.root().join(from);
    let text = String::from_utf8(read(&path)?).with_context(|| path.display().to_string())?;
    let text = change(&text).with_context(|| from.to_owned())?;
    tree.file(to, text.as_bytes())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// Fuel 6.1 and 7.0 hide nothing, but can disable; and they have one tab of settings only.
fn settings_for_v2(text: &str) -> Result<String> {
    ensure!(
        text.contains("action: hide") && text.contains("\n    group: other\n"),
        "expected `action: hide` and `group: other`"
    );
    Ok(text
        .replace("action: hide", "action: disable")
        .replace("\n    group: other\n", "\n"))
}

/// Fuel 8.0 takes conditions as text only: a task has that of a comment `Fuel 8.0: ...`, or none.
fn tasks_for_8_0(text: &str) -> Result<String> {
    let mut lines = Vec::new();
    let mut inside_condition = false;
    for line in text.lines() {
        if let Some(condition) = line.strip_prefix("  # Fuel 8.0: ") {
            ensure!(!condition.contains('"'), "a quotation mark in {condition}");
            lines.push(format!("  condition: \"{condition}\""));
        } else if line == "  condition:" {
            inside_condition = true;
        } else if !(inside_condition && line.starts_with("    ")) {
            inside_condition = false;
            lines.push(line.to_owned());
        }
    }
    let text = lines.join("\n") + "\n";
    ensure!(!text.contains("yaql_exp"), "a condition is left over");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_for_old_releases_disable_and_have_no_group() {
        let text = "attributes:\n  metadata:\n    group: other\n    a: b\n  c:\n    - action: hide\n";
        let expected = "attributes:\n  metadata:\n    a: b\n  c:\n    - action: disable\n";
        assert_eq!(settings_for_v2(text).expect("settings"), expected);
        assert!(settings_for_v2("attributes: {}\n").is_err());
    }

    #[test]
    fn tasks_for_fuel_8_have_the_condition_of_the_comment_or_none() {
        let text = "- id: a\n  condition:\n    yaql_exp: >\n      changed($)\n  parameters:\n    timeout: 1\n\
                    - id: b\n  # Fuel 8.0: settings:s.k.value\n  condition:\n    yaql_exp: *x\n";
        let expected =
            "- id: a\n  parameters:\n    timeout: 1\n- id: b\n  condition: \"settings:s.k.value\"\n";
        assert_eq!(tasks_for_8_0(text).expect("tasks"), expected);
        assert!(tasks_for_8_0("- id: a\n  condition: {yaql_exp: 'true'}\n").is_err());
    }
}
