//! Metrics and health while the agent works.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::Config;
use crate::metrics::{self, health};
use crate::report::AgentReport;

/// Starts the servers that `config` asks for. They end when the guard is dropped. A port that is taken is told and
/// does not hold up the agent: policy matters more.
pub(super) fn start(config: &Config, report: &watch::Receiver<Arc<AgentReport>>) -> DropGuard {
    let stop = CancellationToken::new();
    if config.prometheus_metrics_enabled {
        let (config, report, stop) = (config.clone(), report.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = metrics::serve(&config, report, stop).await {
                tracing::error!(error = %chain(&error), "metrics are not served");
            }
        });
    }
    if config.health_enabled {
        let (config, report, stop) = (config.clone(), report.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = health::serve(&config, report, stop).await {
                tracing::error!(error = %chain(&error), "health is not served");
            }
        });
    }
    stop.drop_guard()
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(
        || error.to_string(),
        |source| format!("{error}: {}", chain(source)),
    )
}
