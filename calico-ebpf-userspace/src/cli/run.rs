//! `run`: the agent.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure, NOT_PERMITTED};
use crate::agent;
use crate::config::resolve;
use crate::logging;

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf run --datastore-type file --datastore-dir ./manifests --hostname compute-1
  calico-ebpf run --set PrometheusMetricsEnabled=true --set LogSeverityScreen=DEBUG
  FELIX_DATASTORETYPE=file FELIX_DATASTOREDIR=/srv/policy calico-ebpf run

The dataplane outlives the agent: stopping or killing it leaves policy in force and flows alive, and the next `run`
takes them over. `calico-ebpf cleanup` removes it all.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let layers = arguments.config.layers()?;
    let resolved = resolve(&layers)?;
    refuse_without_root()?;
    let log = logging::start(&resolved.config)?;
    for warning in &resolved.warnings {
        tracing::warn!(
            parameter = warning.name,
            place = warning.place,
            trouble = warning.trouble.name(),
            "{}",
            warning.text
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        cancel_on_signals(&stop)?;
        Box::pin(agent::run(layers, log, stop)).await
    })?;
    Ok(Ending::Good)
}

fn refuse_without_root() -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let error = anyhow::anyhow!("not root: the agent loads programs, sets routes and writes sysctls");
    Err(Failure::new(
        error,
        NOT_PERMITTED,
        "Run it as root. `calico-ebpf validate DIR` needs no rights.",
    ))
}

/// Cancels `stop` on SIGTERM and SIGINT.
fn cancel_on_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                tracing::info!("asked to stop; the dataplane stays in force");
                stop.cancel();
            }
        });
    }
    Ok(())
}
