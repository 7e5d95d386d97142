//! Permanent IPv4 neighbour entries of workloads: no ARP towards guests. IPv6 resolves by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::diff::diff;
use super::routes::is_gone;
use crate::model::resource::MacAddress;

/// Interface number and address.
pub type NeighborKey = (u32, Ipv4Addr);
/// Neighbour entries by interface and address.
pub type NeighborTable = BTreeMap<NeighborKey, MacAddress>;

/// Reads the permanent IPv4 neighbours on `interfaces` from the kernel.
///
/// # Errors
/// When the netlink request fails.
pub async fn read_back(
    netlink: &rtnetlink::Handle,
    interfaces: &BTreeSet<u32>,
) -> Result<NeighborTable, rtnetlink::Error> {
    let request = netlink.neighbours().get().set_address_family(AddressFamily::Inet);
    let messages: Vec<_> = request.execute().try_collect().await?;
    Ok(messages
        .iter()
        .filter_map(neighbor_of)
        .filter(|((ifindex, _), _)| interfaces.contains(ifindex))
        .collect())
}

fn neighbor_of(message: &NeighbourMessage) -> Option<(NeighborKey, MacAddress)> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(destination)) = attribute {
            address = Some(*destination);
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
            .add(ifindex, address.into())
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
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    match netlink.neighbours().del(message).execute().await {
        Err(error) if !is_gone(&error) => Err(error),
        _ => {
            tracing::debug!(%address, ifindex, "neighbour removed");
            Ok(())
        }
    }
}
