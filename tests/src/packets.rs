//! Packets for the program ring, written as text: `udp("10.0.0.1:4000 -> 10.0.0.2:53")`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep, icmpv4, icmpv6};

use crate::frames;

/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: usize = 14;

/// A frame. The fixture fills in MAC addresses that are all zero: those of the workload and of its tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet(Vec<u8>);

impl Packet {
    /// Takes a frame as it is.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Sets the frame's source.
    #[must_use]
    pub fn from_mac(self, mac: [u8; 6]) -> Self {
        self.with(6, &mac)
    }

    /// Sets the frame's destination.
    #[must_use]
    pub fn to_mac(self, mac: [u8; 6]) -> Self {
        self.with(0, &mac)
    }

    /// Overwrites bytes at an offset in the frame.
    #[must_use]
    pub fn with(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Inserts bytes at an offset in the frame; lengths in headers stay.
    #[must_use]
    pub fn inserted(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0.splice(offset..offset, bytes.iter().copied());
        self
    }

    /// Keeps the first bytes of the frame only; lengths in headers stay.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Self {
        self.0.truncate(length);
        self
    }

    /// Sets TTL or hop limit, and the header checksum of IPv4.
    #[must_use]
    pub fn with_hop_limit(self, limit: u8) -> Self {
        if self.is_ipv4() {
            self.with(ETHERNET_BYTES + 8, &[limit]).with_header_checksum()
        } else {
            self.with(ETHERNET_BYTES + 7, &[limit])
        }
    }

    /// Puts options behind the IPv4 header and corrects its lengths and checksum. The options fill whole words.
    #[must_use]
    pub fn with_ipv4_options(self, options: &[u8]) -> Self {
        assert!(self.is_ipv4() && options.len().is_multiple_of(4));
        let words = 5 + u8::try_from(options.len() / 4).expect("at most ten words");
        let total = u16::try_from(self.0.len() - ETHERNET_BYTES + options.len()).expect("a short packet");
        self.inserted(ETHERNET_BYTES + 20, options)
            .with(ETHERNET_BYTES, &[0x40 | words])
            .with(ETHERNET_BYTES + 2, &total.to_be_bytes())
            .with_header_checksum()
    }

    /// Computes the header checksum of IPv4 (RFC 1071).
    #[must_use]
    pub fn with_header_checksum(self) -> Self {
        let cleared = self.with(ETHERNET_BYTES + 10, &[0; 2]);
        let header = usize::from(cleared.0[ETHERNET_BYTES] & 0x0f) * 4;
        let words = cleared.0[ETHERNET_BYTES..ETHERNET_BYTES + header].chunks(2);
        let mut sum: u32 = words
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let sum = !u16::try_from(sum).expect("folded");
        cleared.with(ETHERNET_BYTES + 10, &sum.to_be_bytes())
    }

    /// Cuts the packet into fragments of `bytes` bytes of payload each, a multiple of eight.
    pub fn fragments(&self, id: u16, bytes: usize) -> Vec<Self> {
        let payload = &self.0[self.transport()..];
        let count = payload.len().div_ceil(bytes);
        let parts = payload.chunks(bytes).enumerate();
        let fragment =
            |(index, part): (usize, &[u8])| self.fragment(id, index * bytes, index + 1 < count, part);
        parts.map(fragment).collect()
    }

    /// Makes a fragment of the packet's datagram: any `payload` at any offset, which is a multiple of eight.
    #[must_use]
    pub fn fragment(&self, id: u16, offset: usize, more: bool, payload: &[u8]) -> Self {
        const FRAGMENT: u8 = 44;
        let offset = u16::try_from(offset).expect("an offset in a datagram");
        let header = &self.0[..self.transport()];
        let mut bytes = header.to_vec();
        if self.is_ipv4() {
            let bits = (offset / 8) | if more { 0x2000 } else { 0 };
            let total = u16::try_from(header.len() - ETHERNET_BYTES + payload.len()).expect("a packet");
            bytes.extend(payload);
            return Self(bytes)
                .with(ETHERNET_BYTES + 2, &total.to_be_bytes())
                .with(ETHERNET_BYTES + 4, &id.to_be_bytes())
                .with(ETHERNET_BYTES + 6, &bits.to_be_bytes())
                .with_header_checksum();
        }
        let next = std::mem::replace(&mut bytes[ETHERNET_BYTES + 6], FRAGMENT);
        bytes.extend([next, 0]);
        bytes.extend((offset | u16::from(more)).to_be_bytes());
        bytes.extend(u32::from(id).to_be_bytes());
        bytes.extend(payload);
        let length = u16::try_from(payload.len() + 8).expect("a packet");
        Self(bytes).with(ETHERNET_BYTES + 4, &length.to_be_bytes())
    }

