//! Prometheus metrics and health, over HTTP.
//!
//! Nothing is counted here: values are read from the agent's report and from the maps when somebody asks. Metrics
//! that Felix has keep Felix's names; ours begin with `calico_ebpf_`.

mod datastore;
pub mod exposition;
pub mod health;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::observe::pinned::PinnedMaps;
use crate::report::AgentReport;

/// Why metrics or health are not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {host} port {port} ({parameters})")]
    Listen {
        host: String,
        port: u16,
        parameters: &'static str,
        source: io::Error,
    },
    #[error("the HTTP server broke off")]
    Serve { source: io::Error },
}

/// Content type of what [`exposition::encode`] makes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a scrape reads from.
#[derive(Clone, Debug)]
struct Sources {
    report: watch::Receiver<Arc<AgentReport>>,
    maps: PinnedMaps,
    max_flows: u32,
}

/// Serves `/metrics` on `PrometheusMetricsHost` and `PrometheusMetricsPort` until `stop`.
///
/// # Errors
/// Fails when the port is taken, and when the listener breaks.
pub async fn serve(
    config: &Config,
    report: watch::Receiver<Arc<AgentReport>>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let port = config.prometheus_metrics_port;
    let bound = match config.prometheus_metrics_host {
        Some(host) => TcpListener::bind((host, port)).await,
        None => listen_everywhere(port).await,
    };
    let listener = bound.map_err(|source| ServeError::Listen {
        host: config
            .prometheus_metrics_host
            .map_or_else(|| "any address".to_owned(), |host| host.to_string()),
        port,
        parameters: "PrometheusMetricsHost, PrometheusMetricsPort",
        source,
    })?;
    let maps = PinnedMaps::under(&config.bpf_pin_dir);
    serve_on(
        listener,
        Sources {
            report,
            maps,
            max_flows: config.bpf_map_size_conntrack,
        },
        stop,
    )
    .await
}

/// Listens on both families, or on IPv4 alone where the host has no IPv6.
async fn listen_everywhere(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((IpAddr::from(Ipv6Addr::UNSPECIFIED), port)).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), port)).await
        }
        other => other,
    }
}

async fn serve_on(
    listener: TcpListener,
    sources: Sources,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let router = Router::new().route("/metrics", get(scrape)).with_state(sources);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    serving.await.map_err(|source| ServeError::Serve { source })
}

async fn scrape(State(sources): State<Sources>) -> Response {
    let Sources {
        report,
        maps,
        max_flows,
    } = sources;
    let report = Arc::clone(&report.borrow());
    // Counting flows walks the whole table.
    let encoded = tokio::task::spawn_blocking(move || exposition::encode(&report, &maps, max_flows)).await;
    match encoded {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    /// Asks for `path` and returns the whole answer.
    pub(super) async fn ask(port: u16, path: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_scrape_answers_from_the_report_and_ends_with_the_agent() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_sender, report) = watch::channel(Arc::new(AgentReport {
            epoch: 42,
            ..AgentReport::default()
        }));
        let sources = Sources {
            report,
            maps: PinnedMaps::under(Path::new("/nonexistent")),
            max_flows: 1000,
        };
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve_on(listener, sources, stop.clone()));
        let answer = ask(port, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("calico_ebpf_policy_epoch 42"), "{answer}");
        stop.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_its_parameter() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let config = Config {
            prometheus_metrics_host: Some(Ipv4Addr::LOCALHOST.into()),
            prometheus_metrics_port: taken.local_addr().unwrap().port(),
            ..Config::default()
        };
        let (_sender, report) = watch::channel(Arc::new(AgentReport::default()));
        let error = serve(&config, report, CancellationToken::new())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("PrometheusMetricsPort"), "{error}");
    }
}
