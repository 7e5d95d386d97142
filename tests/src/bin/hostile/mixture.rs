//! What the attacker sends: frames of every kind that a flood is made of, ready before the first one is sent.
//!
//! Each time a frame is sent its source port (or, of a fragment, its identification) moves on and the checksum that
//! covers it follows: no flow and no datagram comes twice before all 65,536 were there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_ebpf_tests::frames;
use calico_ebpf_tests::guest::Vm;
use calico_ebpf_tests::host::{host_address_like, outside_address_like};
use calico_ebpf_tests::packets::{ETHERNET_BYTES, Packet, Path, arp};
use calico_ebpf_tests::tap::VNET_HEADER;
use serde::Serialize;

use crate::ports;
use crate::stream::mix;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// TCP SYN to a port that is open and allowed.
    SynOpen,
    /// TCP SYN to a port that is allowed and that nobody listens on.
    SynClosed,
    /// TCP SYN to the port of the others' connections, which their policy denies to the attacker.
    SynDeniedByThem,
    /// TCP SYN to a port that the attacker's own policy denies.
    SynDeniedToItself,
    /// TCP SYN to an address that nobody has.
    SynNobody,
    /// TCP SYN to the machine outside.
    SynOutside,
    /// TCP SYN to the host.
    SynHost,
    /// UDP to a port that answers.
    UdpOpen,
    /// UDP to any port of any address.
    UdpAnywhere,
    /// First fragment of a datagram that never ends.
    FirstFragment,
    /// Later fragment of a datagram that never began.
    LaterFragment,
    /// ARP request or neighbour solicitation for any address.
    Neighbor,
    /// TCP SYN with another guest's address.
    ForeignAddress,
    /// TCP SYN with another guest's MAC.
    ForeignMac,
}

/// One round of each family.
const ROUND: [Kind; 16] = [
    Kind::SynOpen,
    Kind::SynNobody,
    Kind::SynDeniedByThem,
    Kind::UdpAnywhere,
    Kind::SynClosed,
    Kind::FirstFragment,
    Kind::SynNobody,
    Kind::Neighbor,
    Kind::SynOutside,
    Kind::UdpOpen,
    Kind::SynNobody,
    Kind::LaterFragment,
    Kind::SynDeniedToItself,
    Kind::ForeignAddress,
    Kind::SynHost,
    Kind::ForeignMac,
];

/// Rounds that are made.
pub(crate) const ROUNDS: usize = 1024;

/// How far a port or an identification moves: odd, so that it comes to each value.
const STEP: u16 = 0x4f1b;

/// Frames with their virtio-net headers, one behind the other.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
}

/// Where a frame is, and what moves in it. Offsets count from its virtio-net header; 0 is none.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: Kind,
    start: usize,
    length: usize,
    word: usize,
    checksum: usize,
}

impl Mixture {
    /// Makes everything that `attacker` sends, `victims` being the others on its host.
    pub(crate) fn new(attacker: &Vm, victims: [&Vm; 2], rounds: usize) -> Self {
        let mut mixture = Self {
            bytes: Vec::new(),
            frames: Vec::new(),
        };
        let makers = [attacker.v4().into(), attacker.v6().into()].map(|source| Maker {
            attacker,
            victims,
            source,
        });
        for round in 0..rounds {
            for (place, kind) in ROUND.into_iter().enumerate() {
                let number = (round * ROUND.len() + place) as u64;
                for maker in &makers {
                    mixture.push(kind, &maker.make(kind, number));
                }
            }
        }
        mixture
    }

    /// Number of frames.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Calls `send` with each frame once, in order, and moves it on. Stops when `send` says false.
    pub(crate) fn pass(&mut self, mut send: impl FnMut(&[u8]) -> bool) {
        for frame in &self.frames {
            let bytes = &mut self.bytes[frame.start..frame.start + frame.length];
            if !send(bytes) {
                return;
            }
            frame.move_on(bytes);
        }
    }

    /// Returns the number of frames of each kind, of both families together.
    pub(crate) fn kinds(&self) -> BTreeMap<Kind, usize> {
        let mut kinds = BTreeMap::new();
        for frame in &self.frames {
            *kinds.entry(frame.kind).or_default() += 1;
        }
        kinds
    }

