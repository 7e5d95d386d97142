//! What was come past: counted while it runs. What stays at zero is a gap.

use std::collections::BTreeMap;

use calico_ebpf_common::parsed::{NOT_ASKED, Parsed, reader};
use calico_ebpf_common::verdict::DropReason;

use super::reference::kind;
use crate::fuzzing::workers::Counted;

/// Everything that is counted.
const FEATURES: &[&str] = &[
    "frame: IPv4",
    "frame: IPv6",
    "frame: ARP",
    "frame: reverse ARP",
    "frame: padding behind the packet",
    "frame: VLAN tag taken out",
    "frame: short linear part",
    "header: IPv4 options",
    "header: IPv6 extensions",
    "header: IPv6 extensions, more than 512 bytes",
    "protocol: TCP",
    "protocol: UDP",
    "protocol: UDP-Lite",
    "protocol: SCTP",
    "protocol: DCCP",
    "protocol: GRE",
    "protocol: ESP",
    "protocol: AH",
    "protocol: VRRP",
    "protocol: IP in IP",
    "protocol: IPv6 in IP",
    "protocol: ICMP query",
    "protocol: ICMP reply",
    "protocol: ICMP error",
    "protocol: ICMP, any other",
    "protocol: neighbour discovery",
    "protocol: another",
    "fragment: first",
    "fragment: later, more follow",
    "fragment: last",
    "fragment: all of a datagram (IPv6)",
    "quoted: a packet with ports",
    "quoted: an ICMP query or reply",
    "quoted: another protocol",
    "quoted: unrelated",
    "refused: too short",
    "refused: malformed",
    "refused: VLAN",
    "refused: unknown ethertype",
    "refused: fragment",
    "refused: extension headers",
    "product: dropped while it is parsed",
    "product: dropped for another reason",
    "product: passed",
    "tap: understood",
    "tap: refused by the program",
    "tap: refused by the device",
    "tap: gone before the programs",
    "tap: super-frame, fewer linear bytes than headers",
    "tap: frame beyond what the kernel runs a program with",
];

/// Counts of what ran.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    hits: BTreeMap<&'static str, u64>,
    /// Frames, and how often a program in the kernel read one.
    pub cases: u64,
    pub kernel_runs: u64,
    pub tap_frames: u64,
}

impl Counted for Coverage {
    fn add(&mut self, other: &Self) {
        for (feature, count) in &other.hits {
            *self.hits.entry(feature).or_default() += count;
        }
        self.cases += other.cases;
        self.kernel_runs += other.kernel_runs;
        self.tap_frames += other.tap_frames;
    }

    fn progress(&self) -> String {
        format!(
            "{} frames, {} read in the kernel, {} on a tap",
            self.cases, self.kernel_runs, self.tap_frames
        )
    }
}

impl Coverage {
    pub(super) fn hit(&mut self, feature: &'static str) {
        *self.hits.entry(feature).or_default() += 1;
    }

    /// Returns every feature with its count.
    ///
    /// # Panics
    ///
    /// When something was counted that is no feature.
    pub fn features(&self) -> impl Iterator<Item = (&'static str, u64)> {
        for feature in self.hits.keys() {
            assert!(FEATURES.contains(feature), "{feature:?} is no feature");
        }
        FEATURES
            .iter()
            .map(|feature| (*feature, self.hits.get(feature).copied().unwrap_or(0)))
    }

    /// Counts what a frame was read as.
    pub(super) fn read(&mut self, way: u32, parsed: &Parsed) {
        match way {
            reader::QUOTED => self.quoted(parsed),
            reader::WITH_PORTS => self.packet(parsed),
            reader::FRAGMENT => self.fragment(parsed),
            reader::WHOLE if parsed.reason == DropReason::Fragment as u32 => self.hit("refused: fragment"),
            _ => {}
        }
    }

    fn packet(&mut self, parsed: &Parsed) {
        match parsed.ethertype {
            1 => self.hit("frame: IPv4"),
            2 => self.hit("frame: IPv6"),
            3 => self.hit("frame: ARP"),
            4 => self.hit("frame: reverse ARP"),
            _ => {}
        }
        match DropReason::of_number(parsed.reason) {
            Some(DropReason::TooShort) => self.hit("refused: too short"),
            Some(DropReason::Malformed) => self.hit("refused: malformed"),
            Some(DropReason::Vlan) => self.hit("refused: VLAN"),
            Some(DropReason::UnknownEthertype) => self.hit("refused: unknown ethertype"),
            Some(DropReason::ExtensionHeaders) => self.hit("refused: extension headers"),
            _ => {}
        }
        if parsed.reason != 0 {
            return;
        }
        match (parsed.ethertype, parsed.transport_offset) {
            (1, 35..) => self.hit("header: IPv4 options"),
            (2, 55..567) => self.hit("header: IPv6 extensions"),
            (2, 567..) => self.hit("header: IPv6 extensions, more than 512 bytes"),
            _ => {}
        }
        self.hit(match (parsed.protocol, parsed.kind) {
            (_, kind::QUERY) => "protocol: ICMP query",
            (_, kind::REPLY) => "protocol: ICMP reply",
            (_, kind::ERROR) => "protocol: ICMP error",
            (_, kind::NEIGHBOR) => "protocol: neighbour discovery",
            (1 | 58, _) => "protocol: ICMP, any other",
            (6, _) => "protocol: TCP",
            (17, _) => "protocol: UDP",
            (136, _) => "protocol: UDP-Lite",
            (132, _) => "protocol: SCTP",
            (33, _) => "protocol: DCCP",
            (47, _) => "protocol: GRE",
            (50, _) => "protocol: ESP",
            (51, _) => "protocol: AH",
            (112, _) => "protocol: VRRP",
            (4, _) => "protocol: IP in IP",
            (41, _) => "protocol: IPv6 in IP",
            _ => "protocol: another",
        });
    }

    fn fragment(&mut self, parsed: &Parsed) {
        let [_, begin, end, more] = parsed.fragment;
        if parsed.reason != 0 || end == 0 {
            return;
        }
        match (begin, more, parsed.ethertype) {
            (0, 1, _) => self.hit("fragment: first"),
            (0, _, 2) => self.hit("fragment: all of a datagram (IPv6)"),
            (0, ..) => {}
            (_, 1, _) => self.hit("fragment: later, more follow"),
            _ => self.hit("fragment: last"),
        }
    }

    fn quoted(&mut self, parsed: &Parsed) {
        if parsed.reason == NOT_ASKED {
            return;
        }
        self.hit(match (parsed.reason, parsed.protocol, parsed.kind) {
            (1.., ..) if parsed.reason == DropReason::IcmpUnrelated as u32 => "quoted: unrelated",
            (1.., ..) => return,
            (_, 6 | 17 | 33 | 132 | 136, _) => "quoted: a packet with ports",
            (_, _, kind::QUERY | kind::REPLY) => "quoted: an ICMP query or reply",
            _ => "quoted: another protocol",
        });
    }
}
