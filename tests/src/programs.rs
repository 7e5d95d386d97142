//! The kernel programs with real maps and the real policy table, run packet by packet with BPF_PROG_TEST_RUN.
//!
//! A run needs an interface that exists. It is `lo`, number 1, in every network namespace: the workload whose hook
//! is run gets that number in the table, the others keep numbers that no packet is ever sent to.

mod events;
mod fate;
mod hooks;
mod loaded;
mod object;
mod ran;
mod reading;
mod tombstones;
mod workload;

use std::cell::Cell;
use std::collections::BTreeMap;

use aya::maps::Array;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use calico_ebpf_common::maps::{self, settings};
use calico_ebpf_common::quota::FlowLimits;
use calico_ebpf_userspace::calc::effective::EffectiveState;
use calico_ebpf_userspace::calc::resolve::{CalcOptions, resolve};
use calico_ebpf_userspace::compile::cells::MAX_CELLS;
use calico_ebpf_userspace::compile::input::{HostFacts, HostInterface, Limits, TableInput};
use calico_ebpf_userspace::compile::rule_ids::RuleIds;
use calico_ebpf_userspace::compile::table::{BuiltTable, build};
use calico_ebpf_userspace::dataplane::answer_sources::AnswerSources;
use calico_ebpf_userspace::dataplane::assignments::Assignments;
use calico_ebpf_userspace::dataplane::sk_buff::{self, SkBuff};
use calico_ebpf_userspace::model::decode::decode;
use calico_ebpf_userspace::model::resource::{MacAddress, Snapshot};

use crate::evidence;
use crate::manifests::{HOSTNAME, Object};
use crate::packets::Packet;
use loaded::{Loaded, Variant};
use ran::{Context, TC_ACT_REDIRECT};
use reading::difference;

pub use fate::attach;
pub use hooks::{Hook, Hooks, Packets, Table};
pub use object::object_path;
pub use ran::{Counted, Ran};
pub use workload::Workload;
use workload::{endpoint_object, tap};

/// Number of `lo`.
const LO: u32 = 1;
/// Numbers of the taps that are not being run.
const FIRST_TAP: u32 = 100;
/// Lines of the policy table: room for every port table twice.
const POLICY_LINES: u32 = 131_072;

thread_local! {
    /// What [`Dataplane::load`] takes.
    static LIMITS: Cell<Limits> = const { Cell::new(Limits { cells: MAX_CELLS, address_classes: 65_535 }) };
}

/// Runs `test` with dataplanes in which the fall-back judges everything.
pub fn by_fall_back(test: fn()) {
    LIMITS.set(Limits::FALL_BACK);
    test();
    LIMITS.set(Limits::default());
}

/// Where a packet that `to_workload` sees comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The host itself sent it.
    Host,
    /// It came in by another interface.
    Remote,
}

/// Programs, maps and what the datastore says.
#[derive(Debug)]
pub struct Dataplane {
    /// `None` only while it is dropped.
    loaded: Option<Loaded>,
    snapshot: Snapshot,
    workload_source_spoofing: bool,
    state: EffectiveState,
    host: HostFacts,
    /// What the numbers in force were given for.
    numbered: Option<(EffectiveState, HostFacts)>,
    assignments: Assignments,
    rule_ids: RuleIds,
    /// Version in force, and the workload that stands at `lo` in it.
    in_force: Option<(BuiltTable, String)>,
    epoch: u32,
    workloads: BTreeMap<String, Workload>,
    limits: Limits,
}

impl Default for Dataplane {
    fn default() -> Self {
        Self::new()
    }
}

impl Dataplane {
    /// Loads the programs with the settings of `config default`, but with packets to the host let pass.
    pub fn new() -> Self {
        Self::with_settings(&[])
    }

    /// Loads the programs with settings of their own (see [`settings`]).
    pub fn with_settings(settings: &[(&str, u32)]) -> Self {
        Self::load(settings, 4096)
    }

    /// Loads the programs with so many lines of policy table.
    pub fn with_lines(lines: u32) -> Self {
        Self::load_with(&[], 4096, lines)
    }

    /// Loads the programs with settings and room for `flows` flows of each family.
    pub fn load(overrides: &[(&str, u32)], flows: u32) -> Self {
        Self::load_with(overrides, flows, POLICY_LINES)
    }

