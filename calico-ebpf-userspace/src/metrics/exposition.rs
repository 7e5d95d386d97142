//! The metrics as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::datastore;
use crate::config::Trouble;
use crate::model::problem::Consequence;
use crate::observe::pinned::{CounterValue, Counters, PinnedMaps};
use crate::report::AgentReport;

/// Encodes what `report` says and `maps` hold now. Without maps there are no packet counters and flows, and
/// `calico_ebpf_dataplane_readable` is 0.
///
/// # Errors
/// Fails when a value cannot be encoded.
pub fn encode(report: &AgentReport, maps: &PinnedMaps, max_flows: u32) -> Result<String, fmt::Error> {
    let reading = Reading {
        report: report.clone(),
        counters: maps.counters().ok(),
        flows: maps.flow_counts().ok(),
        max_flows: maps.flow_room().unwrap_or(max_flows),
        now: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(reading));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Everything that one scrape tells.
#[derive(Debug)]
struct Reading {
    report: AgentReport,
    counters: Option<Counters>,
    /// Of IPv4 and of IPv6.
    flows: Option<(u64, u64)>,
    max_flows: u32,
    /// Seconds since the epoch.
    now: u64,
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_agent(&mut encoder)?;
        self.encode_policy(&mut encoder)?;
        self.encode_packets(&mut encoder)
    }
}

