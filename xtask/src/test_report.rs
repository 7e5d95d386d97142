//! What a test run leaves for the test report in the documentation: `target/test-report/<name>.json`.
//!
//!     {"name": "fuel-kernel", "started": "2026-11-26T10:00:00Z", "seconds": 312,
//!      "passed": ["good kernel"], "failed": [{"case": "bad kernel", "why": "..."}],
//!      "skipped": [{"case": "real Fuel master", "why": "..."}], "versions": {"qemu": "7.2.22"}}

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{command, workspace};

/// One run of one kind of tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TestReport {
    /// The kind; also the file's name: letters, digits and dashes.
    pub(crate) name: String,
    /// RFC 3339, UTC, whole seconds.
    pub(crate) started: String,
    pub(crate) seconds: u64,
    /// Names of cases, as the test plan's column "Evidence" gives them.
    pub(crate) passed: Vec<String>,
    pub(crate) failed: Vec<Reason>,
    /// What was not run.
    pub(crate) skipped: Vec<Reason>,
    /// What was tested and what tested it.
    pub(crate) versions: BTreeMap<String, String>,
    #[serde(skip)]
    clock: Option<Instant>,
}

/// A case that did not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reason {
    pub(crate) case: String,
    /// One line.
    pub(crate) why: String,
}

impl TestReport {
    /// Begins a report now, with this project's version and commit.
    pub(crate) fn start(name: &str) -> Self {
        let now = OffsetDateTime::now_utc().replace_nanosecond(0);
        let mut report = Self {
            name: name.to_owned(),
            started: now
                .ok()
                .and_then(|now| now.format(&Rfc3339).ok())
                .unwrap_or_default(),
            clock: Some(Instant::now()),
            ..Self::default()
        };
        report.version("calico-ebpf", env!("CARGO_PKG_VERSION"));
        if let Some(commit) = commit() {
            report.version("commit", &commit);
        }
        if let Ok(kernel) = fs::read_to_string("/proc/sys/kernel/osrelease") {
            report.version("kernel of the machine", kernel.trim());
        }
        report
    }

    /// Notes the version of something that takes part.
    pub(crate) fn version(&mut self, of: &str, version: &str) {
        self.versions.insert(of.to_owned(), version.to_owned());
    }

    /// Notes a case that passed.
    pub(crate) fn passed(&mut self, case: &str) {
        self.passed.push(case.to_owned());
    }

    /// Notes a case that failed, and why.
    pub(crate) fn failed(&mut self, case: &str, why: &str) {
        self.failed.push(Reason::new(case, why));
    }

    /// Notes a case that was not run, and why.
    pub(crate) fn skipped(&mut self, case: &str, why: &str) {
        self.skipped.push(Reason::new(case, why));
    }

    /// Notes the case by its result, and gives the result back.
    ///
    /// # Errors
    /// That of `result`.
    pub(crate) fn note<T>(&mut self, case: &str, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.passed(case),
            Err(error) => self.failed(case, &format!("{error:#}")),
        }
        result
    }

    /// Takes over the cases of the test runner's last run, as `binary test`.
    ///
    /// # Errors
    /// There is no such file, or it is not the runner's.
    pub(crate) fn take_junit(&mut self, path: &Path) -> Result<()> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let run: Run = quick_xml::de::from_str(&text).with_context(|| path.display().to_string())?;
        for suite in run.suites {
            for case in suite.cases {
                let name = format!("{} {}", suite.name, case.name);
                match case.failure.or(case.error) {
                    None => self.passed(&name),
                    Some(failure) => self.failed(&name, failure.message.as_deref().unwrap_or("no message")),
                }
            }
        }
        Ok(())
    }

    /// Ends the report and writes its file, in place of the last run's; also a run that failed is to be written.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(mut self) -> Result<()> {
        if let Some(clock) = self.clock {
            self.seconds = clock.elapsed().as_secs();
        }
        self.write_into(&directory()?)
    }

    /// Returns the reports of the last runs, by name.
    ///
    /// # Errors
    /// A file cannot be read or is no report.
    pub(crate) fn read_all(directory: &Path) -> Result<Vec<Self>> {
        let mut reports = Vec::new();
        if !directory.exists() {
            return Ok(reports);
        }
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                reports.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
            }
        }
        reports.sort_by(|left: &Self, right| left.name.cmp(&right.name));
        Ok(reports)
    }

    fn write_into(&self, directory: &Path) -> Result<()> {
        let path = directory.join(format!("{}.json", self.name));
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

/// What the runner's XML says.
#[derive(Deserialize)]
struct Run {
    #[serde(rename = "testsuite", default)]
    suites: Vec<Suite>,
}

#[derive(Deserialize)]
struct Suite {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "testcase", default)]
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    #[serde(rename = "@name")]
    name: String,
    failure: Option<Failure>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "@message")]
    message: Option<String>,
}

impl Reason {
    fn new(case: &str, why: &str) -> Self {
        Self {
            case: case.to_owned(),
            why: why.split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }
}

/// Returns the folder of the last runs' files.
pub(crate) fn directory() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("test-report"))
}

/// Returns the commit of the source, with a mark when files differ from it.
fn commit() -> Option<String> {
    let mut git = command::command("git");
    let text = command::probe(git.args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]))?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_cases_are_taken_over_with_their_results() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("junit.xml");
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="2" failures="1" errors="0" time="1.5">
    <testsuite name="a::host" tests="2" disabled="0" errors="0" failures="1">
        <testcase name="x::y" classname="a::host" timestamp="2026-11-26T10:00:00+00:00" time="1.0">
        </testcase>
        <testcase name="x::z" classname="a::host" time="0.5">
            <failure message="thread &quot;x&quot; panicked" type="test failure with exit code 101">why</failure>
            <system-err>words</system-err>
        </testcase>
    </testsuite>
</testsuites>"#;
        fs::write(&path, text).expect("a writable folder");
        let mut report = TestReport::start("tests");
        report.take_junit(&path).expect("the runner's form");
        assert_eq!(report.passed, ["a::host x::y"]);
        assert_eq!(
            report.failed,
            [Reason::new("a::host x::z", "thread \"x\" panicked")]
        );
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let mut report = TestReport::start("fuel-kernel");
        report.version("qemu", "7.2.22");
        report.passed("good kernel");
        report.skipped("real Fuel master", "none can be had here");
        let result: Result<()> = report.note("bad kernel", Err(anyhow::anyhow!("no\nway back")));
        assert!(result.is_err());
        report.write_into(directory.path()).expect("a writable folder");
        let text = fs::read_to_string(directory.path().join("fuel-kernel.json")).expect("a file");
        let read: TestReport = serde_json::from_str(&text).expect("a report");
        assert_eq!(read.failed, [Reason::new("bad kernel", "no way back")]);
        assert!(
            read.started.ends_with('Z') && read.started.len() == 20,
            "{}",
            read.started
        );
        let all = TestReport::read_all(directory.path()).expect("readable reports");
        assert_eq!(all, [read]);
    }
}