    fn load_with(overrides: &[(&str, u32)], flows: u32, lines: u32) -> Self {
        let mut settings = BTreeMap::from([(settings::ENDPOINT_TO_HOST_ACCEPT.to_owned(), 1)]);
        settings.extend(overrides.iter().map(|(name, value)| ((*name).to_owned(), *value)));
        Self {
            loaded: Some(Loaded::take(Variant {
                settings,
                flows,
                lines,
            })),
            snapshot: Snapshot::new(),
            workload_source_spoofing: false,
            state: EffectiveState::default(),
            host: HostFacts::default(),
            numbered: None,
            assignments: Assignments::default(),
            rule_ids: RuleIds::new(),
            in_force: None,
            epoch: 0,
            workloads: BTreeMap::new(),
            limits: LIMITS.get(),
        }
    }

    /// Makes `allowSpoofedSourcePrefixes` count.
    pub fn allow_source_spoofing(&mut self) {
        self.workload_source_spoofing = true;
    }

    /// Says which addresses of the host answer denied packets.
    pub fn set_answer_sources(&mut self, sources: AnswerSources) {
        let map = self
            .loaded_mut()
            .object
            .map_mut(maps::ANSWER_SOURCES)
            .expect("a map");
        let mut map = Array::<_, [u64; 2]>::try_from(map).expect("an array");
        for (index, halves) in (0..).zip(sources.halves()) {
            map.set(index, halves, 0).expect("write a source");
        }
    }

    /// Adds a workload with these addresses, its tap `tap<name>`, and a label `name`.
    pub fn workload(&mut self, name: &str, addresses: &[&str]) {
        self.workload_with(name, addresses, |object| object);
    }

    /// As [`Self::workload`], with a change to the object that stands for it.
    pub fn workload_with(&mut self, name: &str, addresses: &[&str], change: impl FnOnce(Object) -> Object) {
        let known = self.workloads.len();
        let number = u8::try_from(known).expect("few workloads");
        let workload = *self.workloads.entry(name.to_owned()).or_insert(Workload {
            mac: [0xfa, 0x16, 0x3e, 0, 0, number + 1],
            tap_mac: [0xfe, 0x16, 0x3e, 0, 0, number + 1],
        });
        let ifindex = FIRST_TAP + u32::from(number);
        self.host
            .interfaces
            .entry(tap(name))
            .or_insert_with(|| HostInterface {
                ifindex,
                mac: MacAddress(workload.tap_mac),
                mtu: 1500,
                loose_until: 0,
            });
        self.put(&change(endpoint_object(name, workload.mac, addresses)));
    }

    /// Puts an object into the datastore; one that is not understood fails the test.
    pub fn put(&mut self, object: &Object) {
        self.put_all(std::slice::from_ref(object));
    }

    /// As [`Self::put`], for several at once.
    pub fn put_all(&mut self, objects: &[Object]) {
        for object in objects {
            let decoded = decode(object.value(), None);
            assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
            let (key, resource) = (decoded.key.expect("a key"), decoded.resource.expect("an object"));
            self.snapshot.insert(key, resource.into());
        }
        self.resolve();
    }

    /// Takes an object out of the datastore.
    pub fn remove(&mut self, object: &Object) {
        let key = decode(object.value(), None).key.expect("a key");
        self.snapshot.remove(&key).expect("the object was there");
        self.resolve();
    }

    /// Takes a workload out of the datastore.
    pub fn remove_workload(&mut self, name: &str) {
        self.remove(&endpoint_object(name, self.workloads[name].mac, &["0.0.0.0/32"]));
    }

    /// Takes a state as it is, past datastore and calculation.
    pub fn set_state(&mut self, state: EffectiveState, host: HostFacts) {
        for endpoint in state.endpoints.values() {
            let tap_mac = host.interfaces[&endpoint.interface_name].mac.0;
            let mac = endpoint.mac.map_or([0; 6], |mac| mac.0);
            let name = endpoint.interface_name.trim_start_matches("tap").to_owned();
            self.workloads.insert(name, Workload { mac, tap_mac });
        }
        self.state = state;
        self.host = host;
        self.in_force = None;
    }