impl Reading {
    fn encode_agent(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let report = &self.report;
        let mut info =
            encoder.encode_descriptor("calico_ebpf_agent", "Version and host", None, MetricType::Info)?;
        let labels = [
            ("version", report.version.as_str()),
            ("hostname", report.hostname.as_str()),
        ];
        info.encode_info(&labels)?;
        let up = report
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.state == "up")
            .count();
        gauge(
            encoder,
            "felix_active_local_endpoints",
            "Endpoints of this host in force",
            count(up),
        )?;
        gauge(
            encoder,
            "felix_active_local_policies",
            "Policies that judge endpoints of this host",
            self.policies(),
        )?;
        datastore::encode(report, self.now, encoder)?;
        let help = "Objects and fields that were left out, by what was done about them";
        let problems = self.problems_by_consequence();
        family(
            encoder,
            "calico_ebpf_problems",
            help,
            MetricType::Gauge,
            "consequence",
            &problems,
        )?;
        let help = "Objects that are read but not enforced";
        gauge(
            encoder,
            "calico_ebpf_not_enforced",
            help,
            count(report.not_enforced.len()),
        )?;
        let help = "Settings of parameters that are not followed as they are written";
        let warnings = self.configuration_warnings();
        family(
            encoder,
            "calico_ebpf_configuration_warnings",
            help,
            MetricType::Gauge,
            "trouble",
            &warnings,
        )?;
        let help = "Kernel state that could not be written and is retried";
        gauge(
            encoder,
            "calico_ebpf_dirty_items",
            help,
            count(report.dirty.len()),
        )?;
        gauge(
            encoder,
            "calico_ebpf_start_time_seconds",
            "When the agent started (Unix time)",
            report.started_at,
        )?;
        gauge(
            encoder,
            "calico_ebpf_report_time_seconds",
            "When the report changed (Unix time)",
            report.updated_at,
        )?;
        let states = self.endpoints_by_state();
        family(
            encoder,
            "calico_ebpf_endpoints",
            "Endpoints of this host by state",
            MetricType::Gauge,
            "state",
            &states,
        )
    }

    fn encode_policy(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (report, tables) = (&self.report, &self.report.tables);
        if let Some(lag) = report.lag_milliseconds {
            let help = "From the arrival of the last change to its being in force";
            gauge(encoder, "calico_ebpf_policy_lag_milliseconds", help, lag)?;
        }
        let values: [(&str, &str, u64); 13] = [
            (
                "calico_ebpf_policy_epoch",
                "Version of the policy table in force",
                report.epoch.into(),
            ),
            (
                "calico_ebpf_policy_sets",
                "Distinct lists of policies",
                count(report.policy_sets.len()),
            ),
            (
                "calico_ebpf_policy_sets_fallback",
                "Too large for cells: judged by the fall-back engine",
                tables.fall_back.into(),
            ),
            (
                "calico_ebpf_policy_sets_over_budget",
                "No room in the table: deny everything",
                tables.over_budget.into(),
            ),
            (
                "calico_ebpf_policy_table_lines",
                "Lines of 64 bytes in use",
                tables.lines.into(),
            ),
            (
                "calico_ebpf_policy_table_max_lines",
                "Lines of 64 bytes in one version",
                tables.max_lines.into(),
            ),
            (
                "calico_ebpf_policy_table_address_classes",
                "Address classes",
                tables.address_classes.into(),
            ),
            (
                "calico_ebpf_policy_table_port_classes",
                "Port classes",
                tables.port_classes.into(),
            ),
            (
                "calico_ebpf_policy_table_exact_addresses",
                "Addresses of their own",
                tables.exact_addresses.into(),
            ),
            (
                "calico_ebpf_policy_table_prefixes",
                "Prefixes",
                tables.prefixes.into(),
            ),
            (
                "calico_ebpf_policy_table_cells",
                "Cells of all policy sets",
                tables.cells,
            ),
            (
                "calico_ebpf_policy_apply_milliseconds",
                "From the calculated state to the last version in force",
                tables.apply_milliseconds,
            ),
            (
                "calico_ebpf_programs_moved_to_head",
                "Times that a foreign program stood before ours on a tap",
                report.moved_to_head,
            ),
        ];
        values
            .into_iter()
            .try_for_each(|(name, help, value)| gauge(encoder, name, help, value))
    }

    fn encode_packets(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let readable = u64::from(self.counters.is_some());
        gauge(
            encoder,
            "calico_ebpf_dataplane_readable",
            "Whether the pinned maps could be read",
            readable,
        )?;
        if let Some(counters) = &self.counters {
            let packets = |values: &[CounterValue]| labelled(values, |value| value.packets);
            let bytes = |values: &[CounterValue]| labelled(values, |value| value.bytes);
            let mut counted = |name: &str, help: &str, values: &[(&str, u64)]| {
                family(encoder, name, help, MetricType::Counter, "reason", values)
            };
            counted(
                "calico_ebpf_dropped_packets",
                "Packets dropped, by reason",
                &packets(&counters.dropped),
            )?;
            counted(
                "calico_ebpf_dropped_bytes",
                "Bytes dropped, by reason",
                &bytes(&counters.dropped),
            )?;
            counted(
                "calico_ebpf_passed_packets",
                "Packets passed, by where they went",
                &packets(&counters.passed),
            )?;
            counted(
                "calico_ebpf_passed_bytes",
                "Bytes passed, by where they went",
                &bytes(&counters.passed),
            )?;
        }
        gauge(
            encoder,
            "calico_ebpf_flows_max",
            "Room for flows in each table",
            self.max_flows.into(),
        )?;
        let Some((flows4, flows6)) = self.flows else {
            return Ok(());
        };
        let flows = [("4", flows4), ("6", flows6)];
        family(
            encoder,
            "calico_ebpf_flows",
            "Live flows by IP version",
            MetricType::Gauge,
            "ip_version",
            &flows,
        )
    }

    fn policies(&self) -> u64 {
        let tiers = self
            .report
            .policy_sets
            .iter()
            .flat_map(|set| set.egress.iter().chain(&set.ingress));
        let tiers = tiers.filter(|tier| tier.tier != "profiles");
        let names: BTreeSet<(&str, &str)> = tiers
            .flat_map(|tier| {
                tier.policies
                    .iter()
                    .map(|policy| (tier.tier.as_str(), policy.name.as_str()))
            })
            .collect();
        count(names.len())
    }

    fn problems_by_consequence(&self) -> Vec<(&str, u64)> {
        let counts = &self.report.problems_by_consequence;
        let value = |consequence: &Consequence| counts.get(consequence.name()).copied().unwrap_or(0);
        Consequence::ALL
            .iter()
            .map(|consequence| (consequence.name(), value(consequence)))
            .collect()
    }

    fn configuration_warnings(&self) -> Vec<(&str, u64)> {
        let warnings = &self.report.configuration.warnings;
        let of = |trouble: &Trouble| {
            let alike = warnings
                .iter()
                .filter(|warning| warning.trouble == trouble.name());
            (trouble.name(), count(alike.count()))
        };
        Trouble::ALL.iter().map(of).collect()
    }

    fn endpoints_by_state(&self) -> Vec<(&str, u64)> {
        let mut states: BTreeMap<&str, u64> = ["up", "down", "waiting", "inactive"]
            .map(|state| (state, 0))
            .into();
        for endpoint in &self.report.endpoints {
            *states.entry(endpoint.state.as_str()).or_default() += 1;
        }
        states.into_iter().collect()
    }
}

