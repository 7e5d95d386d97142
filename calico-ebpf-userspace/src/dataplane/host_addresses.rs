//! The addresses of the host itself, on any interface.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

/// Reads every address of the host from the kernel, link-local ones and those of taps included.
///
/// # Errors
/// When the netlink request fails.
pub async fn read_back(netlink: &rtnetlink::Handle) -> Result<BTreeSet<IpAddr>, rtnetlink::Error> {
    let messages: Vec<_> = netlink.address().get().execute().try_collect().await?;
    Ok(messages.iter().filter_map(address_of).collect())
}

/// Returns the host's own end: on point-to-point interfaces `Address` is the peer's.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            return Some(*address);
        }
        if let AddressAttribute::Address(address) = attribute {
            found = Some(*address);
        }
    }
    found
}

/// Returns whether a packet can be routed to the address: link-local ones never leave their link.
pub fn is_routable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}
