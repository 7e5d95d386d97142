//! Frames as a VM writes them, right or wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder, PacketBuilderStep, VlanId, ether_type,
    icmpv6,
};

use crate::guest::Vm;

/// Broadcast MAC.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// MACs, addresses and TTL of a frame; starts right for a VM, each part can be made wrong.
#[derive(Clone, Debug)]
pub struct Frame {
    pub source_mac: [u8; 6],
    pub target_mac: [u8; 6],
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub ttl: u8,
}

impl Frame {
    /// A frame from a VM to any address through its host.
    pub fn from(vm: &Vm, port: u16, target: SocketAddr) -> Self {
        Self {
            source_mac: vm.mac(),
            target_mac: vm.host_mac(),
            source: SocketAddr::new(vm.address_like(target.ip()), port),
            target,
            ttl: 64,
        }
    }

    /// Replaces the source address, keeping the port.
    #[must_use]
    pub fn with_source(mut self, address: IpAddr) -> Self {
        self.source.set_ip(address);
        self
    }

    /// Returns the frame with a UDP datagram.
    pub fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let step = self.ip().udp(self.source.port(), self.target.port());
        let mut bytes = Vec::new();
        step.write(&mut bytes, payload).expect("write to memory");
        bytes
    }

    /// Returns the frame with a TCP segment that opens a connection.
    pub fn tcp_syn(&self) -> Vec<u8> {
        let step = self
            .ip()
            .tcp(self.source.port(), self.target.port(), 1, 64_000)
            .syn();
        let mut bytes = Vec::new();
        step.write(&mut bytes, &[]).expect("write to memory");
        bytes
    }

    /// Returns the UDP frame with an 802.1Q tag in the data.
    pub fn udp_tagged(&self, vlan: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = self.udp(payload);
        let vlan = VlanId::try_new(vlan).expect("a VLAN id").value().to_be_bytes();
        let tag = ether_type::VLAN_TAGGED_FRAME.0.to_be_bytes();
        bytes.splice(12..12, [tag[0], tag[1], vlan[0], vlan[1]]);
        bytes
    }

    fn ip(&self) -> PacketBuilderStep<etherparse::IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.target_mac);
        match (self.source.ip(), self.target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                ethernet.ipv4(source.octets(), target.octets(), self.ttl)
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                ethernet.ipv6(source.octets(), target.octets(), self.ttl)
            }
            (source, target) => panic!("{source} and {target} are of two families"),
        }
    }
}

/// Returns an ARP request by `sender` for `wanted`.
pub fn arp_request(sender_mac: [u8; 6], sender: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &sender_mac,
        &sender.octets(),
        &[0; 6],
        &wanted.octets(),
    )
    .expect("lengths fit");
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(sender_mac, BROADCAST)
        .arp(packet)
        .write(&mut bytes)
        .expect("write to memory");
    bytes
}

/// Returns the gratuitous ARP of a VM (RFC 5227, 3).
pub fn gratuitous_arp(vm: &Vm) -> Vec<u8> {
    arp_request(vm.mac(), vm.v4(), vm.v4())
}

/// Returns what QEMU sends for a VM that has arrived: reverse ARP for its MAC (RFC 903).
pub fn reverse_arp(vm: &Vm) -> Vec<u8> {
    let mut bytes = arp_request(vm.mac(), Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    bytes[12..14].copy_from_slice(&[0x80, 0x35]);
    bytes[20..22].copy_from_slice(&[0, 3]);
    bytes[32..38].copy_from_slice(&vm.mac());
    bytes
}

/// Returns whether `frame` is an ARP reply for `owner`, and the MAC it tells.
pub fn arp_reply(frame: &[u8], owner: Ipv4Addr) -> Option<[u8; 6]> {
    let is_reply = frame.get(12..14) == Some(&[0x08, 0x06]) && frame.get(20..22) == Some(&[0, 2]);
    let is_owner = frame.get(28..32) == Some(&owner.octets());
    (is_reply && is_owner)
        .then(|| frame.get(22..28)?.try_into().ok())
        .flatten()
}

/// Returns a neighbour solicitation of a VM for `wanted`, from its own address (RFC 4861, 4.3).
pub fn neighbor_solicitation(vm: &Vm, wanted: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = wanted.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut body = wanted.octets().to_vec();
    body.extend([1, 1]);
    body.extend(vm.mac());
    let step = PacketBuilder::ethernet2(vm.mac(), [0x33, 0x33, 0xff, a, b, c])
        .ipv6(vm.v6().octets(), group.octets(), 255)
        .icmpv6_raw(icmpv6::TYPE_NEIGHBOR_SOLICITATION, 0, [0; 4]);
    let mut bytes = Vec::new();
    step.write(&mut bytes, &body).expect("write to memory");
    bytes
}

/// Returns whether `frame` is a neighbour advertisement for `owner`.
pub fn is_neighbor_advertisement(frame: &[u8], owner: Ipv6Addr) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
        && frame.get(54) == Some(&icmpv6::TYPE_NEIGHBOR_ADVERTISEMENT)
        && frame.get(62..78) == Some(&owner.octets())
}

