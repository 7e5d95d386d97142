//! `cargo xtask docs`: the documentation as a website.

mod plan;
mod report;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::{headline, quietly};
use crate::setup::{self, Need};
use crate::test_report::{self, TestReport};
use crate::{command, workspace};

/// Debian's Python, which has venv by [`Need::Docs`]; another one on `PATH` may have no `ensurepip`.
const PYTHON: &str = "/usr/bin/python3";

/// Builds the documentation, with the test report of the last runs, into `target/docs`
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Runs the subcommand.
pub(crate) fn run(_arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::Docs])?;
    let root = workspace::root();
    let source = workspace::target_dir()?.join("docs-source");
    let site = workspace::target_dir()?.join("docs");
    for folder in [&source, &site] {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
    }
    copy(&root.join("docs"), &source)?;
    let plan = plan::read(&root.join("docs/fuel-plugin/test-plan.md"))?;
    let runs = TestReport::read_all(&test_report::directory()?)?;
    let page = source.join("fuel-plugin/test-report.md");
    fs::write(&page, report::page(&plan, &runs)).with_context(|| page.display().to_string())?;
    headline(&format!(
        "test report: {} runs, {} cases of the test plan",
        runs.len(),
        plan.len()
    ));
    let python = environment(&root.join("docs/requirements.txt"))?;
    // Each warning is an error.
    let mut sphinx = Command::new(python.join("bin/sphinx-build"));
    sphinx.args(["--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]);
    command::run(sphinx.arg(&source).arg(&site))?;
    writeln!(std::io::stdout().lock(), "{}", site.join("index.html").display())?;
    Ok(())
}

/// Returns a Python environment with exactly the packages of `requirements`, checked by their SHA-256.
fn environment(requirements: &Path) -> Result<PathBuf> {
    let wanted = fs::read_to_string(requirements).with_context(|| requirements.display().to_string())?;
    let folder = workspace::cache_dir()?.join("docs-python");
    let stamp = folder.join("requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    quietly(
        "Python environment",
        Command::new(PYTHON).args(["-m", "venv"]).arg(&folder),
    )?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args([
        "install",
        "--require-hashes",
        "--only-binary=:all:",
        "--requirement",
    ]);
    quietly("pip install", pip.arg(requirements))?;
    // Last, so that half an installation is not taken for one.
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(())
}
