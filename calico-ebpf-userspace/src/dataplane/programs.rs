//! The programs in the kernel and the maps they share.
//!
//! Each run loads its own programs with a new policy table. Conntrack and counters are taken over from the last run
//! if their layout is the same. Pins of the last run stay until [`Programs::pin_over_old`]: until then its links and
//! tables are in force.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow};
use aya::maps::{Array, Map, MapData, MapInfo, PerCpuArray, PerCpuValues, ProgramArray};
use aya::programs::{Program, ProgramError, SchedClassifier};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use calico_ebpf_common::answer::{ANSWER_SOURCE4, ANSWER_SOURCE6};
use calico_ebpf_common::flow::FlowKey4;
use calico_ebpf_common::maps::{self, Counter, settings};
use calico_ebpf_common::quota::FlowLimits;
use rayon::prelude::*;

use super::adoption::adoptable;
use super::answer_sources::AnswerSources;
use super::flows::FlowKey;
use super::object::OBJECT;
use super::pins::{Pins, replace_pin};
use super::policy_map::PolicyMap;
use super::quotas::limits_of;
use crate::config::values::{Config, DenyAction, EndpointToHostAction, EstablishedFlows};

/// Every map that is pinned.
const PINNED_MAPS: [&str; 17] = [
    maps::POLICY,
    maps::ACTIVE,
    maps::FLOWS4,
    maps::FLOWS6,
    maps::HALF_OPEN4,
    maps::HALF_OPEN6,
    maps::QUOTAS,
    maps::LIMITS,
    maps::COUNTERS,
    maps::RULES,
    maps::UNSETTLED,
    maps::ANNOUNCED,
    maps::DATAGRAMS,
    maps::EVENTS,
    maps::WATCHED,
    maps::BUDGETS,
    maps::TOMBSTONES,
];
/// Every program that is pinned.
const PROGRAMS: [&str; 5] = [
    maps::PROGRAM_FROM_WORKLOAD,
    maps::PROGRAM_TO_WORKLOAD,
    maps::PROGRAM_EXPIRE_FLOWS,
    maps::PROGRAM_READ_CLOCK,
    maps::PROGRAM_CORRECT_QUOTA,
];

/// The loaded programs.
#[derive(Debug)]
pub struct Programs {
    first: Ebpf,
    /// The same programs once more: the kernel takes a program only once on each hook, so a link that must move to
    /// the head while the old one stays needs another.
    second: Option<Ebpf>,
    settings: Settings,
    sizes: BTreeMap<&'static str, u32>,
    pins: Pins,
    pinned: bool,
}

impl Programs {
    /// Loads the programs for `config`. Nothing that is in force changes.
    ///
    /// # Errors
    /// When the kernel refuses a map or a program.
    pub fn load(config: &Config, pins: &Pins) -> anyhow::Result<Self> {
        let mut sizes = BTreeMap::from([
            (maps::POLICY, config.bpf_policy_table_lines),
            (maps::FLOWS4, config.bpf_map_size_conntrack),
            (maps::FLOWS6, config.bpf_map_size_conntrack),
            (maps::HALF_OPEN4, config.bpf_map_size_half_open),
            (maps::HALF_OPEN6, config.bpf_map_size_half_open),
        ]);
        let adopted = adoptable(OBJECT, &mut sizes, pins)?;
        let settings = Settings::of(config);
        let first = load_object(&settings, &sizes, |name| {
            adopted.contains(name).then(|| pins.map(name))
        })?;
        Ok(Self {
            first,
            second: None,
            settings,
            sizes,
            pins: pins.clone(),
            pinned: false,
        })
    }

    /// Maps the policy table into this process.
    ///
    /// # Errors
    /// When a map is missing in the object or cannot be mapped.
    pub fn map_policy(&self) -> anyhow::Result<PolicyMap> {
        let policy = map_data(&self.first, maps::POLICY)?;
        let lines = policy.info()?.max_entries();
        Ok(PolicyMap::map(
            policy,
            map_data(&self.first, maps::ACTIVE)?,
            lines,
        )?)
    }

    /// Returns the program called `name` and its number in the kernel.
    ///
    /// # Errors
    /// When it is not in the object.
    pub fn program(&mut self, name: &str) -> anyhow::Result<&mut SchedClassifier> {
        classifier(&mut self.first, name)
    }

    /// Returns the second instance of the program called `name`, loading it on the first call. Only for use after
    /// [`Self::pin_over_old`].
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn second_program(&mut self, name: &str) -> anyhow::Result<&mut SchedClassifier> {
        if self.second.is_none() {
            let pins = &self.pins;
            self.second = Some(load_object(&self.settings, &self.sizes, |name| {
                Some(pins.map(name))
            })?);
        }
        let second = self.second.as_mut().context("second instance is loaded")?;
        classifier(second, name)
    }

