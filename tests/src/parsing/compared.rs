//! One frame, read by all three, in every way and several layouts.

use std::fmt;

use calico_ebpf_common::parsed::{NOT_ASKED, Parsed, reader};
use calico_ebpf_common::verdict::DropReason;

use super::chance::Chance;
use super::coverage::Coverage;
use super::host_build::{HostBuild, Layout};
use super::in_kernel::{self, Tellers};
use super::links::{Carried, ETHERNET};
use super::mistakes::Mistake;
use super::on_tap::OnTap;
use super::reference::{Sight, kind, number16, read};
use crate::programs::{Counted, Dataplane};
use crate::tap::VNET_HEADER;

/// Bytes that a program has the kernel make linear.
const PULLED: usize = 192;

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A frame for all three; the seed of what is laid around it.
    Frame { frame: Vec<u8>, around: u64 },
    /// A virtio-net header with a frame, written to a tap.
    Tap { header: Vec<u8>, frame: Vec<u8> },
}

/// Who disagrees about a frame, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference(pub String);

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Everything that reads frames. For one thread, which ends with it.
#[derive(Debug)]
pub struct Bed {
    host: HostBuild,
    tellers: Tellers,
    dry: Dataplane,
    tap: Option<OnTap>,
    mistake: Option<Mistake>,
}

impl Bed {
    /// Loads the programs. With a tap the calling thread moves into a namespace of its own.
    pub fn new(with_tap: bool) -> Self {
        let mut dry = in_kernel::product(true);
        dry.switch_to("a");
        Self {
            host: HostBuild::new(),
            tellers: Tellers::load(),
            dry,
            tap: with_tap.then(OnTap::new),
            mistake: None,
        }
    }

    /// Has the plain reading make a mistake.
    pub fn mistaken(&mut self, mistake: Option<Mistake>) {
        self.mistake = mistake;
    }

    /// Makes an input: with a tap, one of so many is for it.
    pub fn input(&self, chance: &mut Chance, tap_every: u64) -> Input {
        if self.tap.is_some() && chance.number().is_multiple_of(tap_every) {
            return super::on_tap::input(chance);
        }
        Input::Frame {
            frame: super::frames::frame(chance),
            around: chance.number(),
        }
    }

    /// Reads an input in every way.
    ///
    /// # Errors
    ///
    /// The first thing about which two disagree.
    pub fn check(&mut self, input: &Input, coverage: &mut Coverage) -> Result<(), Difference> {
        coverage.cases += 1;
        match input {
            Input::Frame { frame, around } => {
                let mut chance = Chance::new(*around);
                self.check_host(frame, &mut chance, coverage)?;
                if is_run(frame) {
                    return self.check_kernel(frame, &mut chance, coverage);
                }
                match &mut self.tap {
                    Some(tap) => tap.check(&[0; VNET_HEADER], frame, self.mistake, coverage),
                    None => Ok(()),
                }
            }
            Input::Tap { header, frame } => {
                let tap = self.tap.as_mut().expect("a tap");
                tap.check(header, frame, self.mistake, coverage)
            }
        }
    }

