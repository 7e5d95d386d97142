//! The agent: one task owns the dataplane, hears what changes, and makes the kernel follow.
//!
//! Stopping it, however, leaves the dataplane in force.

mod cluster;
mod configuring;
mod program_log;
mod report_file;
mod reporting;
mod serving;
mod settling;
mod writing_back;

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::calc::calculation::Calculation;
use crate::calc::effective::EffectiveState;
use crate::calc::resolve::CalcOptions;
use crate::config::values::{Config, DatastoreType};
use crate::config::{Layers, concerns_parameters};
use crate::dataplane::apply::{Dataplane, Part};
use crate::dataplane::netlink::{self, KernelChange, KernelChanges};
use crate::dataplane::pins::{HostLock, Pins};
use crate::dataplane::sweep::{FlowSweeper, Swept};
use crate::datastore::feed::{Feed, Update};
use crate::datastore::{etcd, file};
use crate::etcd::Etcd;
use crate::logging::LogControl;
use crate::model::name::Kind;
use crate::model::resource::{Resource, Snapshot, apply_changes, changes_between};
use configuring::Configuring;
use reporting::Reporter;
use serving::Serving;
use settling::Settling;
use writing_back::WritingBack;

/// Changes in the kernel that come together are followed together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often programs on taps and the host's settings are looked at: the kernel does not tell when they change.
const GUARD_INTERVAL: Duration = Duration::from_secs(2);
/// How often a workload that is expected by live migration is looked for: what passes before its route is there is
/// lost, and a look is one map look-up.
const ARRIVAL_INTERVAL: Duration = Duration::from_millis(50);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Processors that compiling a table, and loading the programs, may have at once.
const MOST_PROCESSORS: usize = 8;
/// Stands for "never" where a time is needed.
const NEVER: Duration = Duration::from_hours(365 * 24);

/// Runs until `stop`. The dataplane stays in force afterwards.
///
/// # Errors
/// When another agent runs, when the kernel lacks something, or when going on makes no sense.
pub async fn run(layers: Layers, log: LogControl, stop: CancellationToken) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    limit_processors();
    let configuring = Configuring::new(layers, log)?;
    let _lock = HostLock::take(&configuring.config().run_dir)?;
    let mut reporter = Reporter::new(&configuring);
    let ended = Box::pin(follow(configuring, started, &mut reporter, &stop)).await;
    reporter.finish().await;
    ended
}

/// Lets what is worked out in parallel have some of the host's processors only: the workloads want them, too. Before
/// anything is, and before this thread is bound to a processor: others begin with what it may use.
pub fn limit_processors() {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(processors.min(MOST_PROCESSORS));
    if let Err(error) = pool
        .thread_name(|index| format!("compute-{index}"))
        .build_global()
    {
        tracing::debug!(%error, "the number of threads stays as it is");
    }
}

/// Follows the datastore until `stop`.
async fn follow(
    mut configuring: Configuring,
    started: std::time::Instant,
    reporter: &mut Reporter,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let etcd = match configuring.config().datastore_type {
        DatastoreType::File => None,
        DatastoreType::Etcdv3 => Some(Etcd::new(configuring.config())),
    };
    let mut feed = match &etcd {
        None => file::watch_directory(configuring.config().datastore_dir.clone(), stop.clone()),
        Some(etcd) => etcd::watch(etcd, stop.clone()),
    };
    let Some(mut snapshot) = first_snapshot(&mut feed, reporter, stop).await? else {
        return Ok(());
    };
    configuring.begin(&snapshot)?;
    refuse_host_endpoints(configuring.config(), &snapshot)?;
    let mut status = WritingBack::start(configuring.config(), etcd, started);
    let mut serving = Serving::default();
    let mut calculation = None;
    tracing::info!(objects = snapshot.len(), "the datastore was read as a whole");
    loop {
        let config = configuring.config().clone();
        status.configure(&config);
        reporter.configure(&configuring);
        serving.configure(&config, &reporter.subscribe()).await;
        let calculation_now = calculation_for(calculation.take(), calc_options(&config), &snapshot);
        let ended = Work::start(snapshot, calculation_now, &mut configuring, reporter, &mut status)
            .await?
            .run(&mut feed, stop)
            .await?;
        match ended {
            Ended::Stopped => return Ok(()),
            Ended::Reconfigured(newest, last) => {
                snapshot = newest;
                calculation = Some(last);
            }
        }
        tracing::info!("configuration has changed in the datastore, starting anew in place");
    }
}

