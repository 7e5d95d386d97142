//! Metrics and health while the agent lives.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::Config;
use crate::metrics::{self, health};
use crate::report::AgentReport;

/// The servers. They go on while work starts anew in place, unless their own parameters have changed: a port can only
/// be listened on again when nobody does.
#[derive(Debug, Default)]
pub(super) struct Serving(Option<Servers>);

#[derive(Debug)]
struct Servers {
    config: Config,
    tasks: JoinSet<()>,
    stop: DropGuard,
}

impl Serving {
    /// Serves what `config` asks for. A port that is taken is told and does not hold up the agent: policy matters more.
    pub(super) async fn configure(&mut self, config: &Config, report: &watch::Receiver<Arc<AgentReport>>) {
        if let Some(mut servers) = self.0.take() {
            if serve_alike(&servers.config, config) {
                self.0 = Some(servers);
                return;
            }
            drop(servers.stop);
            // Not gracefully: a scrape that is under way is lost, and the port is free.
            servers.tasks.shutdown().await;
        }
        self.0 = Some(start(config, report));
    }
}

fn start(config: &Config, report: &watch::Receiver<Arc<AgentReport>>) -> Servers {
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    if config.prometheus_metrics_enabled {
        let (config, report, stop) = (config.clone(), report.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = metrics::serve(&config, report, stop).await {
                tracing::error!(error = %chain(&error), "metrics are not served");
            }
        });
    }
    if config.health_enabled {
        let (config, report, stop) = (config.clone(), report.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = health::serve(&config, report, stop).await {
                tracing::error!(error = %chain(&error), "health is not served");
            }
        });
    }
    Servers {
        config: config.clone(),
        tasks,
        stop: stop.drop_guard(),
    }
}

/// Returns whether two configurations ask for the same servers.
fn serve_alike(a: &Config, b: &Config) -> bool {
    let metrics = |config: &Config| {
        (
            config.prometheus_metrics_enabled,
            config.prometheus_metrics_host,
            config.prometheus_metrics_port,
            config.bpf_map_size_conntrack,
        )
    };
    let health = |config: &Config| {
        (
            config.health_enabled,
            config.health_host.clone(),
            config.health_port,
        )
    };
    metrics(a) == metrics(b) && health(a) == health(b)
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(
        || error.to_string(),
        |source| format!("{error}: {}", chain(source)),
    )
}
