//! Judging a new flow: the source's egress policy and the target's ingress policy in one pass.

use calico_ebpf_common::address::AddressEntry;
use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::policy::{Cell, Question, verdict};
use calico_ebpf_common::port::{port_class, source_port_class};
use calico_ebpf_common::verdict::DropReason;

use crate::counters;
use crate::family::Family;
use crate::packet::Packet;
use crate::skb::Skb;
use crate::tables::Tables;

/// Classes of a flow's first packet, shared by both directions' verdicts.
pub(crate) struct Classes {
    pub(crate) source: AddressEntry,
    pub(crate) destination: AddressEntry,
    port: u16,
    source_port: u16,
}

impl Classes {
    /// Looks the classes of a flow's first packet up.
    #[inline(always)]
    pub(crate) fn of<F: Family>(tables: &Tables, packet: &Packet<F>) -> Result<Self, DropReason> {
        let source = F::address_entry(tables, packet.source)?;
        let destination = F::address_entry(tables, packet.destination)?;
        Self::with_addresses(tables, packet, source, destination)
    }

    /// As [`Classes::of`], where the addresses were looked up before.
    #[inline(always)]
    pub(crate) fn with_addresses<F: Family>(
        tables: &Tables,
        packet: &Packet<F>,
        source: AddressEntry,
        destination: AddressEntry,
    ) -> Result<Self, DropReason> {
        let port = port_class(tables, tables.root(), packet.protocol, packet.class_value)
            .ok_or(DropReason::NoPolicyTable)?;
        let source_port = source_port_class(tables, tables.root(), packet.protocol, packet.source_port)
            .ok_or(DropReason::NoPolicyTable)?;
        Ok(Self { source, destination, port, source_port })
    }

    /// Returns the egress verdict of the source endpoint.
    #[inline(always)]
    pub(crate) fn egress(&self, skb: &Skb, tables: &Tables, endpoint: &Endpoint) -> Result<Cell, DropReason> {
        let question = self.question(self.source, self.destination);
        allowed(skb, verdict(tables, endpoint.egress_set, question), DropReason::EgressPolicy)
    }

    /// Returns the ingress verdict of the target endpoint.
    #[inline(always)]
    pub(crate) fn ingress(&self, skb: &Skb, tables: &Tables, endpoint: &Endpoint) -> Result<Cell, DropReason> {
        let question = self.question(self.destination, self.source);
        allowed(skb, verdict(tables, endpoint.ingress_set, question), DropReason::IngressPolicy)
    }

    #[inline(always)]
    fn question(&self, local: AddressEntry, remote: AddressEntry) -> Question {
        Question {
            local_class: local.class,
            remote_class: remote.class,
            port_class: self.port,
            source_port_class: self.source_port,
        }
    }
}

/// Counts the deciding rule and turns a denial into its reason.
#[inline(always)]
fn allowed(skb: &Skb, cell: Cell, denied: DropReason) -> Result<Cell, DropReason> {
    counters::count_rule(skb, cell.rule());
    if cell.allows() { Ok(cell) } else { Err(denied) }
}