    pub fn is_ipv4(&self) -> bool {
        self.0.get(12..14) == Some(&[0x08, 0x00])
    }

    /// Offset of the transport header, without IPv6 extension headers.
    pub fn transport(&self) -> usize {
        if self.is_ipv4() {
            ETHERNET_BYTES + usize::from(self.0[ETHERNET_BYTES] & 0x0f) * 4
        } else {
            ETHERNET_BYTES + 40
        }
    }

    /// Returns the frame as it leaves a port with these addresses.
    #[must_use]
    pub fn filled(&self, source: [u8; 6], target: [u8; 6]) -> Vec<u8> {
        let mut bytes = self.0.clone();
        for (range, mac) in [(0..6, target), (6..12, source)] {
            if bytes[range.clone()] == [0; 6] {
                bytes[range].copy_from_slice(&mac);
            }
        }
        bytes
    }
}

/// Source and target of a packet. Ports are 0 where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub source: SocketAddr,
    pub target: SocketAddr,
}

/// Reads `10.0.0.1:4000 -> 10.0.0.2:53`, `[fd00::1]:4000 -> [fd00::2]:53` or addresses without ports.
pub fn path(text: &str) -> Path {
    let end = |text: &str| {
        let with_port = text.parse::<SocketAddr>();
        with_port.unwrap_or_else(|_| {
            SocketAddr::new(
                text.parse().unwrap_or_else(|_| panic!("{text:?} is no address")),
                0,
            )
        })
    };
    let (source, target) = text.split_once(" -> ").expect("source -> target");
    Path {
        source: end(source),
        target: end(target),
    }
}

/// UDP with a short payload.
pub fn udp(text: &str) -> Packet {
    path(text).udp()
}

/// TCP with flags as in `tcpdump`: `S`, `SA`, `A`, `FA`, `R`.
pub fn tcp(text: &str, flags: &str) -> Packet {
    path(text).tcp(flags)
}

/// What every packet carries that carries anything.
pub const PAYLOAD: &[u8] = b"payload";

impl Path {
    /// Makes a path of two ends.
    pub fn new(source: (IpAddr, u16), target: (IpAddr, u16)) -> Self {
        Self {
            source: source.into(),
            target: target.into(),
        }
    }

    /// The way back.
    #[must_use]
    pub fn back(self) -> Self {
        Self {
            source: self.target,
            target: self.source,
        }
    }

    pub fn udp(self) -> Packet {
        self.udp_with(PAYLOAD)
    }

    /// UDP with any payload.
    pub fn udp_with(self, payload: &[u8]) -> Packet {
        let step = self.ip().udp(self.source.port(), self.target.port());
        let mut bytes = Vec::new();
        step.write(&mut bytes, payload).expect("write to memory");
        Packet(bytes)
    }

    /// TCP with flags as in `tcpdump`.
    pub fn tcp(self, flags: &str) -> Packet {
        self.tcp_with(flags, &[])
    }

    /// TCP with flags as in `tcpdump` and any payload.
    pub fn tcp_with(self, flags: &str, payload: &[u8]) -> Packet {
        self.tcp_at(1, flags, payload)
    }

