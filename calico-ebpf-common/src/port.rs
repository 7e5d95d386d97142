//! From protocol and ports to port classes.

use bytemuck::{Pod, Zeroable};

use crate::line::Lines;
use crate::root::Root;

/// Number of a port class. Values of one class are told apart by no rule on this host.
pub type PortClass = u16;

/// IANA protocol numbers that have a table of their own.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
    pub const UDPLITE: u8 = 136;
}

/// Index of a protocol in [`PortTables::destination`]; [`GROUPS`] for those without a table.
#[inline(always)]
pub fn group(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => 0,
        protocol::UDP => 1,
        protocol::SCTP => 2,
        protocol::UDPLITE => 3,
        protocol::DCCP => 4,
        protocol::ICMP => 5,
        protocol::ICMPV6 => 6,
        _ => GROUPS,
    }
}

/// Protocols with tables.
pub const GROUPS: usize = 7;
/// Of these, the first ones have source ports.
pub const GROUPS_WITH_PORTS: usize = 5;

/// Where the port tables begin. A table is an array of 65,536 classes (`u16`) indexed by destination port, or by
/// ICMP `type << 8 | code`. 0 says that no rule tells the protocol's values apart: its class is in `protocols`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PortTables {
    /// Array of 256 classes by protocol number.
    pub protocols: u32,
    pub destination: [u32; GROUPS],
    /// Source-port axis, 0 where no rule uses source ports; its classes are numbered apart, 0 is "other".
    pub source: [u32; GROUPS_WITH_PORTS],
    pub reserved: [u32; 3],
}
crate::line_type!(PortTables);

/// Returns the port class of a packet. `value` is the destination port, or ICMP `type << 8 | code`.
#[inline(always)]
pub fn port_class<L: Lines + ?Sized>(lines: &L, root: &Root, protocol: u8, value: u16) -> Option<PortClass> {
    let tables: &PortTables = lines.line(root.ports)?.read_as();
    let group = group(protocol);
    if group < GROUPS && tables.destination[group] != 0 {
        return lines.half_at(tables.destination[group], u32::from(value));
    }
    lines.half_at(tables.protocols, u32::from(protocol))
}

/// Returns the source-port class of a packet; 0 where no rule tells source ports apart.
#[inline(always)]
pub fn source_port_class<L: Lines + ?Sized>(
    lines: &L,
    root: &Root,
    protocol: u8,
    port: u16,
) -> Option<PortClass> {
    let tables: &PortTables = lines.line(root.ports)?.read_as();
    let group = group(protocol);
    if group < GROUPS_WITH_PORTS && tables.source[group] != 0 {
        return lines.half_at(tables.source[group], u32::from(port));
    }
    Some(0)
}
