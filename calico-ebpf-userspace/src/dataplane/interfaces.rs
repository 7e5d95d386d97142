//! The interfaces of the host, and which of them are workloads'.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use crate::model::resource::MacAddress;

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub ifindex: u32,
    pub name: String,
    /// `None` for interfaces without an Ethernet address.
    pub mac: Option<MacAddress>,
    /// In bytes, without the Ethernet header.
    pub mtu: u32,
    /// Administratively up, and with a carrier: something holds the other end.
    pub up: bool,
}

/// All interfaces by number.
pub type Interfaces = BTreeMap<u32, Interface>;

/// Reads the interfaces from the kernel.
///
/// # Errors
/// When the netlink request fails.
pub async fn read_back(netlink: &rtnetlink::Handle) -> Result<Interfaces, rtnetlink::Error> {
    let messages: Vec<_> = netlink.link().get().execute().try_collect().await?;
    Ok(messages
        .iter()
        .filter_map(interface_of)
        .map(|interface| (interface.ifindex, interface))
        .collect())
}

fn interface_of(message: &LinkMessage) -> Option<Interface> {
    let mut name = None;
    let mut mac = None;
    let mut mtu = 0;
    for attribute in &message.attributes {
        if let LinkAttribute::Mtu(bytes) = attribute {
            mtu = *bytes;
        }
        if let LinkAttribute::IfName(text) = attribute {
            name = Some(text.clone());
        }
        if let LinkAttribute::Address(bytes) = attribute {
            mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddress);
        }
    }
    let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::Running);
    Some(Interface {
        ifindex: message.header.index,
        name: name?,
        mac,
        mtu,
        up,
    })
}

/// Tells workloads' interfaces by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadNames {
    prefixes: Vec<String>,
    excluded: Vec<String>,
}

impl WorkloadNames {
    /// Makes the test from `InterfacePrefix` and `InterfaceExclude`.
    pub fn new(prefixes: &[String], excluded: &[String]) -> Self {
        Self {
            prefixes: prefixes.to_vec(),
            excluded: excluded.to_vec(),
        }
    }

    /// Returns whether an interface of this name is a workload's.
    pub fn matches(&self, name: &str) -> bool {
        self.prefixes
            .iter()
            .any(|prefix| name.starts_with(prefix.as_str()))
            && !self.excluded.iter().any(|excluded| name == excluded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_known_by_prefix_unless_excluded() {
        let names = WorkloadNames::new(&["tap".to_owned(), "cali".to_owned()], &["tap-dhcp".to_owned()]);
        assert!(names.matches("tap0a1b2c3d-4e"));
        assert!(names.matches("cali1"));
        assert!(!names.matches("tap-dhcp"));
        assert!(!names.matches("eth0"));
    }
}
