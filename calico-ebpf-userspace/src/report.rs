//! What the agent tells about itself: written to `RunDir/report.json` after each change (by rename, so a reader
//! never sees half of it), read by the command line and the metrics. It outlives the agent, as the dataplane does.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// File name in `RunDir`.
pub const REPORT_FILE: &str = "report.json";

/// The whole report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentReport {
    pub version: String,
    pub pid: u32,
    /// Seconds since the epoch.
    pub started_at: u64,
    pub updated_at: u64,
    pub hostname: String,
    pub pin_dir: String,
    pub datastore: DatastoreReport,
    #[serde(default)]
    pub cluster: ClusterReport,
    /// Version of the policy table in force; 0 before the first.
    pub epoch: u32,
    /// When that version came into force, in seconds since the epoch.
    #[serde(default)]
    pub in_force_at: u64,
    /// From the arrival of the last change to its being in force in the kernel.
    #[serde(default)]
    pub lag_milliseconds: Option<u64>,
    pub tables: TableReport,
    pub endpoints: Vec<EndpointReport>,
    /// Shared with the table in force: a report of an unchanged table costs nothing.
    pub policy_sets: Arc<Vec<PolicySetReport>>,
    /// Objects and fields that were left out, and why.
    pub problems: Arc<Vec<ProblemReport>>,
    /// Number of these by what the agent did about them: `object-skipped`, `rule-skipped` ...
    #[serde(default)]
    pub problems_by_consequence: BTreeMap<String, u64>,
    /// Objects that are read but not enforced.
    pub not_enforced: Vec<NotEnforcedReport>,
    /// Kernel state that could not be written and is retried.
    pub dirty: Vec<String>,
    /// What is written back for Neutron.
    #[serde(default)]
    pub status: StatusReport,
    /// The parameters in force.
    #[serde(default)]
    pub configuration: Arc<ConfigurationReport>,
    /// How often a foreign program stood before ours on a tap and ours was moved to the head again.
    #[serde(default)]
    pub moved_to_head: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreReport {
    /// `file` or `etcdv3`.
    pub kind: String,
    /// Directory or endpoints.
    pub location: String,
    /// The member of etcd that answers; empty when there is none.
    #[serde(default)]
    pub endpoint: String,
    /// `wait-for-ready`, `resync`, `in-sync`, `unreachable`.
    pub state: String,
    /// Why the state is what it is; empty when all is well.
    #[serde(default)]
    pub reason: String,
    /// Seconds since the epoch at which it ceased to be in sync; `None` while it is.
    #[serde(default)]
    pub out_of_sync_since: Option<u64>,
    /// etcd revision, or number of reads of the directory.
    pub revision: u64,
    pub objects: u64,
    /// The last trouble, also when it is over; empty when there was none.
    #[serde(default)]
    pub last_error: String,
    /// When that was, in seconds since the epoch.
    #[serde(default)]
    pub last_error_at: Option<u64>,
    /// How often it was begun to read everything.
    #[serde(default)]
    pub resyncs_started: u64,
}

/// The parameters in force. Secrets are not among the values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationReport {
    /// Those that somebody has set.
    pub parameters: Vec<ParameterReport>,
    pub warnings: Vec<ParameterWarningReport>,
}

/// One parameter that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterReport {
    pub name: String,
    pub value: String,
    /// `datastore-global`, `datastore-selector`, `datastore-host`, `shared-environment`, `file`, `environment`,
    /// `command-line`.
    pub source: String,
    /// Where exactly: `FelixConfiguration(default): spec.healthPort`, `/etc/calico/felix.cfg:3`.
    pub place: String,
    /// Why it has no effect; empty when it has.
    pub without_effect: String,
}

/// Something about a parameter that an operator should know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterWarningReport {
    /// `bad-value`, `unknown`, `local-only`, `without-effect`, `refused`.
    pub trouble: String,
    pub name: String,
    pub place: String,
    pub text: String,
}

impl fmt::Display for ParameterWarningReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: {}", self.place, self.name, self.text)
    }
}

/// What the datastore holds for all hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Hosts with an endpoint or a `Node`.
    pub hosts: u64,
    pub workload_endpoints: u64,
    pub host_endpoints: u64,
    pub policies: u64,
    pub profiles: u64,
    pub tiers: u64,
}

