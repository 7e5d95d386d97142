//! The parameters as the agent uses them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// Where the objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DatastoreType {
    /// A directory of manifests.
    File,
    /// Calico's keys in etcd v3.
    Etcdv3,
}

/// What becomes of packets from a workload to the host that egress policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EndpointToHostAction {
    Drop,
    Return,
    Accept,
}

/// What becomes of a live flow when policy stops allowing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EstablishedFlows {
    /// Its next packet is judged by what policy says then.
    Rejudge,
    /// It goes on; only new flows are refused.
    Keep,
}

/// What becomes of packets that policy denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DenyAction {
    Drop,
    /// Dropped, and the sender is told.
    Reject,
}

/// Every parameter that the agent acts on, valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a parameter that operators switch on or off"
)]
pub struct Config {
    /// `FelixHostname`: equals Nova's host.
    pub felix_hostname: String,
    pub datastore_type: DatastoreType,
    /// `DatastoreDir`: manifests of the `file` datastore.
    pub datastore_dir: PathBuf,
    /// `EtcdEndpoints`, or made of `EtcdScheme` and `EtcdAddr`.
    pub etcd_endpoints: Vec<String>,
    pub etcd_ca_file: Option<PathBuf>,
    pub etcd_cert_file: Option<PathBuf>,
    pub etcd_key_file: Option<PathBuf>,
    pub etcd_username: Option<String>,
    #[serde(skip)]
    pub etcd_password: Option<String>,
    /// `OpenstackRegion`.
    pub openstack_region: Option<String>,
    /// Whether the special cases of OpenStack apply: DHCP and DNS to the host, the metadata service. Made of
    /// `ClusterType`, `InterfacePrefix`, `MetadataAddr` and `MetadataPort`.
    pub openstack: bool,
    /// `InterfacePrefix`: interfaces whose name starts with one of these are workloads'.
    pub interface_prefixes: Vec<String>,
    /// `InterfaceExclude`.
    pub interface_exclude: Vec<String>,
    pub ipv6_support: bool,
    /// `IPForwarding` is `Enabled`.
    pub ip_forwarding: bool,
    pub default_endpoint_to_host_action: EndpointToHostAction,
    pub established_flows: EstablishedFlows,
    /// `IptablesFilterDenyAction`.
    pub deny_action: DenyAction,
    /// `MetadataAddr`; `None` switches metadata off.
    pub metadata_addr: Option<Ipv4Addr>,
    pub metadata_port: u16,
    /// `DeviceRouteProtocol`: protocol number of our routes.
    pub device_route_protocol: u8,
    pub device_route_source_address: Option<Ipv4Addr>,
    pub device_route_source_address_ipv6: Option<Ipv6Addr>,
    pub remove_external_routes: bool,
    pub ipv4_normal_route_priority: u32,
    pub ipv6_normal_route_priority: u32,
    pub ipv4_elevated_route_priority: u32,
    pub ipv6_elevated_route_priority: u32,
    pub live_migration_route_convergence_time: Duration,
    /// `RouteRefreshInterval`; zero switches the periodic check off.
    pub route_refresh_interval: Duration,
    /// `InterfaceRefreshInterval`.
    pub interface_refresh_interval: Duration,
    /// `WorkloadSourceSpoofing` is `Any`: `allowSpoofedSourcePrefixes` count.
    pub workload_source_spoofing: bool,
    pub allow_vxlan_from_workloads: bool,
    pub allow_ipip_from_workloads: bool,
    pub endpoint_reporting_enabled: bool,
    pub endpoint_reporting_delay: Duration,
    pub reporting_interval: Duration,
    pub reporting_ttl: Duration,
    pub health_enabled: bool,
    pub health_host: String,
    pub health_port: u16,
    pub prometheus_metrics_enabled: bool,
    pub prometheus_metrics_host: Option<IpAddr>,
    pub prometheus_metrics_port: u16,
    /// `LogSeverityScreen`, as a `tracing` level name.
    pub log_severity_screen: String,
    /// `LogFormat`: text or JSON.
    pub log_json: bool,
    /// `LogFilePath`; `None` logs to standard error only.
    pub log_file: Option<PathBuf>,
    /// `LogSeverityFile`, as a `tracing` level name.
    pub log_severity_file: String,
    /// `LogSeveritySys`, as a `tracing` level name.
    pub log_severity_sys: String,
    /// `BPFLogLevel` is not `Off`: the programs log their decisions.
    pub bpf_log: bool,
    /// `BPFMapSizeConntrack`: entries of each conntrack map.
    pub bpf_map_size_conntrack: u32,
    /// `BPFMapSizeHalfOpen`: entries of each map of half-open flows.
    pub bpf_map_size_half_open: u32,
    /// `BPFMaxHalfOpenPerEndpoint`: 0 shares the table out evenly.
    pub bpf_max_half_open_per_endpoint: u32,
    /// `BPFMaxFlowsPerEndpoint`: 0 is a quarter of the table.
    pub bpf_max_flows_per_endpoint: u32,
    /// `BPFPolicyTableLines`: 64-byte lines of the policy table.
    pub bpf_policy_table_lines: u32,
    /// `BPFPolicyMaxCells`: cells of one direction of a policy set.
    pub bpf_policy_max_cells: u32,
    /// `BPFPolicyMaxAddressClasses`: address classes of all cells together.
    pub bpf_policy_max_address_classes: u32,
    /// `BPFJudgedMark`: bit of the packet mark that says "judged".
    pub bpf_judged_mark: u32,
    /// `BPFPinDir`: our directory under a bpffs, which is mounted on its parent if absent.
    pub bpf_pin_dir: PathBuf,
    /// `RunDir`: state that outlives the agent but not the host.
    pub run_dir: PathBuf,
    /// `BPFMidStreamGrace`: how long after a tap appeared TCP in mid-stream is taken up.
    pub bpf_mid_stream_grace: Duration,
    /// `BPFExpeditedAttach`: RCU grace periods are expedited while many taps get their programs.
    pub bpf_expedited_attach: bool,
    /// `BPFConntrackTimeouts*`, defaults of `nf_conntrack`.
    pub conntrack_timeouts: ConntrackTimeouts,
    /// `HostEndpointsIgnored`: start although host endpoints are in the datastore.
    pub ignore_host_endpoints: bool,
}