/// Waits for the whole datastore: nothing is written to the kernel before. `None` when stopped.
async fn first_snapshot(
    feed: &mut Feed,
    reporter: &mut Reporter,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Snapshot>> {
    let mut snapshot = Snapshot::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            update = feed.next() => match update {
                Some(update) => {
                    reporter.tell_datastore(&update, &snapshot);
                    apply_changes(&mut snapshot, &update.changes);
                    if update.status.in_sync {
                        return Ok(Some(snapshot));
                    }
                    reporter.publish();
                }
                None if stop.is_cancelled() => return Ok(None),
                None => bail!("the datastore is no longer watched"),
            },
        }
    }
}

/// Why work ended.
enum Ended {
    Stopped,
    /// The datastore has other parameters than this work was started with.
    Reconfigured(Snapshot, Box<Calculation>),
}

/// Work with one configuration.
struct Work<'a> {
    config: Config,
    configuring: &'a mut Configuring,
    reporter: &'a mut Reporter,
    status: &'a mut WritingBack,
    dataplane: Dataplane,
    changes: KernelChanges,
    snapshot: Snapshot,
    /// Large: in a box, as the futures that hold it are moved.
    calculation: Box<Calculation>,
    desired: Arc<EffectiveState>,
    /// What must be read again in the next pass.
    parts: BTreeSet<Part>,
    /// When the next pass is made.
    due: Option<Instant>,
    retry: Duration,
    sweep: Option<JoinHandle<anyhow::Result<Swept>>>,
    /// Whether no sweep has come to its end yet.
    counts_anew: bool,
    settling: Settling,
}

impl<'a> Work<'a> {
    async fn start(
        snapshot: Snapshot,
        mut calculation: Box<Calculation>,
        configuring: &'a mut Configuring,
        reporter: &'a mut Reporter,
        status: &'a mut WritingBack,
    ) -> anyhow::Result<Self> {
        let config = configuring.config().clone();
        let changes = KernelChanges::subscribe().context("cannot listen to netlink")?;
        let netlink = netlink::open().context("cannot open netlink")?;
        let mut dataplane = Dataplane::start(&config, netlink)?;
        if config.bpf_log {
            program_log::start(&mut dataplane);
        }
        let mut work = Self {
            desired: calculation.state(),
            calculation,
            config,
            configuring,
            reporter,
            status,
            dataplane,
            changes,
            snapshot,
            parts: Part::ALL.into(),
            due: None,
            retry: FIRST_RETRY,
            sweep: None,
            counts_anew: true,
            settling: Settling::default(),
        };
        work.pass().await?;
        notify(&[NotifyState::Ready]);
        Ok(work)
    }

