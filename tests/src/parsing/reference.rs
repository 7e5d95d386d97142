//! A plain reading of a frame, from the RFCs: RFC 791 and 8200, 9293, 768, 3828, 9260, 4340, 792 and 4443, 826.
//!
//! It shares nothing with the parser of the programs but the numbers by which the result is told.

use calico_ebpf_common::flow::ICMP_PORT;
use calico_ebpf_common::parsed::{NOT_ASKED, Parsed, reader};
use calico_ebpf_common::verdict::DropReason;

use super::links::{self, Carried};
use super::mistakes::Mistake;
use super::quotations;

/// A frame as a program sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    pub frame: &'a [u8],
    /// So many of its bytes can be read.
    pub linear: usize,
    /// Whether a VLAN tag was taken out of it.
    pub has_vlan_tag: bool,
    /// What is misread on purpose.
    pub mistake: Option<Mistake>,
}

/// Extension headers that are walked, and bytes that they may have together.
const MOST_HEADERS: usize = 8;
const MOST_HEADER_BYTES: usize = 1024;

/// What the headers before the transport header say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    pub(super) version: u8,
    pub(super) source: [u64; 2],
    pub(super) destination: [u64; 2],
    pub(super) protocol: u8,
    pub(super) hop_limit: u8,
    /// Where the transport header begins in the frame, and where the packet ends.
    pub(super) transport: usize,
    pub(super) end: usize,
    pub(super) part: Part,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    id: u32,
    /// First byte in the datagram, and the one behind the last.
    begin: usize,
    end: usize,
    more: bool,
    /// Whether the headers speak of parts at all.
    is_told: bool,
}

impl Part {
    pub(super) const WHOLE: Self = Self {
        id: 0,
        begin: 0,
        end: 0,
        more: false,
        is_told: false,
    };
}

/// Says what `way`, a reader, has to understand of a frame.
pub fn read(sight: &Sight<'_>, way: u32) -> Parsed {
    let mut parsed = Parsed {
        told: 1,
        linear: u32::try_from(sight.linear).unwrap_or(u32::MAX),
        ..Parsed::default()
    };
    match sight.understand(way, &mut parsed) {
        Ok(()) => parsed,
        Err(reason) => Parsed {
            told: 1,
            linear: parsed.linear,
            reason: reason as u32,
            ethertype: parsed.ethertype,
            mac: parsed.mac,
            ..Parsed::default()
        },
    }
}

