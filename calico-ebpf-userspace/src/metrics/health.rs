//! Health: whether the agent lives and whether policy is in force.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ServeError;
use crate::config::Config;
use crate::etcd::addresses;
use crate::report::AgentReport;

/// One part of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Component {
    pub name: &'static str,
    pub live: bool,
    pub ready: bool,
    pub detail: String,
}

/// Answer of `/liveness` and `/readiness`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether the answer to the question asked is yes.
    pub ok: bool,
    pub components: Vec<Component>,
}

/// Serves `/liveness` and `/readiness` on `HealthHost` and `HealthPort` until `stop`: 200 for yes, 503 for no, with
/// a JSON list of components.
///
/// # Errors
/// Fails when the port is taken, and when the listener breaks.
pub async fn serve(
    config: &Config,
    report: watch::Receiver<Arc<AgentReport>>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let (host, port) = (config.health_host.as_str(), config.health_port);
    let listener = listen(host, port).await.map_err(|source| ServeError::Listen {
        host: host.to_owned(),
        port,
        parameters: "HealthHost, HealthPort",
        source,
    })?;
    serve_on(listener, report, stop).await
}

/// Listens on the first address of a host that can be had. Not by the C library's look-up of names, which a static
/// binary has not.
async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let addresses = addresses(host)
        .await
        .map_err(|cause| io::Error::other(cause.to_string()))?;
    let addresses: Vec<SocketAddr> = addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, port))
        .collect();
    TcpListener::bind(&*addresses).await
}

async fn serve_on(
    listener: TcpListener,
    report: watch::Receiver<Arc<AgentReport>>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let router = Router::new()
        .route("/liveness", get(liveness))
        .route("/readiness", get(readiness))
        .with_state(report);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    serving.await.map_err(|source| ServeError::Serve { source })
}

type Report = State<watch::Receiver<Arc<AgentReport>>>;

async fn liveness(State(report): Report) -> Response {
    let components = components(&report);
    answer(&Health {
        ok: components.iter().all(|component| component.live),
        components,
    })
}

async fn readiness(State(report): Report) -> Response {
    let components = components(&report);
    answer(&Health {
        ok: components
            .iter()
            .all(|component| component.live && component.ready),
        components,
    })
}

fn answer(health: &Health) -> Response {
    let status = if health.ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut text = serde_json::to_string_pretty(health).unwrap_or_default();
    text.push('\n');
    (status, [("content-type", "application/json")], text).into_response()
}

/// Judges each part. Losing the datastore later on does not make a host unready: policy stays in force.
fn components(receiver: &watch::Receiver<Arc<AgentReport>>) -> Vec<Component> {
    // The sender lives as long as the loop that applies changes.
    let is_applying = receiver.has_changed().is_ok();
    let report = Arc::clone(&receiver.borrow());
    let state = report.datastore.state.as_str();
    let was_in_sync = report.epoch != 0 || state == "in-sync";
    vec![
        Component {
            name: "datastore",
            live: true,
            ready: was_in_sync,
            detail: if state.is_empty() {
                "not read yet".to_owned()
            } else {
                state.to_owned()
            },
        },
        Component {
            name: "dataplane",
            live: is_applying,
            ready: report.epoch != 0 && report.dirty.is_empty(),
            detail: match (report.epoch, report.dirty.len()) {
                (0, _) => "no policy in force yet".to_owned(),
                (epoch, 0) => format!("policy version {epoch} in force"),
                (epoch, dirty) => format!("policy version {epoch} in force, {dirty} items are retried"),
            },
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::tests::ask;
    use super::*;
    use crate::report::DatastoreReport;

    fn in_force() -> AgentReport {
        let datastore = DatastoreReport {
            state: "in-sync".to_owned(),
            ..DatastoreReport::default()
        };
        AgentReport {
            epoch: 3,
            datastore,
            ..AgentReport::default()
        }
    }

    fn ready(report: AgentReport) -> bool {
        let (_sender, receiver) = watch::channel(Arc::new(report));
        components(&receiver)
            .iter()
            .all(|component| component.live && component.ready)
    }

    #[test]
    fn a_host_is_ready_when_policy_is_in_force_and_stays_so_without_the_datastore() {
        assert!(!ready(AgentReport::default()));
        assert!(ready(in_force()));
        let mut cut_off = in_force();
        "unreachable".clone_into(&mut cut_off.datastore.state);
        assert!(ready(cut_off));
        assert!(!ready(AgentReport {
            dirty: vec!["route".to_owned()],
            ..in_force()
        }));
    }

    #[test]
    fn an_agent_that_no_longer_applies_changes_is_not_alive() {
        let (sender, receiver) = watch::channel(Arc::new(in_force()));
        drop(sender);
        assert!(!components(&receiver).iter().all(|component| component.live));
    }

    #[tokio::test]
    async fn both_questions_are_answered_over_http() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, report) = watch::channel(Arc::new(AgentReport::default()));
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve_on(listener, report, stop.clone()));
        assert!(ask(port, "/liveness").await.starts_with("HTTP/1.1 200"));
        assert!(ask(port, "/readiness").await.starts_with("HTTP/1.1 503"));
        sender.send_replace(Arc::new(in_force()));
        let answer = ask(port, "/readiness").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("policy version 3 in force"),
            "{answer}"
        );
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
