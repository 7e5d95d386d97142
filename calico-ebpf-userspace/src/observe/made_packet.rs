//! Packets that nobody sent, for the programs to judge.

use std::net::IpAddr;

use anyhow::Context;
use calico_ebpf_common::flow::ICMP_PORT;
use calico_ebpf_common::port::protocol;
use etherparse::{IpNumber, PacketBuilder};

use super::event_view::{PacketView, has_ports};
use super::flows::{FlowKey, Side, protocol_name};

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Ports {
        source: u16,
        destination: u16,
    },
    /// An ICMP or ICMPv6 query.
    Icmp {
        kind: u8,
        code: u8,
        identifier: u16,
    },
    /// Nothing that the programs look at.
    None,
}

/// Which packet of a TCP connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpPacket {
    /// SYN.
    First,
    /// ACK.
    InMidStream,
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadePacket {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    /// IANA number.
    pub protocol: u8,
    pub transport: Transport,
    pub tcp: TcpPacket,
}

/// TTL or hop limit of what is made.
const HOP_LIMIT: u8 = 64;

impl MadePacket {
    /// Returns the frame.
    ///
    /// # Errors
    /// When the addresses are of two families.
    pub fn frame(&self) -> anyhow::Result<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.ipv4(source.octets(), destination.octets(), HOP_LIMIT)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ethernet.ipv6(source.octets(), destination.octets(), HOP_LIMIT)
            }
            (source, destination) => {
                anyhow::bail!("{source} and {destination} are of two families");
            }
        };
        let mut frame = Vec::with_capacity(128);
        match (self.transport, self.protocol) {
            (Transport::Ports { source, destination }, protocol::TCP) => {
                let tcp = ip.tcp(source, destination, 1, 64_240);
                let tcp = match self.tcp {
                    TcpPacket::First => tcp.syn(),
                    TcpPacket::InMidStream => tcp.ack(1),
                };
                tcp.write(&mut frame, &[])?;
            }
            (Transport::Ports { source, destination }, protocol::UDP) => {
                ip.udp(source, destination).write(&mut frame, &[])?;
            }
            (Transport::Ports { source, destination }, number) => {
                let mut header = [0; 16];
                header[..2].copy_from_slice(&source.to_be_bytes());
                header[2..4].copy_from_slice(&destination.to_be_bytes());
                ip.write(&mut frame, IpNumber(number), &header)?;
            }
            (
                Transport::Icmp {
                    kind,
                    code,
                    identifier,
                },
                protocol::ICMP,
            ) => {
                let [high, low] = identifier.to_be_bytes();
                ip.icmpv4_raw(kind, code, [high, low, 0, 1])
                    .write(&mut frame, &[])?;
            }
            (
                Transport::Icmp {
                    kind,
                    code,
                    identifier,
                },
                _,
            ) => {
                let [high, low] = identifier.to_be_bytes();
                ip.icmpv6_raw(kind, code, [high, low, 0, 1])
                    .write(&mut frame, &[])?;
            }
            (Transport::None, number) => ip.write(&mut frame, IpNumber(number), &[0; 8])?,
        }
        Ok(frame)
    }

    /// Returns the ends of the packet as its flow has them.
    pub fn sides(&self) -> [Side; 2] {
        let (source, destination) = match self.transport {
            Transport::Ports { source, destination } => (source, destination),
            Transport::Icmp { kind, identifier, .. } => (identifier, ICMP_PORT | u16::from(kind)),
            Transport::None => (0, 0),
        };
        [(self.source, source), (self.destination, destination)]
    }

    /// Returns the key of its flow, or of the one behind the translation of the destination to `internal`.
    ///
    /// # Errors
    /// When the addresses are of two families.
    pub fn flow_key(&self, internal: Option<IpAddr>) -> anyhow::Result<FlowKey> {
        let [source, (address, port)] = self.sides();
        let destination = (internal.unwrap_or(address), port);
        FlowKey::of(self.protocol, source, destination, internal.is_some())
            .context("the ends are of two families")
    }

    /// Tells the packet.
    pub fn view(&self) -> PacketView {
        let ports = match self.transport {
            Transport::Ports { source, destination } => Some((source, destination)),
            Transport::Icmp { .. } | Transport::None => None,
        };
        let icmp = match self.transport {
            Transport::Icmp { kind, code, .. } => Some((kind, code)),
            Transport::Ports { .. } | Transport::None => None,
        };
        let mac: Vec<String> = self.source_mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let frame = self.frame().unwrap_or_default();
        PacketView {
            family: if self.source.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned(),
            protocol: protocol_name(self.protocol),
            source: Some(self.source),
            destination: Some(self.destination),
            source_port: ports.map(|(source, _)| source),
            destination_port: ports.map(|(_, destination)| destination),
            icmp_type: icmp.map(|(kind, _)| kind),
            icmp_code: icmp.map(|(_, code)| code),
            source_mac: mac.join(":"),
            bytes: u32::try_from(frame.len()).unwrap_or(u32::MAX),
        }
    }

    /// Returns whether the protocol needs ports.
    pub fn needs_ports(number: u8) -> bool {
        has_ports(number)
    }
}

/// Returns destination address and port of a frame, if it is IP.
pub fn destination_of(frame: &[u8]) -> Option<(IpAddr, u16)> {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let address = match packet.net? {
        NetSlice::Ipv4(ip) => IpAddr::from(ip.header().destination_addr()),
        NetSlice::Ipv6(ip) => IpAddr::from(ip.header().destination_addr()),
        NetSlice::Arp(_) => return None,
    };
    let port = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.destination_port(),
        Some(TransportSlice::Udp(udp)) => udp.destination_port(),
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_)) | None => 0,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(protocol: u8, transport: Transport) -> MadePacket {
        MadePacket {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            protocol,
            transport,
            tcp: TcpPacket::First,
        }
    }

    #[test]
    fn frames_lead_where_they_say() {
        let ports = Transport::Ports {
            source: 4000,
            destination: 80,
        };
        for number in [protocol::TCP, protocol::UDP] {
            let frame = made(number, ports).frame().unwrap();
            assert_eq!(
                destination_of(&frame),
                Some(([10, 0, 0, 2].into(), 80)),
                "{number}"
            );
        }
        let sctp = made(protocol::SCTP, ports).frame().unwrap();
        assert_eq!(sctp[23], protocol::SCTP);
        assert_eq!(sctp[34..38], [0x0f, 0xa0, 0, 80]);
    }

    #[test]
    fn both_directions_of_a_query_have_one_key() {
        let query = made(
            protocol::ICMP,
            Transport::Icmp {
                kind: 8,
                code: 0,
                identifier: 77,
            },
        );
        let [source, destination] = query.sides();
        let answer = FlowKey::of(protocol::ICMP, destination, source, false);
        assert_eq!(Some(query.flow_key(None).unwrap()), answer);
    }

    #[test]
    fn two_families_are_refused() {
        let mut packet = made(protocol::TCP, Transport::None);
        packet.destination = "fd00::1".parse().unwrap();
        assert!(packet.frame().is_err() && packet.flow_key(None).is_err());
    }
}