    fn sight<'a>(&self, frame: &'a [u8]) -> Sight<'a> {
        Sight {
            frame,
            linear: frame.len(),
            has_vlan_tag: false,
            mistake: self.mistake,
        }
    }

    /// The plain reading and the host build: all of the frame readable, a short linear part, a tag taken out, and other bytes
    /// outside of the packet.
    fn check_host(
        &mut self,
        frame: &[u8],
        chance: &mut Chance,
        coverage: &mut Coverage,
    ) -> Result<(), Difference> {
        let whole = self.sight(frame);
        // A driver has the Ethernet header linear, of a frame that has one.
        let least = frame.len().min(ETHERNET);
        let most = frame.len().min(PULLED + 8);
        let first = least + chance.below(most - least + 1);
        let pulled = if first < PULLED {
            frame.len().min(PULLED)
        } else {
            first
        };
        let tagged = chance.percent(3);
        let behind = chance.bytes(64);
        let other = other_outside(frame, chance);
        if pulled < frame.len() {
            coverage.hit("frame: short linear part");
        }
        if tagged {
            coverage.hit("frame: VLAN tag taken out");
        }
        if other.is_some() {
            coverage.hit("frame: padding behind the packet");
        }
        for way in 0..reader::COUNT {
            let expected = read(&whole, way);
            coverage.read(way, &expected);
            let layout = Layout {
                frame,
                linear: frame.len(),
                has_vlan_tag: false,
                behind: &[],
            };
            self.host_reads("host build", &layout, way, &expected)?;
            let layout = Layout {
                behind: &behind,
                ..layout
            };
            self.host_reads("host build, bytes behind the frame", &layout, way, &expected)?;
            if let Some(other) = &other {
                let layout = Layout {
                    frame: other,
                    ..layout
                };
                self.host_reads("host build, other padding", &layout, way, &expected)?;
            }
            let sight = Sight {
                linear: pulled,
                has_vlan_tag: tagged,
                ..whole
            };
            let layout = Layout {
                frame,
                linear: first,
                has_vlan_tag: tagged,
                behind: &[],
            };
            self.host_reads("host build, short linear part", &layout, way, &read(&sight, way))?;
        }
        Ok(())
    }

    fn host_reads(
        &mut self,
        who: &str,
        layout: &Layout<'_>,
        way: u32,
        expected: &Parsed,
    ) -> Result<(), Difference> {
        match self.host.read(layout, way) {
            Ok(parsed) => compare(who, way, &parsed, expected),
            Err(what) => Err(Difference(format!("{who}, {}: {what}", name(way)))),
        }
    }

    /// The plain reading and the programs in the kernel.
    fn check_kernel(
        &self,
        frame: &[u8],
        chance: &mut Chance,
        coverage: &mut Coverage,
    ) -> Result<(), Difference> {
        let sight = self.sight(frame);
        let other = other_outside(frame, chance);
        for way in 0..reader::COUNT {
            let expected = read(&sight, way);
            // Most frames are no ARP and no error; that they are taken for none is asked now and then.
            if expected.reason == NOT_ASKED && !chance.percent(10) {
                continue;
            }
            coverage.kernel_runs += 1;
            compare("kernel", way, &self.tellers.read(frame, way), &expected)?;
            if let Some(other) = &other {
                coverage.kernel_runs += 1;
                compare(
                    "kernel, other padding",
                    way,
                    &self.tellers.read(other, way),
                    &expected,
                )?;
            }
        }
        coverage.kernel_runs += 1;
        let fate = in_kernel::fate(&self.dry, frame);
        check_fate(&sight, fate, coverage)?;
        if let Some(other) = &other {
            coverage.kernel_runs += 1;
            let again = in_kernel::fate(&self.dry, other);
            if again != fate {
                return Err(Difference(format!(
                    "from_workload: {fate:?}, with other padding {again:?}"
                )));
            }
        }
        Ok(())
    }
}

/// Returns whether every kernel runs a program with a frame: newer ones want the whole header that its type speaks of.
fn is_run(frame: &[u8]) -> bool {
    let least = match frame.get(12..ETHERNET) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        Some(_) => 0,
        None => return false,
    };
    frame.len() >= ETHERNET + least
}

/// Returns the frame with other bytes behind the packet, where there are some: padding, of which no verdict may depend.
fn other_outside(frame: &[u8], chance: &mut Chance) -> Option<Vec<u8>> {
    let end = match frame.get(12..14)? {
        [0x08, 0x00] => ETHERNET + usize::from(number16(frame.get(..18)?, 16)),
        [0x86, 0xdd] => ETHERNET + 40 + usize::from(number16(frame.get(..20)?, 18)),
        [0x08, 0x06] => ETHERNET + 28,
        _ => return None,
    };
    // A packet that ends inside of its own header is none: nothing of the frame is padding then.
    if end >= frame.len() || end < ETHERNET + 20 {
        return None;
    }
    let mut other = frame[..end].to_vec();
    other.extend(frame[end..].iter().map(|byte| !byte ^ (chance.byte() & 0x7f)));
    Some(other)
}

