//! Metrics of the datastore: how it is followed, what it holds, and what is written back.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;

use super::exposition::gauge;
use crate::report::{AgentReport, ClusterReport, DatastoreReport, StatusReport};

/// Encodes what `report` says of the datastore; `now` in seconds since the epoch.
///
/// # Errors
/// Fails when a value cannot be encoded.
pub(super) fn encode(
    report: &AgentReport,
    now: u64,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    encode_following(&report.datastore, now, encoder)?;
    encode_cluster(&report.cluster, encoder)?;
    encode_status(&report.status, encoder)
}

fn encode_following(
    datastore: &DatastoreReport,
    now: u64,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let out_of_sync = datastore
        .out_of_sync_since
        .map_or(0, |since| now.saturating_sub(since));
    let values = [
        (
            "felix_resync_state",
            "0 unknown, 1 wait for ready, 2 resync, 3 in sync",
            resync_state(&datastore.state),
        ),
        // A gauge: a counter of this format would have to be `felix_resyncs_started_total`.
        (
            "felix_resyncs_started",
            "Times that it was begun to read everything",
            datastore.resyncs_started,
        ),
        (
            "calico_ebpf_datastore_in_sync",
            "Whether the datastore is followed",
            u64::from(datastore.state == "in-sync"),
        ),
        (
            "calico_ebpf_datastore_out_of_sync_seconds",
            "For how long it has not been followed",
            out_of_sync,
        ),
        (
            "calico_ebpf_datastore_objects",
            "Valid objects in the datastore",
            datastore.objects,
        ),
        (
            "calico_ebpf_datastore_revision",
            "Revision or number of reads",
            datastore.revision,
        ),
    ];
    gauges(encoder, &values)
}

fn encode_cluster(cluster: &ClusterReport, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let values = [
        ("felix_cluster_num_hosts", "Hosts", cluster.hosts),
        (
            "felix_cluster_num_workload_endpoints",
            "Workload endpoints of all hosts",
            cluster.workload_endpoints,
        ),
        (
            "felix_cluster_num_host_endpoints",
            "Host endpoints of all hosts",
            cluster.host_endpoints,
        ),
        ("felix_cluster_num_policies", "Policies", cluster.policies),
        ("felix_cluster_num_profiles", "Profiles", cluster.profiles),
        ("felix_cluster_num_tiers", "Tiers", cluster.tiers),
    ];
    gauges(encoder, &values)
}

/// While nothing is written back, only that is told.
fn encode_status(status: &StatusReport, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let help = "Whether status is written to etcd";
    gauge(
        encoder,
        "calico_ebpf_status_enabled",
        help,
        u64::from(status.enabled),
    )?;
    if !status.enabled {
        return Ok(());
    }
    if let Some(time) = status.liveness_written_at {
        let help = "When liveness was last written (Unix time)";
        gauge(encoder, "calico_ebpf_status_liveness_time_seconds", help, time)?;
    }
    let endpoints = [
        (
            "calico_ebpf_status_endpoints_pending",
            "Endpoint status keys that are to be written or removed",
            status.endpoints_pending,
        ),
        (
            "calico_ebpf_status_endpoints_written",
            "Endpoints whose status key has what it should",
            status.endpoints_written,
        ),
    ];
    gauges(encoder, &endpoints)?;
    let counters = [
        (
            "calico_ebpf_status_liveness_writes",
            "Liveness reports written",
            status.liveness_writes,
        ),
        (
            "calico_ebpf_status_endpoint_writes",
            "Endpoint status keys written or removed",
            status.endpoint_writes,
        ),
        (
            "calico_ebpf_status_failures",
            "Requests for status that failed",
            status.failures,
        ),
    ];
    counters.into_iter().try_for_each(|(name, help, value)| {
        let metric = ConstCounter::new(value);
        metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
    })
}

fn gauges(encoder: &mut DescriptorEncoder<'_>, values: &[(&str, &str, u64)]) -> Result<(), fmt::Error> {
    values
        .iter()
        .try_for_each(|(name, help, value)| gauge(encoder, name, help, *value))
}

fn resync_state(state: &str) -> u64 {
    match state {
        "wait-for-ready" => 1,
        "resync" => 2,
        "in-sync" => 3,
        _ => 0,
    }
}
