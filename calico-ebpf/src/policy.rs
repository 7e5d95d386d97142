//! Judging a new flow: the source's egress policy and the target's ingress policy in one pass.

use calico_ebpf_common::address::AddressEntry;
use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::policy::Cell;
use calico_ebpf_common::port::{port_class, source_port_class};
use calico_ebpf_common::verdict::DropReason;

use crate::counters;
use crate::family::Family;
use crate::packet::Packet;
use crate::skb::Skb;
use crate::tables::{self, Tables};

/// Classes of a flow's first packet, shared by both directions' verdicts.
pub(crate) struct Classes {
    pub(crate) source: AddressEntry,
    pub(crate) destination: AddressEntry,
    port: u16,
    source_port: u16,
}

impl Classes {
    /// Looks the classes of a flow's first packet up: `packet`'s, or those of the packet that it answers.
    #[inline(always)]
    pub(crate) fn of<F: Family>(tables: &Tables, packet: &Packet<F>, reversed: bool) -> Result<Self, DropReason> {
        let (source, destination) =
            if reversed { (packet.destination, packet.source) } else { (packet.source, packet.destination) };
        let source = F::address_entry(tables, source)?;
        let destination = F::address_entry(tables, destination)?;
        let (source_port, value) = packet.first_ports(reversed);
        let port =
            port_class(tables, tables.root(), packet.protocol, value).ok_or(DropReason::NoPolicyTable)?;
        let source_port = source_port_class(tables, tables.root(), packet.protocol, source_port)
            .ok_or(DropReason::NoPolicyTable)?;
        Ok(Self { source, destination, port, source_port })
    }

    /// Returns the egress verdict of the source endpoint.
    #[inline(always)]
    pub(crate) fn egress(&self, skb: &Skb, endpoint: &Endpoint) -> Result<Cell, DropReason> {
        let cell = self.cell(endpoint.egress_set, self.source, self.destination);
        allowed(skb, cell, DropReason::EgressPolicy)
    }

    /// Returns the ingress verdict of the target endpoint.
    #[inline(always)]
    pub(crate) fn ingress(&self, skb: &Skb, endpoint: &Endpoint) -> Result<Cell, DropReason> {
        let cell = self.cell(endpoint.ingress_set, self.destination, self.source);
        allowed(skb, cell, DropReason::IngressPolicy)
    }

    #[inline(always)]
    fn cell(&self, set: u32, local: AddressEntry, remote: AddressEntry) -> Cell {
        let addresses = u32::from(remote.class) << 16 | u32::from(local.class);
        let ports = u32::from(self.source_port) << 16 | u32::from(self.port);
        Cell(tables::policy_verdict(set, addresses, ports))
    }
}

/// Counts the deciding rule and turns a denial into its reason.
#[inline(always)]
fn allowed(skb: &Skb, cell: Cell, denied: DropReason) -> Result<Cell, DropReason> {
    counters::count_rule(skb, cell.rule());
    if cell.allows() { Ok(cell) } else { Err(denied) }
}
