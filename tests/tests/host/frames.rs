//! Frames that a hostile or broken VM writes to its tap, and what the host answers to good ones.

use std::net::IpAddr;

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::agent::Agent;
use calico_ebpf_tests::capture::contains;
use calico_ebpf_tests::frames::{self, Frame};
use calico_ebpf_tests::guest::{GATEWAY_V4, Guest};
use calico_ebpf_tests::host::host_address_like;
use calico_ebpf_tests::manifests::{Object, allow_everything, workload_endpoint};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::at;

use crate::expect::LIMIT;

/// Two guests that may say everything to each other.
fn open_scene() -> (Scene, Agent) {
    let scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    let agent = scene.start_agent();
    (scene, agent)
}

/// Writes frames to a's tap, expects each to be dropped for `reason` and none to arrive at b.
#[track_caller]
fn expect_drops(scene: &Scene, frames: &[Vec<u8>], reason: DropReason) {
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    let capture = b.capture();
    let before = scene.launcher().drops(reason);
    for frame in frames {
        a.tap().send(frame).expect("write a frame");
    }
    let seen = capture.settle(scene.host().namespace(), b);
    for frame in &seen {
        assert!(
            !contains(frame, b"forbidden"),
            "a frame that should be dropped arrived: {frame:02x?}"
        );
    }
    let counters = scene.launcher().counters();
    let dropped = counters.get(reason.name()).copied().unwrap_or_default() - before;
    assert_eq!(
        dropped,
        frames.len() as u64,
        "drops for {}: {counters:?}",
        reason.name()
    );
}

/// Frames of both families from a to b.
fn to_b(scene: &Scene, payload: &[u8]) -> Vec<Vec<u8>> {
    let (a, b) = (scene.guest("a").vm(), scene.guest("b").vm());
    b.addresses()
        .map(|address| Frame::from(a, 4000, at(address, 4001)).udp(payload))
        .to_vec()
}

#[test]
fn scenario_02_frames_that_end_before_their_headers_do_are_dropped_and_counted() {
    let (scene, _agent) = open_scene();
    let mut cut = Vec::new();
    for frame in to_b(&scene, b"") {
        // The Ethernet header alone is the shortest that a tap takes.
        cut.extend([14, 15, 30].map(|length| frame[..length].to_vec()));
    }
    expect_drops(&scene, &cut, DropReason::TooShort);
}

#[test]
fn scenario_01_headers_that_contradict_themselves_are_dropped_and_counted() {
    let (scene, _agent) = open_scene();
    let [mut short_header, mut wrong_version] = <[_; 2]>::try_from(to_b(&scene, b"forbidden")).expect("two");
    short_header[14] = 0x44;
    wrong_version[14] = 0x46;
    expect_drops(&scene, &[short_header, wrong_version], DropReason::Malformed);
}

#[test]
fn scenario_03_lengths_beyond_the_frame_are_dropped_and_counted() {
    let (scene, _agent) = open_scene();
    let cut: Vec<_> = to_b(&scene, b"forbidden..")
        .into_iter()
        .map(|mut frame| {
            frame.truncate(frame.len() - 1);
            frame
        })
        .collect();
    expect_drops(&scene, &cut, DropReason::Malformed);
}

#[test]
fn scenario_07_tagged_frames_are_dropped_wherever_the_tag_is() {
    let (scene, _agent) = open_scene();
    let tagged: Vec<_> = to_b(&scene, b"forbidden")
        .into_iter()
        .flat_map(|mut frame| {
            frame.splice(12..12, [0x81, 0, 0, 100]);
            let mut twice = frame.clone();
            twice.splice(12..12, [0x88, 0xa8, 0, 200]);
            [frame, twice]
        })
        .collect();
    expect_drops(&scene, &tagged, DropReason::Vlan);
}

#[test]
fn scenario_06_other_ethertypes_are_dropped_and_counted() {
    let (scene, _agent) = open_scene();
    let mut frame = to_b(&scene, b"forbidden").remove(0);
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    expect_drops(&scene, &[frame], DropReason::UnknownEthertype);
}

#[test]
fn scenario_24_packets_with_a_source_of_another_guest_are_dropped_and_counted() {
    let (scene, _agent) = open_scene();
    let (a, b) = (scene.guest("a").vm(), scene.guest("b").vm());
    let spoofed: Vec<_> = b
        .addresses()
        .iter()
        .flat_map(|address| {
            let foreign: IpAddr = if address.is_ipv4() {
                "10.65.0.77"
            } else {
                "fd00:65::77"
            }
            .parse()
            .expect("one");
            let frame = Frame::from(a, 4000, at(*address, 4001));
            [
                frame.clone().with_source(foreign),
                frame.with_source(host_address_like(*address)),
            ]
        })
        .map(|frame| frame.udp(b"forbidden"))
        .collect();
    expect_drops(&scene, &spoofed, DropReason::SourceAddress);
}

#[test]
fn scenario_10_packets_with_a_foreign_source_mac_are_dropped_and_counted() {
    let (scene, _agent) = open_scene();
    let mut frames = to_b(&scene, b"forbidden");
    for frame in &mut frames {
        frame[11] ^= 0x40;
    }
    expect_drops(&scene, &frames, DropReason::SourceMac);
}