    async fn run(mut self, feed: &mut Feed, stop: &CancellationToken) -> anyhow::Result<Ended> {
        let mut guard = ticks(GUARD_INTERVAL);
        let mut arrivals = ticks(ARRIVAL_INTERVAL);
        let mut interfaces = ticks(self.config.interface_refresh_interval);
        let mut routes = ticks(self.config.route_refresh_interval);
        let mut sweeps = ticks(self.config.conntrack_timeouts.sweep_interval);
        let mut watchdog = ticks(sd_notify::watchdog_enabled().map_or(Duration::ZERO, |limit| limit / 3));
        loop {
            let due = self.due.unwrap_or_else(|| Instant::now() + NEVER);
            let tombstones_due = self.tombstones_due();
            tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Stopped),
                update = feed.next() => match update {
                    Some(update) => if self.take_update(&update) {
                        return Ok(Ended::Reconfigured(self.snapshot, self.calculation));
                    },
                    None if stop.is_cancelled() => return Ok(Ended::Stopped),
                    None => bail!("the datastore is no longer watched"),
                },
                change = self.changes.next() => self.note_change(change.context("netlink is closed")?),
                _ = guard.tick() => self.look_at_what_the_kernel_does_not_tell(),
                _ = arrivals.tick(), if self.dataplane.expects_arrivals() => if self.dataplane.has_arrivals() {
                    self.due = Some(Instant::now());
                },
                _ = interfaces.tick() => {
                    self.plan([Part::Interfaces, Part::HostAddresses, Part::Links, Part::Settings]);
                }
                _ = routes.tick() => self.plan([Part::Routes]),
                _ = sweeps.tick() => self.start_sweep(),
                _ = watchdog.tick() => notify(&[NotifyState::Watchdog]),
                swept = finished(&mut self.sweep) => self.end_sweep(swept),
                slots = self.settling.settled() => self.dataplane.renew_generations(&slots)?,
                () = self.status.changed() => self.tell_status(),
                () = sleep_until(tombstones_due) => self.dataplane.go_on_with_tombstones(&self.snapshot),
                () = sleep_until(due) => self.pass().await?,
            }
        }
    }

    /// Takes news of the datastore; tells whether they need another configuration.
    fn take_update(&mut self, update: &Update) -> bool {
        self.reporter.tell_datastore(update, &self.snapshot);
        apply_changes(&mut self.snapshot, &update.changes);
        let changed = update.changes.values().flatten().map(|resource| &**resource);
        self.dataplane.clear_tombstones_of(changed);
        self.calculation.apply(&update.changes);
        if update.changes.is_empty() {
            self.reporter.publish();
            return false;
        }
        if self.needs_other_work(update) {
            return true;
        }
        self.desired = self.calculation.state();
        tracing::debug!(changes = update.changes.len(), effort = ?self.calculation.effort(), "calculated");
        // At once: what comes while the kernel is made to follow is waiting together.
        self.due = Some(Instant::now());
        false
    }

    /// Follows the parameters in the datastore. Those that need no new start are in force afterwards.
    fn needs_other_work(&mut self, update: &Update) -> bool {
        let hostname = &self.config.felix_hostname;
        let concerned = update
            .changes
            .keys()
            .any(|key| concerns_parameters(key, hostname));
        if !concerned || !self.configuring.follow(&self.snapshot) {
            return false;
        }
        let config = self.configuring.config();
        let needs_other_work = self.config.needs_new_work(config);
        if !needs_other_work {
            self.config = config.clone();
            self.status.configure(&self.config);
            self.reporter.configure(self.configuring);
        }
        needs_other_work
    }

    fn note_change(&mut self, change: KernelChange) {
        match change {
            KernelChange::Interfaces => self.plan([Part::Interfaces]),
            KernelChange::HostAddresses => self.plan([Part::HostAddresses]),
            KernelChange::Route(ifindex) | KernelChange::Neighbor(ifindex) => {
                if self.dataplane.is_tap(ifindex) {
                    self.plan([Part::Routes]);
                }
            }
            KernelChange::Anything => self.plan(Part::ALL),
        }
    }

    fn look_at_what_the_kernel_does_not_tell(&mut self) {
        self.plan([Part::Links]);
        if self.dataplane.settings_have_drifted() {
            tracing::warn!("somebody has changed the host's forwarding settings, writing them again");
            self.plan([Part::Interfaces, Part::Settings]);
        }
    }

    fn plan(&mut self, parts: impl IntoIterator<Item = Part>) {
        self.parts.extend(parts);
        let soon = Instant::now() + DEBOUNCE;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// Makes the kernel follow, and tells the result.
    async fn pass(&mut self) -> anyhow::Result<()> {
        let parts = std::mem::take(&mut self.parts);
        self.due = None;
        let outcome = self.dataplane.reconcile(&self.desired, &parts).await?;
        self.settling.add(self.dataplane.take_unsettled());
        if outcome.dirty.is_empty() {
            self.retry = FIRST_RETRY;
        } else {
            self.parts = Part::ALL.into();
            self.due = Some(Instant::now() + self.retry);
            self.retry = (self.retry * 2).min(LAST_RETRY);
        }
        if let Some(again_at) = outcome.again_at {
            self.parts.insert(Part::Routes);
            let again_at = Instant::from_std(again_at);
            self.due = Some(self.due.map_or(again_at, |due| due.min(again_at)));
        }
        self.reporter
            .tell_dataplane(&self.dataplane, &self.desired, outcome);
        self.status.tell(self.reporter.report(), &self.snapshot);
        self.tell_status();
        Ok(())
    }

    /// Returns when tombstones go on: not while the datastore is not followed, for an endpoint that is not there may have moved.
    fn tombstones_due(&self) -> Instant {
        let due = self.dataplane.tombstones_change_at();
        let due = due.filter(|_| self.reporter.is_in_sync());
        due.map_or_else(|| Instant::now() + NEVER, Instant::from_std)
    }

    fn tell_status(&mut self) {
        self.reporter.tell_status(self.status.report());
        self.reporter.publish();
    }

    fn start_sweep(&mut self) {
        if self.sweep.is_some() || self.dataplane.epoch() == 0 {
            return;
        }
        let (pins, timeouts) = (
            Pins::below(&self.config.bpf_pin_dir),
            self.config.conntrack_timeouts,
        );
        let anew = self.counts_anew;
        let gone = self.dataplane.slots_to_sweep();
        self.sweep = Some(tokio::task::spawn_blocking(move || {
            FlowSweeper::open(&pins)?.sweep(&timeouts, &gone, anew)
        }));
    }

    fn end_sweep(&mut self, swept: anyhow::Result<Swept>) {
        self.sweep = None;
        match swept {
            Ok(Swept {
                flows4,
                flows6,
                deleted,
                corrected,
                freed,
            }) => {
                self.dataplane.note_swept(&freed);
                self.counts_anew = false;
                tracing::debug!(flows4, flows6, deleted, corrected, ?freed, "flows swept");
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "flows not swept"),
        }
    }
}

