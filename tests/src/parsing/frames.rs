//! Frames by chance: right ones of every protocol that the programs know by name, and then made wrong.

use super::chance::Chance;

/// The workload that sends, as the fixture of the programs knows it: MAC and addresses.
pub(super) const SENDER_MAC: [u8; 6] = [0xfa, 0x16, 0x3e, 0, 0, 1];
const TAP_MAC: [u8; 6] = [0xfe, 0x16, 0x3e, 0, 0, 1];
const SENDER4: [u8; 4] = [10, 0, 0, 1];
const OTHERS4: [[u8; 4]; 5] = [
    [10, 0, 0, 2],
    [192, 0, 2, 9],
    [192, 0, 2, 1],
    [224, 0, 0, 18],
    [255; 4],
];
const SENDER6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const OTHERS6: [[u8; 16]; 4] = [
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1],
];

/// TCP, UDP, UDP-Lite, SCTP, DCCP, ICMP of both families, GRE, ESP, AH, VRRP, IP in IP of both families, "no next header".
const PROTOCOLS: [u8; 14] = [6, 17, 136, 132, 33, 1, 58, 47, 50, 51, 112, 4, 41, 59];
/// What is worth standing in any byte.
const TELLING: [u8; 16] = [0, 1, 2, 4, 7, 8, 15, 43, 44, 51, 59, 60, 0x45, 0x60, 0x80, 0xff];
/// Longest frame that BPF_PROG_TEST_RUN takes on every kernel, with room to spare.
pub(super) const LONGEST: usize = 3_400;

/// Makes a frame.
pub fn frame(chance: &mut Chance) -> Vec<u8> {
    let mut frame = match chance.below(20) {
        0 => arp(chance),
        1 => neighbor(chance),
        2 => tagged(chance),
        3 => other(chance),
        4..=6 => error(chance),
        _ => packet(chance),
    };
    if chance.percent(30) {
        let padding = chance.below(64);
        frame.extend(chance.bytes(padding));
    }
    if chance.percent(45) {
        for _ in 0..=chance.below(3) {
            spoil(chance, &mut frame);
        }
    }
    frame.truncate(LONGEST);
    frame
}

fn ethernet(chance: &mut Chance, ethertype: u16, body: &[u8]) -> Vec<u8> {
    let source = if chance.percent(90) {
        SENDER_MAC
    } else {
        [chance.byte(), 0, 0, 0, 0, 9]
    };
    [&TAP_MAC, &source, &ethertype.to_be_bytes()[..], body].concat()
}

fn packet(chance: &mut Chance) -> Vec<u8> {
    let is_ipv4 = chance.percent(50);
    let (ethertype, body) = ip(chance, is_ipv4, true);
    ethernet(chance, ethertype, &body)
}

/// A packet from the sender, or to it.
fn ip(chance: &mut Chance, is_ipv4: bool, from_sender: bool) -> (u16, Vec<u8>) {
    let protocol = if chance.percent(92) {
        chance.of(&PROTOCOLS)
    } else {
        chance.byte()
    };
    let transport = transport(chance, protocol);
    if is_ipv4 {
        (0x0800, ipv4(chance, protocol, &transport, from_sender))
    } else {
        (0x86dd, ipv6(chance, protocol, &transport, from_sender))
    }
}

fn ipv4(chance: &mut Chance, protocol: u8, transport: &[u8], from_sender: bool) -> Vec<u8> {
    let words = if chance.percent(65) { 0 } else { chance.below(11) };
    let (transport, bits) = match chance.below(10) {
        0 | 1 => part(chance, transport),
        2 => (transport.to_vec(), chance.of(&[0x4000, 0x8000])),
        _ => (transport.to_vec(), 0),
    };
    let total = 20 + words * 4 + transport.len();
    let mut header = vec![0x45 + low(words), chance.byte()];
    header.extend(half(total).to_be_bytes());
    header.extend(chance.half().to_be_bytes());
    header.extend(bits.to_be_bytes());
    header.extend([chance.of(&[64, 64, 1, 0, 255]), protocol, 0, 0]);
    let other = chance.of(&OTHERS4);
    let ends = if from_sender {
        [SENDER4, other]
    } else {
        [other, SENDER4]
    };
    header.extend(ends.concat());
    // Bytes that look like anything; a receiver that does not step over them takes them for ports.
    header.extend(chance.bytes(words * 4));
    header.extend(transport);
    header
}