#[test]
fn scenario_25_a_source_of_an_address_pair_is_accepted_until_the_pair_is_removed() {
    let (scene, mut agent) = open_scene();
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    let pair = |object: Object| {
        let own = [format!("{}/32", a.vm().v4()), format!("{}/128", a.vm().v6())];
        object.with(
            "ipNetworks",
            [own[0].as_str(), &own[1], "10.99.0.0/24", "fd99::/64"]
                .map(String::from)
                .to_vec(),
        )
    };
    let frames = ["10.99.0.7", "fd99::7"].map(|foreign| {
        let foreign: IpAddr = foreign.parse().expect("an address");
        Frame::from(a.vm(), 4000, at(b.vm().address_like(foreign), 4001))
            .with_source(foreign)
            .udp(b"forbidden")
    });
    expect_drops(&scene, &frames, DropReason::SourceAddress);
    let addresses = |report: &calico_ebpf_userspace::report::AgentReport| {
        report
            .endpoints
            .iter()
            .map(|endpoint| endpoint.addresses.len())
            .sum::<usize>()
    };
    scene.manifests().put(&pair(workload_endpoint(a.vm())));
    agent.wait_for("the pair is in force", |report| addresses(report) == 6);
    let capture = b.capture();
    for frame in &frames {
        a.tap().send(frame).expect("write a frame");
        let seen = capture.wait_for(LIMIT, |seen| contains(seen, b"forbidden"));
        assert!(seen.is_some(), "{frame:02x?}");
    }
    scene.manifests().put(&workload_endpoint(a.vm()));
    agent.wait_for("the pair is gone", |report| addresses(report) == 4);
    expect_drops(&scene, &frames, DropReason::SourceAddress);
}

#[test]
fn scenario_80_and_81_a_forwarded_packet_has_the_targets_macs_and_one_hop_less() {
    let (scene, _agent) = open_scene();
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    let capture = b.capture();
    for (frame, address) in to_b(&scene, b"hello").iter().zip(b.vm().addresses()) {
        // The second packet takes the flow that the first one made.
        for _ in 0..2 {
            a.tap().send(frame).expect("write a frame");
            let seen = capture
                .wait_for(LIMIT, |frame| contains(frame, b"hello"))
                .expect("it arrives");
            assert_eq!(seen.get(..6), Some(&b.vm().mac()[..]), "{address}");
            assert_eq!(frames::ttl(&seen), Some(63), "{address}");
        }
        assert_checksum_of_ipv4_header_is_right(&capture, a, frame);
    }
}

/// The sum over an IPv4 header with its checksum is all ones (RFC 1071).
fn assert_checksum_of_ipv4_header_is_right(
    capture: &calico_ebpf_tests::capture::Capture,
    sender: &Guest,
    frame: &[u8],
) {
    sender.tap().send(frame).expect("write a frame");
    let seen = capture
        .wait_for(LIMIT, |frame| contains(frame, b"hello"))
        .expect("it arrives");
    if seen[12..14] == [0x08, 0x00] {
        let sum: u32 = seen[14..34]
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}

#[test]
fn scenario_80_a_packet_whose_hops_are_spent_is_answered_by_the_host() {
    let (scene, _agent) = open_scene();
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    let (answers, target) = (a.capture(), b.capture());
    for address in b.vm().addresses() {
        let frame = Frame {
            ttl: 1,
            ..Frame::from(a.vm(), 4000, at(address, 33434))
        };
        a.tap().send(&frame.udp(b"spent")).expect("write a frame");
        let answer = answers.wait_for(LIMIT, |frame| {
            frames::is_time_exceeded(frame, host_address_like(address))
        });
        assert!(answer.is_some(), "no time exceeded for {address}");
    }
    let arrived = target.settle(scene.host().namespace(), b);
    assert!(!arrived.iter().any(|frame| contains(frame, b"spent")));
}

#[test]
fn scenario_08_the_host_answers_arp_for_the_gateway_with_its_own_mac() {
    let scene = Scene::new(&["a", "b"]);
    let _agent = scene.start_agent();
    let a = scene.guest("a");
    let capture = a.capture();
    for wanted in [GATEWAY_V4, scene.guest("b").vm().v4()] {
        a.tap()
            .send(&frames::arp_request(a.vm().mac(), a.vm().v4(), wanted))
            .expect("write a frame");
        let reply = capture.wait_for(LIMIT, |frame| frames::arp_reply(frame, wanted).is_some());
        let reply = reply.unwrap_or_else(|| panic!("no ARP reply for {wanted}"));
        assert_eq!(frames::arp_reply(&reply, wanted), Some(a.vm().host_mac()));
    }
}

#[test]
fn scenario_09_arp_with_a_sender_that_is_not_the_port_is_dropped_and_counted() {
    let (scene, _agent) = open_scene();
    let (a, b) = (scene.guest("a").vm(), scene.guest("b").vm());
    let mut wrong_mac = frames::arp_request(a.mac(), a.v4(), GATEWAY_V4);
    wrong_mac[22..28].copy_from_slice(&b.mac());
    let frames = [frames::arp_request(a.mac(), b.v4(), GATEWAY_V4), wrong_mac];
    expect_drops(&scene, &frames, DropReason::ArpSender);
}

#[test]
fn scenario_21_the_host_answers_neighbour_solicitations_for_its_link_local_address() {
    let scene = Scene::new(&["a"]);
    let _agent = scene.start_agent();
    let a = scene.guest("a");
    let capture = a.capture();
    let wanted = a.vm().gateway_v6();
    a.tap()
        .send(&frames::neighbor_solicitation(a.vm(), wanted))
        .expect("write a frame");
    let answer = capture.wait_for(LIMIT, |frame| frames::is_neighbor_advertisement(frame, wanted));
    assert!(answer.is_some(), "no neighbour advertisement");
}