    /// Changes what the host knows of its interfaces and addresses.
    pub fn change_host(&mut self, change: impl FnOnce(&mut HostFacts)) {
        change(&mut self.host);
        self.in_force = None;
    }

    /// Says until which `jiffies64` a workload's tap takes up TCP in mid-stream.
    pub fn set_loose_until(&mut self, name: &str, jiffies: u64) {
        self.change_host(|host| {
            let interface = host.interfaces.get_mut(&tap(name)).expect("a tap");
            interface.loose_until = jiffies;
        });
    }

    /// Sets what is judged by cells.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.in_force = None;
    }

    /// Sets how many flows each endpoint may have.
    pub fn limit_flows(&mut self, limits: FlowLimits) {
        self.loaded_mut().set_limits(limits);
    }

    /// Removes a workload's tap, as if its programs were not attached.
    pub fn detach(&mut self, name: &str) {
        self.change_host(|host| {
            host.interfaces.remove(&tap(name)).expect("a tap");
        });
    }

    pub fn named(&self, name: &str) -> Workload {
        self.workloads[name]
    }

    pub fn state(&self) -> &EffectiveState {
        &self.state
    }

    pub fn host(&self) -> &HostFacts {
        &self.host
    }

    fn loaded(&self) -> &Loaded {
        self.loaded.as_ref().expect("not dropped")
    }

    fn loaded_mut(&mut self) -> &mut Loaded {
        self.loaded.as_mut().expect("not dropped")
    }

    fn resolve(&mut self) {
        let options = CalcOptions {
            hostname: HOSTNAME.to_owned(),
            workload_source_spoofing: self.workload_source_spoofing,
        };
        self.state = resolve(&self.snapshot, &options);
        self.in_force = None;
    }

    /// Runs the hook that sees what the workload sends.
    pub fn from_workload(&mut self, name: &str, packet: &Packet) -> Ran {
        self.from_workload_marked(name, packet, 0)
    }

    /// As [`Self::from_workload`]; the packet is to be cut into segments of `segment` bytes of payload (GSO).
    pub fn from_workload_in_segments(&mut self, name: &str, packet: &Packet, segment: u32) -> Ran {
        let context = Context {
            segment,
            ..Context::default()
        };
        self.run_from_workload(name, packet, context)
    }

    /// As [`Self::from_workload`]; the packet bears a mark already.
    pub fn from_workload_marked(&mut self, name: &str, packet: &Packet, mark: u32) -> Ran {
        let context = Context {
            mark,
            ..Context::default()
        };
        self.run_from_workload(name, packet, context)
    }

    fn run_from_workload(&mut self, name: &str, packet: &Packet, context: Context) -> Ran {
        let workload = self.workloads[name];
        let bytes = packet.filled(workload.mac, workload.tap_mac);
        self.switch_to(name);
        self.run(maps::PROGRAM_FROM_WORKLOAD, &bytes, context)
    }

    /// Gives a workload's tap another MTU.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) {
        self.change_host(|host| {
            let interface = host.interfaces.get_mut(&tap(name));
            interface.expect("a tap").mtu = mtu;
        });
    }

    /// Runs the hook that sees what the host sends to the workload.
    pub fn to_workload(&mut self, name: &str, packet: &Packet, origin: Origin) -> Ran {
        self.to_workload_marked(name, packet, origin, 0)
    }

    /// As [`Self::to_workload`]; the packet bears a mark already.
    pub fn to_workload_marked(&mut self, name: &str, packet: &Packet, origin: Origin, mark: u32) -> Ran {
        let workload = self.workloads[name];
        let bytes = packet.filled(workload.tap_mac, workload.mac);
        let ingress = match origin {
            Origin::Host => 0,
            Origin::Remote => LO,
        };
        self.switch_to(name);
        let context = Context {
            mark,
            ingress,
            ..Context::default()
        };
        self.run(maps::PROGRAM_TO_WORKLOAD, &bytes, context)
    }

    /// Hands what `from_workload` redirected to the hook of the tap that it was redirected to.
    pub fn follow(&mut self, ran: &Ran) -> Ran {
        let name = ran.redirected_to.clone().expect("the packet was redirected");
        self.to_workload_marked(&name, &Packet::of(ran.packet.clone()), Origin::Remote, ran.mark)
    }

    /// Runs a hook as it stands, whatever table is in force.
    pub fn run_bare(&mut self, program: &str, packet: &Packet) -> Ran {
        let bytes = packet.filled([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        self.run(program, &bytes, Context::default())
    }

    /// Puts the state in force with the workload `name` at `lo`. Without a workload of that name, `lo` is nobody's.
    pub fn switch_to(&mut self, name: &str) {
        if self.in_force.as_ref().is_some_and(|(_, at_lo)| at_lo == name) {
            return;
        }
        let before = self.numbered.as_ref().map(|(state, host)| (state, host));
        self.assignments.assign_slots(&self.state, &BTreeMap::new());
        self.assignments
            .assign_generations(before, (&self.state, &self.host))
            .expect("generations are left");
        self.assignments.note_births(&self.state, &BTreeMap::new());
        self.numbered = Some((self.state.clone(), self.host.clone()));
        let mut host = self.host.clone();
        if let Some(interface) = host.interfaces.get_mut(&tap(name)) {
            interface.ifindex = LO;
        }
        self.epoch += 1;
        let base_line = self.loaded().policy.base_line();
        let input = TableInput {
            state: &self.state,
            host: &host,
            generations: &self.assignments.generations,
            born: &self.assignments.births(),
            slots: &self.assignments.slots,
            epoch: self.epoch,
            base_line,
            max_lines: self.loaded().policy.max_lines(),
            limits: self.limits,
        };
        let table = build(&input, &mut self.rule_ids).expect("the table fits");
        self.loaded_mut()
            .policy
            .put_in_force(&table.lines, base_line)
            .expect("the table is written");
        self.in_force = Some((table, name.to_owned()));
    }

    /// Returns the version of the policy table in force, and its first line.
    pub fn table(&self) -> (&BuiltTable, u32) {
        let (table, _) = self.in_force.as_ref().expect("a table is in force");
        let other_half = self.loaded().policy.base_line();
        let first = 64;
        let base = if other_half == first {
            first + self.loaded().policy.max_lines()
        } else {
            first
        };
        (table, base)
    }

    pub fn assignments(&self) -> &Assignments {
        &self.assignments
    }

    pub fn rule_ids(&self) -> &RuleIds {
        &self.rule_ids
    }

    fn run(&mut self, program: &str, bytes: &[u8], context: Context) -> Ran {
        evidence::frame(bytes);
        let before = self.counters();
        let mut packet = vec![0; bytes.len() + 64];
        let mut answer = SkBuff::default();
        let result = self
            .program(program)
            .test_run(TestRunOptions {
                data_in: Some(bytes),
                data_out: Some(&mut packet),
                ctx_in: Some(context.sk_buff().bytes()),
                ctx_out: Some(answer.bytes_mut()),
                ..TestRunOptions::new()
            })
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        packet.truncate(result.data_size_out as usize);
        let counted = difference(&before, &self.counters());
        let redirected_to = self.workloads.iter().find_map(|(name, workload)| {
            let frame = [workload.mac, workload.tap_mac].concat();
            packet.starts_with(&frame).then(|| name.clone())
        });
        let verdict = result.return_value.cast_signed();
        Ran {
            verdict,
            redirected_to: redirected_to.filter(|_| verdict == TC_ACT_REDIRECT),
            mark: answer.get(sk_buff::MARK),
            sent: bytes.to_owned(),
            packet,
            counted,
        }
    }

    fn program(&self, name: &str) -> &SchedClassifier {
        let program = self
            .loaded()
            .object
            .program(name)
            .unwrap_or_else(|| panic!("no program {name}"));
        program.try_into().expect("a classifier")
    }

    /// Returns the names of the programs, and how many instructions the verifier looked at, where the kernel tells.
    pub fn verified_instructions(&self) -> BTreeMap<String, Option<u32>> {
        let verified = |name: &str| {
            let info = self.program(name).info().expect("a loaded program");
            info.verified_instruction_count()
        };
        self.loaded()
            .object
            .programs()
            .map(|(name, _)| (name.to_owned(), verified(name)))
            .collect()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        if let Some(loaded) = self.loaded.take()
            && !std::thread::panicking()
        {
            loaded.give_back();
        }
    }
}