/// Returns a part of the transport's bytes and the word of fragment bits; often tiny, or in the middle of a header.
fn part(chance: &mut Chance, transport: &[u8]) -> (Vec<u8>, u16) {
    let begin = match chance.below(4) {
        0 | 1 => 0,
        2 => chance.below(4),
        _ => chance.below(0x2000),
    };
    let most = transport.len();
    let bytes = match chance.below(3) {
        0 => chance.below(4) * 8,
        1 => chance.below(most + 1),
        _ => most / 8 * 8,
    };
    let more = if chance.percent(70) { 0x2000 } else { 0 };
    (transport[..bytes.min(most)].to_vec(), half(begin) & 0x1fff | more)
}

fn ipv6(chance: &mut Chance, protocol: u8, transport: &[u8], from_sender: bool) -> Vec<u8> {
    let count = match chance.below(10) {
        0..=4 => 0,
        5 | 6 => 1,
        7 | 8 => 1 + chance.below(4),
        _ => 7 + chance.below(4),
    };
    let kinds: Vec<u8> = (0..count).map(|place| extension_kind(chance, place)).collect();
    let mut body = Vec::new();
    for (place, kind) in kinds.iter().enumerate() {
        let next = kinds.get(place + 1).copied().unwrap_or(protocol);
        body.extend(extension(chance, *kind, next));
    }
    body.extend(transport);
    let other = chance.of(&OTHERS6);
    let ends = if from_sender {
        [SENDER6, other]
    } else {
        [other, SENDER6]
    };
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(half(body.len()).to_be_bytes());
    header.push(kinds.first().copied().unwrap_or(protocol));
    header.push(chance.of(&[64, 64, 255, 1, 0]));
    header.extend(ends.concat());
    header.extend(body);
    header
}

fn extension_kind(chance: &mut Chance, place: usize) -> u8 {
    if place == 0 && chance.percent(30) {
        return 0;
    }
    match chance.below(20) {
        0..=9 => 60,
        10..=13 => 44,
        14..=16 => 43,
        17 => 51,
        18 => 0,
        _ => chance.of(&[135, 139, 140, 59, 50]),
    }
}

fn extension(chance: &mut Chance, kind: u8, next: u8) -> Vec<u8> {
    if kind == 44 {
        let begin = match chance.below(3) {
            0 => chance.half() & 0xfff8,
            1 => half(chance.below(4) * 8),
            _ => 0,
        };
        let mut header = vec![next, 0];
        header.extend((begin | u16::from(chance.percent(60))).to_be_bytes());
        header.extend(chance.bytes(4));
        return header;
    }
    let eights = match chance.below(12) {
        0 => chance.below(256),
        1 | 2 => chance.below(20),
        _ => chance.below(3),
    };
    let bytes = if kind == 51 {
        (eights + 2) * 4
    } else {
        (eights + 1) * 8
    };
    let mut header = vec![next, low(eights)];
    header.extend(chance.bytes(bytes - 2));
    if kind == 43 && chance.percent(70) {
        header[3] = 0;
    }
    header
}

fn transport(chance: &mut Chance, protocol: u8) -> Vec<u8> {
    let payload = match chance.below(10) {
        0 => 0,
        1..=7 => chance.below(64),
        8 => chance.below(1400),
        _ => chance.below(3_000),
    };
    let mut bytes = chance.bytes(payload + 40);
    match protocol {
        6 => {
            let words = if chance.percent(60) {
                5
            } else {
                5 + chance.below(11)
            };
            bytes[12] = low(words) << 4;
            bytes[13] = chance.of(&[2, 16, 18, 4, 1, 17, 24, 0]);
        }
        17 => {
            let length = bytes.len();
            bytes[4..6].copy_from_slice(&half(length).to_be_bytes());
            if chance.percent(15) {
                // DHCP of both families.
                let ports = chance.of(&[[68, 67], [67, 68], [546, 547], [547, 546]]);
                bytes[..2].copy_from_slice(&u16::to_be_bytes(ports[0]));
                bytes[2..4].copy_from_slice(&u16::to_be_bytes(ports[1]));
            }
        }
        1 => bytes[0] = chance.of(&[8, 0, 13, 14, 15, 16, 17, 18, 3, 11, 12, 5, 4, 9, 40]),
        58 => bytes[0] = chance.of(&[128, 129, 1, 2, 3, 4, 133, 134, 135, 136, 137, 130, 143, 5, 200]),
        _ => {}
    }
    // Ends anywhere, too: in the header, or behind its first bytes.
    if chance.percent(25) {
        bytes.truncate(chance.below(28));
    }
    bytes
}

