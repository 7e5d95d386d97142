//! fuel-plugin-builder: of 2017, in an environment of its own with pinned packages.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::generation::{source, target};
use crate::command;
use crate::package::epoch::{self, Epoch};
use crate::progress::quietly;
use crate::workspace;

/// What rpmbuild reads from the home folder: the package says nothing of the machine and the moment it was made on.
const MACROS: &str = "%_buildhost reproducible\n\
                      %use_source_date_epoch_as_buildtime 1\n\
                      %clamp_mtime_to_source_date_epoch 1\n\
                      %source_date_epoch_from_changelog 0\n\
                      %_binary_payload w9.gzdio\n\
                      %_source_filedigest_algorithm 8\n\
                      %_binary_filedigest_algorithm 8\n";

/// A Python with fuel-plugin-builder, and the programs that it calls.
pub(super) struct Builder {
    python: PathBuf,
    tools: PathBuf,
}

impl Builder {
    /// Installs what is missing.
    ///
    /// # Errors
    /// There is no Python, no network, or a package is not the pinned one.
    pub(super) fn ready() -> Result<Self> {
        Ok(Self {
            python: environment()?,
            tools: tools()?,
        })
    }

    /// Runs fuel-plugin-builder with `--check` or `--build` on a stage.
    ///
    /// # Errors
    /// It finds something wrong; the message carries what it says.
    pub(super) fn run(&self, action: &str, stage: &Path) -> Result<()> {
        let mut fpb = self.python();
        fpb.arg(source().join("builder/fpb.py"));
        fpb.arg(action)
            .arg(stage)
            .env("HOME", self.tools.join("home"))
            .env(epoch::VARIABLE, Epoch::find()?.text());
        let name = stage.file_name().unwrap_or_default().to_string_lossy();
        quietly(&format!("fuel-plugin-builder {action} {name}"), &mut fpb)
    }

    /// Returns a command of the environment's Python, in which only what it is given has an effect.
    pub(super) fn python(&self) -> Command {
        let mut python = Command::new(&self.python);
        python.current_dir(workspace::root());
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("PYTHON") || name == "VIRTUAL_ENV" {
                python.env_remove(name);
            }
        }
        let mut path = self.tools.join("bin").into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        python
            .env("PATH", path)
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        python
    }
}

/// Returns the Python of the environment that the requirements describe; it is made anew when they change.
fn environment() -> Result<PathBuf> {
    let requirements = source().join("builder/requirements.txt");
    let builder = source().join("builder/fuel-plugin-builder.txt");
    let sum = sum_of(&[&requirements, &builder])?;
    let root = workspace::tool_root("fuel-plugin-builder", &sum)?;
    let (python, complete) = (root.join("bin/python"), root.join("complete"));
    // The Python that it was made of may have gone.
    if complete.is_file() && python.is_file() {
        return Ok(python);
    }
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    let mut venv = Command::new(system_python());
    quietly(
        "Python for fuel-plugin-builder",
        venv.args(["-m", "venv"]).arg(&root),
    )?;
    let pip = |what: &str, arguments: &[&str], list: &Path| {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--no-deps", "--require-hashes"]).args(arguments);
        quietly(what, pip.arg("-r").arg(list))
            .context("a package of PyPI: the network, or another file than the pinned one")
    };
    pip("requirements of it", &["--only-binary", ":all:"], &requirements)?;
    pip("fuel-plugin-builder", &["--no-build-isolation"], &builder)?;
    fs::write(&complete, "").with_context(|| complete.display().to_string())?;
    Ok(python)
}

/// Debian's own: others on `PATH` come and go.
fn system_python() -> &'static str {
    if Path::new("/usr/bin/python3").is_file() {
        "/usr/bin/python3"
    } else {
        "python3"
    }
}

fn sum_of(files: &[&Path]) -> Result<String> {
    let mut cksum = Command::new("sha256sum");
    let sums = command::output(cksum.args(files))?;
    let short: Vec<&str> = sums.lines().filter_map(|line| line.get(..8)).collect();
    if short.len() != files.len() {
        bail!("sha256sum printed {sums:?}");
    }
    Ok(short.join("-"))
}

/// Makes a folder with programs under the names that the builder calls, and with a home for rpmbuild.
fn tools() -> Result<PathBuf> {
    let tools = target()?.join("tools");
    if tools.exists() {
        fs::remove_dir_all(&tools).with_context(|| tools.display().to_string())?;
    }
    let (bin, home) = (tools.join("bin"), tools.join("home"));
    fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;
    fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
    // It wants this name also where it does not call it.
    symlink("/usr/bin/createrepo_c", bin.join("createrepo")).context("createrepo")?;
    // The time in a gzip file is that of the build.
    let gzip = bin.join("gzip");
    fs::write(&gzip, "#!/bin/sh\nexec /bin/gzip -n \"$@\"\n").context("gzip")?;
    fs::set_permissions(&gzip, fs::Permissions::from_mode(0o755)).context("gzip")?;
    fs::write(home.join(".rpmmacros"), MACROS).context(".rpmmacros")?;
    Ok(tools)
}