    /// Returns the kernel's numbers of both instances of the program called `name`.
    ///
    /// # Errors
    /// When it is not in the object.
    pub fn program_ids(&mut self, name: &str) -> anyhow::Result<BTreeSet<u32>> {
        let mut ids = BTreeSet::from([classifier(&mut self.first, name)?.info()?.id()]);
        if let Some(second) = &mut self.second {
            ids.insert(classifier(second, name)?.info()?.id());
        }
        Ok(ids)
    }

    /// Pins the program array under a name of its own, before the first link leaves to its programs: the kernel
    /// empties the array when the last pin and descriptor go, and this process may be killed at any time.
    ///
    /// # Errors
    /// When the pin cannot be made.
    pub fn pin_unsettled_aside(&self) -> anyhow::Result<()> {
        let array = map_data(&self.first, maps::UNSETTLED)?;
        let path = self.pins.map(&format!("{}{}", aside(), array.info()?.id()));
        if !path.exists() {
            array.pin(&path).context("cannot pin the program array")?;
        }
        Ok(())
    }

    /// Returns whether [`Self::pin_over_old`] is done.
    pub fn are_pinned(&self) -> bool {
        self.pinned
    }

    /// Pins programs and maps over those of earlier runs. No link may need those any more.
    ///
    /// # Errors
    /// When a pin cannot be made; those before it are made.
    pub fn pin_over_old(&mut self) -> anyhow::Result<()> {
        for name in PINNED_MAPS {
            let map = map_data(&self.first, name)?;
            let path = self.pins.map(name);
            if MapInfo::from_pin(&path).is_ok_and(|old| map.info().is_ok_and(|new| old.id() == new.id())) {
                continue;
            }
            replace_pin(&path, |path| Ok(map.pin(path)?))
                .with_context(|| format!("cannot pin map {name}"))?;
        }
        for name in PROGRAMS {
            let path = self.pins.program(name);
            let program = classifier(&mut self.first, name)?;
            replace_pin(&path, |path| Ok(program.pin(path)?))
                .with_context(|| format!("cannot pin program {name}"))?;
        }
        self.pins
            .remove_maps(&aside())
            .context("cannot remove old pins")?;
        self.pinned = true;
        Ok(())
    }

    /// Sets rule counters to zero.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn zero_rules(&mut self, numbers: &[u32]) -> anyhow::Result<()> {
        let rules = self
            .first
            .map_mut(maps::RULES)
            .context("the eBPF object has no rule counters")?;
        let mut rules: PerCpuArray<_, Counter> = rules.try_into()?;
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        for number in numbers {
            let zeros = PerCpuValues::try_from(vec![Counter::default(); cpus])?;
            rules.set(*number, zeros, 0)?;
        }
        Ok(())
    }

    /// Returns whether the workload at `slot` has announced itself since [`Self::forget_announcement`].
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn has_announced(&self, slot: u16) -> anyhow::Result<bool> {
        let announced = self.first.map(maps::ANNOUNCED);
        let announced = announced.context("the eBPF object has no announcements")?;
        let announced: Array<_, u64> = announced.try_into()?;
        Ok(announced.get(&u32::from(slot), 0)? != 0)
    }

    /// Forgets what the workload at `slot`, or who had the slot before, has announced.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn forget_announcement(&mut self, slot: u16) -> anyhow::Result<()> {
        let announced = self.first.map_mut(maps::ANNOUNCED);
        let announced = announced.context("the eBPF object has no announcements")?;
        let mut announced: Array<_, u64> = announced.try_into()?;
        Ok(announced.set(u32::from(slot), 0, 0)?)
    }

    /// Writes which address of the host answers denied packets.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_answer_sources(&mut self, sources: AnswerSources) -> anyhow::Result<()> {
        let map = self.first.map_mut(maps::ANSWER_SOURCES);
        let map = map.context("the eBPF object has no sources of answers")?;
        let mut map: Array<_, [u64; 2]> = map.try_into()?;
        let [v4, v6] = sources.halves();
        map.set(ANSWER_SOURCE4, v4, 0)?;
        map.set(ANSWER_SOURCE6, v6, 0)?;
        Ok(())
    }

    /// Writes how many flows each of `endpoints` may have.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn limit_flows(&mut self, config: &Config, endpoints: usize) -> anyhow::Result<()> {
        let room = FlowKey4::MAPS.map(|name| self.sizes.get(name).copied().unwrap_or(0));
        let map = self.first.map_mut(maps::LIMITS);
        let map = map.context("the eBPF object has no limits of flows")?;
        let mut map: Array<_, FlowLimits> = map.try_into()?;
        map.set(0, limits_of(config, room, endpoints), 0)
            .context("cannot write how many flows an endpoint may have")
    }

    /// Gives the loaded object to what reads the programs' log records.
    pub fn object_mut(&mut self) -> &mut Ebpf {
        &mut self.first
    }
}

/// Returns the pinned program called `name`.
///
/// # Errors
/// When nothing, or something else, is pinned there.
pub fn pinned_program(pins: &Pins, name: &str) -> anyhow::Result<SchedClassifier> {
    SchedClassifier::from_pin(pins.program(name)).with_context(|| format!("program {name} is not pinned"))
}

