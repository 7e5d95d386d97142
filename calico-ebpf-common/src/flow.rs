//! Conntrack: one entry per flow, found from both directions.

use bytemuck::{Pod, Zeroable};

use crate::endpoint::Slot;
use crate::window::Window;

/// Key of the IPv4 conntrack map. Addresses and ports in network byte order; the side with the numerically lower
/// (address, port) comes first, so that both directions find the same entry.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FlowKey4 {
    pub low_address: [u8; 4],
    pub high_address: [u8; 4],
    pub low_port: [u8; 2],
    pub high_port: [u8; 2],
    pub protocol: u8,
    /// [`NOT_TRANSLATED`] or [`TRANSLATED`].
    pub translation: u8,
    pub reserved: [u8; 2],
}
crate::shared_type!(FlowKey4, 16);

/// Key of the IPv6 conntrack map, as [`FlowKey4`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FlowKey6 {
    pub low_address: [u8; 16],
    pub high_address: [u8; 16],
    pub low_port: [u8; 2],
    pub high_port: [u8; 2],
    pub protocol: u8,
    /// [`NOT_TRANSLATED`] or [`TRANSLATED`].
    pub translation: u8,
    pub reserved: [u8; 2],
}
crate::shared_type!(FlowKey6, 40);

/// The key is the packets' tuple as they are.
pub const NOT_TRANSLATED: u8 = 0;
/// The key is the tuple behind the translation of the destination, so that a client may speak to an external and to
/// its internal address at once.
pub const TRANSLATED: u8 = 1;

/// [`Flow::nat`] of a flow to the metadata service.
pub const NAT_METADATA: u16 = 0;

/// The original source is the key's low side.
pub const FLOW_ORIGIN_LOW: u8 = 1;
/// The original source may use any unicast MAC address.
pub const FLOW_ORIGIN_ANY_MAC: u8 = 2;
/// The responder may use any unicast MAC address.
pub const FLOW_RESPONDER_ANY_MAC: u8 = 4;

/// A packet of the reply direction was seen.
pub const STATE_REPLIED: u8 = 1;
/// TCP: the handshake is complete.
pub const STATE_ESTABLISHED: u8 = 2;
/// TCP: FIN seen from the originator.
pub const STATE_FIN_ORIGIN: u8 = 4;
/// TCP: FIN seen from the responder.
pub const STATE_FIN_RESPONDER: u8 = 8;
/// TCP: RST seen from the originator, which has not gone on since.
pub const STATE_RESET_ORIGIN: u8 = 16;
/// TCP: RST seen from the responder, which has not gone on since.
pub const STATE_RESET_RESPONDER: u8 = 32;
/// TCP: RST seen.
pub const STATE_RESET: u8 = STATE_RESET_ORIGIN | STATE_RESET_RESPONDER;

/// Index of the originator in the two-element arrays of [`Flow`].
pub const ORIGIN: usize = 0;
/// Index of the responder in the two-element arrays of [`Flow`].
pub const RESPONDER: usize = 1;

/// Value of both conntrack maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow {
    /// `jiffies64` of the last packet. Written in place.
    pub last_seen: u64,
    /// `jiffies64` of the first packet.
    pub created: u64,
    /// Generation of originator and responder under which the flow was judged; 0 for an end that is not local.
    pub generation: [u32; 2],
    /// Rule counter of the deciding rule: the originator's egress rule, the responder's ingress rule; 0 for none.
    pub rule: [u32; 2],
    /// Endpoint slots of originator and responder.
    pub slot: [Slot; 2],
    /// `FLOW_*` bits, fixed for the life of the entry.
    pub flags: u8,
    /// `STATE_*` bits.
    pub state: u8,
    /// Of a [`TRANSLATED`] flow: the [tag](crate::nat::tag_of) of the external address, or [`NAT_METADATA`].
    pub nat: u16,
    /// TCP: what segments belong to the connection. Written in place, too.
    pub window: Window,
}
crate::shared_type!(Flow, 64);

impl Flow {
    /// No flow: all zero.
    pub const NONE: Self = Self {
        last_seen: 0,
        created: 0,
        generation: [0; 2],
        rule: [0; 2],
        slot: [0; 2],
        flags: 0,
        state: 0,
        nat: 0,
        window: Window::UNKNOWN,
    };

    /// Returns whether TCP has closed the flow: a new SYN opens a new one.
    #[inline(always)]
    pub fn is_closed(&self) -> bool {
        let fins = STATE_FIN_ORIGIN | STATE_FIN_RESPONDER;
        self.state & STATE_RESET != 0 || self.state & fins == fins
    }
}

/// ICMP queries have no ports. The querier's port is the identifier, the other side's is this with the query's
/// type in the low byte, so that a query the other way is another flow.
pub const ICMP_PORT: u16 = 0xff00;
