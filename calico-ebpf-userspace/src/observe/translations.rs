//! By which address a translated flow came in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use calico_ebpf_common::flow::NAT_METADATA;
use calico_ebpf_common::nat::{halves, tag_of};

use crate::report::AgentReport;

/// Where workloads find the metadata service (contract 3.5).
const METADATA: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

/// Floating addresses by internal address and tag.
#[derive(Clone, Debug, Default)]
pub struct Translations {
    external: BTreeMap<(IpAddr, u16), IpAddr>,
}

impl Translations {
    /// Collects the floating addresses of a report.
    pub fn of(report: &AgentReport) -> Self {
        let floating = report.endpoints.iter().flat_map(|endpoint| &endpoint.floating);
        let external = floating
            .map(|nat| ((nat.internal, tag_of(halves(nat.external))), nat.external))
            .collect();
        Self { external }
    }

    /// Returns address and port that a translated flow with this tag was opened to, which now leads to `to`. `None` when
    /// the translation is gone.
    pub fn opened_to(&self, tag: u16, to: (IpAddr, u16)) -> Option<(IpAddr, u16)> {
        if tag == NAT_METADATA {
            return Some(METADATA);
        }
        let external = self.external.get(&(to.0, tag))?;
        Some((*external, to.1))
    }
}