/// Returns a calculation of the snapshot: the last one, which knows it, when it was made with the same options.
fn calculation_for(
    last: Option<Box<Calculation>>,
    options: CalcOptions,
    snapshot: &Snapshot,
) -> Box<Calculation> {
    last.filter(|last| *last.options() == options).unwrap_or_else(|| {
        let mut calculation = Box::new(Calculation::new(options));
        calculation.apply(&changes_between(&Snapshot::new(), snapshot));
        calculation
    })
}

fn calc_options(config: &Config) -> CalcOptions {
    CalcOptions {
        hostname: config.felix_hostname.clone(),
        workload_source_spoofing: config.workload_source_spoofing,
    }
}

fn refuse_host_endpoints(config: &Config, snapshot: &Snapshot) -> anyhow::Result<()> {
    let ours = snapshot.iter().find(|(key, resource)| {
        key.kind == Kind::HostEndpoint
            && matches!(&***resource, Resource::HostEndpoint(endpoint) if endpoint.node == config.felix_hostname)
    });
    ensure!(
        ours.is_none() || config.ignore_host_endpoints,
        "{} protects this host, which is not supported: remove it or set HostEndpointsIgnored",
        ours.map_or_else(String::new, |(key, _)| key.to_string())
    );
    Ok(())
}

/// Ticks at an interval from one interval on; never for zero.
fn ticks(period: Duration) -> Interval {
    let period = if period.is_zero() { NEVER } else { period };
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for the running sweep; for ever when none runs.
async fn finished(sweep: &mut Option<JoinHandle<anyhow::Result<Swept>>>) -> anyhow::Result<Swept> {
    match sweep {
        Some(sweep) => sweep.await.context("the sweep has panicked")?,
        None => std::future::pending().await,
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager was not told");
    }
}
