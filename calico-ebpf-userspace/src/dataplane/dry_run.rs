//! The programs once more, judging made-up packets by the live tables: they write nothing.
//!
//! What is asked is the real program: built from the same object, with the settings that the live one has, on the same
//! maps. Only what it would write is left out (`DRY_RUN`), and its program array is its own.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;

use anyhow::Context;
use aya::Ebpf;
use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, SchedClassifier, TestRun, TestRunOptions};
use calico_ebpf_common::event::{
    FATE_COUNTER, FATE_JUDGED, FATE_KNOWN, WORD_EGRESS, WORD_FATE, WORD_INGRESS,
};
use calico_ebpf_common::maps::{self, settings};
use calico_ebpf_common::policy;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::bpf_syscall::first_value;
use super::object::OBJECT;
use super::pins::Pins;
use super::programs::{Settings, load_object, pinned_program};
use super::sk_buff::{self, SkBuff};
use crate::config::Config;

/// Why the programs cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    /// Nothing is pinned: no agent has run, or `cleanup` was done.
    #[error("no programs at {0:?}")]
    NoPrograms(std::path::PathBuf),
    /// Pinned programs are root's.
    #[error("no right to open {0:?}")]
    NotPermitted(std::path::PathBuf),
    #[error("the programs in the kernel are of another build than this command")]
    OtherBuild,
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Which flows the programs know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownFlows {
    /// The live ones.
    Live,
    /// None: every packet is the first of its flow.
    None,
}

/// At which hook of a tap a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The workload sends it.
    FromWorkload,
    /// It reaches the workload from an interface; 0 is the host itself.
    ToWorkload { ingress_ifindex: u32 },
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Dropped(DropReason),
    Passed(PassReason),
}

/// What the program said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub fate: Fate,
    /// Cells of the flow's originator (egress) and responder (ingress), if policy was asked.
    pub cells: Option<[policy::Cell; 2]>,
    /// The frame as it would go on.
    pub frame: Vec<u8>,
}

/// The conntrack maps.
const FLOW_MAPS: [&str; 4] = [maps::FLOWS4, maps::FLOWS6, maps::HALF_OPEN4, maps::HALF_OPEN6];

/// The programs, loaded.
#[derive(Debug)]
pub struct DryRun {
    object: Ebpf,
}

