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
        let mut facts = vec![
            self.agent(now),
            (
                "Host",
                Tone::Plain,
                format!("{}, calico-ebpf {}", report.hostname, report.version),
            ),
        ];
        facts.extend(self.datastore(now));
        facts.push(("Endpoints", self.endpoint_tone(), self.endpoint_counts()));
        facts.extend(self.policy(now));
        facts.push(self.written_back(now));
        let dropped = self
            .dropped_packets
            .map_or_else(|| "unknown (not root?)".to_owned(), grouped);
        facts.push((
            "Dropped",
            Tone::Plain,
            format!("{dropped} packets; `calico-ebpf counters` says why"),
        ));
        page.facts(&facts);
        list(
            page,
            "Not in the kernel yet (retried)",
            Tone::Bad,
            &report.dirty,
            all,
        );
        list(
            page,
            "Parameters not followed as written",
            Tone::Attention,
            &report.configuration.warnings,
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

    fn agent(&self, now: u64) -> Fact {
        if self.running {
            let (pid, age) = (self.report.pid, ago(now, self.report.started_at));
            ("Agent", Tone::Good, format!("running, pid {pid}, for {age}"))
        } else {
            let text = "not running; the dataplane stays as it was, changes are not followed";
            ("Agent", Tone::Bad, text.to_owned())
        }
    }

    fn datastore(&self, now: u64) -> Vec<Fact> {
        let datastore = &self.report.datastore;
        let tone = if datastore.state == "in-sync" {
            Tone::Good
        } else {
            Tone::Attention
        };
        let since = datastore.out_of_sync_since.map_or_else(String::new, |since| {
            format!(", not followed for {}", ago(now, since))
        });
        let at = if datastore.endpoint.is_empty() || datastore.endpoint == datastore.location {
            String::new()
        } else {
            format!(" at {}", datastore.endpoint)
        };
        let text = format!(
            "{} {}: {}{at}{since}; {} objects, revision {}",
            datastore.kind, datastore.location, datastore.state, datastore.objects, datastore.revision
        );
        let mut facts = vec![("Datastore", tone, text)];
        if !datastore.reason.is_empty() {
            facts.push(("", tone, datastore.reason.clone()));
        } else if let (false, Some(at)) = (datastore.last_error.is_empty(), datastore.last_error_at) {
            let text = format!("last trouble {} ago: {}", ago(now, at), datastore.last_error);
            facts.push(("", Tone::Quiet, text));
        }
        facts
    }

    fn policy(&self, now: u64) -> Vec<Fact> {
        let (report, tables) = (&self.report, &self.report.tables);
        let lag = report.lag_milliseconds.map_or_else(String::new, |lag| {
            format!(", in force {lag} ms after the last change")
        });
        vec![
            (
                "Policy",
                if report.epoch == 0 { Tone::Bad } else { Tone::Plain },
                format!(
                    "version {} for {}{lag}; {} policy sets, {} address classes, {} port classes, {} cells",
                    report.epoch,
                    ago(now, report.in_force_at),
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
                    "{} of {} lines; {} policy sets by the fall-back, {} over budget",
                    grouped(tables.lines.into()),
                    grouped(tables.max_lines.into()),
                    tables.fall_back,
                    tables.over_budget
                ),
            ),
        ]
    }

    /// What Neutron is told.
    fn written_back(&self, now: u64) -> Fact {
        let status = &self.report.status;
        if !status.enabled {
            return (
                "Neutron",
                Tone::Plain,
                format!("is told nothing: {}", status.reason),
            );
        }
        let liveness = status.liveness_written_at.map_or_else(
            || "liveness not written yet".to_owned(),
            |at| {
                format!(
                    "liveness written {} ago, expires after {} s",
                    ago(now, at),
                    status.liveness_ttl_seconds
                )
            },
        );
        let text = format!(
            "{liveness}; {} endpoints told, {} pending",
            status.endpoints_written, status.endpoints_pending
        );
        if status.error.is_empty() {
            return ("Neutron", Tone::Good, text);
        }
        ("Neutron", Tone::Bad, format!("{text}; {}", status.error))
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

/// Label, tone and value of one line.
type Fact = (&'static str, Tone, String);

fn ago(now: u64, then: u64) -> String {
    span(now.saturating_sub(then))
}

fn list(page: &mut Page, heading: &str, tone: Tone, lines: &[impl ToString], all: bool) {
    if lines.is_empty() {
        return;
    }
    page.heading(&format!("{heading}: {}", lines.len()));
    let shown = if all { lines.len() } else { SHOWN };
    for line in lines.iter().take(shown) {
        page.toned(tone, &line.to_string());
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
    use std::sync::Arc;

    use crate::report::{
        ConfigurationReport, DatastoreReport, EndpointReport, NotEnforcedReport, ParameterWarningReport,
        ProblemReport, StatusReport,
    };

    fn status(running: bool) -> Status {
        let endpoint = EndpointReport {
            state: "up".to_owned(),
            ..EndpointReport::default()
        };
        let problem = ProblemReport {
            kind: "NetworkPolicy".to_owned(),
            namespace: "openstack".to_owned(),
            name: "web".to_owned(),
            field: "spec.ingress[0].source.nets[0]".to_owned(),
            found: "\"10.0.0.0/40\"".to_owned(),
            expected: "a prefix".to_owned(),
            consequence: "rule-skipped".to_owned(),
            place: "web.yaml:3".to_owned(),
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
            in_force_at: 1030,
            lag_milliseconds: Some(21),
            status: StatusReport {
                reason: "the file datastore has no place for it".to_owned(),
                ..StatusReport::default()
            },
            endpoints: vec![endpoint],
            problems: Arc::new(vec![problem; 22]),
            configuration: Arc::new(ConfigurationReport {
                warnings: vec![ParameterWarningReport {
                    trouble: "unknown".to_owned(),
                    name: "NoSuchThing".to_owned(),
                    place: "FelixConfiguration(default): spec.noSuchThing".to_owned(),
                    text: "no such parameter".to_owned(),
                }],
                ..ConfigurationReport::default()
            }),
            not_enforced: vec![NotEnforcedReport {
                kind: "WorkloadEndpoint".to_owned(),
                namespace: "openstack".to_owned(),
                name: "web".to_owned(),
                what: "qosControls".to_owned(),
            }],
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

    #[test]
    fn an_agent_cut_off_from_etcd_tells_since_when_and_why() {
        let mut status = status(true);
        status.report.datastore = DatastoreReport {
            kind: "etcdv3".to_owned(),
            location: "http://etcd:2379".to_owned(),
            state: "unreachable".to_owned(),
            reason: "connection refused".to_owned(),
            out_of_sync_since: Some(1000),
            ..DatastoreReport::default()
        };
        status.report.status = StatusReport {
            enabled: true,
            liveness_written_at: Some(1010),
            liveness_ttl_seconds: 90,
            endpoints_written: 1,
            endpoints_pending: 2,
            error: "connection refused".to_owned(),
            ..StatusReport::default()
        };
        let mut page = Page::plain();
        status.put_on(&mut page, 1090, false);
        let text = page.text();
        for expected in [
            "unreachable, not followed for 1m 30s",
            "liveness written 1m 20s ago, expires after 90 s; 1 endpoints told, 2 pending; connection refused",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
