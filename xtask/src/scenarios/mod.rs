//! `cargo xtask scenarios`: what must happen to packets, and which tests show it.

mod check;
mod list;
mod named;
mod page;

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::headline;
use crate::test_report::TestReport;
use crate::workspace;
use check::{Run, Sent, is_possible};
use list::{FILE, Family, List};

/// From the workspace's root.
const PAGE: &str = "docs/scenarios.md";
/// The package of the rings in the runner's names.
const PACKAGE: &str = "calico-ebpf-tests::";

/// Prints the table of scenarios and their tests
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Writes it to docs/scenarios.md
    #[arg(long)]
    write: bool,
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let text = page::page(&List::read()?, &named::in_source()?);
    if arguments.write {
        fs::write(workspace::root().join(PAGE), text).context(PAGE)?;
    } else {
        write!(std::io::stdout().lock(), "{text}")?;
    }
    Ok(())
}

/// Checks that list, names of tests and the page agree.
///
/// # Errors
/// They do not, or one of them cannot be read.
pub(crate) fn check_source() -> Result<()> {
    let (list, named) = (List::read()?, named::in_source()?);
    tell(&check::of_source(&list, &named))?;
    let written = fs::read_to_string(workspace::root().join(PAGE)).context(PAGE)?;
    if written != page::page(&list, &named) {
        bail!("{PAGE} differs from {FILE} and the tests: run `cargo xtask scenarios --write`");
    }
    Ok(())
}

/// Where tests say what they sent.
#[derive(Debug)]
pub(crate) struct Evidence(PathBuf);

impl Evidence {
    /// Makes an empty place.
    ///
    /// # Errors
    /// The last run's cannot be removed.
    pub(crate) fn start() -> Result<Self> {
        let folder = workspace::target_dir()?.join("test-evidence");
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| folder.display().to_string())
            }
            _ => Ok(Self(folder)),
        }
    }

    /// Name and value of the variable that tells tests where it is.
    pub(crate) fn variable(&self) -> (&'static str, &Path) {
        ("CALICO_EBPF_EVIDENCE", &self.0)
    }

    /// Holds a run against the scenarios: a run of all tests has to show them all.
    ///
    /// # Errors
    /// It does not; what is missing has been printed.
    pub(crate) fn judge(&self, report: &TestReport, whole: bool) -> Result<()> {
        let (list, named) = (List::read()?, named::in_source()?);
        let of_rings = |case: &str| case.strip_prefix(PACKAGE).map(str::to_owned);
        let run = Run {
            passed: report
                .passed
                .iter()
                .filter_map(|case| of_rings(case))
                .map(|test| {
                    let sent = self.sent(&test);
                    (test, sent)
                })
                .collect(),
            failed: report
                .failed
                .iter()
                .filter_map(|failed| of_rings(&failed.case))
                .collect(),
            kernel: kernel()?,
        };
        let mut findings = check::of_run(&list, &named, &run, whole);
        if whole {
            findings.splice(0..0, check::of_source(&list, &named));
            for scenario in list
                .scenarios()
                .filter(|scenario| !is_possible(scenario, &run.kernel))
            {
                let needs = scenario.kernel.as_ref().map_or("", |kernel| &kernel.from);
                headline(&format!(
                    "scenario {} needs Linux {needs}: not asked for on {}",
                    scenario.number, run.kernel
                ));
            }
        }
        tell(&findings)?;
        if whole {
            let shown = list
                .scenarios()
                .filter(|scenario| scenario.later.is_none())
                .count();
            headline(&format!(
                "scenarios: {shown} of {} shown, by {} tests; the others are left for later",
                list.scenarios().count(),
                named.len()
            ));
        }
        Ok(())
    }

    fn sent(&self, test: &str) -> Sent {
        let Some((ring, test)) = test.split_once(' ') else {
            return Sent::default();
        };
        let there = |kind: &str| self.0.join(ring).join(format!("{test}.{kind}")).exists();
        let families = [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")]
            .into_iter()
            .filter_map(|(family, kind)| there(kind).then_some(family))
            .collect();
        Sent {
            anything: ["ipv4", "ipv6", "other"].into_iter().any(there),
            families,
        }
    }
}

fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("/proc/sys/kernel/osrelease")?;
    Ok(release.trim().to_owned())
}

fn tell(findings: &[String]) -> Result<()> {
    for finding in findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("scenarios: 1 finding"),
        count => bail!("scenarios: {count} findings"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_agrees_with_the_list_and_the_tests() {
        check_source().expect("`cargo xtask scenarios --write`");
    }

    #[test]
    fn what_a_test_sent_is_what_it_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("host")).expect("a writable folder");
        for file in ["m::a.ipv6", "m::b.other"] {
            fs::write(folder.path().join("host").join(file), "").expect("a writable folder");
        }
        let evidence = Evidence(folder.path().to_owned());
        let a = evidence.sent("host m::a");
        assert_eq!(
            (a.families.into_iter().collect::<Vec<_>>(), a.anything),
            (vec![Family::Ipv6], true)
        );
        let b = evidence.sent("host m::b");
        assert!(b.families.is_empty() && b.anything);
        assert_eq!(evidence.sent("program m::a"), Sent::default());
    }
}
