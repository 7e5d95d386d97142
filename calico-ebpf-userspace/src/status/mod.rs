//! What Neutron learns from this host: that the agent lives, and which ports are up (contract 2).
//!
//! [`keys`], [`liveness`] and [`endpoints`] decide what is to be written and when, without etcd and clock; the task here
//! has both. What was told while etcd is away is not queued: when it is back, the newest state counts.

mod endpoints;
mod keys;
mod liveness;
mod store;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::endpoints::EndpointKeys;
use self::keys::StatusKeys;
use self::liveness::Liveness;
use self::store::{BATCH, Store, StoreError};
use crate::config::Config;
use crate::etcd::{Etcd, Pause};
use crate::report::StatusReport;

pub use self::endpoints::{EndpointState, EndpointStates};
pub use self::keys::EndpointId;

/// Stands for "never" where a time is needed.
const NEVER: Duration = Duration::from_hours(365 * 24);

/// What the task is to do.
#[derive(Clone, Debug)]
struct Orders {
    enabled: bool,
    keys: StatusKeys,
    delay: Duration,
    interval: Duration,
    ttl: Duration,
    /// `None` until somebody has looked.
    states: Option<Arc<EndpointStates>>,
}

impl Orders {
    fn new(config: &Config) -> Self {
        Self {
            enabled: config.endpoint_reporting_enabled,
            keys: StatusKeys::new(config.openstack_region.as_deref(), &config.felix_hostname),
            delay: config.endpoint_reporting_delay,
            interval: config.reporting_interval,
            ttl: config.reporting_ttl,
            states: None,
        }
    }
}