    /// As [`Self::tcp_with`], with a sequence number.
    pub fn tcp_at(self, sequence: u32, flags: &str, payload: &[u8]) -> Packet {
        let (source, target) = (self.source.port(), self.target.port());
        let mut step = self.ip().tcp(source, target, sequence, 64_000);
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'A' => step.ack(1),
                'F' => step.fin(),
                'R' => step.rst(),
                other => panic!("{other:?} is no TCP flag"),
            };
        }
        let mut bytes = Vec::new();
        step.write(&mut bytes, payload).expect("write to memory");
        Packet(bytes)
    }

    /// TCP with flags as in `tcpdump` that acknowledges up to a sequence number.
    pub fn tcp_acknowledging(self, acknowledged: u32, flags: &str) -> Packet {
        let mut packet = self.tcp(flags);
        let header = if self.source.is_ipv4() { 14 + 20 } else { 14 + 40 };
        packet.0[header + 8..][..4].copy_from_slice(&acknowledged.to_be_bytes());
        packet
    }

    pub fn echo_request(self, id: u16) -> Packet {
        let kind = if self.source.is_ipv4() {
            icmpv4::TYPE_ECHO_REQUEST
        } else {
            icmpv6::TYPE_ECHO_REQUEST
        };
        self.icmp(kind, 0, id, PAYLOAD)
    }

    pub fn echo_reply(self, id: u16) -> Packet {
        let kind = if self.source.is_ipv4() {
            icmpv4::TYPE_ECHO_REPLY
        } else {
            icmpv6::TYPE_ECHO_REPLY
        };
        self.icmp(kind, 0, id, PAYLOAD)
    }

    /// ICMP of the path's family; `id` is in the first half of the header's second word.
    pub fn icmp(self, kind: u8, code: u8, id: u16, body: &[u8]) -> Packet {
        let [high, low] = id.to_be_bytes();
        let word = [high, low, 0, 1];
        let mut bytes = Vec::new();
        if self.source.is_ipv4() {
            self.ip().icmpv4_raw(kind, code, word).write(&mut bytes, body)
        } else {
            self.ip().icmpv6_raw(kind, code, word).write(&mut bytes, body)
        }
        .expect("write to memory");
        Packet(bytes)
    }

    /// An ICMP error of type and code about `offender`: quotes `length` bytes from its IP header on.
    pub fn error_about(self, offender: &Packet, [kind, code]: [u8; 2], length: usize) -> Packet {
        let quoted = &offender.0[ETHERNET_BYTES..];
        self.icmp(kind, code, 0, &quoted[..length.min(quoted.len())])
    }

    /// Any protocol by its number.
    pub fn protocol(self, number: u8, payload: &[u8]) -> Packet {
        // The builder would want to know more about a protocol that it knows.
        let unassigned = IpNumber(253);
        let mut bytes = Vec::new();
        self.ip()
            .write(&mut bytes, unassigned, payload)
            .expect("write to memory");
        let packet = Packet(bytes);
        if packet.is_ipv4() {
            packet.with(ETHERNET_BYTES + 9, &[number]).with_header_checksum()
        } else {
            packet.with(ETHERNET_BYTES + 6, &[number])
        }
    }

    /// UDP behind IPv6 extension headers: type and whole header of each, whose first byte is filled in.
    pub fn udp_behind(self, extensions: &[(u8, Vec<u8>)]) -> Packet {
        let datagram = self.udp();
        let datagram = &datagram.bytes()[datagram.transport()..];
        self.behind(extensions, 17, datagram)
    }

    /// A protocol behind IPv6 extension headers.
    pub fn behind(self, extensions: &[(u8, Vec<u8>)], number: u8, payload: &[u8]) -> Packet {
        let following = extensions.iter().skip(1).map(|(kind, _)| *kind).chain([number]);
        let mut body = Vec::new();
        for ((_, header), next) in extensions.iter().zip(following) {
            body.push(next);
            body.extend(&header[1..]);
        }
        body.extend(payload);
        self.protocol(extensions.first().map_or(number, |(kind, _)| *kind), &body)
    }

    fn ip(self) -> PacketBuilderStep<etherparse::IpHeaders> {
        let ethernet = PacketBuilder::ethernet2([0; 6], [0; 6]);
        match (self.source.ip(), self.target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => ethernet.ipv4(source.octets(), target.octets(), 64),
            (IpAddr::V6(source), IpAddr::V6(target)) => ethernet.ipv6(source.octets(), target.octets(), 64),
            (source, target) => panic!("{source} and {target} are of two families"),
        }
    }
}

/// An ARP request or reply with a sender; the frame comes from the sender's MAC.
pub fn arp(operation: u8, mac: [u8; 6], sender: Ipv4Addr, wanted: Ipv4Addr) -> Packet {
    Packet(frames::arp_request(mac, sender, wanted)).with(ETHERNET_BYTES + 6, &[0, operation])
}

/// A neighbour discovery message from `source` to `target`: `named` is the address that it is about, options follow.
pub fn neighbor(kind: u8, source: Ipv6Addr, target: Ipv6Addr, named: Ipv6Addr, options: &[u8]) -> Packet {
    let mut body = named.octets().to_vec();
    body.extend(options);
    Path::new((source.into(), 0), (target.into(), 0))
        .icmp(kind, 0, 0, &body)
        .with_hop_limit(255)
}

/// Link-layer address option of neighbour discovery: source (1) or target (2).
pub fn link_layer_option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    let mut option = vec![kind, 1];
    option.extend(mac);
    option
}