    fn push(&mut self, kind: Kind, made: &Made) {
        let start = self.bytes.len();
        self.bytes.resize(start + VNET_HEADER, 0);
        self.bytes.extend(made.packet.bytes());
        let behind_header = |offset: usize| if offset == 0 { 0 } else { VNET_HEADER + offset };
        self.frames.push(Frame {
            kind,
            start,
            length: self.bytes.len() - start,
            word: behind_header(made.word),
            checksum: behind_header(made.checksum),
        });
    }
}

impl Frame {
    /// Moves the word on, and the checksum with it (RFC 1624, equation 3).
    fn move_on(&self, bytes: &mut [u8]) {
        if self.word == 0 {
            return;
        }
        let read = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let old = read(bytes, self.word);
        let new = old.wrapping_add(STEP);
        bytes[self.word..self.word + 2].copy_from_slice(&new.to_be_bytes());
        if self.checksum == 0 {
            return;
        }
        let sum = u32::from(!read(bytes, self.checksum)) + u32::from(!old) + u32::from(new);
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        let mut checksum = !u16::try_from(folded).unwrap_or_default();
        if checksum == 0 {
            // Zero is "none" to UDP, and the same number to the others.
            checksum = 0xffff;
        }
        bytes[self.checksum..self.checksum + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// A frame and the offsets of what moves in it.
struct Made {
    packet: Packet,
    word: usize,
    checksum: usize,
}

/// Makes frames of one family.
struct Maker<'a> {
    attacker: &'a Vm,
    victims: [&'a Vm; 2],
    source: IpAddr,
}

impl Maker<'_> {
    fn make(&self, kind: Kind, number: u64) -> Made {
        let dice = mix(number);
        let [port, any_port] =
            [dice, dice >> 16].map(|bits| u16::try_from(bits & 0xffff).unwrap_or(1).max(1));
        let victim_vm = self.victims[usize::from(dice >> 32 & 1 == 1)];
        let victim = victim_vm.address_like(self.source);
        let to = |target: IpAddr, target_port: u16| Path::new((self.source, port), (target, target_port));
        match kind {
            Kind::SynOpen => self.syn(to(victim, ports::OPEN)),
            Kind::SynClosed => self.syn(to(victim, ports::CLOSED)),
            Kind::SynDeniedByThem => self.syn(to(victim, ports::TALK)),
            Kind::SynDeniedToItself => self.syn(to(victim, ports::FORBIDDEN)),
            Kind::SynNobody => self.syn(to(self.nobody(dice), any_port)),
            Kind::SynOutside => self.syn(to(outside_address_like(self.source), any_port)),
            Kind::SynHost => self.syn(to(host_address_like(self.source), any_port)),
            Kind::UdpOpen => self.udp(to(victim, ports::ECHO)),
            Kind::UdpAnywhere => {
                let anywhere = [victim, self.nobody(dice), outside_address_like(self.source)];
                let round = usize::try_from(number).unwrap_or_default() / ROUND.len();
                self.udp(to(anywhere[round % anywhere.len()], any_port))
            }
            Kind::FirstFragment => self.fragment(to(victim, ports::ECHO), 0, true, any_port),
            Kind::LaterFragment => self.fragment(to(victim, ports::ECHO), 40, false, any_port),
            Kind::Neighbor => self.neighbor(number),
            Kind::ForeignAddress => {
                let foreign = Path::new((victim, port), (self.nobody(dice), any_port));
                self.syn(foreign)
            }
            Kind::ForeignMac => {
                let made = self.syn(to(victim, ports::OPEN));
                let packet = made.packet.from_mac(victim_vm.mac());
                Made { packet, ..made }
            }
        }
    }

    /// An address of the network that no guest has.
    fn nobody(&self, dice: u64) -> IpAddr {
        let [.., a, b, c] = dice.to_be_bytes();
        match self.source {
            // Guests are in 10.65.0.0/24.
            IpAddr::V4(_) => Ipv4Addr::new(10, 65, a.max(1), b).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x65, 0, 1, 0, a.into(), b.into(), c.into()).into(),
        }
    }

    fn syn(&self, path: Path) -> Made {
        self.with_ports(&path.tcp("S"), 16)
    }

    fn udp(&self, path: Path) -> Made {
        self.with_ports(&path.udp_with(&[0x55; 18]), 6)
    }

    /// The source port moves; the checksum is that many bytes behind the transport header's begin.
    fn with_ports(&self, packet: &Packet, checksum: usize) -> Made {
        let transport = packet.transport();
        Made {
            packet: self.framed(packet),
            word: transport,
            checksum: transport + checksum,
        }
    }

    fn fragment(&self, path: Path, offset: usize, more: bool, id: u16) -> Made {
        /// Of IPv4's header: identification and checksum.
        const ID4: usize = ETHERNET_BYTES + 4;
        const CHECKSUM4: usize = ETHERNET_BYTES + 10;
        /// Of the fragment header behind IPv6's: the identification's lower half.
        const ID6: usize = ETHERNET_BYTES + 40 + 6;
        let datagram = path.udp_with(&[0x55; 72]);
        let payload = &datagram.bytes()[datagram.transport()..][offset..offset + 40];
        let packet = self.framed(&datagram.fragment(id, offset, more, payload));
        let [word, checksum] = if datagram.is_ipv4() {
            [ID4, CHECKSUM4]
        } else {
            [ID6, 0]
        };
        Made {
            packet,
            word,
            checksum,
        }
    }

    /// Asks for one address of the network after the other.
    fn neighbor(&self, number: u64) -> Made {
        let index = u16::try_from(number / ROUND.len() as u64 % 0xffff).unwrap_or_default();
        let [high, low] = index.to_be_bytes();
        let packet = match self.source {
            IpAddr::V4(_) => {
                let wanted = Ipv4Addr::new(10, 65, high, low);
                arp(1, self.attacker.mac(), self.attacker.v4(), wanted)
            }
            IpAddr::V6(_) => {
                let wanted = Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 0, index);
                Packet::of(frames::neighbor_solicitation(self.attacker, wanted))
            }
        };
        Made {
            packet,
            word: 0,
            checksum: 0,
        }
    }

