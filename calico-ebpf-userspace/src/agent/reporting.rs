//! The report, for the command line and for whoever in the agent wants it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::cluster::Cluster;
use super::configuring::Configuring;
use super::report_file::ReportFile;
use crate::calc::effective::EffectiveState;
use crate::config::values::DatastoreType;
use crate::config::{ParameterValue, Source, Warning};
use crate::dataplane::apply::{Dataplane, Outcome};
use crate::datastore::feed::{State, Update};
use crate::model::name::ResourceKey;
use crate::model::problem::Problem;
use crate::model::resource::Snapshot;
use crate::report::{
    AgentReport, ConfigurationReport, DatastoreReport, NotEnforcedReport, ParameterReport,
    ParameterWarningReport, ProblemReport, REPORT_FILE, StatusReport,
};

/// The report and where it goes.
pub(super) struct Reporter {
    report: AgentReport,
    cluster: Cluster,
    /// What the report's problems were made of.
    problems: Arc<Vec<Problem>>,
    state: State,
    /// When the oldest change arrived that is not in force yet.
    waiting_since: Option<Instant>,
    sender: watch::Sender<Arc<AgentReport>>,
    file: ReportFile,
}

impl Reporter {
    /// Begins a report. A report of an earlier run stays in the file until the first [`Self::publish`].
    pub(super) fn new(configuring: &Configuring) -> Self {
        let report = AgentReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: now(),
            datastore: DatastoreReport {
                resyncs_started: 1,
                ..DatastoreReport::default()
            },
            ..AgentReport::default()
        };
        let (sender, receiver) = watch::channel(Arc::default());
        let mut reporter = Self {
            report,
            cluster: Cluster::default(),
            problems: Arc::default(),
            state: State::Resync,
            waiting_since: None,
            sender,
            file: ReportFile::follow(configuring.config().run_dir.join(REPORT_FILE), receiver),
        };
        reporter.configure(configuring);
        reporter
    }

    /// Returns the report as it is published from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<AgentReport>> {
        self.sender.subscribe()
    }

    /// Tells the configuration in force.
    pub(super) fn configure(&mut self, configuring: &Configuring) {
        let config = configuring.config();
        self.report.configuration = Arc::new(configuration_report(configuring));
        self.report.hostname.clone_from(&config.felix_hostname);
        self.report.pin_dir = config.bpf_pin_dir.display().to_string();
        let (kind, location) = match config.datastore_type {
            DatastoreType::File => ("file", config.datastore_dir.display().to_string()),
            DatastoreType::Etcdv3 => ("etcdv3", config.etcd_endpoints.join(",")),
        };
        kind.clone_into(&mut self.report.datastore.kind);
        self.report.datastore.location = location;
    }

    /// Tells what came from the datastore. It is not part of `snapshot` yet.
    pub(super) fn tell_datastore(&mut self, update: &Update, snapshot: &Snapshot) {
        self.cluster.follow(snapshot, &update.changes);
        self.report.cluster = self.cluster.report();
        self.waiting_since = self.waiting_since.or(update.arrived);
        self.tell_state(update);
        let datastore = &mut self.report.datastore;
        datastore.revision = update.status.revision;
        datastore.objects = self.cluster.objects();
        datastore.endpoint.clone_from(&update.status.endpoint);
        if !Arc::ptr_eq(&self.problems, &update.problems) {
            self.problems = Arc::clone(&update.problems);
            self.report.problems = Arc::new(update.problems.iter().map(problem_report).collect());
            let mut counts = BTreeMap::new();
            for problem in update.problems.iter() {
                *counts.entry(problem.consequence.name().to_owned()).or_default() += 1;
            }
            self.report.problems_by_consequence = counts;
        }
    }

    fn tell_state(&mut self, update: &Update) {
        let (state, now) = (update.status.state, now());
        let datastore: &mut DatastoreReport = &mut self.report.datastore;
        if self.state != state && state == State::Resync {
            datastore.resyncs_started += 1;
        }
        datastore.out_of_sync_since = match state {
            State::InSync => None,
            State::WaitForReady | State::Resync | State::Unreachable => {
                datastore.out_of_sync_since.or(Some(now))
            }
        };
        if state == State::Unreachable && !update.status.reason.is_empty() {
            datastore.last_error.clone_from(&update.status.reason);
            datastore.last_error_at = Some(now);
        }
        state.name().clone_into(&mut datastore.state);
        datastore.reason.clone_from(&update.status.reason);
        self.state = state;
    }

    /// Returns whether the datastore is followed: what is not in it is not there.
    pub(super) fn is_in_sync(&self) -> bool {
        self.state == State::InSync
    }

    /// Tells the state of the dataplane after a pass.
    pub(super) fn tell_dataplane(
        &mut self,
        dataplane: &Dataplane,
        desired: &Arc<EffectiveState>,
        outcome: Outcome,
    ) {
        let epoch = self.report.epoch;
        dataplane.describe(desired, &mut self.report);
        if self.report.epoch != epoch {
            self.report.in_force_at = now();
        }
        if outcome.dirty.is_empty()
            && dataplane.enforces(desired)
            && let Some(since) = self.waiting_since.take()
        {
            self.report.lag_milliseconds =
                Some(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
        }
        self.report.not_enforced = desired
            .not_enforced
            .iter()
            .map(|(key, what)| not_enforced_report(key, what))
            .collect();
        self.tell_dirty(outcome.dirty);
        self.report.moved_to_head = dataplane.moved_to_head;
        self.report.tables.apply_milliseconds = dataplane.apply_milliseconds;
        self.report.tables.amendments = dataplane.amendments;
    }

    /// Tells what could not be written: in the log once, until it could be.
    fn tell_dirty(&mut self, dirty: Vec<String>) {
        for item in dirty.iter().filter(|item| !self.report.dirty.contains(item)) {
            tracing::warn!(what = item, "not in the kernel, retried");
        }
        for item in self.report.dirty.iter().filter(|item| !dirty.contains(item)) {
            tracing::info!(what = item, "no longer outstanding");
        }
        self.report.dirty = dirty;
    }

    /// Tells what is written back for Neutron.
    pub(super) fn tell_status(&mut self, status: StatusReport) {
        self.report.status = status;
    }

    /// Returns the report as it is now.
    pub(super) fn report(&self) -> &AgentReport {
        &self.report
    }

    /// Gives the report out if it has changed.
    pub(super) fn publish(&mut self) {
        self.report.updated_at = self.sender.borrow().updated_at;
        if **self.sender.borrow() == self.report {
            return;
        }
        self.report.updated_at = now();
        self.sender.send_replace(Arc::new(self.report.clone()));
    }

    /// Waits until the file has what was last published.
    pub(super) async fn finish(self) {
        drop(self.sender);
        self.file.finish().await;
    }
}

