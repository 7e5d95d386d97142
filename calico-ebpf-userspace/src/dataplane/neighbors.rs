//! Permanent neighbour entries of workloads: no ARP towards guests, and nobody asks them for external addresses, which
//! they do not know of. Fixed IPv6 addresses resolve by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::diff::diff;
use super::routes::is_gone;
use crate::model::resource::MacAddress;

/// Interface number and address.
pub type NeighborKey = (u32, IpAddr);
/// Neighbour entries by interface and address.
pub type NeighborTable = BTreeMap<NeighborKey, MacAddress>;

/// Reads the permanent neighbours on `interfaces` from the kernel.
///
/// # Errors
/// When the netlink request fails.
pub async fn read_back(
    netlink: &rtnetlink::Handle,
    interfaces: &BTreeSet<u32>,
) -> Result<NeighborTable, rtnetlink::Error> {
    let request = netlink.neighbours().get();
    let messages: Vec<_> = request.execute().try_collect().await?;
    Ok(messages
        .iter()
        .filter_map(neighbor_of)
        .filter(|((ifindex, _), _)| interfaces.contains(ifindex))
        .collect())
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the attributes that matter are named"
)]
fn neighbor_of(message: &NeighbourMessage) -> Option<(NeighborKey, MacAddress)> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some((*found).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                address = Some((*found).into());
            }
            _ => {}
        }
        if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddress);
        }
    }
    Some(((message.header.ifindex, address?), mac?))
}

/// Makes the permanent neighbours on `taps` as desired: adds first, then removes. Returns what could not be written.
///
/// # Errors
/// When the entries cannot be read.
pub async fn reconcile(
    netlink: &rtnetlink::Handle,
    taps: &BTreeSet<u32>,
    desired: &NeighborTable,
) -> Result<Vec<String>, rtnetlink::Error> {
    let actual = read_back(netlink, taps).await?;
    let delta = diff(desired, &actual);
    let mut dirty = Vec::new();
    for ((ifindex, address), mac) in delta.put {
        let request = netlink
            .neighbours()
            .add(ifindex, address)
            .link_layer_address(&mac.0)
            .replace();
        match request.execute().await {
            Ok(()) => tracing::debug!(%address, ifindex, %mac, "neighbour added"),
            Err(error) => dirty.push(format!("neighbour {address}: {error}")),
        }
    }
    for key in delta.remove {
        if let Err(error) = remove(netlink, key).await {
            dirty.push(format!("neighbour {}: {error}", key.1));
        }
    }
    Ok(dirty)
}

/// Removes one entry.
///
/// # Errors
/// When the kernel refuses; an entry that is gone already is no error.
pub async fn remove(
    netlink: &rtnetlink::Handle,
    (ifindex, address): NeighborKey,
) -> Result<(), rtnetlink::Error> {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    message.header.family = family;
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination));
    match netlink.neighbours().del(message).execute().await {
        Err(error) if !is_gone(&error) => Err(error),
        _ => {
            tracing::debug!(%address, ifindex, "neighbour removed");
            Ok(())
        }
    }
}