/// An ICMP error with a packet that the sender got, cut anywhere.
fn error(chance: &mut Chance) -> Vec<u8> {
    let is_ipv4 = chance.percent(50);
    let (_, mut quoted) = ip(chance, is_ipv4, false);
    if chance.percent(60) {
        let most = quoted.len();
        quoted.truncate(match chance.below(3) {
            0 => chance.below(most + 1),
            1 => chance.below(120),
            _ => 28 + chance.below(40),
        });
    }
    if chance.percent(20) {
        spoil(chance, &mut quoted);
    }
    let kind = if is_ipv4 {
        chance.of(&[3, 11, 12, 4, 5])
    } else {
        chance.of(&[1, 2, 3, 4])
    };
    let mut body = vec![kind, chance.below(6).try_into().unwrap_or(0), 0, 0];
    body.extend(chance.bytes(4));
    body.extend(quoted);
    if is_ipv4 {
        let packet = ipv4(chance, 1, &body, true);
        ethernet(chance, 0x0800, &packet)
    } else {
        let packet = ipv6(chance, 58, &body, true);
        ethernet(chance, 0x86dd, &packet)
    }
}

fn arp(chance: &mut Chance) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1 + low(chance.below(3))];
    body.extend(SENDER_MAC);
    body.extend(if chance.percent(70) { SENDER4 } else { [0; 4] });
    body.extend([0; 6]);
    body.extend(chance.of(&OTHERS4));
    let ethertype = chance.of(&[0x0806, 0x0806, 0x0806, 0x8035]);
    ethernet(chance, ethertype, &body)
}

/// Neighbour discovery with options (RFC 4861, 4.6), whose lengths may be anything.
fn neighbor(chance: &mut Chance) -> Vec<u8> {
    let kind = chance.of(&[133, 134, 135, 135, 136, 136, 137, 143]);
    let mut body = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    body.extend(if chance.percent(70) {
        SENDER6
    } else {
        chance.of(&OTHERS6)
    });
    for _ in 0..chance.below(9) {
        let eights = if chance.percent(85) {
            1
        } else {
            low(chance.below(8))
        };
        body.extend([chance.of(&[1, 2, 3, 5, 14]), eights]);
        body.extend(if chance.percent(80) { SENDER_MAC } else { [9; 6] });
        let more = chance.bytes(usize::from(eights.saturating_sub(1)) * 8);
        body.extend(more);
    }
    if chance.percent(20) {
        body.truncate(chance.below(body.len()));
    }
    let mut packet = ipv6(chance, 58, &body, true);
    packet[7] = chance.of(&[255, 255, 255, 64]);
    ethernet(chance, 0x86dd, &packet)
}

fn tagged(chance: &mut Chance) -> Vec<u8> {
    let mut frame = packet(chance);
    for _ in 0..=chance.below(2) {
        let [high, low] = u16::to_be_bytes(chance.of(&[0x8100, 0x88a8, 0x9100]));
        frame.splice(12..12, [high, low, 0, chance.byte()]);
    }
    frame
}

/// Another ethertype, or a packet of one family that says it is of the other.
fn other(chance: &mut Chance) -> Vec<u8> {
    let mut frame = packet(chance);
    let ethertype = chance.of(&[0x86dd, 0x0800, 0x8847, 0x8864, 0x88cc, 0x0600, 0x0026]);
    let ethertype = if chance.percent(80) {
        ethertype
    } else {
        chance.half()
    };
    frame[12..14].copy_from_slice(&u16::to_be_bytes(ethertype));
    frame
}

/// Makes something wrong with bytes.
fn spoil(chance: &mut Chance, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    // Headers are at the beginning.
    let length = bytes.len();
    let at = if chance.percent(80) {
        chance.below(length.min(128))
    } else {
        chance.below(length)
    };
    match chance.below(7) {
        0 => bytes[at] ^= 1 << chance.below(8),
        1 => bytes[at] = chance.of(&TELLING),
        2 => bytes[at] = chance.byte(),
        3 => bytes.truncate(at),
        4 => bytes[at] = bytes[at].wrapping_add(chance.of(&[1, 255, 8, 248])),
        5 => {
            let more = chance.below(24);
            let more = chance.bytes(more);
            bytes.splice(at..at, more);
        }
        _ => {
            let end = (at + chance.below(24)).min(length);
            bytes.drain(at..end);
        }
    }
}

fn half(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn low(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}
