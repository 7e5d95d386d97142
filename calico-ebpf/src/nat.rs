//! Address translation: metadata and floating addresses (contract 3.5).
//!
//! Destinations are translated first; policy and the flow's key know the tuple behind that. The key says that it is a
//! translated one, and the flow by which external address it came in, so that exactly its answers are translated
//! back. What has no translation is none of these programs' business: they leave it to those that judge.

use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::flow::Flow;
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use crate::conntrack::Seen;
use crate::family::{Family, V4};
use crate::moved_port;
use crate::packet::Packet;
use crate::settings;
use crate::tables::{self, Tables};

/// Where workloads find the metadata service.
pub(crate) const METADATA_ADDRESS: u32 = 0xa9fe_a9fe;
pub(crate) const METADATA_PORT: u16 = 80;

/// Returns whether the packet is to the metadata service, as workloads know it.
#[inline(always)]
pub(crate) fn is_to_metadata(packet: &Packet<V4>) -> bool {
    packet.protocol == protocol::TCP
        && packet.destination == METADATA_ADDRESS
        && packet.destination_port == METADATA_PORT
        && settings::metadata().1 != 0
}

/// Returns whether the packet comes from the metadata service, where it really is.
#[inline(always)]
pub(crate) fn is_from_metadata(packet: &Packet<V4>) -> bool {
    let (address, port) = settings::metadata();
    port != 0 && packet.protocol == protocol::TCP && packet.source == address && packet.source_port == port
}

/// Returns whether the packet goes to the metadata service without translation.
#[inline(always)]
pub(crate) fn is_at_metadata(packet: &Packet<V4>) -> bool {
    let (address, port) = settings::metadata();
    port != 0
        && packet.protocol == protocol::TCP
        && packet.destination == address
        && packet.destination_port == port
}

/// Returns the line of an external address of one of the endpoint's: the one that a flow remembers by its tag, with tag 0
/// the lowest one.
#[inline(always)]
pub(crate) fn external_line<F: Family>(
    endpoint: &Endpoint,
    internal: F::Address,
    tag: u16,
) -> Result<u32, DropReason> {
    let [high, low] = F::to_halves(internal);
    match tables::nat_line(endpoint.nats, endpoint.nat_count, high, low, u32::from(tag)) {
        0 => Err(DropReason::NatUnknown),
        line => Ok(line),
    }
}

/// Returns whether a packet that no plain flow has may have a translated one.
#[inline(always)]
pub(crate) fn concerns_sent<F: Family>(tables: &Tables, packet: &Packet<F>) -> bool {
    tables.root().nat_count != 0 || F::is_to_metadata(packet) || F::is_at_metadata(packet)
}

/// As [`concerns_sent`], for what reaches an endpoint's tap.
#[inline(always)]
pub(crate) fn concerns_received<F: Family>(endpoint: &Endpoint, packet: &Packet<F>) -> bool {
    endpoint.has_nats() || F::is_from_metadata(packet)
}

/// Returns whether an ICMP error that a workload sends may be about a translated packet.
#[inline(always)]
pub(crate) fn concerns_error_sent<F: Family>(tables: &Tables) -> bool {
    tables.root().nat_count != 0 || F::HAS_METADATA && settings::metadata().1 != 0
}

/// As [`concerns_error_sent`], for what reaches an endpoint's tap.
#[inline(always)]
pub(crate) fn concerns_error_received<F: Family>(endpoint: &Endpoint) -> bool {
    endpoint.has_nats() || F::HAS_METADATA && settings::metadata().1 != 0
}

/// Makes room for the flow of a packet's key, whose tuple a flow of the other kind may have. A closed one goes; a live
/// one stays, since its answers could not be told from the new one's.
#[inline(always)]
pub(crate) fn supersede<F: Family>(seen: &mut Seen<F>) -> Result<(), DropReason> {
    seen.of_other_kind(|other| match other.flow() {
        None => Ok(()),
        Some(flow) => end_if_closed(other, &flow),
    })
}

/// Refuses a packet that belongs to a flow whose source port was moved: it must not open another one.
#[inline(always)]
pub(crate) fn check_not_moved<F: Family>(packet: &Packet<F>, tag: u16) -> Result<(), DropReason> {
    match moved_port::find(packet, tag).taken() {
        None => Ok(()),
        Some(_) => Err(DropReason::NatClash),
    }
}

/// Ends a flow that stands in the way, if TCP has closed it.
#[inline(always)]
pub(crate) fn end_if_closed<F: Family>(seen: &Seen<F>, flow: &Flow) -> Result<(), DropReason> {
    if !flow.is_closed() {
        return Err(DropReason::NatClash);
    }
    seen.close();
    Ok(())
}