impl<'a> Sight<'a> {
    /// Returns `count` bytes from an offset on.
    pub(super) fn bytes(&self, offset: usize, count: usize) -> Result<&'a [u8], DropReason> {
        let readable = &self.frame[..self.linear];
        readable.get(offset..offset + count).ok_or(DropReason::TooShort)
    }

    pub(super) fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn understand(&self, way: u32, parsed: &mut Parsed) -> Result<(), DropReason> {
        let carried = links::read(self, parsed)?;
        let network = match (carried, way) {
            (Carried::Arp, reader::ARP) => return links::read_arp(self, parsed),
            (Carried::Ipv4 | Carried::Ipv6, reader::ARP) | (Carried::Arp | Carried::Rarp, _) => {
                parsed.reason = NOT_ASKED;
                return Ok(());
            }
            (Carried::Ipv4, _) => self.ipv4()?,
            (Carried::Ipv6, _) => self.ipv6(matches!(way, reader::WHOLE | reader::QUOTED))?,
        };
        let part = network.part;
        match way {
            reader::WHOLE | reader::QUOTED if part.begin > 0 || part.more => {
                return Err(DropReason::Fragment);
            }
            reader::WITH_PORTS if part.begin > 0 => return Err(DropReason::Fragment),
            reader::FRAGMENT => parsed.fragment = self.fragment(part)?,
            _ => {}
        }
        if way == reader::QUOTED {
            let mut error = Parsed::default();
            self.transport(&network, true, &mut error)?;
            if error.kind == kind::ERROR {
                return quotations::read(self, &network, parsed);
            }
            parsed.reason = NOT_ASKED;
            return Ok(());
        }
        tell_network(&network, parsed);
        if part.begin == 0 || self.makes(Mistake::LaterFragmentsHavePorts) {
            let is_whole = !part.more && way != reader::FRAGMENT;
            self.transport(&network, is_whole, parsed)?;
        }
        Ok(())
    }

    /// RFC 791, 3.1.
    fn ipv4(&self) -> Result<Network, DropReason> {
        let at = links::ETHERNET;
        let header = self.bytes(at, 20)?;
        let words = if self.makes(Mistake::Ipv4OptionsIgnored) {
            5
        } else {
            usize::from(header[0] & 15)
        };
        if header[0] >> 4 != 4 || words < 5 {
            return Err(DropReason::Malformed);
        }
        let total = usize::from(number16(header, 2));
        if total < words * 4 || at + total > self.frame.len() {
            return Err(DropReason::Malformed);
        }
        let bits = number16(header, 6);
        let begin = usize::from(bits & 0x1fff) * 8;
        Ok(Network {
            version: 4,
            source: [0, number32(header, 12).into()],
            destination: [0, number32(header, 16).into()],
            protocol: header[9],
            hop_limit: header[8],
            transport: at + words * 4,
            end: if self.makes(Mistake::PaddingCounts) {
                self.frame.len()
            } else {
                at + total
            },
            part: Part {
                id: number16(header, 4).into(),
                begin,
                end: begin + total - words * 4,
                more: bits & 0x2000 != 0,
                is_told: true,
            },
        })
    }

    /// RFC 8200, 3 and 4. `refuses_parts`: at a fragment header the walk ends.
    fn ipv6(&self, refuses_parts: bool) -> Result<Network, DropReason> {
        let at = links::ETHERNET;
        let header = self.bytes(at, 40)?;
        if header[0] >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        let end = at + 40 + usize::from(number16(header, 4));
        if end > self.frame.len() {
            return Err(DropReason::Malformed);
        }
        let mut network = Network {
            version: 6,
            source: address(header, 8),
            destination: address(header, 24),
            protocol: header[6],
            hop_limit: header[7],
            transport: at + 40,
            end,
            part: Part::WHOLE,
        };
        self.walk(&mut network, refuses_parts)?;
        Ok(network)
    }

    /// Walks extension headers from the network's transport header on, and moves that behind them.
    pub(super) fn walk(&self, network: &mut Network, refuses_parts: bool) -> Result<(), DropReason> {
        let first = network.transport;
        let most = MOST_HEADERS + usize::from(self.makes(Mistake::NinthExtensionHeader));
        for count in 0.. {
            let is_header = matches!(network.protocol, 0 | 43 | 44 | 60)
                || network.protocol == 51 && self.makes(Mistake::AuthenticationHeaderWalked);
            if !is_header || count == 1 && self.makes(Mistake::SecondExtensionHeaderSkipped) {
                break;
            }
            if count == most {
                return Err(DropReason::ExtensionHeaders);
            }
            if network.protocol == 44 && refuses_parts {
                return Err(DropReason::Fragment);
            }
            if network.protocol == 0 && count > 0 {
                return Err(DropReason::Malformed);
            }
            // A fragment header counts only when more headers follow it.
            if network.transport - first > MOST_HEADER_BYTES {
                return Err(DropReason::ExtensionHeaders);
            }
            let is_part = network.protocol == 44;
            if is_part && (network.part.is_told || network.transport + 8 > network.end) {
                return Err(DropReason::Malformed);
            }
            let header = self.bytes(network.transport, if is_part { 8 } else { 4 })?;
            let has_segments_left = network.protocol == 43 && header[3] != 0;
            let bytes = if is_part {
                8
            } else {
                (usize::from(header[1]) + 1) * 8
            };
            network.transport += bytes;
            if network.transport > network.end {
                return Err(DropReason::Malformed);
            }
            network.protocol = header[0];
            if is_part {
                let word = number16(header, 2);
                let begin = usize::from(word & 0xfff8);
                let own = if self.makes(Mistake::FragmentHeaderCounts) {
                    8
                } else {
                    0
                };
                network.part = Part {
                    id: number32(header, 4),
                    begin,
                    end: begin + network.end - network.transport + own,
                    more: word & 1 != 0,
                    is_told: true,
                };
                self.fragment(network.part)?;
                if network.part.begin > 0 {
                    break;
                }
            } else if network.transport - first > MOST_HEADER_BYTES
                || has_segments_left && !self.makes(Mistake::SegmentsLeft)
            {
                return Err(DropReason::ExtensionHeaders);
            }
        }
        Ok(())
    }

    /// Returns what is told of a fragment: one of nothing, one that ends beyond the longest datagram, and one that leaves the
    /// next to begin between two multiples of eight are no fragments.
    fn fragment(&self, part: Part) -> Result<[u32; 4], DropReason> {
        if !part.is_told {
            return Ok([0; 4]);
        }
        let is_odd =
            part.more && !(part.end - part.begin).is_multiple_of(8) && !self.makes(Mistake::OddFragments);
        if part.end == part.begin || part.end > 65_535 || is_odd {
            return Err(DropReason::Malformed);
        }
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Ok([part.id, number(part.begin), number(part.end), part.more.into()])
    }

    /// Reads the transport header. Of a first fragment (`is_whole` is false) what follows it may be elsewhere.
    fn transport(&self, network: &Network, is_whole: bool, parsed: &mut Parsed) -> Result<(), DropReason> {
        let (at, bytes) = (network.transport, network.end.saturating_sub(network.transport));
        let at_least = |least: usize| {
            if bytes < least {
                Err(DropReason::TooShort)
            } else {
                Ok(())
            }
        };
        match (network.protocol, network.version) {
            (6, _) => {
                at_least(20)?;
                let header = self.bytes(at, 20)?;
                let options_end = usize::from(header[12] >> 4) * 4;
                if options_end < 20 {
                    return Err(DropReason::Malformed);
                }
                if !self.makes(Mistake::TcpOptionsIgnored) {
                    at_least(options_end)?;
                }
                parsed.tcp_flags = header[13].into();
                tell_ports(header, parsed);
            }
            (17, _) => {
                at_least(8)?;
                let header = self.bytes(at, 8)?;
                let length = usize::from(number16(header, 4));
                let is_long = is_whole && length > bytes && !self.makes(Mistake::UdpLengthIgnored);
                if length < 8 || is_long {
                    return Err(DropReason::Malformed);
                }
                tell_ports(header, parsed);
            }
            (33 | 132, _) => {
                at_least(12)?;
                tell_ports(self.bytes(at, 4)?, parsed);
            }
            (136, _) => {
                at_least(if self.makes(Mistake::UdpLiteLikeSctp) {
                    12
                } else {
                    8
                })?;
                tell_ports(self.bytes(at, 4)?, parsed);
            }
            (1, 4) | (58, 6) => {
                at_least(8)?;
                let header = self.bytes(at, 8)?;
                tell_icmp(self, network.version, header, parsed);
            }
            _ => {}
        }
        Ok(())
    }
}

