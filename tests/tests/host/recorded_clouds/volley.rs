//! Probes are sent many at once, and waited for once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use calico_ebpf_tests::packets::Packet;

use super::cloud::{Cloud, End, source_port};
use super::flavour::Flavour;

/// How long the last of a volley may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Probes between two looks at the queues, which have room for 500 frames.
const BURST: usize = 50;
/// What is before and behind the number of a probe.
const MARK: &[u8] = b"<probe ";
const DIGITS: usize = 6;

/// Why probes may be dropped: policy, conntrack, anti-spoofing.
const REFUSED: [&str; 6] = [
    "egress-policy",
    "ingress-policy",
    "no-flow",
    "icmp-unrelated",
    "source-address",
    "source-mac",
];

/// One packet and what must become of it.
#[derive(Clone, Debug)]
pub(super) struct Shot {
    pub(super) number: usize,
    pub(super) from: End,
    pub(super) to: End,
    pub(super) packet: Packet,
    /// What goes the other way before.
    pub(super) opener: Option<Packet>,
    pub(super) arrives: bool,
    /// Source and destination that it has when it arrives, if they are translated.
    pub(super) heard: Option<[IpAddr; 2]>,
    /// For people, when it goes wrong.
    pub(super) what: String,
}

impl Shot {
    /// Makes a probe between two ends.
    pub(super) fn new(
        cloud: &Cloud,
        [from, to]: [End; 2],
        flavour: Flavour,
        [source, target]: [IpAddr; 2],
        arrives: bool,
    ) -> Self {
        let number = cloud.next_number();
        Self {
            number,
            from,
            to,
            packet: flavour.packet(source, target, source_port(number), &token(number)),
            opener: None,
            arrives,
            heard: None,
            what: format!("{flavour:?} from {source} to {target}"),
        }
    }
}

/// Returns what a probe's packets carry.
pub(super) fn token(number: usize) -> Vec<u8> {
    let digits = format!("{number:0DIGITS$}>");
    [MARK, digits.as_bytes()].concat()
}

/// Sends the probes and returns what is not as it must be. A probe that must not arrive has to be counted as refused.
pub(super) fn fire(cloud: &Cloud, shots: &[Shot]) -> Vec<String> {
    let expected: Vec<_> = shots
        .iter()
        .filter(|shot| shot.arrives)
        .map(|shot| (shot.to, shot.number))
        .collect();
    let refused = shots.len() - expected.len();
    let before = refusals(cloud);
    let mut seen = BTreeMap::new();
    for burst in shots.chunks(BURST) {
        for shot in burst {
            if let Some(opener) = &shot.opener {
                cloud.send(shot.to, opener);
            }
            cloud.send(shot.from, &shot.packet);
        }
        look(cloud, &mut seen);
    }
    let end = Instant::now() + LIMIT;
    while !expected.iter().all(|shot| seen.contains_key(shot)) && Instant::now() < end {
        look(cloud, &mut seen);
        std::thread::yield_now();
    }
    while refusals(cloud) < before + refused as u64 && Instant::now() < end {
        std::thread::yield_now();
    }
    look(cloud, &mut seen);
    let mut wrong: Vec<String> = shots
        .iter()
        .filter_map(|shot| {
            let ends = seen.get(&(shot.to, shot.number));
            let outcome = match (ends, shot.heard) {
                (Some(_), _) if !shot.arrives => "arrives".to_owned(),
                (None, _) if shot.arrives => "does not arrive".to_owned(),
                (Some(ends), Some(heard)) if *ends != Some(heard) => format!("arrives as {ends:?}"),
                _ => return None,
            };
            Some(format!("{outcome}: {}", shot.what))
        })
        .collect();
    let counted = refusals(cloud) - before;
    if wrong.is_empty() && counted < refused as u64 {
        wrong.push(format!("{refused} probes are refused and {counted} are counted"));
    }
    wrong
}

/// Notes source and destination of every probe that has arrived.
fn look(cloud: &Cloud, seen: &mut BTreeMap<(End, usize), Option<[IpAddr; 2]>>) {
    for (end, frame) in cloud.drain() {
        if let Some(number) = seen_in(&frame) {
            seen.insert((end, number), ends_of(&frame));
        }
    }
}

/// Returns source and destination of a frame's packet.
pub(super) fn ends_of(frame: &[u8]) -> Option<[IpAddr; 2]> {
    let v4 = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| {
        Some(Ipv6Addr::from(
            <[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?,
        ))
    };
    match frame.get(12..14)? {
        [0x08, 0x00] => Some([v4(26)?.into(), v4(30)?.into()]),
        [0x86, 0xdd] => Some([v6(22)?.into(), v6(38)?.into()]),
        _ => None,
    }
}

/// Returns the number of the probe that a frame is.
pub(super) fn seen_in(frame: &[u8]) -> Option<usize> {
    let at = frame.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    std::str::from_utf8(frame.get(at..at + DIGITS)?)
        .ok()?
        .parse()
        .ok()
}

fn refusals(cloud: &Cloud) -> u64 {
    let counters: BTreeMap<String, u64> = cloud.launcher().counters();
    REFUSED.iter().filter_map(|reason| counters.get(*reason)).sum()
}
