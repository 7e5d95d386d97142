//! Answers to what policy denies (`IptablesFilterDenyAction` is `REJECT`): whole packets, against such as they are built
//! otherwise.

use calico_ebpf_common::maps::{self, settings::ANSWER_DENIED};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_tests::manifests::{Object, allow_all_egress, allow_everything};
use calico_ebpf_tests::packets::{ETHERNET_BYTES, Packet, Path};
use calico_ebpf_tests::programs::{Counted, Dataplane, Origin, Ran};
use calico_ebpf_userspace::dataplane::answer_sources::AnswerSources;

use crate::conntrack::{b_receives, establish};
use crate::scene::{Family, families, under_with};

const TC_ACT_REDIRECT: i32 = 7;

/// Workloads to which policy lets nobody speak, on a host that says so.
fn answering(policies: &[Object]) -> Dataplane {
    let mut dataplane = under_with(&[(ANSWER_DENIED, 1)], policies);
    let [v4, v6] = families().map(|family| family.host);
    dataplane.set_answer_sources(AnswerSources {
        v4: v4.to_string().parse().ok(),
        v6: v6.to_string().parse().ok(),
    });
    dataplane
}

/// Fails unless the packet was counted as denied and became this answer, on its way back.
#[track_caller]
pub(crate) fn expect_answer(ran: &Ran, denied: DropReason, expected: &Packet) {
    let counted: Vec<Counted> = ran.counted.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(
        (ran.verdict, &counted[..]),
        (
            TC_ACT_REDIRECT,
            &[Counted::Drop(denied), Counted::Pass(PassReason::Answered)][..]
        ),
        "{:02x?}",
        ran.sent
    );
    // To whom it came from.
    let macs = [&ran.sent[6..12], &ran.sent[..6]].concat();
    let expected = [&macs[..], &expected.bytes()[12..]].concat();
    assert_eq!(
        ran.packet, expected,
        "{:02x?} instead of {expected:02x?}",
        ran.packet
    );
    assert_eq!(ran.mark & maps::DEFAULT_MARK, maps::DEFAULT_MARK);
}

#[track_caller]
fn expect_silence(ran: &Ran, denied: DropReason) {
    ran.expect_drop(denied);
}

/// A reset as it has to be: the builder of packets does not know these numbers.
pub(crate) fn reset(path: Path, sequence: u32, acknowledged: Option<u32>) -> Packet {
    let flags = if acknowledged.is_some() { "RA" } else { "R" };
    let packet = path.tcp(flags);
    let at = packet.transport();
    let packet = packet
        .with(at + 4, &sequence.to_be_bytes())
        .with(at + 8, &acknowledged.unwrap_or(0).to_be_bytes())
        .with(at + 14, &[0; 4]);
    with_transport_checksum(plain(packet), at + 16)
}

/// "Administratively prohibited" from the host about a packet, of which `quoted` bytes are told.
fn prohibited(family: &Family, denied: &[u8], quoted: usize) -> Packet {
    let denied = Packet::of(denied.to_vec());
    let bytes = denied.bytes();
    let source = if denied.is_ipv4() {
        std::net::IpAddr::from(<[u8; 4]>::try_from(&bytes[26..30]).expect("four bytes"))
    } else {
        std::net::IpAddr::from(<[u8; 16]>::try_from(&bytes[22..38]).expect("sixteen bytes"))
    };
    let kind = if denied.is_ipv4() { [3, 13] } else { [1, 1] };
    let path = Path::new((family.host, 0), (source, 0));
    let packet = path.error_about(&denied, kind, quoted);
    let at = packet.transport();
    let packet = plain(packet.with(at + 4, &[0; 4]));
    with_transport_checksum(packet, at + 2)
}

/// Gives the header of IPv4 what the host's own answers have: nothing to put together, no fragments.
fn plain(packet: Packet) -> Packet {
    if packet.is_ipv4() {
        packet
            .with(ETHERNET_BYTES + 4, &[0, 0, 0x40, 0])
            .with_header_checksum()
    } else {
        packet
    }
}

