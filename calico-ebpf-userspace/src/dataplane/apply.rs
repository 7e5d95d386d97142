//! Makes the kernel enforce what was calculated.
//!
//! Order: programs on every tap, then the policy table, then settings, neighbours and routes: an endpoint opens last.
//! What could not be written is told, retried, and does not hold up the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::maps::PROGRAM_READ_CLOCK;

use super::answer_sources::AnswerSources;
use super::assignments::Assignments;
use super::flows::{highest_generation, read_clock, ticks_per_second};
use super::grace_periods::{self, Expedited, MANY_TAPS};
use super::interfaces::{Interface, Interfaces, WorkloadNames};
use super::links::{AttachMode, Finding, Links, OldLinks};
use super::migration::Migrations;
use super::neighbors::NeighborTable;
use super::pins::Pins;
use super::policy_map::PolicyMap;
use super::programs::Programs;
use super::routes::{RouteTable, Routes};
use super::state_file::StateFile;
use super::sysctls::Sysctls;
use super::taps::Taps;
use super::tombstones::Tombstones;
use super::{host_addresses, interfaces};
use crate::calc::effective::EffectiveState;
use crate::compile::input::{HostFacts, HostInterface, Limits, TableInput};
use crate::compile::rule_ids::RuleIds;
use crate::compile::table::{self, BuiltTable};
use crate::config::values::Config;
use crate::model::name::ResourceKey;
use crate::model::resource::MacAddress;

/// The agent gives up when it could not write a policy table for this long.
const POLICY_WRITE_LIMIT: Duration = Duration::from_mins(1);

/// A part of the kernel that is to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Interfaces,
    HostAddresses,
    /// Programs on taps.
    Links,
    Settings,
    /// Routes and neighbours.
    Routes,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 5] = [
        Self::Interfaces,
        Self::HostAddresses,
        Self::Links,
        Self::Settings,
        Self::Routes,
    ];
}

/// What a pass left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What could not be written, for people.
    pub dirty: Vec<String>,
    /// When something that was left for later may be looked at.
    pub again_at: Option<Instant>,
}

/// The version of the policy table that packets are judged by.
#[derive(Debug)]
pub struct InForce {
    pub state: Arc<EffectiveState>,
    pub host: HostFacts,
    pub table: BuiltTable,
    pub epoch: u32,
}

/// The kernel state of this host and everything needed to change it.
#[derive(Debug)]
pub struct Dataplane {
    pub(super) config: Config,
    pub(super) names: WorkloadNames,
    pub(super) netlink: rtnetlink::Handle,
    pub(super) programs: Programs,
    pub(super) policy: PolicyMap,
    links: Links,
    /// Until the first version of this run's table is in force, links of an earlier run keep their programs.
    old_links: OldLinks,
    pub(super) sysctls: Sysctls,
    pub(super) routes: Routes,
    pub(super) state: StateFile,
    rule_ids: RuleIds,
    pub(super) assignments: Assignments,
    /// `None` before the first look at the host.
    pub(super) migrations: Option<Migrations>,
    pub(super) tombstones: Tombstones,
    pub(super) interfaces: Interfaces,
    host_addresses: BTreeSet<IpAddr>,
    pub(super) taps: Taps,
    pub(super) in_force: Option<InForce>,
    /// Whether nothing was read or attached since the host was seen to be as the version in force has it.
    host_is_known: bool,
    /// What the kernel has, when the last pass left nothing undone.
    pub(super) wanted_routes: Option<(RouteTable, NeighborTable)>,
    /// Trouble of single endpoints.
    pub(super) trouble: BTreeMap<ResourceKey, String>,
    policy_fails_since: Option<Instant>,
    /// How often ours had to be moved back to the head of a tap's chain.
    pub moved_to_head: u64,
    /// Endpoints whose flows are judged again once more, when every packet that was on its way has gone.
    pub(super) unsettled: BTreeSet<Slot>,
    /// How often the version in force was amended instead of being replaced.
    pub amendments: u64,
    /// How long it took to compile the last version of the table and to put it in force.
    pub apply_milliseconds: u64,
    pub(super) ticks_per_second: u64,
}

