//! Frames that BPF_PROG_TEST_RUN refuses, and super-frames whose linear part is tiny: written to a real tap, whose attached
//! programs tell what they understood, and count.

use std::io::ErrorKind;

use calico_ebpf_common::maps::Counter;
use calico_ebpf_common::parsed::{NOT_ASKED, reader};

use super::chance::Chance;
use super::compared::{Difference, Input, check_fate, compare};
use super::coverage::Coverage;
use super::frames;
use super::in_kernel::{self, Tellers};
use super::mistakes::Mistake;
use super::reference::{Sight, read};
use crate::netns::Netns;
use crate::programs::Dataplane;
use crate::tap::{Tap, VNET_HEADER};

const NAME: &str = "tapa";
/// Longest frame of a tap: what virtio-net hands over at once.
const LONGEST: usize = 65_000;
/// What a program makes linear, of a frame that has so much.
const PULLED: usize = 192;
const SHORTEST: usize = 14;

/// A tap with the programs that tell, and behind them the product's.
#[derive(Debug)]
pub(super) struct OnTap {
    tap: Tap,
    tellers: Tellers,
    product: Dataplane,
    /// The namespace that the calling thread is in.
    _namespace: Netns,
}

impl OnTap {
    /// Moves the calling thread into a namespace with a tap.
    pub(super) fn new() -> Self {
        let mut tellers = Tellers::load();
        let mut product = in_kernel::product(false);
        let namespace = Netns::guest();
        let tap = Tap::create(&namespace, NAME);
        namespace.ip(&format!("link set {NAME} mtu 65000 up"));
        namespace.enter().expect("enter the namespace");
        tellers.attach(NAME);
        product.attach_from_workload("a", NAME);
        Self {
            tap,
            tellers,
            product,
            _namespace: namespace,
        }
    }

    /// Writes a frame, and compares what the programs have understood of it.
    pub(super) fn check(
        &mut self,
        header: &[u8],
        frame: &[u8],
        mistake: Option<Mistake>,
        coverage: &mut Coverage,
    ) -> Result<(), Difference> {
        coverage.tap_frames += 1;
        self.tellers.forget();
        let before = self.product.counters();
        let written = self.tap.carry(&[header, frame].concat());
        let counted = self.product.counted_since(&before);
        match written {
            Ok(()) => {}
            // A header that makes no sense, or no Ethernet header.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                coverage.hit("tap: refused by the device");
                return self.expect_nothing(&counted);
            }
            Err(error) => return Err(Difference(format!("the tap: {error}"))),
        }
        if self.tellers.told(reader::WHOLE).told == 0 {
            coverage.hit("tap: gone before the programs");
            return self.expect_nothing(&counted);
        }
        let has_vlan_tag = matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]);
        let mut sight = Sight {
            frame,
            linear: frame.len(),
            has_vlan_tag,
            mistake,
        };
        for way in 0..reader::COUNT {
            let told = self.tellers.told(way);
            sight.linear = usize::try_from(told.linear).unwrap_or(0);
            // The kernel takes a tag of four bytes out.
            let most = frame.len() - if has_vlan_tag { 4 } else { 0 };
            if sight.linear < most.min(PULLED) || sight.linear > most {
                return Err(Difference(format!(
                    "tap: {} of {most} bytes can be read",
                    sight.linear
                )));
            }
            compare("tap", way, &told, &read(&sight, way))?;
        }
        if sight.linear < frame.len() {
            coverage.hit("tap: super-frame, fewer linear bytes than headers");
        }
        if frame.len() > frames::LONGEST {
            coverage.hit("tap: frame beyond what the kernel runs a program with");
        }
        let refused = self.tellers.told(reader::WHOLE).reason;
        coverage.hit(if refused == 0 || refused == NOT_ASKED {
            "tap: understood"
        } else {
            "tap: refused by the program"
        });
        match counted[..] {
            [(reason, Counter { packets: 1, .. })] => check_fate(&sight, Some(reason), coverage),
            _ => Err(Difference(format!("tap: one frame was counted as {counted:?}"))),
        }
    }

    fn expect_nothing(&self, counted: &[(crate::programs::Counted, Counter)]) -> Result<(), Difference> {
        let told = (0..reader::COUNT).any(|way| self.tellers.told(way).told != 0);
        if counted.is_empty() && !told {
            return Ok(());
        }
        Err(Difference(format!("tap: refused, and counted as {counted:?}")))
    }
}

/// Makes a frame for a tap, with its virtio-net header.
pub(super) fn input(chance: &mut Chance) -> Input {
    let mut frame = frames::frame(chance);
    let mut header = vec![0; VNET_HEADER];
    match chance.below(4) {
        // No frame at all, or hardly one.
        0 => frame.truncate(chance.below(SHORTEST + 8)),
        1 => lengthen(chance, &mut frame),
        // A super-frame, of which the guest says that so few bytes are headers.
        2 => {
            lengthen(chance, &mut frame);
            let linear = SHORTEST + chance.below(120);
            let (kind, segment) = chance.of(&[(0_u8, 0_u16), (1, 1_400), (4, 1_400), (5, 1_200)]);
            header[1] = kind;
            header[2..4].copy_from_slice(&u16::try_from(linear).unwrap_or(0).to_le_bytes());
            header[4..6].copy_from_slice(&segment.to_le_bytes());
        }
        _ => {}
    }
    Input::Tap { header, frame }
}

/// Makes a frame longer than BPF_PROG_TEST_RUN takes, and mostly its packet, too.
fn lengthen(chance: &mut Chance, frame: &mut Vec<u8>) {
    let wanted = frames::LONGEST + 400 + chance.below(LONGEST - frames::LONGEST - 400);
    let before = frame.len();
    frame.resize(wanted.max(before), 0x5a);
    let added = wanted.saturating_sub(before);
    let at = match frame.get(12..14) {
        Some([0x08, 0x00]) => 16,
        Some([0x86, 0xdd]) => 18,
        _ => return,
    };
    if chance.percent(80) && frame.len() > at + 2 {
        let length = usize::from(u16::from_be_bytes([frame[at], frame[at + 1]])) + added;
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
}
