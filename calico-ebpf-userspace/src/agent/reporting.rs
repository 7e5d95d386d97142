//! Writes the report, for the command line and for whoever in the agent wants it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::calc::effective::EffectiveState;
use crate::config::values::{Config, DatastoreType};
use crate::dataplane::apply::Dataplane;
use crate::dataplane::state_file::write_by_rename;
use crate::datastore::feed::{State, Update};
use crate::report::{AgentReport, DatastoreReport, REPORT_FILE};

/// The report and where it goes.
pub(super) struct Reporter {
    path: PathBuf,
    report: AgentReport,
    sender: watch::Sender<Arc<AgentReport>>,
}

impl Reporter {
    /// Begins a report. A report of an earlier run stays in the file until the first [`Self::write`].
    pub(super) fn new(config: &Config) -> Self {
        let report = AgentReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: now(),
            ..AgentReport::default()
        };
        let (sender, _) = watch::channel(Arc::default());
        let mut reporter = Self {
            path: config.run_dir.join(REPORT_FILE),
            report,
            sender,
        };
        reporter.configure(config);
        reporter
    }

    /// Returns the report as it is written from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<AgentReport>> {
        self.sender.subscribe()
    }

    /// Tells the configuration in force.
    pub(super) fn configure(&mut self, config: &Config) {
        self.report.hostname.clone_from(&config.felix_hostname);
        self.report.pin_dir = config.bpf_pin_dir.display().to_string();
        let (kind, location) = match config.datastore_type {
            DatastoreType::File => ("file", config.datastore_dir.display().to_string()),
            DatastoreType::Etcdv3 => ("etcdv3", config.etcd_endpoints.join(",")),
        };
        kind.clone_into(&mut self.report.datastore.kind);
        self.report.datastore.location = location;
    }

    /// Tells the state of the datastore, which has so many valid objects.
    pub(super) fn tell_datastore(&mut self, update: &Update, objects: usize) {
        let DatastoreReport {
            kind,
            location,
            out_of_sync_since,
            ..
        } = self.report.datastore.clone();
        let is_in_sync = update.status.state == State::InSync;
        self.report.datastore = DatastoreReport {
            kind,
            location,
            endpoint: update.status.endpoint.clone(),
            out_of_sync_since: (!is_in_sync).then(|| out_of_sync_since.unwrap_or_else(now)),
            state: update.status.state.name().to_owned(),
            reason: update.status.reason.clone(),
            revision: update.status.revision,
            objects: objects as u64,
        };
        self.report.problems = update.problems.iter().map(ToString::to_string).collect();
        let mut counts = BTreeMap::new();
        for problem in update.problems.iter() {
            *counts.entry(problem.consequence.name().to_owned()).or_default() += 1;
        }
        self.report.problems_by_consequence = counts;
    }

    /// Tells the state of the dataplane.
    pub(super) fn tell_dataplane(
        &mut self,
        dataplane: &Dataplane,
        desired: &EffectiveState,
        dirty: Vec<String>,
    ) {
        dataplane.describe(desired, &mut self.report);
        self.report.not_enforced = desired
            .not_enforced
            .iter()
            .map(|(key, what)| format!("{key}: {what}"))
            .collect();
        self.report.dirty = dirty;
        self.report.moved_to_head = dataplane.moved_to_head;
        self.report.tables.apply_milliseconds = dataplane.apply_milliseconds;
        self.report.tables.amendments = dataplane.amendments;
    }

    /// Writes the report if it has changed.
    pub(super) fn write(&mut self) {
        self.report.updated_at = self.sender.borrow().updated_at;
        if **self.sender.borrow() == self.report {
            return;
        }
        self.report.updated_at = now();
        let written = serde_json::to_vec(&self.report)
            .map_err(std::io::Error::other)
            .and_then(|text| write_by_rename(&self.path, &text));
        if let Err(error) = written {
            tracing::error!(file = %self.path.display(), %error, "report not written");
        }
        self.sender.send_replace(Arc::new(self.report.clone()));
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
