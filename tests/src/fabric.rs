//! The network between hosts: a switch that each host has a link to. It can serve hosts, too, such as their datastore.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::process;
use std::sync::Arc;

use crate::host::{Host, skip_duplicate_address_detection};
use crate::netns::Netns;

/// A host's interface towards the others.
pub const FABRIC_LINK: &str = "fabric0";
/// Number of the switch's own addresses.
const SWITCH: u8 = 254;

/// A place on the fabric: the last octet of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u8);

impl Place {
    pub fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.0)
    }

    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0xfab, 0, 0, 0, 0, self.0.into())
    }

    /// Both addresses.
    pub fn addresses(self) -> [IpAddr; 2] {
        [self.v4().into(), self.v6().into()]
    }
}

/// The switch.
#[derive(Debug)]
pub struct Fabric {
    switch: Arc<Netns>,
    hosts: u8,
}

impl Fabric {
    /// Makes a switch without hosts.
    pub fn new() -> Self {
        let switch = Netns::guest();
        skip_duplicate_address_detection(&switch);
        let own = Place(SWITCH);
        switch.ip(&format!(
            "link add fabric type bridge
             link set fabric up
             addr add {}/24 dev fabric
             addr add {}/64 dev fabric nodad",
            own.v4(),
            own.v6()
        ));
        Self {
            switch: Arc::new(switch),
            hosts: 0,
        }
    }

    /// Gives a host a link to the switch and returns where it is.
    pub fn join(&mut self, host: &Host) -> Place {
        self.hosts += 1;
        let (place, number) = (Place(self.hosts), self.hosts);
        let switch = format!("/proc/{}/fd/{}", process::id(), self.switch.as_raw_fd());
        host.namespace().ip(&format!(
            "link add {FABRIC_LINK} type veth peer name port{number} netns {switch}
             link set {FABRIC_LINK} up
             addr add {}/24 dev {FABRIC_LINK}
             addr add {}/64 dev {FABRIC_LINK} nodad",
            place.v4(),
            place.v6()
        ));
        self.switch.ip(&format!("link set port{number} master fabric up"));
        place
    }

    /// The namespace of the switch, for servers that every host reaches.
    pub fn switch(&self) -> &Arc<Netns> {
        &self.switch
    }

    /// Where the switch itself is.
    pub fn place(&self) -> Place {
        Place(SWITCH)
    }
}

impl Default for Fabric {
    fn default() -> Self {
        Self::new()
    }
}
