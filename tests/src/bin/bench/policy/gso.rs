//! A frame of 60 KiB, as a guest hands it over to be segmented: written to one tap and read from the other.

use anyhow::{Context, ensure};
use calico_ebpf_tests::tap::VNET_HEADER;
use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader};

use super::Run;
use super::figures::{Figure, Goal};
use crate::bed::HOST_MAC;
use crate::cpu_time::cpu_nanoseconds;
use crate::road::{Road, Surface, next_frame};
use crate::rules::{MACS, PORT, Policy, address};

const PAYLOAD: usize = 60 * 1024;
const SEGMENT: u16 = 1448;
/// Ethernet, IPv4 and TCP without options.
const HEADERS: u16 = 54;
/// More than the programs ever read.
const LONG_LINEAR_PART: u16 = 256;
/// Where TCP begins in the frame, and its checksum in it.
const TCP: u16 = 34;
const CHECKSUM: u16 = 16;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, `VIRTIO_NET_HDR_GSO_TCPV4`.
const NEEDS_CHECKSUM: u8 = 1;
const TCP4: u8 = 1;
/// Frames written before the reader takes them out.
const BURST: usize = 32;

/// Measures the row of this file.
pub(super) fn measure(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    let policy = Policy {
        protocol: 6,
        ..Policy::default()
    };
    let ours = Road::new(Surface::Ours, &policy, 1024)?;
    let bare = Road::new(Surface::Redirect, &policy, 1024)?;
    open(&ours)?;
    let figure = measure_frame(run, &ours, &bare, "path_gso_60k", HEADERS)?;
    let what = "headers alone in the linear part, as guests send it";
    let usual = describe(figure, what).goal(Goal::RatioAtMost(1.02));
    let figure = measure_frame(
        run,
        &ours,
        &bare,
        "path_gso_60k/long_linear_part",
        LONG_LINEAR_PART,
    )?;
    let what = format!("{LONG_LINEAR_PART} bytes in the linear part, of which none need be fetched");
    Ok(vec![usual, describe(figure, &what)])
}

fn describe(mut figure: Figure, what: &str) -> Figure {
    figure.what = format!("{}; {what}", figure.what);
    figure
}

/// Measures writes of the large frame, of which `linear` bytes are to be linear.
fn measure_frame(run: &Run<'_>, ours: &Road, bare: &Road, name: &str, linear: u16) -> anyhow::Result<Figure> {
    let frame = large_frame(linear)?;
    let through_ours = pass(ours, &frame)?;
    let through_bare = pass(bare, &frame)?;
    let headers = VNET_HEADER + usize::from(HEADERS);
    let whole = through_ours.len() == frame.len() && through_ours[headers..] == frame[headers..];
    // All but the length of the headers, which the kernel makes up when it hands the frame over: what is linear of it.
    let flags = flags_of(&through_ours) == flags_of(&frame) && flags_of(&through_bare) == flags_of(&frame);
    let bursts = usize::try_from(run.sizes.repeats / 2000)?.max(1);
    let mut rounds = Vec::new();
    for _ in 0..run.sizes.rounds * 3 {
        rounds.push([write(ours, &frame, bursts)?, write(bare, &frame, bursts)?]);
    }
    let what = "one write of a 60 KiB frame that is left to be segmented, tap to tap";
    let figure = Figure::new(name, what, "bare redirect", rounds)
        .check("delivered in one piece, payload equal", whole)
        .check(
            "flags, kind, segment size and place of the checksum as they were sent",
            flags,
        );
    Ok(figure)
}

fn headers(from: usize) -> PacketBuilderStep<etherparse::IpHeaders> {
    let (source, destination) = (address(false, from), address(false, 1 - from));
    let octets = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(address) => address.octets(),
        std::net::IpAddr::V6(_) => unreachable!("asked for IPv4"),
    };
    PacketBuilder::ethernet2(MACS[from], HOST_MAC).ipv4(octets(source), octets(destination), 64)
}

/// Opens the connection, and waits for each packet at the other side.
fn open(road: &Road) -> anyhow::Result<()> {
    let ports = [40_000, PORT];
    for (from, syn, ack) in [(0, true, false), (1, true, true), (0, false, true)] {
        let mut tcp = TcpHeader::new(ports[from], ports[1 - from], 1, 65_535);
        (tcp.syn, tcp.ack) = (syn, ack);
        let builder = headers(from).tcp_header(tcp);
        let mut frame = Vec::with_capacity(builder.size(0));
        builder.write(&mut frame, &[])?;
        road.taps[from].send(&frame)?;
        next_frame(&road.taps[1 - from], is_tcp).with_context(|| format!("handshake, packet from {from}"))?;
    }
    Ok(())
}

fn is_tcp(frame: &[u8]) -> bool {
    frame.get(23) == Some(&6)
}

/// Returns the frame with its virtio-net header, which says how much shall be linear.
fn large_frame(linear: u16) -> anyhow::Result<Vec<u8>> {
    let mut tcp = TcpHeader::new(40_000, PORT, 2, 65_535);
    tcp.ack = true;
    let payload: Vec<u8> = (0..=250).cycle().take(PAYLOAD).collect();
    let builder = headers(0).tcp_header(tcp);
    let mut frame = vec![0; VNET_HEADER];
    builder.write(&mut frame, &payload)?;
    frame[0] = NEEDS_CHECKSUM;
    frame[1] = TCP4;
    for (at, number) in [(2, linear), (4, SEGMENT), (6, TCP), (8, CHECKSUM)] {
        frame[at..at + 2].copy_from_slice(&number.to_ne_bytes());
    }
    // What is left of the checksum: the sum over the pseudo header, which whoever segments completes.
    let at = VNET_HEADER + usize::from(TCP + CHECKSUM);
    let ip = &frame[VNET_HEADER + 14..VNET_HEADER + 34];
    let length = u32::try_from(PAYLOAD + 20)?;
    let words = ip[12..20]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum::<u32>() + 6 + length;
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = u16::try_from((folded & 0xffff) + (folded >> 16))?;
    frame[at..at + 2].copy_from_slice(&folded.to_be_bytes());
    Ok(frame)
}

/// Sends the frame and returns what arrives.
fn pass(road: &Road, frame: &[u8]) -> anyhow::Result<Vec<u8>> {
    road.taps[0].write(frame)?;
    next_frame(&road.taps[1], is_tcp).with_context(|| format!("a 60 KiB frame through {:?}", road.surface))
}

/// Returns flags and kind, segment size and place of the checksum.
fn flags_of(frame: &[u8]) -> (&[u8], &[u8]) {
    (&frame[0..2], &frame[4..10])
}

/// Returns nanoseconds of a write. What arrives is taken out between bursts, and must be all.
fn write(road: &Road, frame: &[u8], bursts: usize) -> anyhow::Result<f64> {
    let [sender, receiver] = &road.taps;
    let mut buffer = vec![0; calico_ebpf_tests::tap::LARGEST];
    let mut nanoseconds = 0.0;
    for _ in 0..bursts {
        nanoseconds += cpu_nanoseconds(|| {
            for _ in 0..BURST {
                sender.write(frame)?;
            }
            Ok(())
        })?;
        let mut arrived = 0;
        while let Ok(length) = receiver.read(&mut buffer) {
            arrived += usize::from(length == frame.len());
        }
        ensure!(
            arrived == BURST,
            "{:?}: {arrived} of {BURST} frames arrived in one piece",
            road.surface
        );
    }
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let writes = (bursts * BURST) as f64;
    Ok(nanoseconds / writes)
}