/// Compares the product's verdict with what the plain reading says: what cannot be read is dropped for exactly that reason,
/// and what can be read is not.
pub(super) fn check_fate(
    sight: &Sight<'_>,
    fate: Option<Counted>,
    coverage: &mut Coverage,
) -> Result<(), Difference> {
    let Some(fate) = fate else {
        return Err(Difference("from_workload does not say what it does".to_owned()));
    };
    let (expected, later) = refusal(sight);
    let is_of_parser = |reason: DropReason| {
        matches!(
            reason,
            DropReason::TooShort
                | DropReason::Malformed
                | DropReason::Vlan
                | DropReason::ExtensionHeaders
                | DropReason::UnknownEthertype
        )
    };
    let whole = read(sight, reader::WHOLE);
    let agrees = match (expected, fate) {
        (Some(expected), Counted::Drop(reason)) => expected == reason,
        (Some(_), Counted::Pass(_)) => false,
        // Refused by the second program that reads it, if not by the first.
        (None, Counted::Drop(reason)) if later == Some(reason) => true,
        // Neighbour discovery and RARP are looked at further: what is wrong there has the same names.
        (None, Counted::Drop(DropReason::Malformed)) => whole.kind == kind::NEIGHBOR,
        // Its options are where no program can read.
        (None, Counted::Drop(DropReason::TooShort)) => {
            whole.kind == kind::NEIGHBOR && sight.linear < sight.frame.len()
        }
        (None, Counted::Drop(DropReason::UnknownEthertype)) => whole.ethertype == Carried::Rarp as u32,
        (None, Counted::Drop(reason)) => !is_of_parser(reason),
        (None, Counted::Pass(_)) => later.is_none(),
    };
    coverage.hit(match (expected, fate) {
        (Some(_), _) => "product: dropped while it is parsed",
        (None, Counted::Drop(_)) => "product: dropped for another reason",
        (None, Counted::Pass(_)) => "product: passed",
    });
    if agrees {
        return Ok(());
    }
    let expected = expected.map_or("nothing that parsing refuses".to_owned(), |reason| {
        format!("{reason:?}")
    });
    Err(Difference(format!(
        "from_workload: {fate:?}, expected {expected}"
    )))
}

/// Returns the reason for which a frame cannot be read as the attached program does it, whole or as a fragment; and that for
/// which a first fragment cannot be read as it is judged.
fn refusal(sight: &Sight<'_>) -> (Option<DropReason>, Option<DropReason>) {
    let reason = |way| DropReason::of_number(read(sight, way).reason);
    let is_arp = read(sight, reader::WHOLE).ethertype == Carried::Arp as u32;
    match reason(reader::WHOLE) {
        Some(DropReason::Fragment) => {
            let judged = reason(reader::WITH_PORTS).filter(|reason| *reason != DropReason::Fragment);
            (reason(reader::FRAGMENT), judged)
        }
        None if is_arp => (reason(reader::ARP), None),
        other => (other, None),
    }
}

/// Compares what was understood.
pub(super) fn compare(who: &str, way: u32, found: &Parsed, expected: &Parsed) -> Result<(), Difference> {
    if found == expected {
        return Ok(());
    }
    let text = |parsed: &Parsed| {
        let text = format!("{parsed:?}");
        let inside = text
            .split_once("{ ")
            .and_then(|(_, rest)| rest.strip_suffix(" }"));
        inside.unwrap_or(&text).to_owned()
    };
    let reason = |parsed: &Parsed| match DropReason::of_number(parsed.reason) {
        Some(reason) => reason.name(),
        None if parsed.reason == NOT_ASKED => "not asked",
        None => "understood",
    };
    Err(Difference(format!(
        "{who}, {}: {}, expected {}\n  found    {}\n  expected {}",
        name(way),
        reason(found),
        reason(expected),
        text(found),
        text(expected)
    )))
}

fn name(way: u32) -> &'static str {
    match way {
        reader::WHOLE => "whole",
        reader::WITH_PORTS => "with ports",
        reader::FRAGMENT => "as a fragment",
        reader::QUOTED => "quoted",
        _ => "ARP",
    }
}