fn configuration_report(configuring: &Configuring) -> ConfigurationReport {
    let values = configuring.resolved().values.iter();
    let set = values.filter(|value| value.source != Source::Default);
    ConfigurationReport {
        parameters: set.map(parameter_report).collect(),
        warnings: configuring.warnings().map(warning_report).collect(),
    }
}

fn parameter_report(value: &ParameterValue) -> ParameterReport {
    ParameterReport {
        name: value.name.to_owned(),
        value: value.value.clone(),
        source: value.source.name().to_owned(),
        place: value.place.clone(),
        without_effect: value.without_effect.clone(),
    }
}

fn warning_report(warning: &Warning) -> ParameterWarningReport {
    ParameterWarningReport {
        trouble: warning.trouble.name().to_owned(),
        name: warning.name.clone(),
        place: warning.place.clone(),
        text: warning.text.clone(),
    }
}

fn problem_report(problem: &Problem) -> ProblemReport {
    let object = problem.object.as_ref();
    ProblemReport {
        kind: object.map_or("", |key| key.kind.as_str()).to_owned(),
        namespace: object.map_or_else(String::new, |key| key.namespace.clone()),
        name: object.map_or_else(String::new, |key| key.name.clone()),
        field: problem.field.clone(),
        found: problem.found.clone(),
        expected: problem.expected.clone(),
        consequence: problem.consequence.name().to_owned(),
        place: problem
            .place
            .as_ref()
            .map_or_else(String::new, |place| format!("{}:{}", place.file, place.line)),
    }
}

fn not_enforced_report(key: &ResourceKey, what: &str) -> NotEnforcedReport {
    NotEnforcedReport {
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        what: what.to_owned(),
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
