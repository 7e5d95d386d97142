//! By which address a translated flow came in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use calico_ebpf_common::flow::{Flow, NAT_METADATA};
use calico_ebpf_common::moved_port::NAT_PORT_ONLY;
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

    /// Returns address and port that a translated flow was opened to, which now leads to `to`. `None` when the
    /// translation is gone.
    pub fn opened_to(&self, flow: &Flow, to: (IpAddr, u16)) -> Option<(IpAddr, u16)> {
        if flow.moved_place().is_some() && flow.nat == NAT_PORT_ONLY {
            return Some(to);
        }
        if flow.nat == NAT_METADATA {
            return Some(METADATA);
        }
        let external = self.external.get(&(to.0, flow.nat))?;
        Some((*external, to.1))
    }
}
