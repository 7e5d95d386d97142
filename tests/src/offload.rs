//! What a guest leaves to its host: segments of a super-frame, and checksums.

use std::net::IpAddr;

use crate::packets::{ETHERNET_BYTES, Packet, Path};
use crate::tap::VNET_HEADER;

/// The checksum is still to be computed (virtio 1.2, 5.1.6).
const NEEDS_CHECKSUM: u8 = 1;
/// Bytes of a UDP header, and offset of the checksum in it.
const UDP: (usize, u16) = (8, 6);
/// The same of a TCP header without options.
const TCP: (usize, u16) = (20, 16);

/// What is to be cut into segments, by its number in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Nothing = 0,
    Tcp4 = 1,
    Tcp6 = 4,
    /// UDP into datagrams; Linux 6.2.
    Udp = 5,
}

/// What a virtio-net header says. The length of headers in it is a hint that the kernel writes anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    flags: u8,
    cut: u8,
    segment: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl Offload {
    /// Reads a header.
    ///
    /// # Panics
    ///
    /// When it is not whole.
    pub fn read(header: &[u8]) -> Self {
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        Self {
            flags: header[0],
            cut: header[1],
            segment: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    fn write(self, headers: usize) -> [u8; VNET_HEADER] {
        let mut bytes = [0; VNET_HEADER];
        bytes[..2].copy_from_slice(&[self.flags, self.cut]);
        let headers = u16::try_from(headers).expect("short headers");
        let words = [headers, self.segment, self.checksum_start, self.checksum_offset];
        for (to, word) in bytes[2..10].chunks_mut(2).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A packet whose checksum, and segments of a size, are left to the other side.
#[derive(Clone, Debug)]
pub struct Offloaded {
    pub packet: Packet,
    pub offload: Offload,
    headers: usize,
}

impl Offloaded {
    /// A TCP segment; sequence numbers are those of a connection that began at 1 and has carried nothing.
    pub fn tcp(path: Path, flags: &str, payload: &[u8], segment: u16) -> Self {
        let cut = match (payload.is_empty(), path.source.is_ipv4()) {
            (true, _) => Cut::Nothing,
            (false, true) => Cut::Tcp4,
            (false, false) => Cut::Tcp6,
        };
        let mut packet = path.tcp_with(flags, payload);
        let tcp = packet.transport();
        if flags != "S" {
            packet = packet.with(tcp + 8, &2_u32.to_be_bytes());
        }
        if !flags.contains('S') {
            packet = packet.with(tcp + 4, &2_u32.to_be_bytes());
        }
        Self::new(path, packet, TCP, cut, segment)
    }

    /// A UDP datagram, or many of one size in one.
    pub fn udp(path: Path, payload: &[u8], segment: u16) -> Self {
        let cut = if payload.len() > segment.into() {
            Cut::Udp
        } else {
            Cut::Nothing
        };
        Self::new(path, path.udp_with(payload), UDP, cut, segment)
    }

    fn new(path: Path, packet: Packet, (header, checksum): (usize, u16), cut: Cut, segment: u16) -> Self {
        let start = packet.transport();
        let length = packet.bytes().len() - start;
        let protocol = if header == UDP.0 { 17 } else { 6 };
        let sum = pseudo_header_sum([path.source.ip(), path.target.ip()], protocol, length);
        let offload = Offload {
            flags: NEEDS_CHECKSUM,
            cut: cut as u8,
            segment: if cut == Cut::Nothing { 0 } else { segment },
            checksum_start: u16::try_from(start).expect("short headers"),
            checksum_offset: checksum,
        };
        Self {
            packet: packet.with(start + usize::from(checksum), &sum.to_be_bytes()),
            offload,
            headers: start + header,
        }
    }

    /// Returns header and frame as a port with these addresses writes them.
    pub fn written(&self, source: [u8; 6], target: [u8; 6]) -> Vec<u8> {
        let mut bytes = self.offload.write(self.headers).to_vec();
        bytes.extend(self.packet.filled(source, target));
        bytes
    }
}

/// Sum over the pseudo header of TCP and UDP (RFC 9293, 3.1; RFC 8200, 8.1), which stands where the checksum is to be.
fn pseudo_header_sum(addresses: [IpAddr; 2], protocol: u8, length: usize) -> u16 {
    let octets = addresses.map(|address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    });
    let words = octets.iter().flat_map(|octets| octets.chunks(2));
    let words = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let length = u32::try_from(length).expect("a packet");
    let mut sum = words.sum::<u32>() + u32::from(protocol) + length;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

/// What a frame is after one hop to a port with these addresses.
pub fn forwarded(packet: &Packet, source: [u8; 6], target: [u8; 6]) -> Vec<u8> {
    let hop_limit = packet.bytes()[ETHERNET_BYTES + if packet.is_ipv4() { 8 } else { 7 }];
    let packet = packet.clone().from_mac([0; 6]).to_mac([0; 6]);
    packet.with_hop_limit(hop_limit - 1).filled(source, target)
}
