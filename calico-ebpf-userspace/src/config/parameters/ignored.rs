//! Felix's parameters that have no effect here, so that a `felix.cfg` or a `FelixConfiguration` made for Felix is
//! understood as a whole.

use super::{Handling, Kind, Parameter};

const NO_IPTABLES: &str = "there are no iptables rules or IP sets";
const NO_OVERLAY: &str = "there is no overlay or encryption: packets are routed plain";
const NO_HOST_ENDPOINTS: &str = "host endpoints are not enforced";
const NO_TYPHA: &str = "the datastore is read directly, without Typha";
const NO_KUBERNETES: &str = "services and other parts of Kubernetes are not handled";
const NO_PHONE_HOME: &str = "nothing is ever reported to the outside";
const NO_FLOW_LOGS: &str = "flow logs are not written";
const OWN_DATAPLANE: &str = "the dataplane of this agent is always eBPF, with layouts of its own";
const NOT_NEEDED: &str = "not needed by this agent";

const PASS: &[&str] = &["ACCEPT", "RETURN"];

/// One to a line, by reason.
#[rustfmt::skip]
pub(super) static PARAMETERS: &[Parameter] = &[
    // iptables
    ignored("ChainInsertMode", Kind::Choice(&["insert", "append"], |_, _| {}), "insert", NO_IPTABLES),
    ignored("IptablesFilterAllowAction", Kind::Choice(PASS, |_, _| {}), "ACCEPT", NO_IPTABLES),
    ignored("IptablesMangleAllowAction", Kind::Choice(PASS, |_, _| {}), "ACCEPT", NO_IPTABLES),
    ignored("FilterAllowAction", Kind::Choice(PASS, |_, _| {}), "ACCEPT", NO_IPTABLES),
    ignored("MangleAllowAction", Kind::Choice(PASS, |_, _| {}), "ACCEPT", NO_IPTABLES),
    ignored("FilterDenyAction", Kind::Choice(&["DROP", "REJECT"], |_, _| {}), "DROP", "see IptablesFilterDenyAction"),
    ignored("IptablesBackend", text(), "", NO_IPTABLES),
    ignored("NFTablesMode", text(), "", NO_IPTABLES),
    ignored("IptablesRefreshInterval", seconds(), "180", NO_IPTABLES),
    ignored("IpsetsRefreshInterval", seconds(), "90", NO_IPTABLES),
    ignored("IptablesPostWriteCheckIntervalSecs", seconds(), "5", NO_IPTABLES),
    ignored("IptablesLockFilePath", text(), "/run/xtables.lock", NO_IPTABLES),
    ignored("IptablesLockTimeoutSecs", seconds(), "0", NO_IPTABLES),
    ignored("IptablesLockProbeIntervalMillis", Kind::Millis(|_, _| {}), "50", NO_IPTABLES),
    ignored("IptablesMarkMask", Kind::Number(0, u32::MAX, |_, _| {}), "0xffff0000", "one bit of the mark is used, see BPFJudgedMark"),
    ignored("IptablesNATOutgoingInterfaceFilter", text(), "", NO_IPTABLES),
    ignored("MaxIpsetSize", Kind::Number(1, u32::MAX, |_, _| {}), "1048576", "see BPFPolicyTableLines"),
    ignored("LogPrefix", text(), "calico-packet", NO_IPTABLES),
    ignored("LogActionRateLimit", text(), "", NO_IPTABLES),
    ignored("FeatureDetectOverride", text(), "", NO_IPTABLES),
    ignored("FeatureGates", text(), "", NOT_NEEDED),
    ignored("DisableConntrackInvalidCheck", flag(), "false", "conntrack is this dataplane's own"),
    ignored("NetlinkTimeoutSecs", seconds(), "10", NOT_NEEDED),
    ignored("IgnoreLooseRPF", flag(), "false", "the source of every packet is checked by the programs"),
    // NAT
    ignored("FloatingIPs", Kind::Choice(&["Enabled", "Disabled"], |_, _| {}), "Disabled", "floating addresses of OpenStack do not depend on it"),
    ignored("NATOutgoingAddress", text(), "", "outgoing address translation is not enforced"),
    ignored("NATPortRange", text(), "", "outgoing address translation is not enforced"),
    ignored("NATOutgoingExclusions", text(), "", "outgoing address translation is not enforced"),
    // Host endpoints
    ignored("FailsafeInboundHostPorts", ports(), "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667", NO_HOST_ENDPOINTS),
    ignored("FailsafeOutboundHostPorts", ports(), "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667", NO_HOST_ENDPOINTS),
    ignored("XDPEnabled", flag(), "true", NO_HOST_ENDPOINTS),
    ignored("GenericXDPEnabled", flag(), "false", NO_HOST_ENDPOINTS),
    ignored("XDPRefreshInterval", seconds(), "90", NO_HOST_ENDPOINTS),
    ignored("ExternalNodesCIDRList", text(), "", NO_OVERLAY),
    // Overlays
    ignored("IpInIpEnabled", flag(), "", NO_OVERLAY),
    ignored("IpInIpMtu", text(), "0", NO_OVERLAY),
    ignored("IpInIpTunnelAddr", text(), "", NO_OVERLAY),
    ignored("VXLANEnabled", flag(), "", NO_OVERLAY),
    ignored("VXLANPort", text(), "4789", NO_OVERLAY),
    ignored("VXLANVNI", text(), "4096", NO_OVERLAY),
    ignored("VXLANMTU", text(), "0", NO_OVERLAY),
    ignored("VXLANMTUV6", text(), "0", NO_OVERLAY),
    ignored("MTUIfacePattern", text(), "", NO_OVERLAY),
    ignored("WireguardEnabled", flag(), "false", NO_OVERLAY),
    ignored("WireguardEnabledV6", flag(), "false", NO_OVERLAY),
    ignored("WireguardListeningPort", text(), "51820", NO_OVERLAY),
    ignored("WireguardInterfaceName", text(), "wireguard.cali", NO_OVERLAY),
    ignored("WireguardMTU", text(), "0", NO_OVERLAY),
    ignored("WireguardHostEncryptionEnabled", flag(), "false", NO_OVERLAY),
    ignored("WireguardPersistentKeepAlive", seconds(), "0", NO_OVERLAY),
    ignored("RouteSource", text(), "CalicoIPAM", NO_OVERLAY),
    ignored("RouteTableRange", text(), "", NO_OVERLAY),
    ignored("RouteTableRanges", text(), "", NO_OVERLAY),
    ignored("RouteSyncDisabled", flag(), "false", NOT_NEEDED),
    ignored("ProgramClusterRoutes", text(), "", NO_OVERLAY),
    // Typha and Kubernetes
    ignored("TyphaAddr", text(), "", NO_TYPHA),
    ignored("TyphaK8sServiceName", text(), "", NO_TYPHA),
    ignored("TyphaK8sNamespace", text(), "kube-system", NO_TYPHA),
    ignored("TyphaReadTimeout", seconds(), "30", NO_TYPHA),
    ignored("TyphaWriteTimeout", seconds(), "10", NO_TYPHA),
    ignored("TyphaKeyFile", text(), "", NO_TYPHA),
    ignored("TyphaCertFile", text(), "", NO_TYPHA),
    ignored("TyphaCAFile", text(), "", NO_TYPHA),
    ignored("TyphaCN", text(), "", NO_TYPHA),
    ignored("TyphaURISAN", text(), "", NO_TYPHA),
    ignored("KubeNodePortRanges", text(), "30000:32767", NO_KUBERNETES),
    ignored("KubeMasqueradeBit", text(), "14", NO_KUBERNETES),
    ignored("ServiceLoopPrevention", text(), "Drop", NO_KUBERNETES),
    ignored("AWSSrcDstCheck", text(), "DoNothing", NO_KUBERNETES),
    ignored("GoGCThreshold", text(), "40", NOT_NEEDED),
    ignored("GoMaxProcs", text(), "-1", NOT_NEEDED),
    ignored("GoMemoryLimitMB", text(), "-1", NOT_NEEDED),
    // Reports and debugging
    ignored("UsageReportingEnabled", flag(), "true", NO_PHONE_HOME),
    ignored("UsageReportingInitialDelaySecs", seconds(), "300", NO_PHONE_HOME),
    ignored("UsageReportingIntervalSecs", seconds(), "86400", NO_PHONE_HOME),
    ignored("FlowLogsFlushInterval", seconds(), "300", NO_FLOW_LOGS),
    ignored("FlowLogsGoldmaneServer", text(), "", NO_FLOW_LOGS),
    ignored("FlowLogsLocalReporter", text(), "", NO_FLOW_LOGS),
    ignored("FlowLogsPolicyEvaluationMode", text(), "", NO_FLOW_LOGS),
    ignored("LogDebugFilenameRegex", text(), "", NOT_NEEDED),
    ignored("PrometheusGoMetricsEnabled", flag(), "true", NOT_NEEDED),
    ignored("PrometheusProcessMetricsEnabled", flag(), "true", NOT_NEEDED),
    ignored("PrometheusWireGuardMetricsEnabled", flag(), "true", NO_OVERLAY),
    ignored("PrometheusMetricsCAFile", text(), "", "metrics are served without TLS"),
    ignored("PrometheusMetricsCertFile", text(), "", "metrics are served without TLS"),
    ignored("PrometheusMetricsKeyFile", text(), "", "metrics are served without TLS"),
    ignored("PrometheusMetricsClientAuth", text(), "", "metrics are served without TLS"),
    ignored("HealthTimeoutOverrides", text(), "", NOT_NEEDED),
    ignored("DebugMemoryProfilePath", text(), "", NOT_NEEDED),
    ignored("DebugCPUProfilePath", text(), "/tmp/felix-cpu-<timestamp>.pprof", NOT_NEEDED),
    ignored("DebugDisableLogDropping", flag(), "false", NOT_NEEDED),
    ignored("DebugSimulateCalcGraphHangAfter", text(), "0", NOT_NEEDED),
    ignored("DebugSimulateDataplaneHangAfter", text(), "0", NOT_NEEDED),
    ignored("DebugSimulateDataplaneApplyDelay", text(), "0", NOT_NEEDED),
    ignored("DebugPanicAfter", text(), "0", NOT_NEEDED),
    ignored("DebugHost", text(), "localhost", NOT_NEEDED),
    ignored("DebugPort", text(), "", NOT_NEEDED),
    ignored("StartupCleanupDelay", seconds(), "30", NOT_NEEDED),
    ignored("EndpointStatusPathPrefix", text(), "", NOT_NEEDED),
    ignored("PolicySyncPathPrefix", text(), "", NOT_NEEDED),
    ignored("UseInternalDataplaneDriver", flag(), "true", OWN_DATAPLANE),
    ignored("DataplaneDriver", text(), "calico-iptables-plugin", OWN_DATAPLANE),
    ignored("DataplaneWatchdogTimeout", seconds(), "90", NOT_NEEDED),
    ignored("SidecarAccelerationEnabled", flag(), "false", NO_KUBERNETES),
    ignored("WindowsNetworkName", text(), "", NOT_NEEDED),
    ignored("WindowsManageFirewallRules", text(), "", NOT_NEEDED),
    ignored("NftablesRefreshInterval", seconds(), "180", NO_IPTABLES),
    ignored("NftablesFilterAllowAction", text(), "ACCEPT", NO_IPTABLES),
    ignored("NftablesFilterDenyAction", text(), "DROP", NO_IPTABLES),
    ignored("NftablesMangleAllowAction", text(), "ACCEPT", NO_IPTABLES),
    ignored("NftablesMarkMask", text(), "0xffff0000", "one bit of the mark is used, see BPFJudgedMark"),
    ignored("RequireMTUFile", flag(), "false", NO_KUBERNETES),
    ignored("MTUFileDirectory", text(), "", NO_KUBERNETES),
    // Felix's own eBPF dataplane
    ignored("BPFEnabled", flag(), "false", OWN_DATAPLANE),
    ignored("BPFAttachType", text(), "TCX", "tcx where the kernel has it, clsact below"),
    ignored("BPFCTLBLogFilter", text(), "", OWN_DATAPLANE),
    ignored("BPFConnectTimeLoadBalancing", text(), "TCP", NO_KUBERNETES),
    ignored("BPFConnectTimeLoadBalancingEnabled", flag(), "true", NO_KUBERNETES),
    ignored("BPFConntrackCleanupMode", text(), "Auto", "see BPFConntrackTimeoutsSweepInterval"),
    ignored("BPFConntrackLogLevel", text(), "Off", OWN_DATAPLANE),
    ignored("BPFConntrackTimeouts", text(), "", "each timeout has a parameter of its own, BPFConntrackTimeouts..."),
    ignored("BPFDSROptoutCIDRs", text(), "", NO_KUBERNETES),
    ignored("BPFDataIfacePattern", text(), "", "programs are attached to taps only"),
    ignored("BPFDisableGROForIfaces", text(), "", OWN_DATAPLANE),
    ignored("BPFDisableUnprivileged", flag(), "true", "left to the host's own settings"),
    ignored("BPFEnforceRPF", text(), "Loose", "the source of every packet from a workload is checked"),
    ignored("BPFExcludeCIDRsFromNAT", text(), "", NO_KUBERNETES),
    ignored("BPFExportBufferSizeMB", text(), "1", OWN_DATAPLANE),
    ignored("BPFExtToServiceConnmark", text(), "0", NO_KUBERNETES),
    ignored("BPFExternalServiceMode", text(), "tunnel", NO_KUBERNETES),
    ignored("BPFForceTrackPacketsFromIfaces", text(), "docker+", OWN_DATAPLANE),
    ignored("BPFHostConntrackBypass", text(), "true", OWN_DATAPLANE),
    ignored("BPFHostNetworkedNATWithoutCTLB", text(), "Enabled", NO_KUBERNETES),
    ignored("BPFIpv6Enabled", text(), "false", "see Ipv6Support"),
    ignored("BPFJITHardening", text(), "Auto", "left to the host's own settings"),
    ignored("BPFKubeProxyEndpointSlicesEnabled", text(), "true", NO_KUBERNETES),
    ignored("BPFKubeProxyHealthzPort", text(), "10256", NO_KUBERNETES),
    ignored("BPFKubeProxyIptablesCleanupEnabled", text(), "true", NO_KUBERNETES),
    ignored("BPFKubeProxyMinSyncPeriod", text(), "1", NO_KUBERNETES),
    ignored("BPFL3IfacePattern", text(), "", OWN_DATAPLANE),
    ignored("BPFLogFilters", text(), "", OWN_DATAPLANE),
    ignored("BPFMaglevMaxEndpointsPerService", text(), "100", NO_KUBERNETES),
    ignored("BPFMaglevMaxServices", text(), "100", NO_KUBERNETES),
    ignored("BPFMapRepin", text(), "false", OWN_DATAPLANE),
    ignored("BPFMapSizeConntrackCleanupQueue", text(), "100000", OWN_DATAPLANE),
    ignored("BPFMapSizeConntrackScaling", text(), "DoubleIfFull", OWN_DATAPLANE),
    ignored("BPFMapSizeIPSets", text(), "1048576", "see BPFPolicyTableLines"),
    ignored("BPFMapSizeIfState", text(), "1000", OWN_DATAPLANE),
    ignored("BPFMapSizeNATAffinity", text(), "65536", NO_KUBERNETES),
    ignored("BPFMapSizeNATBackend", text(), "262144", NO_KUBERNETES),
    ignored("BPFMapSizeNATFrontend", text(), "65536", NO_KUBERNETES),
    ignored("BPFMapSizePerCpuConntrack", text(), "0", OWN_DATAPLANE),
    ignored("BPFMapSizeRoute", text(), "262144", OWN_DATAPLANE),
    ignored("BPFPSNATPorts", text(), "20000:29999", NO_KUBERNETES),
    ignored("BPFPolicyDebugEnabled", text(), "true", "see the policy command"),
    ignored("BPFProfiling", text(), "Disabled", OWN_DATAPLANE),
    ignored("BPFRedirectToPeer", text(), "L2Only", OWN_DATAPLANE),
];

/// Makes a parameter without effect.
const fn ignored(name: &'static str, kind: Kind, default: &'static str, reason: &'static str) -> Parameter {
    let handling = Handling::Ignored(reason);
    let doc = "Known from Felix.";
    Parameter {
        name,
        kind,
        default,
        doc,
        handling,
        local_only: false,
        fatal: false,
        secret: false,
    }
}

const fn text() -> Kind {
    Kind::Text(|_, _| {})
}

const fn flag() -> Kind {
    Kind::Flag(|_, _| {})
}

const fn seconds() -> Kind {
    Kind::Seconds(|_, _| {})
}

const fn ports() -> Kind {
    Kind::Ports(|_, _| {})
}