/// How names of program arrays begin that are pinned before they take the array's own name.
fn aside() -> String {
    format!("{}-", maps::UNSETTLED)
}

/// Values of the programs' globals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings(pub(super) Vec<(&'static str, u32)>);

impl Settings {
    pub(super) fn of(config: &Config) -> Self {
        let to_host_accept = match config.default_endpoint_to_host_action {
            EndpointToHostAction::Drop => 0,
            EndpointToHostAction::Return | EndpointToHostAction::Accept => 1,
        };
        let metadata = config.metadata_addr.filter(|_| config.openstack);
        Self(vec![
            (settings::MARK, config.bpf_judged_mark),
            (settings::ENDPOINT_TO_HOST_ACCEPT, to_host_accept),
            (settings::IPV6, u32::from(config.ipv6_support)),
            (settings::OPENSTACK, u32::from(config.openstack)),
            (
                settings::ALLOW_VXLAN,
                u32::from(config.allow_vxlan_from_workloads),
            ),
            (settings::ALLOW_IPIP, u32::from(config.allow_ipip_from_workloads)),
            (
                settings::METADATA_ADDRESS,
                metadata.map_or(0, std::net::Ipv4Addr::to_bits),
            ),
            (
                settings::METADATA_PORT,
                metadata.map_or(0, |_| u32::from(config.metadata_port)),
            ),
            (
                settings::KEEP_FLOWS,
                u32::from(config.established_flows == EstablishedFlows::Keep),
            ),
            (
                settings::ANSWER_DENIED,
                u32::from(config.deny_action == DenyAction::Reject),
            ),
            (settings::DRY_RUN, 0),
            (settings::DEBUG_LOG, u32::from(config.bpf_log)),
        ])
    }
}

/// Loads programs with maps of their own, but those for which `pin_of` has a pin.
pub(super) fn load_object(
    settings: &Settings,
    sizes: &BTreeMap<&'static str, u32>,
    pin_of: impl Fn(&str) -> Option<std::path::PathBuf>,
) -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (name, value) in &settings.0 {
        loader.override_global(name, value, true);
    }
    for (name, size) in sizes {
        loader.map_max_entries(name, *size);
    }
    for name in PINNED_MAPS {
        if let Some(path) = pin_of(name) {
            loader.map_pin_path(name, path);
        }
    }
    let mut object = loader.load(OBJECT).context("cannot load the eBPF object")?;
    load_programs(&mut object)?;
    fill_unsettled(&mut object)?;
    Ok(object)
}

/// Loads all programs, on all processors at once: the verifier takes a while for each, and shares nothing.
fn load_programs(object: &mut Ebpf) -> anyhow::Result<()> {
    let mut programs: BTreeMap<&str, &mut Program> = object.programs_mut().collect();
    let names = maps::UNSETTLED_PROGRAMS.into_iter().chain(PROGRAMS);
    let waiting = names
        .map(|name| Ok((name, programs.remove(name).with_context(|| missing(name))?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    waiting
        .into_par_iter()
        .with_max_len(1)
        .try_for_each(|(name, program)| {
            let program: &mut SchedClassifier = program.try_into()?;
            program
                .load()
                .map_err(|error| refused(&error))
                .with_context(|| format!("the kernel refuses program {name}"))
        })
}

fn missing(name: &str) -> String {
    format!("the eBPF object has no program {name}")
}

/// Enters the programs that the attached ones leave to in their array.
fn fill_unsettled(object: &mut Ebpf) -> anyhow::Result<()> {
    let mut programs = Vec::new();
    for name in maps::UNSETTLED_PROGRAMS {
        programs.push(classifier(object, name)?.fd()?.try_clone()?);
    }
    let array = object
        .map_mut(maps::UNSETTLED)
        .context("the eBPF object has no program array")?;
    let mut array = ProgramArray::try_from(array)?;
    for (entry, program) in (0..).zip(&programs) {
        array.set(entry, program, 0)?;
    }
    Ok(())
}

/// Lines of the verifier's log that are shown: the last ones say why.
const VERIFIER_LINES: usize = 12;

fn refused(error: &ProgramError) -> anyhow::Error {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return anyhow!("{error}");
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().collect();
    anyhow!(
        "{io_error}\n{}",
        lines[lines.len().saturating_sub(VERIFIER_LINES)..].join("\n")
    )
}

pub(super) fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = object.program_mut(name).with_context(|| missing(name))?;
    Ok(program.try_into()?)
}

fn map_data<'a>(object: &'a Ebpf, name: &str) -> anyhow::Result<&'a MapData> {
    match object.map(name) {
        Some(
            Map::Array(data)
            | Map::PerCpuArray(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::ProgramArray(data)
            | Map::RingBuf(data),
        ) => Ok(data),
        Some(other) => Err(anyhow!("map {name} is of another type: {other:?}")),
        None => Err(anyhow!("the eBPF object has no map {name}")),
    }
}
