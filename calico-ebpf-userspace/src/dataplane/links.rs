//! Programs on taps: tcx links where the kernel has them (Linux 6.6), clsact filters below.
//!
//! Ours stands at the head of the chain: a verdict in front of it would switch policy off. A link is pinned, so it
//! outlives the agent, and it is changed from one program to the next without a packet in between that sees none.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{SchedClassifier, TcAttachType};
use calico_ebpf_common::maps;

use super::bpf_syscall::{TcxLink, open_pinned, tcx_link};
use super::filters;
use super::interfaces::Interface;
use super::pins::{Pins, replace_pin};
use super::programs::Programs;
use super::state_file::StateFile;

/// Direction as the workload sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    FromWorkload,
    ToWorkload,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FromWorkload, Self::ToWorkload];

    /// Returns the name of the program.
    pub fn program(self) -> &'static str {
        match self {
            Self::FromWorkload => maps::PROGRAM_FROM_WORKLOAD,
            Self::ToWorkload => maps::PROGRAM_TO_WORKLOAD,
        }
    }

    /// Returns the hook of the tap.
    pub fn hook(self) -> TcAttachType {
        match self {
            Self::FromWorkload => TcAttachType::Ingress,
            Self::ToWorkload => TcAttachType::Egress,
        }
    }
}

/// How programs are attached on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    Tcx,
    Clsact,
}

impl AttachMode {
    /// Finds out what this kernel has.
    pub fn of_this_kernel() -> Self {
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => Self::Tcx,
            Err(_) => Self::Clsact,
        }
    }
}

/// What was found when a tap was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Ours was there, at the head.
    InPlace,
    /// Ours was not there.
    Attached,
    /// Ours of an earlier run was there; it runs the programs of this run now.
    Updated,
    /// Ours was there behind a foreign program; it is at the head again.
    MovedToHead,
}

/// Whether links of an earlier run are left alone or changed to the programs of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldLinks {
    /// This run's policy table is not in force yet.
    Keep,
    Update,
}

/// All links of the agent.
#[derive(Debug)]
pub struct Links {
    mode: AttachMode,
    directory: PathBuf,
    netlink: rtnetlink::Handle,
}

impl Links {
    /// Makes the view of the links that are pinned below `pins`.
    pub fn new(mode: AttachMode, pins: &Pins, netlink: rtnetlink::Handle) -> Self {
        Self {
            mode,
            directory: pins.links(),
            netlink,
        }
    }

    /// Returns how programs are attached.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Makes sure that both programs are at the head of `tap`. Returns the most notable finding.
    ///
    /// # Errors
    /// When a program cannot be attached; the tap must then be taken for one without programs.
    pub async fn ensure(
        &mut self,
        tap: &Interface,
        programs: &mut Programs,
        old_links: OldLinks,
        state: &mut StateFile,
    ) -> anyhow::Result<Finding> {
        let mut notable = Finding::InPlace;
        for direction in Direction::ALL {
            let finding = match self.mode {
                AttachMode::Tcx => self.ensure_tcx(tap, direction, programs, old_links),
                AttachMode::Clsact => {
                    filters::ensure(&self.netlink, tap, direction, programs, old_links, state).await
                }
            }
            .with_context(|| format!("cannot attach {} to {}", direction.program(), tap.name))?;
            notable = notable.max(finding);
        }
        Ok(notable)
    }