/// The task that writes status to etcd. It ends when this is dropped; the keys stay, as the dataplane does.
#[derive(Debug)]
pub struct StatusWriter {
    orders: watch::Sender<Orders>,
    reports: watch::Receiver<StatusReport>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl StatusWriter {
    /// Starts the task for the life of a process that began at `started`. Endpoints are left alone until
    /// [`Self::tell`].
    pub fn start(config: &Config, etcd: Etcd, started: Instant) -> Self {
        let (orders, orders_read) = watch::channel(Orders::new(config));
        let (report, reports) = watch::channel(StatusReport::default());
        let stop = CancellationToken::new();
        let worker = Worker {
            store: Store::new(etcd),
            endpoints: EndpointKeys::default(),
            liveness: Liveness::new(started),
            report,
            pause: Pause::default(),
        };
        let task = tokio::spawn(worker.run(orders_read, stop.clone()));
        Self {
            orders,
            reports,
            stop,
            task,
        }
    }

    /// Takes another configuration. It is acted on at once and needs no new start.
    pub fn configure(&self, config: &Config) {
        self.orders.send_modify(|orders| {
            let states = orders.states.take();
            *orders = Orders {
                states,
                ..Orders::new(config)
            };
        });
    }

    /// Takes the states of this host's endpoints, of which all that are not among them have none.
    pub fn tell(&self, states: EndpointStates) {
        self.orders.send_if_modified(|orders| {
            let is_new = orders.states.as_deref() != Some(&states);
            if is_new {
                orders.states = Some(Arc::new(states));
            }
            is_new
        });
    }

    /// Waits for another [`Self::report`].
    pub async fn changed(&mut self) {
        if self.reports.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns what was written and what went wrong.
    pub fn report(&mut self) -> StatusReport {
        self.reports.borrow_and_update().clone()
    }
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

/// State of the task.
#[derive(Debug)]
struct Worker {
    store: Store,
    endpoints: EndpointKeys,
    liveness: Liveness,
    report: watch::Sender<StatusReport>,
    pause: Pause,
}

impl Worker {
    async fn run(mut self, mut orders: watch::Receiver<Orders>, stop: CancellationToken) {
        let mut keys = None;
        loop {
            let now_ordered = orders.borrow_and_update().clone();
            if keys.as_ref() != Some(&now_ordered.keys) {
                self.endpoints = EndpointKeys::default();
                keys = Some(now_ordered.keys.clone());
            }
            if let Some(states) = &now_ordered.states {
                self.endpoints.want(&now_ordered.keys, states);
            }
            let worked = if now_ordered.enabled {
                self.work(&now_ordered).await
            } else {
                Ok(())
            };
            self.tell(&now_ordered, worked.as_ref().err());
            if worked.is_err() {
                self.endpoints.forget();
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.pause.wait() => continue,
                }
            }
            self.pause.reset();
            let next = self.next_at(&now_ordered);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = orders.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    /// Does what is due. A port that is up comes first: the boot of a VM waits for it. What is refused of one kind does
    /// not hold up the other.
    async fn work(&mut self, orders: &Orders) -> Result<(), StoreError> {
        let endpoints = self.work_on_endpoints(orders).await;
        if matches!(endpoints, Err(StoreError::Unavailable(_))) {
            return endpoints;
        }
        endpoints.and(self.work_on_liveness(orders).await)
    }

    async fn work_on_liveness(&mut self, orders: &Orders) -> Result<(), StoreError> {
        if !is_due(self.liveness.due_at(orders.interval)) {
            return Ok(());
        }
        let value = self.liveness.value(Instant::now(), SystemTime::now());
        self.store.report(&orders.keys, &value, orders.ttl).await?;
        self.liveness.note_written(Instant::now());
        self.report.send_modify(|report| {
            report.liveness_written_at = Some(seconds_now());
            report.liveness_writes += 1;
        });
        if self.store.has_forgotten() {
            tracing::info!("etcd has lost what it had, endpoint status is written again");
            self.endpoints.forget();
            self.work_on_endpoints(orders).await?;
        }
        Ok(())
    }

    async fn work_on_endpoints(&mut self, orders: &Orders) -> Result<(), StoreError> {
        if is_due(self.endpoints.list_at(Instant::now(), orders.delay)) {
            let found = self.store.list(&orders.keys).await?;
            self.endpoints.note_listed(found, Instant::now());
        }
        let writes = self.endpoints.due(Instant::now(), orders.delay);
        for batch in writes.chunks(BATCH) {
            self.store.write(batch, &orders.keys).await?;
            self.endpoints.note_written(batch, Instant::now(), orders.delay);
            tracing::debug!(writes = ?batch, "endpoint status written");
            self.report
                .send_modify(|report| report.endpoint_writes += batch.len() as u64);
        }
        Ok(())
    }

    fn next_at(&self, orders: &Orders) -> Instant {
        let now = Instant::now();
        let times = [
            self.liveness.due_at(orders.interval),
            self.endpoints.list_at(now, orders.delay),
            self.endpoints.next_at(now, orders.delay),
        ];
        let next = times.into_iter().flatten().min();
        next.filter(|_| orders.enabled).unwrap_or(now + NEVER)
    }

    /// Tells how it went: in the log once for each change from well to ill and back.
    fn tell(&self, orders: &Orders, error: Option<&StoreError>) {
        let was_failing = !self.report.borrow().error.is_empty();
        let text = error.map_or_else(String::new, ToString::to_string);
        match (was_failing, error) {
            (false, Some(error)) => tracing::warn!(%error, "status is not written to etcd, trying again"),
            (true, None) => tracing::info!("status is written to etcd again"),
            (true, Some(error)) => tracing::debug!(%error, "status is still not written"),
            (false, None) => {}
        }
        let (written, pending) = self.endpoints.counts();
        self.report.send_if_modified(|report| {
            let before = report.clone();
            report.enabled = orders.enabled;
            report.reason = if orders.enabled {
                String::new()
            } else {
                "EndpointReportingEnabled is false".to_owned()
            };
            report.liveness_ttl_seconds = orders.ttl.as_secs();
            report.endpoints_written = written;
            report.endpoints_pending = pending;
            if error.is_some() {
                report.failures += 1;
                report.last_error.clone_from(&text);
                report.last_error_at = Some(seconds_now());
            }
            report.error = text;
            before != *report
        });
    }
}

fn is_due(at: Option<Instant>) -> bool {
    at.is_some_and(|at| at <= Instant::now())
}

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