    fn framed(&self, packet: &Packet) -> Packet {
        Packet::of(packet.filled(self.attacker.mac(), self.attacker.host_mac()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    fn mixture(rounds: usize) -> Mixture {
        let [attacker, left, right] = vms();
        Mixture::new(&attacker, [&left, &right], rounds)
    }

    fn vms() -> [Vm; 3] {
        [Vm::new("attacker", 3), Vm::new("left", 1), Vm::new("right", 2)]
    }

    fn frames_of(mixture: &mut Mixture) -> Vec<(Kind, Vec<u8>)> {
        let mut frames = Vec::new();
        mixture.pass(|frame| {
            frames.push(frame[VNET_HEADER..].to_vec());
            true
        });
        mixture
            .frames
            .iter()
            .map(|frame| frame.kind)
            .zip(frames)
            .collect()
    }

    /// Fails unless every checksum that the frame has is right.
    #[track_caller]
    fn expect_checksums(frame: &[u8]) {
        let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
        let is_fragment = packet.is_ip_payload_fragmented();
        let (v4, v6) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => (Some(ip.header().to_header()), None),
            Some(NetSlice::Ipv6(ip)) => (None, Some(ip.header().to_header())),
            Some(NetSlice::Arp(_)) => return,
            None => panic!("no network header: {frame:02x?}"),
        };
        if let Some(header) = &v4 {
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
        if is_fragment {
            return;
        }
        let (told, right) = match packet.transport.expect("a transport header") {
            TransportSlice::Tcp(tcp) => {
                let (header, payload) = (tcp.to_header(), tcp.payload());
                let right = match (&v4, &v6) {
                    (Some(ip), _) => header.calc_checksum_ipv4(ip, payload),
                    (_, Some(ip)) => header.calc_checksum_ipv6(ip, payload),
                    _ => unreachable!("one of them is there"),
                };
                (header.checksum, right)
            }
            TransportSlice::Udp(udp) => {
                let (header, payload) = (udp.to_header(), udp.payload());
                let right = match (&v4, &v6) {
                    (Some(ip), _) => header.calc_checksum_ipv4(ip, payload),
                    (_, Some(ip)) => header.calc_checksum_ipv6(ip, payload),
                    _ => unreachable!("one of them is there"),
                };
                (header.checksum, right)
            }
            TransportSlice::Icmpv6(icmp) => {
                let ip = v6.expect("ICMPv6 is in IPv6");
                return assert!(icmp.is_checksum_valid(ip.source, ip.destination));
            }
            TransportSlice::Icmpv4(_) | TransportSlice::Igmp(_) => panic!("nobody made this"),
        };
        // Both are the same number in one's complement.
        let with_one_zero = |sum: u16| if sum == 0 { 0xffff } else { sum };
        let right = right.expect("a length that fits");
        assert_eq!(with_one_zero(told), with_one_zero(right));
    }

    #[test]
    fn every_frame_is_one_of_its_family_with_right_checksums_also_after_many_passes() {
        let mut mixture = mixture(8);
        let kinds = mixture.kinds();
        assert!(
            kinds.len() == 14 && kinds.values().all(|count| count % 16 == 0),
            "{kinds:?}"
        );
        for pass in 0..300 {
            for (place, (kind, frame)) in frames_of(&mut mixture).into_iter().enumerate() {
                let is_arp = place % 2 == 0 && kind == Kind::Neighbor;
                let expected = [[0x08, 0x00], [0x86, 0xdd]][place % 2];
                assert_eq!(
                    frame[12..14],
                    if is_arp { [0x08, 0x06] } else { expected },
                    "{kind:?}"
                );
                if pass % 10 == 0 {
                    expect_checksums(&frame);
                }
            }
        }
    }

    #[test]
    fn a_frame_comes_back_only_after_every_source_port_and_every_identification() {
        let mut mixture = mixture(1);
        let mut seen = vec![BTreeSet::new(); mixture.len()];
        for _ in 0..2000 {
            for (place, (_, frame)) in frames_of(&mut mixture).into_iter().enumerate() {
                seen[place].insert(frame);
            }
        }
        for (seen, frame) in seen.iter().zip(&mixture.frames) {
            let expected = if frame.kind == Kind::Neighbor { 1 } else { 2000 };
            assert_eq!(seen.len(), expected, "{:?}", frame.kind);
        }
        assert_eq!(STEP & 1, 1, "an even step leaves half of the ports out");
    }

    #[test]
    fn only_what_lies_about_its_sender_has_another_sender() {
        let mut mixture = mixture(4);
        let [attacker, ..] = vms();
        for (kind, frame) in frames_of(&mut mixture) {
            assert_eq!(
                frame[6..12] == attacker.mac(),
                kind != Kind::ForeignMac,
                "{kind:?}: {frame:02x?}"
            );
            let packet = SlicedPacket::from_ethernet(&frame).expect("a packet");
            let source: IpAddr = match packet.net {
                Some(NetSlice::Ipv4(ip)) => ip.header().source_addr().into(),
                Some(NetSlice::Ipv6(ip)) => ip.header().source_addr().into(),
                _ => continue,
            };
            assert_eq!(
                attacker.addresses().contains(&source),
                kind != Kind::ForeignAddress,
                "{kind:?}: {source}"
            );
        }
    }

    #[test]
    fn fragments_are_first_or_later_ones_and_nobody_has_the_addresses_that_nobody_has() {
        let mut mixture = mixture(64);
        let [attacker, left, right] = vms();
        for (kind, frame) in frames_of(&mut mixture) {
            let packet = SlicedPacket::from_ethernet(&frame).expect("a packet");
            let is_first = packet.transport.is_some();
            assert_eq!(
                packet.is_ip_payload_fragmented(),
                matches!(kind, Kind::FirstFragment | Kind::LaterFragment),
                "{kind:?}"
            );
            assert!(kind != Kind::LaterFragment || !is_first);
            if kind == Kind::SynNobody {
                let target: IpAddr = match packet.net.expect("a network header") {
                    NetSlice::Ipv4(ip) => ip.header().destination_addr().into(),
                    NetSlice::Ipv6(ip) => ip.header().destination_addr().into(),
                    NetSlice::Arp(_) => panic!("ARP"),
                };
                for vm in [&attacker, &left, &right] {
                    assert!(!vm.addresses().contains(&target), "{target}");
                }
            }
        }
    }
}