impl Config {
    /// Returns whether work that was started with this configuration has to start anew, in place, for another one. Logs
    /// and reports take theirs while it goes on.
    pub fn needs_new_work(&self, other: &Self) -> bool {
        let taken_on = Self {
            log_severity_screen: other.log_severity_screen.clone(),
            log_severity_file: other.log_severity_file.clone(),
            log_severity_sys: other.log_severity_sys.clone(),
            log_file: other.log_file.clone(),
            endpoint_reporting_enabled: other.endpoint_reporting_enabled,
            endpoint_reporting_delay: other.endpoint_reporting_delay,
            reporting_interval: other.reporting_interval,
            reporting_ttl: other.reporting_ttl,
            ignore_host_endpoints: other.ignore_host_endpoints,
            ..self.clone()
        };
        taken_on != *other
    }
}

/// How long a flow lives without a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ConntrackTimeouts {
    pub tcp_established: Duration,
    /// Handshake not complete.
    pub tcp_unreplied: Duration,
    /// After FIN.
    pub tcp_fin: Duration,
    /// After RST.
    pub tcp_reset: Duration,
    pub udp: Duration,
    /// UDP that was answered.
    pub udp_replied: Duration,
    pub icmp: Duration,
    pub generic: Duration,
    /// How often the tables are swept.
    pub sweep_interval: Duration,
}