/// Liveness and endpoint status, as written to etcd (contract 2). Times are seconds since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Whether anything is written.
    pub enabled: bool,
    /// Why not; empty when it is.
    pub reason: String,
    /// When liveness was last written.
    pub liveness_written_at: Option<u64>,
    /// Seconds after which that expires; 0: never.
    pub liveness_ttl_seconds: u64,
    pub liveness_writes: u64,
    /// Endpoints whose key has what it should.
    pub endpoints_written: u64,
    /// Keys that are to be written or removed.
    pub endpoints_pending: u64,
    pub endpoint_writes: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Why the last request failed; empty when it did not.
    pub error: String,
    /// The last failure, also when it is over; empty when there was none.
    pub last_error: String,
    pub last_error_at: Option<u64>,
}

/// Something wrong with an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemReport {
    /// Empty when the object could not be told, as namespace and name then are.
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// Path to the field; empty for the whole object.
    pub field: String,
    pub found: String,
    pub expected: String,
    /// What the agent did about it: `object-skipped`, `rule-skipped` ...
    pub consequence: String,
    /// Where it is written, such as `web.yaml:3`; empty for etcd.
    pub place: String,
}

impl fmt::Display for ProblemReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [
            &self.place,
            &object(&self.kind, &self.namespace, &self.name),
            &self.field,
        ] {
            if !part.is_empty() {
                write!(formatter, "{part}: ")?;
            }
        }
        write!(formatter, "found {}, expected {}", self.found, self.expected)
    }
}

/// Something that is read but not enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotEnforcedReport {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// What of it.
    pub what: String,
}

impl fmt::Display for NotEnforcedReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = object(&self.kind, &self.namespace, &self.name);
        write!(formatter, "{object}: {}", self.what)
    }
}

fn object(kind: &str, namespace: &str, name: &str) -> String {
    match (kind, namespace) {
        ("", _) => String::new(),
        (kind, "") => format!("{kind}({name})"),
        (kind, namespace) => format!("{kind}({namespace}/{name})"),
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    pub lines: u32,
    pub max_lines: u32,
    pub address_classes: u32,
    pub port_classes: u32,
    pub exact_addresses: u32,
    pub prefixes: u32,
    pub cells: u64,
    /// Policy sets of which a direction denies everything, because there is no room for it.
    pub over_budget: u32,
    /// Policy sets of which a direction is judged by the fall-back, because its rules tell too much apart for cells.
    #[serde(default)]
    pub fall_back: u32,
    /// From the calculated state to the version being in force.
    #[serde(default)]
    pub apply_milliseconds: u64,
    /// How often a version in force was amended instead of being replaced.
    #[serde(default)]
    pub amendments: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointReport {
    pub namespace: String,
    pub name: String,
    pub interface: String,
    pub ifindex: u32,
    pub slot: u16,
    pub mac: Option<String>,
    pub addresses: Vec<String>,
    /// Floating addresses.
    #[serde(default)]
    pub floating: Vec<FloatingReport>,
    /// `up`, `down`, `waiting`, `inactive`.
    pub state: String,
    /// Why, when not up.
    pub reason: String,
    pub policy_set: u32,
    pub generation: u32,
    /// How far a live migration to this host is: `expected`, `arrived`, `converging`; empty without one.
    #[serde(default)]
    pub migration: String,
}

/// A floating address and the address that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloatingReport {
    pub external: IpAddr,
    pub internal: IpAddr,
}

/// A policy list and the endpoints that share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySetReport {
    pub id: u32,
    /// Keys of endpoints.
    pub endpoints: Vec<String>,
    pub egress: Vec<TierReport>,
    pub ingress: Vec<TierReport>,
    /// What judges: `cells`, `fall-back`, or `over budget`, which denies.
    #[serde(default)]
    pub egress_engine: String,
    #[serde(default)]
    pub ingress_engine: String,
    pub rows: u32,
    pub columns: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierReport {
    /// Tier name; `profiles` for the profiles behind the tiers.
    pub tier: String,
    pub default_action: String,
    pub policies: Vec<PolicyReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    pub name: String,
    pub rules: Vec<RuleReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReport {
    /// Number of the rule's counter in the kernel.
    pub counter: u32,
    pub index: u32,
    pub action: String,
    /// The rule in words.
    pub text: String,
}
