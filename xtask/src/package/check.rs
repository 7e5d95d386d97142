//! `cargo xtask package check`: what a node would stumble over, seen here.

mod binary;
mod contents;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::agent::Agent;
use super::tree::Compression;
use super::{deb, directory, rpm};
use crate::progress::headline;
use crate::setup::{self, Need};
use crate::test_report::TestReport;
use crate::{command, workspace};

/// What lintian says of this package on purpose.
const LINTIAN_TAGS: &[&str] = &[
    // It has to run beside any C library, at any address.
    "statically-linked-binary",
    "shared-library-lacks-prerequisites",
    // The names of functions, for the trace of a panic.
    "unstripped-binary-or-object",
    // It is packed by its own makers: nobody asked Debian for it.
    "initial-upload-closes-no-bugs",
    "bogus-mail-host",
    // Ubuntu 14.04.
    "package-installs-deprecated-upstart-configuration",
    // `deb-systemd-invoke` waits for the service, which waits for its datastore.
    "maintainer-script-calls-systemctl",
    // policy-rc.d is looked for at this one place.
    "command-with-path-in-maintainer-script",
];

/// The unit's exposure, by systemd's count from 0 to 100: what may change the whole network cannot come near 0.
const EXPOSURE: &str = "40";

/// The two packages of one run.
struct Packages {
    deb: PathBuf,
    rpm: PathBuf,
}

/// A case and its name in the test report.
type Case = (&'static str, fn(&Agent, &Packages) -> Result<()>);

const CASES: &[Case] = &[
    ("two builds give the same bytes", reproducible),
    ("deb readable by dpkg 1.17", members),
    ("deb contents", contents::deb),
    ("rpm contents and requirements", contents::rpm),
    ("lintian", lintian),
    ("systemd unit", unit),
    ("agent needs no loader and no library", binary::needs_nothing),
    ("agent runs in an empty root", binary::runs_alone),
    (
        "agent looks up names without the C library's modules",
        binary::looks_up_names,
    ),
];

/// Packs, looks, and leaves a report.
///
/// # Errors
/// A check fails; all of them are run.
pub(super) fn run(agent: &Agent) -> Result<()> {
    setup::require_root("the agent is run in a root of its own")?;
    setup::ensure(&[Need::PackageCheck])?;
    let mut report = TestReport::start("package");
    for (tool, flag) in [
        ("dpkg-deb", "--version"),
        ("rpmbuild", "--version"),
        ("lintian", "--version"),
    ] {
        let text = command::probe(Command::new(tool).arg(flag)).unwrap_or_default();
        report.version(tool, text.lines().next().unwrap_or_default());
    }
    report.skipped(
        "upstart job",
        "upstart is in no distribution that can be had here; the job was read, not run",
    );
    report.skipped(
        "rpm on a distribution of its own",
        "none can be had here: it is installed, upgraded and erased by Debian's rpm, beside systemd",
    );
    let packages = report.note("both are packed", pack(agent, &directory()?));
    let mut failed = Vec::new();
    match packages {
        Err(error) => failed.push(format!("{error:#}")),
        Ok(packages) => {
            for (name, case) in CASES {
                headline(name);
                if let Err(error) = report.note(name, case(agent, &packages)) {
                    eprintln!("{error:#}");
                    failed.push((*name).to_owned());
                }
            }
        }
    }
    report.write()?;
    if !failed.is_empty() {
        bail!("package check: {}", failed.join("; "));
    }
    headline("package check: nothing found");
    Ok(())
}

fn pack(agent: &Agent, directory: &Path) -> Result<Packages> {
    Ok(Packages {
        deb: deb::pack(agent, directory, Compression::Small)?,
        rpm: rpm::pack(agent, directory, Compression::Small)?,
    })
}

fn reproducible(agent: &Agent, packages: &Packages) -> Result<()> {
    let again = pack(agent, &directory()?.join("again"))?;
    for (first, second) in [(&packages.deb, &again.deb), (&packages.rpm, &again.rpm)] {
        let [first_bytes, second_bytes] = [first, second].map(fs::read);
        ensure!(
            first_bytes? == second_bytes?,
            "{} and {} differ: diffoscope tells where",
            first.display(),
            second.display()
        );
    }
    Ok(())
}

fn members(_: &Agent, packages: &Packages) -> Result<()> {
    let members = command::output(Command::new("ar").arg("t").arg(&packages.deb))?;
    let members: Vec<&str> = members.lines().collect();
    ensure!(
        members == ["debian-binary", "control.tar.gz", "data.tar.xz"],
        "members are {members:?}: dpkg 1.17 reads a control.tar.gz and a data.tar.xz"
    );
    Ok(())
}

fn lintian(_: &Agent, packages: &Packages) -> Result<()> {
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on=error,warning", "--suppress-tags"]);
    command::run(lintian.arg(LINTIAN_TAGS.join(",")).arg(&packages.deb))
}

fn unit(_: &Agent, _: &Packages) -> Result<()> {
    // As installed: `verify` looks for the programs that the unit starts and for the units that it names.
    let root = directory()?.join("rpm.root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    let tree = directory()?.join("rpm.tree");
    command::run(Command::new("cp").arg("-a").arg(&tree).arg(&root))?;
    let units = root.join("usr/lib/systemd/system");
    command::run(
        Command::new("cp")
            .args(["-a", "/lib/systemd/system/."])
            .arg(units),
    )?;
    fs::copy("/usr/bin/nsenter", root.join("usr/bin/nsenter")).context("/usr/bin/nsenter")?;
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=yes", "--root"]);
    let output = verify.arg(&root).arg("calico-ebpf.service").output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = words
        .lines()
        .filter(|line| line.contains("calico-ebpf"))
        .collect();
    ensure!(ours.is_empty(), "systemd-analyze verify:\n{}", ours.join("\n"));
    let mut security = Command::new("systemd-analyze");
    security.args([
        "security",
        "--offline=true",
        "--no-pager",
        "--threshold",
        EXPOSURE,
    ]);
    let path = workspace::root().join("calico-ebpf-userspace/packaging/calico-ebpf.service");
    command::output(security.arg(path)).map(drop)
}