impl Default for ConntrackTimeouts {
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_hours(120),
            tcp_unreplied: Duration::from_mins(2),
            tcp_fin: Duration::from_mins(2),
            tcp_reset: Duration::from_secs(10),
            udp: Duration::from_secs(30),
            udp_replied: Duration::from_mins(2),
            icmp: Duration::from_secs(30),
            generic: Duration::from_mins(10),
            sweep_interval: Duration::from_secs(10),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            felix_hostname: String::new(),
            datastore_type: DatastoreType::Etcdv3,
            datastore_dir: PathBuf::from("/etc/calico/manifests"),
            etcd_endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            etcd_ca_file: None,
            etcd_cert_file: None,
            etcd_key_file: None,
            etcd_username: None,
            etcd_password: None,
            openstack_region: None,
            openstack: true,
            interface_prefixes: vec!["tap".to_owned()],
            interface_exclude: vec!["kube-ipvs0".to_owned()],
            ipv6_support: true,
            ip_forwarding: true,
            default_endpoint_to_host_action: EndpointToHostAction::Drop,
            established_flows: EstablishedFlows::Rejudge,
            deny_action: DenyAction::Drop,
            metadata_addr: Some(Ipv4Addr::LOCALHOST),
            metadata_port: 8775,
            device_route_protocol: 3,
            device_route_source_address: None,
            device_route_source_address_ipv6: None,
            remove_external_routes: true,
            ipv4_normal_route_priority: 1024,
            ipv6_normal_route_priority: 1024,
            ipv4_elevated_route_priority: 512,
            ipv6_elevated_route_priority: 512,
            live_migration_route_convergence_time: Duration::from_secs(30),
            route_refresh_interval: Duration::from_secs(90),
            interface_refresh_interval: Duration::from_secs(90),
            workload_source_spoofing: false,
            allow_vxlan_from_workloads: false,
            allow_ipip_from_workloads: false,
            endpoint_reporting_enabled: false,
            endpoint_reporting_delay: Duration::from_secs(1),
            reporting_interval: Duration::from_secs(30),
            reporting_ttl: Duration::from_secs(90),
            health_enabled: false,
            health_host: "localhost".to_owned(),
            health_port: 9099,
            prometheus_metrics_enabled: false,
            prometheus_metrics_host: None,
            prometheus_metrics_port: 9091,
            log_severity_screen: "info".to_owned(),
            log_json: false,
            log_file: None,
            log_severity_file: "info".to_owned(),
            log_severity_sys: "off".to_owned(),
            bpf_log: false,
            bpf_map_size_conntrack: calico_ebpf_common::maps::FLOW_ENTRIES,
            bpf_map_size_half_open: calico_ebpf_common::maps::HALF_OPEN_ENTRIES,
            bpf_max_half_open_per_endpoint: 0,
            bpf_max_flows_per_endpoint: 0,
            bpf_policy_table_lines: calico_ebpf_common::maps::POLICY_LINES,
            bpf_policy_max_cells: 1 << 20,
            bpf_policy_max_address_classes: calico_ebpf_common::address::Class::MAX.into(),
            bpf_judged_mark: calico_ebpf_common::maps::DEFAULT_MARK,
            bpf_pin_dir: PathBuf::from("/sys/fs/bpf/calico-ebpf"),
            run_dir: PathBuf::from("/run/calico-ebpf"),
            bpf_mid_stream_grace: Duration::from_secs(30),
            bpf_expedited_attach: true,
            conntrack_timeouts: ConntrackTimeouts::default(),
            ignore_host_endpoints: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_and_reports_change_without_new_work_and_anything_else_with_it() {
        let config = Config::default();
        let others = [
            (
                false,
                Config {
                    log_severity_screen: "debug".to_owned(),
                    ..config.clone()
                },
            ),
            (
                false,
                Config {
                    reporting_ttl: Duration::from_secs(1),
                    ..config.clone()
                },
            ),
            (
                true,
                Config {
                    openstack: false,
                    ..config.clone()
                },
            ),
            (
                true,
                Config {
                    metadata_port: 1,
                    log_severity_file: "debug".to_owned(),
                    ..config.clone()
                },
            ),
        ];
        for (expected, other) in others {
            assert_eq!(config.needs_new_work(&other), expected, "{other:?}");
        }
        assert!(!config.needs_new_work(&config));
    }
}