impl Dataplane {
    /// Loads the programs and reads what an earlier run left. Changes nothing that is in force.
    ///
    /// # Errors
    /// When the kernel lacks something, or the pin directory cannot be used.
    pub fn start(config: &Config, netlink: rtnetlink::Handle) -> anyhow::Result<Self> {
        let mut state = StateFile::read(&config.run_dir).context("cannot read the state of the last run")?;
        let pins = Pins::below(&config.bpf_pin_dir);
        grace_periods::restore(&mut state);
        pins.prepare(&mut state)?;
        let programs = Programs::load(config, &pins)?;
        let policy = programs.map_policy()?;
        let last_generation = highest_generation(&pins)?.max(state.state.generation);
        let links = Links::new(AttachMode::of_this_kernel(), &pins, netlink.clone());
        tracing::info!(mode = ?links.mode(), last_generation, "programs loaded");
        Ok(Self {
            names: WorkloadNames::new(&config.interface_prefixes, &config.interface_exclude),
            config: config.clone(),
            netlink,
            programs,
            policy,
            links,
            old_links: OldLinks::Keep,
            sysctls: Sysctls::default(),
            routes: Routes::default(),
            state,
            rule_ids: RuleIds::new(),
            assignments: Assignments {
                last_generation,
                ..Assignments::default()
            },
            migrations: None,
            tombstones: Tombstones::default(),
            interfaces: Interfaces::new(),
            host_addresses: BTreeSet::new(),
            taps: Taps::default(),
            in_force: None,
            host_is_known: false,
            wanted_routes: None,
            trouble: BTreeMap::new(),
            policy_fails_since: None,
            moved_to_head: 0,
            unsettled: BTreeSet::new(),
            amendments: 0,
            apply_milliseconds: 0,
            ticks_per_second: ticks_per_second()?,
        })
    }

