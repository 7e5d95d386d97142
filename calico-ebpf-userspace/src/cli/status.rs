//! `status`: whether policy is in force, and what was left out.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure};
use super::output::{OutputArguments, Page, Tone, grouped, span};
use crate::observe::pinned::PinnedMaps;
use crate::observe::{is_running, read_report};
use crate::report::AgentReport;

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf status
  calico-ebpf status -o json | jq .problems
  calico-ebpf status >/dev/null || echo policy is not fully in force

Ends with 1 when the agent does not run, the datastore is not in sync, or kernel state could not be written.
A stopped agent leaves the dataplane in force: changes are not followed, but every verdict stays as it was.";

/// Lines of a list before the rest is counted.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Shows lists in full
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// The report and what can be seen beside it.
#[derive(Debug, Serialize)]
struct Status {
    /// Whether changes are followed now and everything is in the kernel.
    healthy: bool,
    /// Whether the process that wrote the report runs.
    running: bool,
    /// Packets dropped for any reason; `null` when the maps cannot be read.
    dropped_packets: Option<u64>,
    #[serde(flatten)]
    report: AgentReport,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    let report = read_report(&config.run_dir)?;
    let running = is_running(&report);
    let counters = PinnedMaps::under(&config.bpf_pin_dir).counters().ok();
    let dropped = counters.map(|counters| counters.dropped.iter().map(|value| value.packets).sum());
    let status = Status {
        healthy: running
            && report.datastore.state == "in-sync"
            && report.dirty.is_empty()
            && report.epoch != 0,
        running,
        dropped_packets: dropped,
        report,
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    arguments
        .output
        .show(&status, |page| status.put_on(page, now, arguments.all))?;
    Ok(if status.healthy { Ending::Good } else { Ending::Bad })
}

impl Status {
    fn put_on(&self, page: &mut Page, now: u64, all: bool) {
        let report = &self.report;
        let ago = |then: u64| span(now.saturating_sub(then));
        let agent = if self.running {
            (
                Tone::Good,
                format!("running, pid {}, for {}", report.pid, ago(report.started_at)),
            )
        } else {
            (
                Tone::Bad,
                "not running; the dataplane stays as it was, changes are not followed".to_owned(),
            )
        };
        let datastore = &report.datastore;
        let in_sync = if datastore.state == "in-sync" {
            Tone::Good
        } else {
            Tone::Attention
        };
        let tables = &report.tables;
        let dropped = self
            .dropped_packets
            .map_or_else(|| "unknown (not root?)".to_owned(), grouped);
        page.facts(&[
            ("Agent", agent.0, agent.1),
            (
                "Host",
                Tone::Plain,
                format!("{}, calico-ebpf {}", report.hostname, report.version),
            ),
            (
                "Datastore",
                in_sync,
                format!(
                    "{} {}: {}, {} objects, revision {}",
                    datastore.kind,
                    datastore.location,
                    datastore.state,
                    datastore.objects,
                    datastore.revision
                ),
            ),
            ("Endpoints", self.endpoint_tone(), self.endpoint_counts()),
            (
                "Policy",
                if report.epoch == 0 { Tone::Bad } else { Tone::Plain },
                format!(
                    "version {}, {} ago; {} policy sets, {} address classes, {} port classes, {} cells",
                    report.epoch,
                    ago(report.updated_at),
                    report.policy_sets.len(),
                    tables.address_classes,
                    tables.port_classes,
                    grouped(tables.cells)
                ),
            ),
            (
                "Table",
                if tables.over_budget > 0 {
                    Tone::Bad
                } else {
                    Tone::Plain
                },
                format!(
                    "{} of {} lines; {} policy sets over budget",
                    grouped(tables.lines.into()),
                    grouped(tables.max_lines.into()),
                    tables.over_budget
                ),
            ),
            (
                "Dropped",
                Tone::Plain,
                format!("{dropped} packets; `calico-ebpf counters` says why"),
            ),
        ]);
        list(
            page,
            "Not in the kernel yet (retried)",
            Tone::Bad,
            &report.dirty,
            all,
        );
        list(page, "Left out", Tone::Attention, &report.problems, all);
        list(
            page,
            "Read but not enforced",
            Tone::Attention,
            &report.not_enforced,
            all,
        );
    }

    fn endpoint_counts(&self) -> String {
        let count = |state: &str| {
            self.report
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.state == state)
                .count()
        };
        let words = ["up", "waiting", "down", "inactive"].map(|state| (state, count(state)));
        let parts: Vec<String> = words
            .iter()
            .filter(|(state, count)| *state == "up" || *count > 0)
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        parts.join(", ")
    }

    fn endpoint_tone(&self) -> Tone {
        if self
            .report
            .endpoints
            .iter()
            .all(|endpoint| endpoint.state == "up")
        {
            Tone::Good
        } else {
            Tone::Attention
        }
    }
}

fn list(page: &mut Page, heading: &str, tone: Tone, lines: &[String], all: bool) {
    if lines.is_empty() {
        return;
    }
    page.heading(&format!("{heading}: {}", lines.len()));
    let shown = if all { lines.len() } else { SHOWN };
    for line in lines.iter().take(shown) {
        page.toned(tone, line);
    }
    if lines.len() > shown {
        page.toned(
            Tone::Quiet,
            &format!("... and {} more; --all shows them", lines.len() - shown),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{DatastoreReport, EndpointReport};

    fn status(running: bool) -> Status {
        let endpoint = EndpointReport {
            state: "up".to_owned(),
            ..EndpointReport::default()
        };
        let report = AgentReport {
            version: "0.1.0".to_owned(),
            pid: 42,
            started_at: 1000,
            updated_at: 1060,
            hostname: "compute-1".to_owned(),
            datastore: DatastoreReport {
                kind: "file".to_owned(),
                location: "/etc/calico/manifests".to_owned(),
                state: "in-sync".to_owned(),
                reason: String::new(),
                revision: 3,
                objects: 12,
                ..DatastoreReport::default()
            },
            epoch: 7,
            endpoints: vec![endpoint],
            problems: vec!["web.yaml:3: bad CIDR".to_owned(); 22],
            ..AgentReport::default()
        };
        Status {
            healthy: running,
            running,
            dropped_packets: Some(1234),
            report,
        }
    }

    #[test]
    fn a_healthy_agent_is_told_in_a_few_lines() {
        let mut page = Page::plain();
        status(true).put_on(&mut page, 1090, false);
        insta::assert_snapshot!(page.text());
    }

    #[test]
    fn a_stopped_agent_is_told_with_what_stays() {
        let mut page = Page::plain();
        status(false).put_on(&mut page, 1090, true);
        assert!(
            page.text().contains("the dataplane stays as it was"),
            "{}",
            page.text()
        );
        assert!(!page.text().contains("more; --all"), "{}", page.text());
    }
}
