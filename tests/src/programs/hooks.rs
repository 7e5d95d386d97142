//! The hooks of several taps at once, with a policy table that a caller writes as the agent does.

use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use calico_ebpf_common::line::Line;
use calico_ebpf_common::maps::{self, Counter, settings};
use calico_ebpf_userspace::compile::amend::Write;
use calico_ebpf_userspace::dataplane::policy_map::PolicyMap;
use calico_ebpf_userspace::dataplane::sk_buff::{self, SkBuff};

use super::POLICY_LINES;
use super::loaded::{Loaded, Variant};
use super::object::map_data;
use crate::evidence;
use crate::netns::Netns;

const TC_ACT_SHOT: u32 = 2;

/// A hook of a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What the workload sends.
    FromWorkload,
    /// What comes for the workload, by another interface of the host.
    ToWorkload,
}

/// Programs with their maps, for taps of the calling thread's namespace.
#[derive(Debug)]
pub struct Hooks {
    loaded: Loaded,
}

impl Default for Hooks {
    fn default() -> Self {
        Self::new()
    }
}

impl Hooks {
    /// Loads the programs. A tap is an interface of the calling thread's namespace: `lo`, number 1, is there always.
    pub fn new() -> Self {
        let variant = Variant {
            settings: [(settings::ENDPOINT_TO_HOST_ACCEPT.to_owned(), 1)].into(),
            flows: 4096,
            lines: POLICY_LINES,
        };
        Self {
            loaded: Loaded::take(variant),
        }
    }

    /// Loads the programs and moves the calling thread into a namespace with taps `tap1` to `tap<taps>`, whose numbers
    /// are 101 and so on. For threads that end with the hooks.
    pub fn in_own_namespace(taps: u32) -> Self {
        let hooks = Self::new();
        let namespace = Netns::guest();
        for number in 1..=taps {
            let index = 100 + number;
            namespace.ip(&format!(
                "link add tap{number} index {index} type veth peer name peer{number} index {}",
                index + 100
            ));
        }
        namespace.enter().expect("enter the namespace");
        hooks
    }

    /// Returns the line number at which the next version must stand.
    pub fn base_line(&self) -> u32 {
        self.loaded.policy.base_line()
    }

    /// Returns the number of lines that a version may have.
    pub fn max_lines(&self) -> u32 {
        self.loaded.policy.max_lines()
    }

    /// Puts a version in force.
    pub fn put_in_force(&mut self, lines: &[Line], root: u32) {
        self.loaded
            .policy
            .put_in_force(lines, root)
            .expect("the table is written");
    }

    /// Overwrites numbers of the version in force.
    pub fn overwrite<'a>(&self, writes: impl IntoIterator<Item = &'a Write>) {
        self.loaded
            .policy
            .overwrite(writes)
            .expect("the table is written");
    }

    /// Forgets all flows.
    pub fn clear_flows(&mut self) {
        self.loaded.clear_flows();
    }

    /// Returns whether the hook of the interface lets a frame go on, anywhere.
    pub fn passes(&self, hook: Hook, ifindex: u32, frame: &[u8]) -> bool {
        Packets(&self.loaded.object).run(hook, ifindex, frame, 1) != TC_ACT_SHOT
    }

    /// Takes packets and table apart, for threads of their own.
    pub fn split(&mut self) -> (Packets<'_>, Table<'_>) {
        let opened = |name| {
            let info = map_data(&self.loaded.object, name).info().expect("of the map");
            MapData::from_id(info.id()).expect("open the map")
        };
        let table = Table {
            lines: Array::try_from(aya::maps::Map::Array(opened(maps::POLICY))).expect("an array"),
            active: Array::try_from(aya::maps::Map::Array(opened(maps::ACTIVE))).expect("an array"),
            policy: &mut self.loaded.policy,
        };
        (Packets(&self.loaded.object), table)
    }
}

/// Sends packets, and reads what they left.
#[derive(Clone, Copy, Debug)]
pub struct Packets<'a>(&'a Ebpf);

impl Packets<'_> {
    /// Gives a frame to a hook so many times in a row.
    pub fn send(self, hook: Hook, ifindex: u32, frame: &[u8], times: u32) {
        self.run(hook, ifindex, frame, times);
    }

    /// Returns how many packets a rule has decided about, by the number of its counter.
    pub fn decided_by(self, rule: u32) -> u64 {
        let map = self.0.map(maps::RULES).expect("a map");
        let map = PerCpuArray::<_, Counter>::try_from(map).expect("a per-CPU array");
        let values = map.get(&rule, 0).expect("in the array");
        values.iter().map(|counter| counter.packets).sum()
    }

    fn run(self, hook: Hook, ifindex: u32, frame: &[u8], times: u32) -> u32 {
        evidence::frame(frame);
        let name = match hook {
            Hook::FromWorkload => maps::PROGRAM_FROM_WORKLOAD,
            Hook::ToWorkload => maps::PROGRAM_TO_WORKLOAD,
        };
        let program = self.0.program(name).expect("in the object");
        let program: &SchedClassifier = program.try_into().expect("a classifier");
        let context = SkBuff::default()
            .with(sk_buff::INGRESS_IFINDEX, 1)
            .with(sk_buff::IFINDEX, ifindex);
        let ran = program.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(context.bytes()),
            repeat: times,
            ..TestRunOptions::new()
        });
        ran.expect("run the hook").return_value
    }
}

/// Changes the policy table.
pub struct Table<'a> {
    policy: &'a mut PolicyMap,
    lines: Array<MapData, Line>,
    active: Array<MapData, u64>,
}

impl Table<'_> {
    /// Returns the line number at which the next version must stand, and how many lines it may have.
    pub fn room(&self) -> (u32, u32) {
        (self.policy.base_line(), self.policy.max_lines())
    }

    /// Puts a version in force as the agent does.
    pub fn put_in_force(&mut self, lines: &[Line], root: u32) {
        self.policy
            .put_in_force(lines, root)
            .expect("the table is written");
    }

    /// Does the steps of [`Self::put_in_force`] in the wrong order: packets are led to the version before its lines are
    /// there, and nothing waits.
    pub fn put_in_force_reversed(&mut self, lines: &[Line], root: u32) {
        self.active
            .set(0, u64::from(root), 0)
            .expect("the root is switched");
        for (number, line) in (root..).zip(lines) {
            self.lines.set(number, line, 0).expect("a line is written");
        }
    }

    /// Overwrites numbers of the version in force.
    pub fn overwrite<'a>(&self, writes: impl IntoIterator<Item = &'a Write>) {
        self.policy.overwrite(writes).expect("the table is written");
    }
}