    /// Makes the kernel enforce `desired`, after reading `parts` of it again.
    ///
    /// # Errors
    /// When going on makes no sense: netlink does not answer, or no policy table could be written for a long time.
    pub async fn reconcile(
        &mut self,
        desired: &Arc<EffectiveState>,
        parts: &BTreeSet<Part>,
    ) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        if parts.is_empty()
            && self.programs.are_pinned()
            && self.nobody_migrates(desired)
            && self.follows(desired)
        {
            return Ok(outcome);
        }
        self.trouble.clear();
        self.read_back(parts).await?;
        if parts.contains(&Part::Interfaces) || parts.contains(&Part::Links) {
            self.attach(&mut outcome).await?;
        }
        self.follow_migrations(desired).await?;
        self.put_table_in_force(desired, &mut outcome)?;
        if self.in_force.is_some() {
            if !self.programs.are_pinned() {
                self.take_over(&mut outcome).await?;
            }
            self.write_settings(parts, &mut outcome);
            self.write_routes(parts, &mut outcome).await?;
        }
        let settles_at = self.migrations.as_ref().and_then(Migrations::next_end);
        outcome.again_at = [outcome.again_at, settles_at].into_iter().flatten().min();
        Ok(outcome)
    }

    /// Returns whether somebody has changed the host's settings.
    pub fn settings_have_drifted(&self) -> bool {
        self.in_force.is_some() && self.sysctls.host_has_drifted(&self.config)
    }

    /// Returns whether the interface with this number is a workload's.
    pub fn is_tap(&self, ifindex: u32) -> bool {
        self.interfaces
            .get(&ifindex)
            .is_some_and(|interface| self.names.matches(&interface.name))
    }

    /// Returns the version of the policy table in force; 0 before the first of this run.
    pub fn epoch(&self) -> u32 {
        self.in_force.as_ref().map_or(0, |in_force| in_force.epoch)
    }

    /// Returns whether packets are judged by `desired`.
    pub fn enforces(&self, desired: &Arc<EffectiveState>) -> bool {
        self.in_force
            .as_ref()
            .is_some_and(|in_force| Arc::ptr_eq(&in_force.state, desired) || in_force.state == *desired)
    }

    /// Gives the loaded programs to what reads their log records.
    pub fn programs_mut(&mut self) -> &mut Programs {
        &mut self.programs
    }

    async fn read_back(&mut self, parts: &BTreeSet<Part>) -> anyhow::Result<()> {
        self.host_is_known = false;
        if parts.contains(&Part::Interfaces) {
            self.interfaces = interfaces::read_back(&self.netlink)
                .await
                .context("cannot read the interfaces")?;
            self.taps.retain(&self.interfaces);
        }
        if parts.contains(&Part::HostAddresses) {
            self.host_addresses = host_addresses::read_back(&self.netlink)
                .await
                .context("cannot read the addresses")?;
            let sources = AnswerSources::of(&self.config, &self.host_addresses);
            self.programs
                .set_answer_sources(sources)
                .context("cannot write the source of answers")?;
        }
        Ok(())
    }

    pub(super) fn workload_interfaces(&self) -> Vec<Interface> {
        self.interfaces
            .values()
            .filter(|interface| self.names.matches(&interface.name))
            .cloned()
            .collect()
    }

    /// Puts programs on every tap, endpoint or not: what is nobody's gets nowhere.
    async fn attach(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        self.host_is_known = false;
        let live: BTreeSet<u32> = self.interfaces.keys().copied().collect();
        match self.links.remove_dead(&live) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "links of vanished taps removed"),
            Err(error) => outcome.dirty.push(format!("links: {error}")),
        }
        let loose_until = self.loose_until()?;
        let taps = self.workload_interfaces();
        let new = taps.iter().filter(|tap| self.links.waits_for_kernel(tap)).count();
        let expedited =
            (new >= MANY_TAPS && self.config.bpf_expedited_attach).then(|| Expedited::begin(&mut self.state));
        for tap in taps {
            match self
                .links
                .ensure(&tap, &mut self.programs, self.old_links, &mut self.state)
                .await
            {
                Ok(finding) => {
                    self.tell_finding(&tap, finding);
                    self.taps
                        .note_attached(tap.ifindex, &tap.name, finding, loose_until);
                }
                Err(error) => {
                    tracing::error!(interface = %tap.name, error = format!("{error:#}"), "tap without programs");
                    outcome.dirty.push(format!("{}: {error:#}", tap.name));
                    self.taps.note_detached(tap.ifindex, &tap.name);
                }
            }
        }
        if let Some(expedited) = expedited {
            expedited.end(&mut self.state);
        }
        Ok(())
    }

    fn tell_finding(&mut self, tap: &Interface, finding: Finding) {
        let (interface, ifindex) = (&tap.name, tap.ifindex);
        match finding {
            Finding::InPlace => {}
            Finding::Attached => tracing::info!(%interface, ifindex, "programs attached"),
            Finding::Updated => tracing::info!(%interface, ifindex, "programs of an earlier run replaced"),
            Finding::MovedToHead => {
                self.moved_to_head += 1;
                tracing::warn!(%interface, ifindex, "a foreign program stood before ours: ours is at the head again");
            }
        }
    }

    fn loose_until(&mut self) -> anyhow::Result<u64> {
        let now = read_clock(self.programs.program(PROGRAM_READ_CLOCK)?)?.jiffies;
        Ok(now + self.config.bpf_mid_stream_grace.as_secs() * self.ticks_per_second)
    }

    /// Returns what the table must know about the host: only the taps of endpoints, so that nobody's taps change
    /// nothing.
    fn host_facts(&self, desired: &EffectiveState) -> HostFacts {
        let wanted: BTreeSet<&str> = desired
            .endpoints
            .values()
            .map(|endpoint| endpoint.interface_name.as_str())
            .collect();
        let interfaces = self
            .interfaces
            .values()
            .filter(|interface| {
                self.names.matches(&interface.name) && wanted.contains(interface.name.as_str())
            })
            .map(|interface| {
                let tap = self.taps.get(interface.ifindex).filter(|tap| tap.attached);
                let fact = HostInterface {
                    ifindex: tap.map_or(0, |_| interface.ifindex),
                    mac: interface.mac.unwrap_or(MacAddress([0; 6])),
                    mtu: interface.mtu,
                    loose_until: tap.map_or(0, |tap| tap.loose_until),
                };
                (interface.name.clone(), fact)
            })
            .collect();
        HostFacts {
            interfaces,
            host_addresses: self.host_addresses.clone(),
            expected: self.expected().cloned().collect(),
        }
    }

    /// Makes the version in force follow, and returns whether it does now.
    fn follows(&mut self, desired: &Arc<EffectiveState>) -> bool {
        let Some(in_force) = &self.in_force else {
            return false;
        };
        // The taps of the same endpoints are the same when nobody has looked at the host since.
        let is_known = self.host_is_known && in_force.state.endpoints.is(&desired.endpoints);
        if !is_known && in_force.host != self.host_facts(desired) {
            return false;
        }
        let follows = Arc::ptr_eq(&in_force.state, desired) || self.amend_version(desired);
        self.host_is_known = follows;
        follows
    }

    fn put_table_in_force(
        &mut self,
        desired: &Arc<EffectiveState>,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        if self.follows(desired) {
            return Ok(());
        }
        let host = self.host_facts(desired);
        match self.write_version(desired, host) {
            Ok(()) => self.policy_fails_since = None,
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "policy table not written, the last one stays in force"
                );
                outcome.dirty.push(format!("policy table: {error:#}"));
                let is_input = error.downcast_ref::<table::TableError>().is_some();
                let since = *self.policy_fails_since.get_or_insert_with(Instant::now);
                anyhow::ensure!(
                    is_input || since.elapsed() < POLICY_WRITE_LIMIT,
                    error.context("no policy table could be written for a minute")
                );
                return Ok(());
            }
        }
        Ok(())
    }

    fn write_version(&mut self, desired: &Arc<EffectiveState>, host: HostFacts) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut assignments = self.assignments.clone();
        assignments.resting = self.tombstones.slots();
        assignments.assign_slots(desired, &self.state.state.slots);
        let before = self
            .in_force
            .as_ref()
            .map(|in_force| (&*in_force.state, &in_force.host));
        assignments.assign_generations(before, (desired, &host))?;
        assignments.note_births(desired, &self.state.state.born);
        for (key, slot) in &assignments.slots {
            if self.state.state.slots.get(&key.to_string()) != Some(slot) {
                self.programs.forget_announcement(*slot)?;
            }
        }
        self.programs.limit_flows(&self.config, assignments.slots.len())?;
        let epoch = self.state.state.epoch.checked_add(1).unwrap_or(1);
        let input = TableInput {
            state: desired,
            host: &host,
            generations: &assignments.generations,
            born: &assignments.births(),
            slots: &assignments.slots,
            epoch,
            base_line: self.policy.base_line(),
            max_lines: self.policy.max_lines(),
            limits: Limits {
                cells: self.config.bpf_policy_max_cells.into(),
                address_classes: self.config.bpf_policy_max_address_classes as usize,
            },
        };
        let mut table = table::build(&input, &mut self.rule_ids)?;
        self.programs
            .zero_rules(&table.new_rules)
            .context("cannot zero rule counters")?;
        // Remembered first: a number must not be given twice, whatever happens next.
        let state = &mut self.state.state;
        state.generation = state.generation.max(assignments.last_generation);
        state.epoch = epoch;
        state.slots = assignments
            .slots
            .iter()
            .map(|(key, slot)| (key.to_string(), *slot))
            .collect();
        state.born = assignments
            .born
            .iter()
            .map(|(key, born)| (key.to_string(), born.clone()))
            .collect();
        self.state.save().context("cannot write the state file")?;
        self.follow_departures(&assignments);
        self.policy.put_in_force(&table.lines, input.base_line)?;
        self.apply_milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            epoch,
            endpoints = desired.endpoints.len(),
            lines = table.lines.len(),
            fall_back = table.report.fall_back,
            milliseconds = self.apply_milliseconds,
            "policy table in force"
        );
        for (key, problem) in &table.endpoint_problems {
            tracing::warn!(endpoint = %key, problem, "endpoint is not served in full");
        }
        for set in &table.over_budget {
            tracing::error!(policy_set = set.policy_set, why = ?set.why, "policy set is too large and denies everything");
        }
        table.lines = Vec::new();
        self.assignments = assignments;
        self.in_force = Some(InForce {
            state: Arc::clone(desired),
            host,
            table,
            epoch,
        });
        self.host_is_known = true;
        Ok(())
    }

    /// The first version of this run is in force for the new programs: now links of an earlier run change to them.
    /// What the earlier run pinned stays until no link needs it.
    async fn take_over(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        self.programs.pin_unsettled_aside()?;
        self.old_links = OldLinks::Update;
        self.attach(outcome).await?;
        if self
            .workload_interfaces()
            .iter()
            .all(|tap| self.is_attached(tap.ifindex))
        {
            self.programs.pin_over_old()?;
        }
        Ok(())
    }

    pub(super) fn is_attached(&self, ifindex: u32) -> bool {
        self.taps.get(ifindex).is_some_and(|tap| tap.attached)
    }
}