pub(super) fn tell_network(network: &Network, parsed: &mut Parsed) {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    parsed.source = network.source;
    parsed.destination = network.destination;
    parsed.protocol = network.protocol.into();
    parsed.hop_limit = network.hop_limit.into();
    parsed.transport_offset = number(network.transport);
    parsed.transport_bytes = number(network.end.saturating_sub(network.transport));
}

pub(super) fn tell_ports(header: &[u8], parsed: &mut Parsed) {
    parsed.source_port = number16(header, 0).into();
    parsed.destination_port = number16(header, 2).into();
    parsed.class_value = parsed.destination_port;
}

/// Numbers of `PacketKind`.
pub(super) mod kind {
    pub(crate) const QUERY: u32 = 1;
    pub(crate) const REPLY: u32 = 2;
    pub(crate) const ERROR: u32 = 3;
    pub(crate) const NEIGHBOR: u32 = 4;
}

/// Queries of both families with the type of their answer: echo, timestamp, information, address mask.
const QUERIES: [(u8, u8, u8); 5] = [(4, 8, 0), (4, 13, 14), (4, 15, 16), (4, 17, 18), (6, 128, 129)];

/// RFC 792, RFC 4443. What stands for ports in a flow: the identifier, and the query's type.
pub(super) fn tell_icmp(sight: &Sight<'_>, version: u8, header: &[u8], parsed: &mut Parsed) {
    let (number, code) = (header[0], header[1]);
    let id = number16(header, 4);
    parsed.class_value = u32::from(number) << 8 | u32::from(code);
    let is_error = match version {
        4 => matches!(number, 3 | 4 | 5 | 11 | 12),
        _ => matches!(number, 1..=4),
    };
    if is_error {
        parsed.kind = kind::ERROR;
    } else if version == 6 && matches!(number, 130..=137 | 143) {
        parsed.kind = kind::NEIGHBOR;
    }
    for (_, query, reply) in QUERIES.into_iter().filter(|(of, ..)| *of == version) {
        let place = u32::from(ICMP_PORT | u16::from(query));
        if number == query || number == reply && sight.makes(Mistake::IcmpRepliesAreQueries) {
            parsed.kind = kind::QUERY;
            (parsed.source_port, parsed.destination_port) = (id.into(), place);
        } else if number == reply {
            parsed.kind = kind::REPLY;
            (parsed.source_port, parsed.destination_port) = (place, id.into());
            parsed.class_value = u32::from(query) << 8;
        }
    }
}

pub(super) fn number16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn number32(bytes: &[u8], at: usize) -> u32 {
    u32::from(number16(bytes, at)) << 16 | u32::from(number16(bytes, at + 2))
}

pub(super) fn address(bytes: &[u8], at: usize) -> [u64; 2] {
    let half = |at: usize| u64::from(number32(bytes, at)) << 32 | u64::from(number32(bytes, at + 4));
    [half(at), half(at + 8)]
}
