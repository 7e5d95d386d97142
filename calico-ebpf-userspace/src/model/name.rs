//! Names of objects.

use std::fmt;

use serde::Serialize;

/// Longest name or namespace, in bytes. A `WorkloadEndpoint`'s name holds a host name and two identifiers with their
/// dashes doubled.
pub const MAX_NAME: usize = 1024;

/// Kinds of `projectcalico.org/v3` objects that the agent reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    WorkloadEndpoint,
    HostEndpoint,
    NetworkPolicy,
    GlobalNetworkPolicy,
    Tier,
    Profile,
    NetworkSet,
    GlobalNetworkSet,
    IPPool,
    Node,
    LiveMigration,
    FelixConfiguration,
    ClusterInformation,
}

impl Kind {
    /// Every kind, in order of definition.
    pub const ALL: &'static [Self] = &[
        Self::WorkloadEndpoint,
        Self::HostEndpoint,
        Self::NetworkPolicy,
        Self::GlobalNetworkPolicy,
        Self::Tier,
        Self::Profile,
        Self::NetworkSet,
        Self::GlobalNetworkSet,
        Self::IPPool,
        Self::Node,
        Self::LiveMigration,
        Self::FelixConfiguration,
        Self::ClusterInformation,
    ];

    /// Returns the kind as written in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WorkloadEndpoint => "WorkloadEndpoint",
            Self::HostEndpoint => "HostEndpoint",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::Tier => "Tier",
            Self::Profile => "Profile",
            Self::NetworkSet => "NetworkSet",
            Self::GlobalNetworkSet => "GlobalNetworkSet",
            Self::IPPool => "IPPool",
            Self::Node => "Node",
            Self::LiveMigration => "LiveMigration",
            Self::FelixConfiguration => "FelixConfiguration",
            Self::ClusterInformation => "ClusterInformation",
        }
    }

    /// Returns the kind that is written `text` in manifests.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }

    /// Returns whether objects of this kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        matches!(
            self,
            Self::WorkloadEndpoint | Self::NetworkPolicy | Self::NetworkSet | Self::LiveMigration
        )
    }
}

/// Identity of one object in the datastore.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ResourceKey {
    pub kind: Kind,
    /// Empty for kinds without a namespace.
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(formatter, "{}({})", self.kind.as_str(), self.name)
        } else {
            write!(
                formatter,
                "{}({}/{})",
                self.kind.as_str(),
                self.namespace,
                self.name
            )
        }
    }
}
