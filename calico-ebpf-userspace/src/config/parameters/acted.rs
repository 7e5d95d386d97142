//! Parameters that the agent acts on.

use super::{Kind, Parameter, acted};
use crate::config::values::{DatastoreType, DenyAction, EndpointToHostAction, EstablishedFlows};

const LEVELS: &[&str] = &[
    "DEBUG", "INFO", "WARNING", "ERROR", "FATAL", "CRITICAL", "NONE", "TRACE",
];

/// In the order of the documentation, one to a line as in its table.
#[rustfmt::skip]
pub(super) static PARAMETERS: &[Parameter] = &[
    // Who and where
    acted("FelixHostname", Kind::Hostname(|c, v| c.felix_hostname = v), "", "Name of this host in the datastore; must equal Nova's `host`, case and domain included. The system's host name when not set.").local().fatal(),
    acted("DatastoreType", Kind::Choice(&["file", "etcdv3"], |c, v| c.datastore_type = datastore_type(v)), "etcdv3", "Where the objects come from: a directory of manifests, or Calico's keys in etcd.").local().fatal(),
    acted("DatastoreDir", Kind::Path(|c, v| c.datastore_dir = v.unwrap_or_default()), "/etc/calico/manifests", "Directory of manifests of the `file` datastore.").local(),
    acted("EtcdEndpoints", Kind::Endpoints(|c, v| if !v.is_empty() { c.etcd_endpoints = v }), "", "Addresses of etcd; made of `EtcdScheme` and `EtcdAddr` when empty.").local().fatal(),
    acted("EtcdAddr", Kind::Text(|_, _| {}), "127.0.0.1:2379", "Host and port of etcd, when `EtcdEndpoints` is empty.").local(),
    acted("EtcdScheme", Kind::Choice(&["http", "https"], |_, _| {}), "http", "Scheme of `EtcdAddr`.").local(),
    acted("EtcdCaFile", Kind::Path(|c, v| c.etcd_ca_file = v), "", "Authorities that etcd's certificate is checked against; the system's (`/etc/ssl/certs/ca-certificates.crt`) when not set.").local(),
    acted("EtcdCertFile", Kind::Path(|c, v| c.etcd_cert_file = v), "", "Our certificate for etcd.").local(),
    acted("EtcdKeyFile", Kind::Path(|c, v| c.etcd_key_file = v), "", "Key of our certificate.").local(),
    acted("EtcdUsername", Kind::Text(|c, v| c.etcd_username = v.map(str::to_owned)), "", "User name for etcd.").local(),
    acted("EtcdPassword", Kind::Text(|c, v| c.etcd_password = v.map(str::to_owned)), "", "Password for etcd; never shown.").local().secret(),
    acted("OpenstackRegion", Kind::Region(|c, v| c.openstack_region = v), "", "Region of a cloud with several; part of the status keys.").fatal(),
    acted("ClusterType", Kind::Text(|_, _| {}), "", "What `ClusterInformation` says this cluster is. The special cases of OpenStack (DHCP and DNS to the host, the metadata service) apply when it contains `openstack`, when `InterfacePrefix` has `tap`, or when `MetadataAddr` or `MetadataPort` is not the default."),
    acted("ClusterGUID", Kind::Text(|_, _| {}), "", "Identity of the cluster, as `ClusterInformation` says it. Shown; nothing is ever sent to the outside."),
    acted("CalicoVersion", Kind::Text(|_, _| {}), "", "Version of Calico, as `ClusterInformation` says it. Shown."),
    acted("RunDir", Kind::Path(|c, v| c.run_dir = v.unwrap_or_default()), "/run/calico-ebpf", "Directory of the state that outlives the agent but not the host: report and lock.").local(),
    // Interfaces and endpoints
    acted("InterfacePrefix", Kind::Interfaces(|c, v| c.interface_prefixes = v), "tap", "Interfaces whose name starts with one of these are workloads'. Felix's own default is `cali`; the Neutron driver sets `tap`.").fatal(),
    acted("InterfaceExclude", Kind::Interfaces(|c, v| c.interface_exclude = v), "kube-ipvs0", "Interfaces that are left alone whatever their name. Patterns between slashes are not supported."),
    acted("InterfaceRefreshInterval", Kind::Seconds(|c, v| c.interface_refresh_interval = v), "90", "Seconds between checks of interfaces and sysctls against drift; 0 switches the check off."),
    acted("DefaultEndpointToHostAction", Kind::Choice(&["DROP", "RETURN", "ACCEPT"], |c, v| c.default_endpoint_to_host_action = host_action(v)), "DROP", "What becomes of packets from a workload to the host that egress policy allows. RETURN leaves them to the host's own firewall, as ACCEPT does.").fatal(),
    acted("EstablishedFlows", Kind::Choice(&["Rejudge", "Keep"], |c, v| c.established_flows = established_flows(v)), "Rejudge", "What becomes of a live flow when policy stops allowing it. `Rejudge`: its next packet is judged by the new policy. `Keep`, as Felix does: it goes on as long as both ends keep their addresses, and only new flows are refused."),
    acted("IptablesFilterDenyAction", Kind::Choice(&["DROP", "REJECT"], |c, v| c.deny_action = deny_action(v)), "DROP", "What becomes of packets that policy denies. With REJECT the sender is told: TCP by a reset, all else by ICMP `administratively prohibited`, at most 1,000 times a second for each endpoint."),
    acted("WorkloadSourceSpoofing", Kind::Choice(&["Disabled", "Any"], |c, v| c.workload_source_spoofing = v == "Any"), "Disabled", "`Any` lets endpoints use their `allowSpoofedSourcePrefixes` as source."),
    acted("AllowVXLANPacketsFromWorkloads", Kind::Flag(|c, v| c.allow_vxlan_from_workloads = v), "false", "Judges VXLAN (UDP 4789) from workloads like any other packet instead of dropping it."),
    acted("AllowIPIPPacketsFromWorkloads", Kind::Flag(|c, v| c.allow_ipip_from_workloads = v), "false", "Judges IP-in-IP (protocol 4) from workloads like any other packet instead of dropping it."),
    acted("HostEndpointsIgnored", Kind::Flag(|c, v| c.ignore_host_endpoints = v), "false", "Starts although there are host endpoints for this host, which are not enforced."),
    acted("MetadataAddr", Kind::Address4(|c, v| c.metadata_addr = v), "127.0.0.1", "Address of the metadata service on this host; `none` switches metadata off.").fatal(),
    acted("MetadataPort", Kind::Port(|c, v| c.metadata_port = v), "8775", "TCP port of the metadata service there. VMs reach it at 169.254.169.254, port 80.").fatal(),
    // Routing
    acted("Ipv6Support", Kind::Flag(|c, v| c.ipv6_support = v), "true", "Handles IPv6; otherwise IPv6 from and to workloads is dropped."),
    acted("IPForwarding", Kind::Choice(&["Enabled", "Disabled"], |c, v| c.ip_forwarding = v == "Enabled"), "Enabled", "Switches forwarding on for the host, which routes between workloads and other hosts need."),
    acted("DeviceRouteProtocol", Kind::Byte(1, 255, |c, v| c.device_route_protocol = v), "3", "Protocol number of our routes, by which they are recognised."),
    acted("DeviceRouteSourceAddress", Kind::Address4(|c, v| c.device_route_source_address = v), "", "Preferred source address of our IPv4 routes."),
    acted("DeviceRouteSourceAddressIPv6", Kind::Address6(|c, v| c.device_route_source_address_ipv6 = v), "", "Preferred source address of our IPv6 routes."),
    acted("RemoveExternalRoutes", Kind::Flag(|c, v| c.remove_external_routes = v), "true", "Removes routes of others on workload interfaces, except the kernel's own."),
    acted("IPv4NormalRoutePriority", Kind::Number(1, 2_147_483_646, |c, v| c.ipv4_normal_route_priority = v), "1024", "Metric of IPv4 routes to workloads."),
    acted("IPv6NormalRoutePriority", Kind::Number(1, 2_147_483_646, |c, v| c.ipv6_normal_route_priority = v), "1024", "Metric of IPv6 routes to workloads."),
    acted("IPv4ElevatedRoutePriority", Kind::Number(1, 2_147_483_646, |c, v| c.ipv4_elevated_route_priority = v), "512", "Metric of IPv4 routes while a live migration arrives."),
    acted("IPv6ElevatedRoutePriority", Kind::Number(1, 2_147_483_646, |c, v| c.ipv6_elevated_route_priority = v), "512", "Metric of IPv6 routes while a live migration arrives."),
    acted("LiveMigrationRouteConvergenceTime", Kind::Seconds(|c, v| c.live_migration_route_convergence_time = v), "30", "Seconds for which routes keep the elevated metric after a live migration."),
    acted("RouteRefreshInterval", Kind::Seconds(|c, v| c.route_refresh_interval = v), "90", "Seconds between checks of the routes against drift; 0 switches the check off."),
    // Status
    acted("EndpointReportingEnabled", Kind::Flag(|c, v| c.endpoint_reporting_enabled = v), "false", "Writes liveness and endpoint status to etcd; the Neutron driver switches it on."),
    acted("EndpointReportingDelaySecs", Kind::Seconds(|c, v| c.endpoint_reporting_delay = v), "1", "Least seconds between two writes of one endpoint's status; all are compared with etcd after 180 times as long."),
    acted("ReportingIntervalSecs", Kind::Seconds(|c, v| c.reporting_interval = v), "30", "Seconds between liveness reports, the first 10 s after the start; 0 switches them off."),
    acted("ReportingTTLSecs", Kind::Seconds(|c, v| c.reporting_ttl = v), "90", "Seconds after which a liveness report expires; 0: never."),
    acted("HealthEnabled", Kind::Flag(|c, v| c.health_enabled = v), "false", "Serves `/liveness` and `/readiness`."),
    acted("HealthHost", Kind::Text(|c, v| v.unwrap_or("0.0.0.0").clone_into(&mut c.health_host)), "localhost", "Host name or address on which health is served."),
    acted("HealthPort", Kind::Port(|c, v| c.health_port = v), "9099", "TCP port on which health is served."),
    acted("PrometheusMetricsEnabled", Kind::Flag(|c, v| c.prometheus_metrics_enabled = v), "false", "Serves `/metrics` in Prometheus' text form."),
    acted("PrometheusMetricsHost", Kind::Address(|c, v| c.prometheus_metrics_host = v), "", "Address on which metrics are served; all addresses when not set."),
    acted("PrometheusMetricsPort", Kind::Port(|c, v| c.prometheus_metrics_port = v), "9091", "TCP port on which metrics are served."),
    // Logs
    acted("LogSeverityScreen", Kind::Choice(LEVELS, |c, v| level(v).clone_into(&mut c.log_severity_screen)), "INFO", "Least severity of messages on standard error."),
    acted("LogSeverityFile", Kind::Choice(LEVELS, |c, v| level(v).clone_into(&mut c.log_severity_file)), "INFO", "Least severity of messages in the log file."),
    acted("LogFilePath", Kind::Path(|c, v| c.log_file = v), "none", "Log file beside standard error. Felix's own default is `/var/log/calico/felix.log`."),
    acted("LogSeveritySys", Kind::Choice(LEVELS, |c, v| level(v).clone_into(&mut c.log_severity_sys)), "NONE", "Least severity of messages to syslog (`/dev/log`). Felix's own default is `INFO`: under systemd, standard error reaches the journal already."),
    acted("LogFormat", Kind::Choice(&["text", "json"], |c, v| c.log_json = v == "json"), "text", "Form of the messages: lines for people, or one JSON object to a line.").local(),
    // Dataplane
    acted("BPFLogLevel", Kind::Choice(&["Off", "Info", "Debug"], |c, v| c.bpf_log = v != "Off"), "Off", "Lets the programs log their decisions through the agent's log; costs speed."),
    acted("BPFMapSizeConntrack", Kind::Number(1024, 67_108_864, |c, v| c.bpf_map_size_conntrack = v), "512000", "Entries of each conntrack table, one for IPv4 and one for IPv6. A table in use keeps its size and its flows: another size counts after `calico-ebpf cleanup` or a reboot."),
    acted("BPFMapSizeHalfOpen", Kind::Number(1024, 67_108_864, |c, v| c.bpf_map_size_half_open = v), "131072", "Entries of each table of half-open flows (TCP before the end of its handshake, others before their second packet), one for IPv4 and one for IPv6. As with `BPFMapSizeConntrack`, a table in use keeps its size."),
    acted("BPFMaxHalfOpenPerEndpoint", Kind::Number(0, 67_108_864, |c, v| c.bpf_max_half_open_per_endpoint = v), "0", "Half-open flows that one endpoint may have, of both families together: those that it opens, and those that others than endpoints of this host open to it; the latter take at most three quarters. More are judged packet by packet, without a flow. 0: the table is shared out evenly among this host's endpoints, so that none can take another's room."),
    acted("BPFMaxFlowsPerEndpoint", Kind::Number(0, 67_108_864, |c, v| c.bpf_max_flows_per_endpoint = v), "0", "Confirmed flows that one endpoint may have, counted as with `BPFMaxHalfOpenPerEndpoint`. More stay among the half-open ones. 0: a quarter of the table."),
    acted("BPFPolicyTableLines", Kind::Number(4096, 33_554_432, |c, v| c.bpf_policy_table_lines = v), "524288", "Lines of 64 bytes in the policy table; two versions share it."),
    acted("BPFPolicyMaxCells", Kind::Number(0, 16_777_216, |c, v| c.bpf_policy_max_cells = v), "1048576", "Cells (address classes times port classes) of one direction of a policy. What needs more is judged by the fall-back engine: same verdicts, more time for a new flow. 0: everything is."),
    acted("BPFPolicyMaxAddressClasses", Kind::Number(0, 65_535, |c, v| c.bpf_policy_max_address_classes = v), "65535", "Address classes that the cells of all policies of a host together may tell apart. Beyond it, the policies that tell most apart are judged by the fall-back engine."),
    acted("BPFJudgedMark", Kind::Bit(|c, v| c.bpf_judged_mark = v), "0x8000", "Bit of the packet mark that says \"judged\"; must be free of other uses.").local(),
    acted("BPFPinDir", Kind::Path(|c, v| c.bpf_pin_dir = v.unwrap_or_default()), "/sys/fs/bpf/calico-ebpf", "Our directory under a bpffs, which is mounted on its parent if absent.").local(),
    acted("BPFMidStreamGrace", Kind::Seconds(|c, v| c.bpf_mid_stream_grace = v), "30", "Seconds after a tap appeared in which TCP in mid-stream is taken up instead of dropped."),
    acted("BPFExpeditedAttach", Kind::Choice(&["Enabled", "Disabled"], |c, v| c.bpf_expedited_attach = v == "Enabled"), "Enabled", "Expedites RCU grace periods (`/sys/kernel/rcu_expedited`) while eight or more taps get their programs at once: tens of microseconds a tap instead of about 28 ms, and interrupts to all processors. Disable it where some of them are isolated for real time."),
    acted("BPFConntrackTimeoutsTCPEstablished", Kind::Seconds(|c, v| c.conntrack_timeouts.tcp_established = v), "432000", "Seconds that an idle TCP connection lives."),
    acted("BPFConntrackTimeoutsTCPUnreplied", Kind::Seconds(|c, v| c.conntrack_timeouts.tcp_unreplied = v), "120", "Seconds that an incomplete TCP handshake lives."),
    acted("BPFConntrackTimeoutsTCPFin", Kind::Seconds(|c, v| c.conntrack_timeouts.tcp_fin = v), "120", "Seconds that a TCP connection lives after a FIN."),
    acted("BPFConntrackTimeoutsTCPReset", Kind::Seconds(|c, v| c.conntrack_timeouts.tcp_reset = v), "10", "Seconds that a TCP connection lives after a RST."),
    acted("BPFConntrackTimeoutsUDP", Kind::Seconds(|c, v| c.conntrack_timeouts.udp = v), "30", "Seconds that an unanswered UDP flow lives."),
    acted("BPFConntrackTimeoutsUDPReplied", Kind::Seconds(|c, v| c.conntrack_timeouts.udp_replied = v), "120", "Seconds that an answered UDP flow lives."),
    acted("BPFConntrackTimeoutsICMP", Kind::Seconds(|c, v| c.conntrack_timeouts.icmp = v), "30", "Seconds that an ICMP query lives."),
    acted("BPFConntrackTimeoutsGeneric", Kind::Seconds(|c, v| c.conntrack_timeouts.generic = v), "600", "Seconds that a flow of any other protocol lives."),
    acted("BPFConntrackTimeoutsSweepInterval", Kind::Seconds(|c, v| c.conntrack_timeouts.sweep_interval = v), "10", "Seconds between sweeps for expired flows."),
];

fn datastore_type(text: &str) -> DatastoreType {
    if text == "file" {
        DatastoreType::File
    } else {
        DatastoreType::Etcdv3
    }
}

fn established_flows(text: &str) -> EstablishedFlows {
    if text == "Keep" {
        EstablishedFlows::Keep
    } else {
        EstablishedFlows::Rejudge
    }
}

fn deny_action(text: &str) -> DenyAction {
    if text == "REJECT" {
        DenyAction::Reject
    } else {
        DenyAction::Drop
    }
}

fn host_action(text: &str) -> EndpointToHostAction {
    match text {
        "ACCEPT" => EndpointToHostAction::Accept,
        "RETURN" => EndpointToHostAction::Return,
        _ => EndpointToHostAction::Drop,
    }
}

/// Returns the `tracing` level filter of one of Felix's severities.
fn level(text: &str) -> &'static str {
    match text {
        "TRACE" => "trace",
        "DEBUG" => "debug",
        "WARNING" => "warn",
        "ERROR" | "FATAL" | "CRITICAL" => "error",
        "NONE" => "off",
        _ => "info",
    }
}
