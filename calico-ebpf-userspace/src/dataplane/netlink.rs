//! The netlink sockets: one for requests, one for what changes.

use std::io;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteAttribute;
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, new_connection, new_multicast_connection};
use tokio_util::task::AbortOnDropHandle;

/// What has changed in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelChange {
    /// An interface appeared, vanished, went up or down or was renamed.
    Interfaces,
    /// An address of the host.
    HostAddresses,
    /// A route over the interface with this number.
    Route(u32),
    /// A permanent neighbour or its removal, on the interface with this number.
    Neighbor(u32),
    /// Messages were lost: anything may have changed.
    Anything,
}

/// The stream of changes.
#[derive(Debug)]
pub struct KernelChanges {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    _connection: AbortOnDropHandle<()>,
}

/// Opens the socket for requests, served by a task of the current runtime.
///
/// # Errors
/// When the kernel refuses the socket.
pub fn open() -> io::Result<Handle> {
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

impl KernelChanges {
    /// Subscribes to the changes that concern the dataplane.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn subscribe() -> io::Result<Self> {
        let (connection, _, messages) = new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Neigh,
        ])?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok(Self {
            messages,
            _connection: connection,
        })
    }

    /// Waits for the next change; `None` when the socket is closed.
    pub async fn next(&mut self) -> Option<KernelChange> {
        loop {
            let (message, _) = self.messages.next().await?;
            if let Some(change) = change_in(&message.payload) {
                return Some(change);
            }
        }
    }
}

fn change_in(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<KernelChange> {
    let NetlinkPayload::InnerMessage(message) = payload else {
        let says_nothing = matches!(
            payload,
            NetlinkPayload::Error(_) | NetlinkPayload::Done(_) | NetlinkPayload::Noop
        );
        return (!says_nothing).then_some(KernelChange::Anything);
    };
    if let RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) = message {
        return Some(KernelChange::Interfaces);
    }
    if let RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) = message {
        return Some(KernelChange::HostAddresses);
    }
    if let RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) = message {
        return route.attributes.iter().find_map(|attribute| {
            let RouteAttribute::Oif(ifindex) = attribute else {
                return None;
            };
            Some(KernelChange::Route(*ifindex))
        });
    }
    if let RouteNetlinkMessage::DelNeighbour(neighbor) = message {
        return Some(KernelChange::Neighbor(neighbor.header.ifindex));
    }
    None
}