/// Returns whether `frame` is an ICMP or ICMPv6 "time exceeded in transit" from `sender`.
pub fn is_time_exceeded(frame: &[u8], sender: IpAddr) -> bool {
    match sender {
        IpAddr::V4(sender) => {
            frame.get(12..14) == Some(&[0x08, 0x00])
                && frame.get(26..30) == Some(&sender.octets())
                && frame.get(34..36) == Some(&[11, 0])
        }
        IpAddr::V6(sender) => {
            frame.get(12..14) == Some(&[0x86, 0xdd])
                && frame.get(22..38) == Some(&sender.octets())
                && frame.get(54..56) == Some(&[3, 0])
        }
    }
}

/// Returns the MTU that an ICMP "fragmentation needed" or an ICMPv6 "packet too big" from `sender` tells.
pub fn told_mtu(frame: &[u8], sender: IpAddr) -> Option<u32> {
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte))
    };
    match sender {
        IpAddr::V4(sender) => {
            let is_told = frame.get(12..14) == Some(&[0x08, 0x00])
                && frame.get(26..30) == Some(&sender.octets())
                && frame.get(34..36) == Some(&[3, 4]);
            is_told.then(|| frame.get(40..42).map(number)).flatten()
        }
        IpAddr::V6(sender) => {
            let is_told = frame.get(12..14) == Some(&[0x86, 0xdd])
                && frame.get(22..38) == Some(&sender.octets())
                && frame.get(54..56) == Some(&[2, 0]);
            is_told.then(|| frame.get(58..62).map(number)).flatten()
        }
    }
}

/// Returns TTL or hop limit of an untagged IP frame.
pub fn ttl(frame: &[u8]) -> Option<u8> {
    match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(22).copied(),
        [0x86, 0xdd] => frame.get(21).copied(),
        _ => None,
    }
}

/// Link-local address that a VM makes of its MAC (RFC 4291 appendix A).
pub fn link_local(vm: &Vm) -> Ipv6Addr {
    let [first, second, third, tail @ ..] = vm.mac().map(u16::from);
    let upper = ((first ^ 2) << 8) | second;
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        upper,
        third << 8 | 0xff,
        0xfe00 | tail[0],
        tail[1] << 8 | tail[2],
    )
}

/// Returns a VM's DHCPDISCOVER: from no address to everybody.
pub fn dhcp_discover(vm: &Vm) -> Vec<u8> {
    let frame = Frame {
        source_mac: vm.mac(),
        target_mac: BROADCAST,
        source: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 68),
        target: SocketAddr::new(Ipv4Addr::BROADCAST.into(), 67),
        ttl: 64,
    };
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[28..34].copy_from_slice(&vm.mac());
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, 1, 255]);
    frame.udp(&message)
}

/// All DHCPv6 servers and relays (RFC 8415, 7.1).
pub const DHCPV6_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Returns a VM's DHCPv6 SOLICIT.
pub fn dhcpv6_solicit(vm: &Vm) -> Vec<u8> {
    let frame = Frame {
        source_mac: vm.mac(),
        target_mac: [0x33, 0x33, 0, 1, 0, 2],
        source: SocketAddr::new(link_local(vm).into(), 546),
        target: SocketAddr::new(DHCPV6_SERVERS.into(), 547),
        ttl: 1,
    };
    frame.udp(&[1, 0x12, 0x34, 0x56])
}