fn labelled(values: &[CounterValue], number: impl Fn(&CounterValue) -> u64) -> Vec<(&'static str, u64)> {
    values.iter().map(|value| (value.reason, number(value))).collect()
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), fmt::Error> {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// Encodes one value for each of a label's values.
fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    label: &str,
    values: &[(&str, u64)],
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (text, value) in values {
        let labels = [(label, *text)];
        let member = metric.encode_family(&labels)?;
        if matches!(kind, MetricType::Counter) {
            ConstCounter::new(*value).encode(member)?;
        } else {
            ConstGauge::new(*value).encode(member)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use calico_ebpf_common::verdict::DropReason;

    use super::*;
    use std::sync::Arc;

    use crate::report::{
        ClusterReport, ConfigurationReport, DatastoreReport, EndpointReport, ParameterWarningReport,
        StatusReport,
    };

    fn encoded(reading: Reading) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(reading));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn the_exposition_has_felix_names_and_ours() {
        let value = |reason| CounterValue {
            reason,
            packets: 3,
            bytes: 180,
        };
        let reading = Reading {
            report: AgentReport {
                version: "0.1.0".to_owned(),
                hostname: "compute-1".to_owned(),
                epoch: 7,
                lag_milliseconds: Some(12),
                cluster: ClusterReport {
                    hosts: 3,
                    workload_endpoints: 40,
                    ..ClusterReport::default()
                },
                status: StatusReport {
                    enabled: true,
                    liveness_written_at: Some(1990),
                    liveness_writes: 4,
                    endpoints_written: 1,
                    ..StatusReport::default()
                },
                endpoints: vec![EndpointReport {
                    state: "up".to_owned(),
                    ..EndpointReport::default()
                }],
                datastore: DatastoreReport {
                    state: "in-sync".to_owned(),
                    ..DatastoreReport::default()
                },
                configuration: Arc::new(ConfigurationReport {
                    warnings: vec![ParameterWarningReport {
                        trouble: "unknown".to_owned(),
                        ..ParameterWarningReport::default()
                    }],
                    ..ConfigurationReport::default()
                }),
                ..AgentReport::default()
            },
            counters: Some(Counters {
                dropped: vec![value(DropReason::Malformed.name())],
                passed: vec![value("remote")],
            }),
            flows: Some((5, 2)),
            max_flows: 1000,
            now: 2000,
        };
        insta::assert_snapshot!(encoded(reading));
    }

    #[test]
    fn without_a_dataplane_the_report_is_told_alone() {
        let reading = Reading {
            report: AgentReport::default(),
            counters: None,
            flows: None,
            max_flows: 1000,
            now: 2000,
        };
        let text = encoded(reading);
        assert!(text.contains("calico_ebpf_dataplane_readable 0"), "{text}");
        assert!(!text.contains("calico_ebpf_dropped"), "{text}");
    }
}
