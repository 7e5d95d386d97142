//! Checks of files by their kind, over whatever is in the plugin's folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::generation::{shown, source};
use crate::command;

/// The switches of the official build job for Fuel plugins. What was the check of 80 characters in its day is one of 140 now.
const PUPPET_LINT: [&str; 7] = [
    "--fail-on-warnings",
    "--no-80chars-check",
    "--no-140chars-check",
    "--no-autoloader_layout-check",
    "--no-class_inherits_from_params_class-check",
    "--no-documentation-check",
    "--no-arrow_alignment-check",
];

/// A folder with examples of what is wrong.
const TESTS: &str = "tests";

/// Every YAML file, by yamllint.
///
/// # Errors
/// It finds something.
pub(super) fn yaml() -> Result<()> {
    let files = with_extensions(&["yaml", "yml"])?;
    let mut yamllint = Command::new("yamllint");
    yamllint
        .arg("--strict")
        .arg("-c")
        .arg(source().join("tests/yamllint.yaml"));
    over(&mut yamllint, &files)
}

/// Every shell script, by shellcheck.
///
/// # Errors
/// It finds something.
pub(super) fn shell() -> Result<()> {
    let mut scripts = Vec::new();
    for file in all()? {
        let content = fs::read(&file).with_context(|| shown(&file))?;
        let first = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if is_shell(&String::from_utf8_lossy(first)) {
            scripts.push(file);
        } else {
            let named_so = file.extension().is_some_and(|extension| extension == "sh");
            ensure!(
                !named_so,
                "{}: begins with no `#!/bin/sh` or `#!/bin/bash`",
                shown(&file)
            );
        }
    }
    ensure!(!scripts.is_empty(), "no shell script in fuel-plugin/");
    over(&mut Command::new("shellcheck"), &scripts)
}

/// Runs a program on files; what it finds, it prints.
fn over(program: &mut Command, files: &[PathBuf]) -> Result<()> {
    let what = command::display(program);
    let status = program.args(files).stdout(std::io::stderr()).status();
    let status = status.with_context(|| what.clone())?;
    ensure!(
        status.success(),
        "`{what}` on {} files: see above ({status})",
        files.len()
    );
    Ok(())
}

fn is_shell(first_line: &str) -> bool {
    let interpreter = first_line.strip_prefix("#!").unwrap_or_default().trim();
    let name = interpreter.split_whitespace().next().unwrap_or_default();
    matches!(name, "/bin/sh" | "/bin/bash")
}

/// Every template, as the official build job does it: into Ruby, and that by Ruby.
///
/// # Errors
/// One is no template.
pub(super) fn templates() -> Result<()> {
    for file in with_extensions(&["erb"])? {
        let ruby = command::output(Command::new("erb").args(["-P", "-x", "-T", "-"]).arg(&file))?;
        let mut check = Command::new("ruby");
        let mut child = check
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("ruby")?;
        if let Some(mut input) = child.stdin.take() {
            std::io::Write::write_all(&mut input, ruby.as_bytes()).context("ruby -c")?;
        }
        ensure!(child.wait().context("ruby -c")?.success(), "{}", shown(&file));
    }
    Ok(())
}

/// Every manifest: by Puppet, and by puppet-lint with the official job's switches.
///
/// # Errors
/// They find something.
pub(super) fn manifests() -> Result<()> {
    let files = with_extensions(&["pp"])?;
    ensure!(!files.is_empty(), "no manifest in fuel-plugin/");
    over(Command::new("puppet").args(["parser", "validate"]), &files)?;
    over(Command::new("puppet-lint").args(PUPPET_LINT), &files)
}

/// Every manifest and Ruby file of the nodes: nothing later than Puppet 3 and Ruby 1.9.3. First the examples, so that a check
/// that finds nothing any more is noticed.
///
/// # Errors
/// It finds something, or not what it has to find in the examples.
pub(super) fn old_syntax() -> Result<()> {
    examples()?;
    let files: Vec<PathBuf> = with_extensions(&["pp", "rb"])?
        .into_iter()
        .filter(|file| !file.iter().any(|part| part == "spec"))
        .collect();
    over(
        Command::new("ruby").arg(source().join("tests/puppet3.rb")),
        &files,
    )
}

fn examples() -> Result<()> {
    for name in ["puppet3_examples.pp", "puppet3_examples.rb"] {
        let examples = source().join(TESTS).join(name);
        let text = fs::read_to_string(&examples).with_context(|| shown(&examples))?;
        let mut ruby = Command::new("ruby");
        let found = ruby
            .arg(source().join("tests/puppet3.rb"))
            .arg(&examples)
            .output()?;
        let printed = String::from_utf8_lossy(&found.stdout);
        let mut lines: Vec<usize> = printed.lines().filter_map(line_of_finding).collect();
        lines.dedup();
        let wrong = lines_with_mark(&text);
        if lines != wrong {
            bail!(
                "tests/puppet3.rb finds lines {lines:?} of {name}, expected {wrong:?}:\n{printed}{}",
                String::from_utf8_lossy(&found.stderr)
            );
        }
    }
    Ok(())
}

fn line_of_finding(finding: &str) -> Option<usize> {
    finding.split(':').nth(1)?.parse().ok()
}

fn lines_with_mark(text: &str) -> Vec<usize> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| line.ends_with("# wrong"))
        .map(|(index, _)| index + 1)
        .collect()
}

/// Returns the files of these kinds, without the examples.
fn with_extensions(extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = all()?;
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let extension = file.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| extensions.contains(&extension)) && !name.starts_with("puppet3")
    });
    Ok(files)
}

fn all() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(&source(), &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| shown(folder))? {
        let entry = entry?;
        let path = entry.path();
        // Links lead out of the tree: a spec's fixtures to the module itself.
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
        } else if entry.file_type()?.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_scripts_are_known_by_their_first_line() {
        assert!(is_shell("#!/bin/sh"));
        assert!(is_shell("#!/bin/bash -e"));
        assert!(!is_shell("#!/usr/bin/env ruby"));
        assert!(!is_shell("# a comment"));
    }

    #[test]
    fn marks_and_findings_are_told_by_their_lines() {
        assert_eq!(lines_with_mark("a # wrong\nb\nc # wrong\n# wrong here\n"), [1, 3]);
        assert_eq!(line_of_finding("/x/y.pp:12: what"), Some(12));
    }
}