/// Computes a transport checksum at an offset (RFC 1071), over the pseudo header where there is one.
fn with_transport_checksum(packet: Packet, at: usize) -> Packet {
    let packet = packet.with(at, &[0; 2]);
    let (bytes, transport) = (packet.bytes(), packet.transport());
    let mut summed = bytes[transport..].to_vec();
    summed.resize(summed.len().next_multiple_of(2), 0);
    let (number, addresses) = if packet.is_ipv4() {
        (bytes[23], 26..34)
    } else {
        (bytes[20], 22..54)
    };
    if number != 1 {
        summed.extend(&bytes[addresses]);
        summed.extend([0, number]);
        summed.extend(
            u16::try_from(bytes.len() - transport)
                .expect("a short packet")
                .to_be_bytes(),
        );
    }
    let mut sum: u32 = summed
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).expect("folded");
    packet.with(at, &sum.to_be_bytes())
}

/// TCP with numbers of its own.
pub(crate) fn segment(path: Path, flags: &str, payload: &[u8]) -> Packet {
    let packet = path.tcp_with(flags, payload);
    let at = packet.transport();
    packet
        .with(at + 4, &0xffff_fff0_u32.to_be_bytes())
        .with(at + 8, &0x1234_5678_u32.to_be_bytes())
}

#[test]
fn denied_tcp_is_answered_by_a_reset_that_its_sender_takes() {
    let mut dataplane = answering(&[allow_all_egress()]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        for (flags, payload, sequence, acknowledged) in [
            ("S", &[][..], 0, Some(0xffff_fff1)),
            ("S", &[7; 100][..], 0, Some(0x55)),
        ] {
            let packet = segment(there, flags, payload);
            let ran = dataplane.from_workload("a", &packet);
            let expected = reset(there.back(), sequence, acknowledged);
            expect_answer(&ran, DropReason::IngressPolicy, &expected);
            assert_eq!(dataplane.flow_count(), 0);
        }
        // From outside: back by the way that it came.
        let from_far = Path::new((family.far, 4000), (family.b, 80));
        let ran = dataplane.to_workload("b", &segment(from_far, "S", &[]), Origin::Remote);
        let expected = reset(from_far.back(), 0, Some(0xffff_fff1));
        expect_answer(&ran, DropReason::IngressPolicy, &expected);
    }
}

#[test]
fn the_next_packet_of_a_flow_that_was_ended_is_answered() {
    for first in ["a", "b"] {
        let mut dataplane = answering(&[allow_all_egress(), b_receives(80)]);
        for family in families() {
            let there = family.a_to_b(4000, 80);
            establish(&mut dataplane, there);
            dataplane.remove(&b_receives(80));
            let path = if first == "a" { there } else { there.back() };
            let ran = dataplane.from_workload(first, &segment(path, "A", &[1; 1000]));
            let expected = reset(path.back(), 0x1234_5678, None);
            expect_answer(&ran, DropReason::IngressPolicy, &expected);
            dataplane.put(&b_receives(80));
        }
    }
}

