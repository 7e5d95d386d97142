//! Packets from a workload to the host itself: what is always allowed, and what comes after egress policy.

use calico_ebpf_common::endpoint::{Endpoint, SLOT_HOST, Slot};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use crate::antispoof;
use crate::family::{Family, Scope};
use crate::packet::Packet;
use crate::settings;
use crate::skb::Mac;
use crate::tables::Tables;

const DNS_PORT: u16 = 53;

/// Returns whether the packet is a DHCP server's, which no workload may be.
#[inline(always)]
pub(crate) fn is_dhcp_server<F: Family>(packet: &Packet<F>) -> bool {
    packet.protocol == protocol::UDP
        && packet.source_port == F::DHCP_SERVER_PORT
        && packet.destination_port == F::DHCP_CLIENT_PORT
}

/// Returns whether the packet has a DHCP client's ports.
#[inline(always)]
pub(crate) fn has_dhcp_client_ports<F: Family>(packet: &Packet<F>) -> bool {
    packet.protocol == protocol::UDP
        && packet.source_port == F::DHCP_CLIENT_PORT
        && packet.destination_port == F::DHCP_SERVER_PORT
}

/// Returns whether a DHCP client's packet goes to the host: to everybody on the link, or to an address of the host.
/// The source is the port's own, or none yet.
#[inline(always)]
pub(crate) fn is_dhcp_to_host<F: Family>(
    tables: &Tables,
    endpoint: &Endpoint,
    source: Mac,
    packet: &Packet<F>,
) -> Result<bool, DropReason> {
    if !settings::openstack() {
        return Ok(false);
    }
    let to_link = F::is_dhcp_group(packet.destination);
    if !to_link && F::address_entry(tables, packet.destination)?.slot != SLOT_HOST {
        return Ok(false);
    }
    if packet.source == F::UNSPECIFIED {
        antispoof::check_mac(endpoint, source)?;
    } else {
        antispoof::check_source::<F>(endpoint, source, packet.source)?;
    }
    Ok(true)
}

/// Returns whether a packet to the host is allowed whatever egress policy says: to the metadata service where it is, and
/// DNS.
#[inline(always)]
pub(crate) fn is_always_allowed<F: Family>(packet: &Packet<F>) -> bool {
    let dns = packet.protocol == protocol::UDP && packet.destination_port == DNS_PORT;
    settings::openstack() && (dns || F::is_at_metadata(packet))
}

/// Applies `DefaultEndpointToHostAction` to a packet that egress policy allowed.
#[inline(always)]
pub(crate) fn endpoint_to_host_action() -> Result<(), DropReason> {
    if settings::endpoint_to_host_accept() {
        Ok(())
    } else {
        Err(DropReason::EndpointToHost)
    }
}

/// Refuses destinations that a workload may never reach: loopback, which `route_localnet` would open, groups, and
/// link-local addresses that are not the host's.
#[inline(always)]
pub(crate) fn check_destination<F: Family>(address: F::Address, slot: Slot) -> Result<(), DropReason> {
    match F::scope(address) {
        Scope::Routable => Ok(()),
        Scope::Multicast => Err(DropReason::Multicast),
        Scope::Martian => Err(DropReason::Martian),
        Scope::Link => {
            if slot == SLOT_HOST {
                Ok(())
            } else {
                Err(DropReason::Martian)
            }
        }
    }
}

/// Refuses encapsulation from workloads, which would carry packets past policy.
#[inline(always)]
pub(crate) fn check_encapsulation(number: u8, destination_port: u16) -> Result<(), DropReason> {
    const VXLAN_PORT: u16 = 4789;
    let vxlan = number == protocol::UDP && destination_port == VXLAN_PORT;
    let refused = vxlan && !settings::allow_vxlan() || number == protocol::IPIP && !settings::allow_ipip();
    if refused {
        Err(DropReason::Encapsulation)
    } else {
        Ok(())
    }
}