impl DryRun {
    /// Loads the programs on the maps that are pinned.
    ///
    /// # Errors
    /// When nothing is pinned, when what is pinned is of another build, and when the kernel refuses something.
    pub fn load(pins: &Pins, flows: KnownFlows) -> Result<Self, DryRunError> {
        let path = pins.program(maps::PROGRAM_FROM_WORKLOAD);
        match std::fs::symlink_metadata(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(DryRunError::NotPermitted(path));
            }
            Err(_) => return Err(DryRunError::NoPrograms(path)),
        }
        let live = live_programs(pins)?;
        let settings = live_settings(&live[0])?;
        let is_own =
            |name: &str| name == maps::UNSETTLED || flows == KnownFlows::None && FLOW_MAPS.contains(&name);
        let sizes = match flows {
            KnownFlows::Live => BTreeMap::new(),
            KnownFlows::None => FLOW_MAPS.into_iter().map(|name| (name, 1)).collect(),
        };
        // The load would pin a map that has no pin: only what is there is asked for.
        let is_whole = Cell::new(true);
        let object = load_object(&settings, &sizes, |name| {
            let path = pins.map(name);
            let is_there = path.exists();
            is_whole.set(is_whole.get() && (is_there || is_own(name)));
            (is_there && !is_own(name)).then_some(path)
        })?;
        if !is_whole.get() {
            return Err(DryRunError::OtherBuild);
        }
        let dry_run = Self { object };
        for (name, live) in ATTACHED.into_iter().zip(&live) {
            let own = dry_run.program(name)?.info().context("cannot see the program")?;
            if own.tag() != live.tag() {
                return Err(DryRunError::OtherBuild);
            }
        }
        Ok(dry_run)
    }

    /// Asks what becomes of a frame at a hook of the tap with number `ifindex`.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn ask(&self, hook: Hook, ifindex: u32, frame: &[u8]) -> anyhow::Result<Answer> {
        /// `TC_ACT_SHOT`.
        const SHOT: u32 = 2;
        let (name, ingress_ifindex) = match hook {
            Hook::FromWorkload => (maps::PROGRAM_FROM_WORKLOAD, ifindex),
            Hook::ToWorkload { ingress_ifindex } => (maps::PROGRAM_TO_WORKLOAD, ingress_ifindex),
        };
        let mut packet = vec![0; frame.len() + 64];
        let context = SkBuff::default()
            .with(sk_buff::INGRESS_IFINDEX, ingress_ifindex)
            .with(sk_buff::IFINDEX, ifindex);
        let mut after = SkBuff::default();
        let result = self
            .program(name)?
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut packet),
                ctx_in: Some(context.bytes()),
                ctx_out: Some(after.bytes_mut()),
                ..TestRunOptions::new()
            })
            .with_context(|| format!("the kernel does not run {name}"))?;
        packet.truncate(result.data_size_out as usize);
        let word = |word: usize| after.get(sk_buff::CB + word * 4);
        let fate = word(WORD_FATE);
        let counter = fate & FATE_COUNTER;
        let found = if fate & FATE_KNOWN == 0 {
            None
        } else if counter < maps::PASS_COUNTERS {
            DropReason::of_number(counter).map(Fate::Dropped)
        } else {
            PassReason::of_number(counter - maps::PASS_COUNTERS).map(Fate::Passed)
        };
        let found = found.with_context(|| {
            let verdict = if result.return_value == SHOT {
                "drops"
            } else {
                "passes"
            };
            format!("{name} {verdict} the packet and does not say why")
        })?;
        let cells = [WORD_EGRESS, WORD_INGRESS].map(|index| policy::Cell(word(index)));
        Ok(Answer {
            fate: found,
            cells: (fate & FATE_JUDGED != 0).then_some(cells),
            frame: packet,
        })
    }

    fn program(&self, name: &str) -> anyhow::Result<&SchedClassifier> {
        let program = self.object.program(name);
        Ok(program
            .with_context(|| format!("no program {name}"))?
            .try_into()?)
    }
}

/// The programs at the hooks.
const ATTACHED: [&str; 2] = [maps::PROGRAM_FROM_WORKLOAD, maps::PROGRAM_TO_WORKLOAD];

fn live_programs(pins: &Pins) -> anyhow::Result<[ProgramInfo; 2]> {
    let info = |name: &str| -> anyhow::Result<ProgramInfo> { Ok(pinned_program(pins, name)?.info()?) };
    Ok([info(ATTACHED[0])?, info(ATTACHED[1])?])
}

/// Returns the settings of a live program, from its read-only data, but for `DRY_RUN`.
fn live_settings(live: &ProgramInfo) -> Result<Settings, DryRunError> {
    const READ_ONLY_DATA: &str = ".rodata";
    let mut data = None;
    for id in live.map_ids().context("maps of the program")?.unwrap_or_default() {
        let map = MapInfo::from_id(id).context("a map of the program")?;
        if map.name_as_str() == Some(READ_ONLY_DATA) {
            let descriptor = map.fd().context("the program's settings")?;
            let value = first_value(descriptor.as_fd(), map.value_size());
            data = Some(value.map_err(|error: io::Error| anyhow::Error::from(error))?);
        }
    }
    let data = data.ok_or(DryRunError::OtherBuild)?;
    let file = object::File::parse(OBJECT).context("cannot parse the eBPF object")?;
    let section = file
        .section_by_name(READ_ONLY_DATA)
        .context("the eBPF object has no settings")?;
    let Settings(mut values) = Settings::of(&Config::default());
    for (name, value) in &mut values {
        let symbol = file
            .symbols()
            .find(|symbol| symbol.section_index() == Some(section.index()) && symbol.name() == Ok(*name));
        let offset = symbol
            .with_context(|| format!("the eBPF object has no setting {name}"))?
            .address();
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|offset| data.get(offset..offset + 4));
        // Data of another length is of another object.
        let bytes: [u8; 4] = bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(DryRunError::OtherBuild)?;
        *value = if *name == settings::DRY_RUN {
            1
        } else {
            u32::from_ne_bytes(bytes)
        };
    }
    Ok(Settings(values))
}