#[test]
fn all_else_is_answered_by_an_error_that_quotes_it() {
    let mut dataplane = answering(&[allow_all_egress()]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        let from_far = Path::new((family.far, 4000), (family.b, 80));
        let bare = |path: Path| Path::new((path.source.ip(), 0), (path.target.ip(), 0));
        let most = if family.a.is_ipv4() { 548 } else { 1232 };
        for path in [there, from_far] {
            for packet in [
                path.udp_with(&[]),
                path.udp_with(&[1, 2, 3]),
                path.udp_with(&[0xa5; 1400]),
                bare(path).echo_request(7),
                bare(path).protocol(47, &[9; 21]),
                bare(path).protocol(132, &[9; 400]),
            ] {
                let ran = if path == there {
                    dataplane.from_workload("a", &packet)
                } else {
                    dataplane.to_workload("b", &packet, Origin::Remote)
                };
                let expected = prohibited(&family, &ran.sent, most);
                expect_answer(&ran, DropReason::IngressPolicy, &expected);
            }
        }
        // Padding of a short frame is no part of the packet.
        let padded = [there.udp_with(&[]).bytes(), &[0; 18]].concat();
        let whole = padded.len() - 18 - ETHERNET_BYTES;
        let ran = dataplane.from_workload("a", &Packet::of(padded));
        let expected = prohibited(&family, &ran.sent, whole);
        expect_answer(&ran, DropReason::IngressPolicy, &expected);
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    let mut dataplane = answering(&[]);
    for family in families() {
        let there = family.a_to_b(4000, 80);
        let bare = Path::new((family.a, 0), (family.b, 0));
        let unknown = if family.a.is_ipv4() { 40 } else { 100 };
        let mut silent = vec![
            there.udp().to_mac([0xff; 6]),
            there.udp().to_mac([0x33, 0x33, 0, 0, 0, 1]),
            there.tcp("S").to_mac([0xff; 6]),
            // An unknown kind of ICMP may be an error.
            bare.icmp(unknown, 0, 1, b"what"),
        ];
        if family.a.is_ipv4() {
            silent.push(there.udp().with_ipv4_options(&[1, 1, 1, 0]));
        } else {
            silent.push(there.udp_behind(&[(60, vec![0, 0, 1, 4, 0, 0, 0, 0])]));
        }
        for packet in silent {
            expect_silence(&dataplane.from_workload("a", &packet), DropReason::EgressPolicy);
        }
        // A reset opens no flow, so only one that is judged again can be denied.
        let reset = there.tcp("R");
        dataplane.put(&allow_everything());
        establish(&mut dataplane, there);
        dataplane.remove(&allow_everything());
        expect_silence(&dataplane.from_workload("a", &reset), DropReason::EgressPolicy);
    }
}

#[test]
fn without_an_address_of_the_host_only_tcp_is_answered() {
    let mut dataplane = answering(&[]);
    dataplane.set_answer_sources(AnswerSources::default());
    for family in families() {
        let there = family.a_to_b(4000, 80);
        expect_silence(
            &dataplane.from_workload("a", &there.udp()),
            DropReason::EgressPolicy,
        );
        let ran = dataplane.from_workload("a", &segment(there, "S", &[]));
        let expected = reset(there.back(), 0, Some(0xffff_fff1));
        expect_answer(&ran, DropReason::EgressPolicy, &expected);
    }
}

#[test]
fn answers_are_limited_by_endpoint() {
    use calico_ebpf_common::answer::{ANSWER_INTERVAL_NS, MOST_AT_ONCE};
    let mut dataplane = answering(&[]);
    let family = families()[0];
    let answered = |dataplane: &mut Dataplane, name: &str, path: Path| {
        dataplane.from_workload(name, &path.tcp("S")).verdict == TC_ACT_REDIRECT
    };
    let before = dataplane.read_clock().monotonic_ns;
    let sent = 10 * MOST_AT_ONCE;
    let mut answers = 0;
    for _ in 0..sent {
        answers += u64::from(answered(&mut dataplane, "a", family.a_to_b(4000, 80)));
    }
    let passed = dataplane.read_clock().monotonic_ns - before;
    assert!(answers >= MOST_AT_ONCE, "{answers}");
    assert!(
        answers <= MOST_AT_ONCE + passed / ANSWER_INTERVAL_NS + 1,
        "{answers} in {passed} ns"
    );
    // Another endpoint has a share of its own.
    assert!(answered(&mut dataplane, "b", family.a_to_b(4000, 80).back()));
    let counted = dataplane.counters();
    assert_eq!(
        counted[&Counted::Drop(DropReason::EgressPolicy)].packets,
        sent + 1
    );
    assert_eq!(counted[&Counted::Pass(PassReason::Answered)].packets, answers + 1);
}