    /// Removes pins of links whose interface is gone. Returns how many there were.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn remove_dead(&self, live: &BTreeSet<u32>) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let link = pinned_link(&path)?;
            if link.is_none_or(|link| link.ifindex == 0 || !live.contains(&link.ifindex)) {
                fs::remove_file(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Returns whether a tap has no programs of ours yet, and will make the kernel wait for a grace period with each.
    pub(super) fn waits_for_kernel(&self, tap: &Interface) -> bool {
        self.mode == AttachMode::Tcx
            && Direction::ALL
                .iter()
                .any(|direction| !self.pin_of(tap.ifindex, *direction).exists())
    }

    fn ensure_tcx(
        &self,
        tap: &Interface,
        direction: Direction,
        programs: &mut Programs,
        old_links: OldLinks,
    ) -> anyhow::Result<Finding> {
        let pin = self.pin_of(tap.ifindex, direction);
        let attached = pinned_link(&pin)?.filter(|link| link.ifindex == tap.ifindex);
        let Some(link) = attached else {
            attach_at_head(tap, direction, programs.program(direction.program())?, &pin)?;
            return Ok(Finding::Attached);
        };
        let mut program = link.program_id;
        let mut finding = Finding::InPlace;
        if !programs.program_ids(direction.program())?.contains(&program) {
            if old_links == OldLinks::Keep {
                return Ok(Finding::InPlace);
            }
            program = update_link(&pin, programs.program(direction.program())?)?;
            finding = Finding::Updated;
        }
        let chain = chain_of(tap, direction)?;
        if chain.first() == Some(&program) {
            return Ok(finding);
        }
        let first = programs.program(direction.program())?.info()?.id();
        if chain.contains(&first) && !programs.are_pinned() {
            // The other instance shares maps by their pins; the next look finds them.
            return Ok(finding);
        }
        let spare = if chain.contains(&first) {
            programs.second_program(direction.program())?
        } else {
            programs.program(direction.program())?
        };
        // The new link is at the head before the rename takes the old one's pin, and with it the old link, away.
        attach_at_head(tap, direction, spare, &pin)?;
        Ok(Finding::MovedToHead)
    }

    fn pin_of(&self, ifindex: u32, direction: Direction) -> PathBuf {
        self.directory.join(pin_name(ifindex, direction))
    }
}

/// Returns what the link pinned at `path` is attached to; `None` when nothing, or no tcx link, is pinned there.
///
/// # Errors
/// What `BPF_OBJ_GET` says.
pub fn pinned_link(path: &Path) -> io::Result<Option<TcxLink>> {
    match open_pinned(path) {
        Ok(link) => tcx_link(link.as_fd()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether both programs are at the head of `tap`, as the kernel has it.
///
/// # Errors
/// When the kernel does not answer.
pub async fn are_in_place(
    netlink: &rtnetlink::Handle,
    mode: AttachMode,
    pins: &Pins,
    tap: &Interface,
) -> anyhow::Result<bool> {
    for direction in Direction::ALL {
        let is_first = match mode {
            AttachMode::Clsact => filters::is_first(netlink, tap, direction).await?,
            AttachMode::Tcx => {
                let pin = pins.links().join(pin_name(tap.ifindex, direction));
                let link = pinned_link(&pin)?.filter(|link| link.ifindex == tap.ifindex);
                match link {
                    Some(link) => chain_of(tap, direction)?.first() == Some(&link.program_id),
                    None => false,
                }
            }
        };
        if !is_first {
            return Ok(false);
        }
    }
    Ok(true)
}

fn pin_name(ifindex: u32, direction: Direction) -> String {
    format!("{ifindex}-{}", direction.program())
}

/// Returns the kernel's numbers of the programs on a hook, in the order in which they run.
fn chain_of(tap: &Interface, direction: Direction) -> anyhow::Result<Vec<u32>> {
    let (_, programs) = SchedClassifier::query_tcx(&tap.name, direction.hook())?;
    Ok(programs.iter().map(aya::programs::ProgramInfo::id).collect())
}

fn attach_at_head(
    tap: &Interface,
    direction: Direction,
    program: &mut SchedClassifier,
    pin: &Path,
) -> anyhow::Result<()> {
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program.attach_with_options(&tap.name, direction.hook(), first)?;
    let link: FdLink = program.take_link(link)?.try_into()?;
    replace_pin(pin, |path| {
        let pinned = link.pin(path)?;
        let attached = pinned_link(path)?;
        drop(pinned);
        // The name may have gone to another interface since it was listed.
        anyhow::ensure!(
            attached.is_some_and(|link| link.ifindex == tap.ifindex),
            "the interface has changed"
        );
        Ok(())
    })
}

/// Makes the pinned link run `program`; a packet sees either the old or the new one. Returns the new number.
fn update_link(pin: &Path, program: &mut SchedClassifier) -> anyhow::Result<u32> {
    let link = FdLink::from(PinnedLink::from_pin(pin)?).try_into()?;
    let updated = program.attach_to_link(link)?;
    // The pin keeps the link; the descriptor is not needed.
    drop(program.take_link(updated)?);
    Ok(program.info()?.id())
}
