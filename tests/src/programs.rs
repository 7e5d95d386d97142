//! The kernel programs with real maps and the real policy table, run packet by packet with BPF_PROG_TEST_RUN.
//!
//! A run needs an interface that exists. It is `lo`, number 1, in every network namespace: the workload whose hook
//! is run gets that number in the table, the others keep numbers that no packet is ever sent to.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use aya::maps::{HashMap, MapData, PerCpuArray, ProgramArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader, Pod};
use calico_ebpf_common::expire::{Clock, ExpireEntry, ExpireHeader};
use calico_ebpf_common::flow::{Flow, FlowKey4, FlowKey6};
use calico_ebpf_common::maps::{self, Counter, settings};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_userspace::calc::effective::EffectiveState;
use calico_ebpf_userspace::calc::resolve::{CalcOptions, resolve};
use calico_ebpf_userspace::compile::input::{HostFacts, HostInterface, TableInput};
use calico_ebpf_userspace::compile::rule_ids::RuleIds;
use calico_ebpf_userspace::compile::table::{BuiltTable, build};
use calico_ebpf_userspace::dataplane::assignments::Assignments;
use calico_ebpf_userspace::dataplane::policy_map::PolicyMap;
use calico_ebpf_userspace::model::decode::decode;
use calico_ebpf_userspace::model::resource::{MacAddress, Snapshot};
use serde_json::json;

use crate::manifests::{HOSTNAME, NAMESPACE, Object};
use crate::packets::{Packet, Path};

/// Number of `lo`.
const LO: u32 = 1;
/// Numbers of the taps that are not being run.
const FIRST_TAP: u32 = 100;
/// Lines of the policy table: room for every port table twice.
const POLICY_LINES: u32 = 131_072;

const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

/// Returns where the kernel object is.
pub fn object_path() -> PathBuf {
    if let Some(path) = std::env::var_os("CALICO_EBPF_OBJECT") {
        return path.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    );
    target.join("bpf/calico-ebpf.o")
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
    object: Ebpf,
    policy: PolicyMap,
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
}

/// A workload and its tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    pub mac: [u8; 6],
    pub tap_mac: [u8; 6],
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

    /// Loads the programs with settings and room for `flows` flows of each family.
    pub fn load(overrides: &[(&str, u32)], flows: u32) -> Self {
        let mut values = BTreeMap::from([(settings::ENDPOINT_TO_HOST_ACCEPT, 1)]);
        values.extend(overrides.iter().copied());
        let mut object = load_object(&values, flows);
        for (_, program) in object.programs_mut() {
            let program: &mut SchedClassifier = program.try_into().expect("every program is a classifier");
            program
                .load()
                .unwrap_or_else(|error| panic!("the kernel refuses a program: {error}"));
        }
        fill_unsettled(&mut object);
        let policy = {
            let data = |name| map_data(&object, name);
            PolicyMap::map(data(maps::POLICY), data(maps::ACTIVE), POLICY_LINES)
                .expect("map the policy table")
        };
        Self {
            object,
            policy,
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
        }
    }

    /// Makes `allowSpoofedSourcePrefixes` count.
    pub fn allow_source_spoofing(&mut self) {
        self.workload_source_spoofing = true;
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
                loose_until: 0,
            });
        self.put(&change(endpoint_object(name, workload.mac, addresses)));
    }

    /// Puts an object into the datastore; one that is not understood fails the test.
    pub fn put(&mut self, object: &Object) {
        let decoded = decode(object.value(), None);
        assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
        let (key, resource) = (decoded.key.expect("a key"), decoded.resource.expect("an object"));
        self.snapshot.insert(key, resource);
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

    /// As [`Self::from_workload`]; the packet bears a mark already.
    pub fn from_workload_marked(&mut self, name: &str, packet: &Packet, mark: u32) -> Ran {
        let workload = self.workloads[name];
        let bytes = packet.filled(workload.mac, workload.tap_mac);
        self.switch_to(name);
        self.run(maps::PROGRAM_FROM_WORKLOAD, &bytes, Context { mark, ingress: LO })
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
        self.run(maps::PROGRAM_TO_WORKLOAD, &bytes, Context { mark, ingress })
    }

    /// Hands what `from_workload` redirected to the hook of the tap that it was redirected to.
    pub fn follow(&mut self, ran: &Ran) -> Ran {
        let name = ran.redirected_to.clone().expect("the packet was redirected");
        self.to_workload_marked(&name, &Packet::of(ran.packet.clone()), Origin::Remote, ran.mark)
    }

    /// Runs a hook as it stands, whatever table is in force.
    pub fn run_bare(&mut self, program: &str, packet: &Packet) -> Ran {
        let bytes = packet.filled([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        self.run(program, &bytes, Context { mark: 0, ingress: LO })
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
        self.numbered = Some((self.state.clone(), self.host.clone()));
        let mut host = self.host.clone();
        if let Some(interface) = host.interfaces.get_mut(&tap(name)) {
            interface.ifindex = LO;
        }
        self.epoch += 1;
        let base_line = self.policy.base_line();
        let input = TableInput {
            state: &self.state,
            host: &host,
            generations: &self.assignments.generations,
            slots: &self.assignments.slots,
            epoch: self.epoch,
            base_line,
            max_lines: self.policy.max_lines(),
        };
        let table = build(&input, &mut self.rule_ids).expect("the table fits");
        self.policy
            .put_in_force(&table.lines, base_line)
            .expect("the table is written");
        self.in_force = Some((table, name.to_owned()));
    }

    /// Returns the version of the policy table in force, and its first line.
    pub fn table(&self) -> (&BuiltTable, u32) {
        let (table, _) = self.in_force.as_ref().expect("a table is in force");
        let other_half = self.policy.base_line();
        let first = 64;
        let base = if other_half == first {
            first + self.policy.max_lines()
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
        let before = self.counters();
        let mut packet = vec![0; bytes.len() + 64];
        let mut answer = [0; SK_BUFF_BYTES];
        let result = self
            .program(program)
            .test_run(TestRunOptions {
                data_in: Some(bytes),
                data_out: Some(&mut packet),
                ctx_in: Some(&context.bytes()),
                ctx_out: Some(&mut answer),
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
            mark: u32::from_ne_bytes(answer[SK_BUFF_MARK..SK_BUFF_MARK + 4].try_into().expect("four")),
            sent: bytes.to_owned(),
            packet,
            counted,
        }
    }

    fn program(&self, name: &str) -> &SchedClassifier {
        let program = self
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
        self.object
            .programs()
            .map(|(name, _)| (name.to_owned(), verified(name)))
            .collect()
    }

    /// Returns packets and bytes of every reason that was counted.
    pub fn counters(&self) -> BTreeMap<Counted, Counter> {
        let map = self.object.map(maps::COUNTERS).expect("a map");
        let map = PerCpuArray::<_, Counter>::try_from(map).expect("a per-CPU array");
        let drops = DropReason::ALL
            .iter()
            .map(|reason| (Counted::Drop(*reason), *reason as u32));
        let passes = PassReason::ALL
            .iter()
            .map(|reason| (Counted::Pass(*reason), maps::PASS_COUNTERS + *reason as u32));
        drops
            .chain(passes)
            .map(|(reason, index)| (reason, sum(&map, index)))
            .filter(|(_, counter)| *counter != Counter::default())
            .collect()
    }

    /// Returns the counter of a rule by its number.
    pub fn rule_counter(&self, number: u32) -> Counter {
        let map = self.object.map(maps::RULES).expect("a map");
        sum(
            &PerCpuArray::<_, Counter>::try_from(map).expect("a per-CPU array"),
            number,
        )
    }

    /// Returns all IPv4 flows.
    pub fn flows4(&self) -> BTreeMap<FlowKey4, Flow> {
        entries(&self.flow_map(maps::FLOWS4))
    }

    /// Returns all IPv6 flows.
    pub fn flows6(&self) -> BTreeMap<FlowKey6, Flow> {
        entries(&self.flow_map(maps::FLOWS6))
    }

    fn flow_map<K: Pod>(&self, name: &str) -> HashMap<&MapData, K, Flow> {
        HashMap::try_from(self.object.map(name).expect("a map")).expect("a hash map")
    }

    /// Returns the number of flows of both families.
    pub fn flow_count(&self) -> usize {
        self.flows4().len() + self.flows6().len()
    }

    /// Returns the flow of a path, whichever way it was opened. Protocols without ports have paths without ports.
    pub fn flow(&self, path: &Path, protocol: u8) -> Option<Flow> {
        let mut ends = [path.source, path.target];
        ends.sort_by_key(|end| (end.ip(), end.port()));
        let ports = ends.map(|end| end.port().to_be_bytes());
        match ends.map(|end| end.ip()) {
            [IpAddr::V4(low), IpAddr::V4(high)] => {
                let key = FlowKey4 {
                    low_address: low.octets(),
                    high_address: high.octets(),
                    low_port: ports[0],
                    high_port: ports[1],
                    protocol,
                    reserved: [0; 3],
                };
                self.flow_map(maps::FLOWS4).get(&key, 0).ok()
            }
            [IpAddr::V6(low), IpAddr::V6(high)] => {
                let key = FlowKey6 {
                    low_address: low.octets(),
                    high_address: high.octets(),
                    low_port: ports[0],
                    high_port: ports[1],
                    protocol,
                    reserved: [0; 3],
                };
                self.flow_map(maps::FLOWS6).get(&key, 0).ok()
            }
            _ => panic!("{path:?} is of two families"),
        }
    }

    /// Forgets all flows.
    pub fn clear_flows(&mut self) {
        let (old4, old6) = (self.flows4(), self.flows6());
        let map = self.object.map_mut(maps::FLOWS4).expect("a map");
        let mut map = HashMap::<_, FlowKey4, Flow>::try_from(map).expect("a hash map");
        for key in old4.keys() {
            map.remove(key).expect("nobody else deletes");
        }
        let map = self.object.map_mut(maps::FLOWS6).expect("a map");
        let mut map = HashMap::<_, FlowKey6, Flow>::try_from(map).expect("a hash map");
        for key in old6.keys() {
            map.remove(key).expect("nobody else deletes");
        }
    }

    /// Runs `expire_flows`; returns how many flows it deleted. `family` is 4 or 6.
    pub fn expire(&self, family: u32, entries: &[ExpireEntry]) -> u32 {
        let header = ExpireHeader {
            count: u32::try_from(entries.len()).expect("few entries"),
            family,
            reserved: 0,
        };
        let mut packet = bytemuck::bytes_of(&header).to_vec();
        packet.extend(bytemuck::cast_slice::<_, u8>(entries));
        self.program(maps::PROGRAM_EXPIRE_FLOWS)
            .test_run(TestRunOptions {
                data_in: Some(&packet),
                ..TestRunOptions::new()
            })
            .expect("run expire_flows")
            .return_value
    }

    /// Runs `read_clock`.
    pub fn read_clock(&self) -> Clock {
        let mut packet = [0; 64];
        let result = self
            .program(maps::PROGRAM_READ_CLOCK)
            .test_run(TestRunOptions {
                data_in: Some(&[0; 64]),
                data_out: Some(&mut packet),
                ..TestRunOptions::new()
            })
            .expect("run read_clock");
        assert_eq!(result.return_value, 0);
        bytemuck::pod_read_unaligned(&packet[..size_of::<Clock>()])
    }
}

/// A reason that a packet was counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    Drop(DropReason),
    Pass(PassReason),
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The TC verdict.
    pub verdict: i32,
    /// The frame as it went in.
    pub sent: Vec<u8>,
    /// The frame as it came out.
    pub packet: Vec<u8>,
    pub mark: u32,
    /// The workload whose MAC a redirected frame has.
    pub redirected_to: Option<String>,
    /// Reasons under which this one packet was counted.
    pub counted: Vec<(Counted, Counter)>,
}

impl Ran {
    /// Fails unless the packet was dropped and counted once for this reason.
    #[track_caller]
    pub fn expect_drop(&self, reason: DropReason) -> &Self {
        self.expect(TC_ACT_SHOT, Counted::Drop(reason))
    }

    /// Fails unless the packet was handed on unchanged and counted once for this reason.
    #[track_caller]
    pub fn expect_pass(&self, reason: PassReason) -> &Self {
        self.expect(TC_ACT_UNSPEC, Counted::Pass(reason));
        assert_eq!(self.packet, self.sent, "a packet to the stack changed");
        assert_eq!(
            self.mark & maps::DEFAULT_MARK,
            0,
            "a packet to the stack is marked"
        );
        self
    }

    /// Fails unless the packet passed because of its mark, uncounted.
    #[track_caller]
    pub fn expect_pass_by_mark(&self) -> &Self {
        assert_eq!((self.verdict, &self.counted[..]), (TC_ACT_UNSPEC, &[][..]));
        self
    }

    /// Fails unless the packet was redirected to the workload, with the right MACs and the mark.
    #[track_caller]
    pub fn expect_redirect_to(&self, name: &str) -> &Self {
        self.expect_redirect(name, PassReason::LocalWorkload)
    }

    /// As [`Self::expect_redirect_to`], counted for another reason.
    #[track_caller]
    pub fn expect_redirect(&self, name: &str, reason: PassReason) -> &Self {
        self.expect(TC_ACT_REDIRECT, Counted::Pass(reason));
        assert_eq!(self.redirected_to.as_deref(), Some(name), "{:02x?}", self.packet);
        assert_eq!(self.mark & maps::DEFAULT_MARK, maps::DEFAULT_MARK);
        self
    }

    /// Returns whether the packet went on, anywhere.
    pub fn passed(&self) -> bool {
        self.verdict != TC_ACT_SHOT
    }

    #[track_caller]
    fn expect(&self, verdict: i32, reason: Counted) -> &Self {
        let counter = Counter {
            packets: 1,
            bytes: self.sent.len() as u64,
        };
        assert_eq!(
            (self.verdict, &self.counted[..]),
            (verdict, &[(reason, counter)][..]),
            "{:02x?}",
            self.sent
        );
        self
    }
}

/// Bytes of `struct __sk_buff`, and where fields of it are (include/uapi/linux/bpf.h).
const SK_BUFF_BYTES: usize = 192;
const SK_BUFF_MARK: usize = 8;
const SK_BUFF_INGRESS_IFINDEX: usize = 36;
const SK_BUFF_IFINDEX: usize = 40;

#[derive(Clone, Copy)]
struct Context {
    mark: u32,
    ingress: u32,
}

impl Context {
    fn bytes(self) -> [u8; SK_BUFF_BYTES] {
        let mut bytes = [0; SK_BUFF_BYTES];
        let fields = [
            (SK_BUFF_MARK, self.mark),
            (SK_BUFF_INGRESS_IFINDEX, self.ingress),
            (SK_BUFF_IFINDEX, LO),
        ];
        for (offset, value) in fields {
            bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

fn tap(name: &str) -> String {
    format!("tap{name}")
}

fn endpoint_object(name: &str, mac: [u8; 6], addresses: &[&str]) -> Object {
    let doubled = HOSTNAME.replace('-', "--");
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let spec = json!({
        "orchestrator": "openstack",
        "workload": name,
        "node": HOSTNAME,
        "endpoint": format!("port{name}"),
        "interfaceName": tap(name),
        "mac": mac,
        "ipNetworks": addresses,
    });
    let full_name = format!("{doubled}-openstack-{name}-port{name}");
    Object::new("WorkloadEndpoint", NAMESPACE, &full_name, &spec).label("name", name)
}

fn load_object(values: &BTreeMap<&str, u32>, flows: u32) -> Ebpf {
    let path = object_path();
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error} (`cargo xtask build-ebpf` makes it)", path.display()));
    let mut loader = EbpfLoader::new();
    for (name, value) in values {
        loader.override_global(name, value, true);
    }
    for (name, size) in [
        (maps::POLICY, POLICY_LINES),
        (maps::FLOWS4, flows),
        (maps::FLOWS6, flows),
    ] {
        loader.map_max_entries(name, size);
    }
    loader
        .load(&bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn fill_unsettled(object: &mut Ebpf) {
    let loaded = maps::UNSETTLED_PROGRAMS.map(|name| {
        let program: &SchedClassifier = object
            .program(name)
            .expect("in the object")
            .try_into()
            .expect("a classifier");
        program
            .fd()
            .expect("loaded")
            .try_clone()
            .expect("another descriptor")
    });
    let array = object.map_mut(maps::UNSETTLED).expect("a map");
    let mut array = ProgramArray::try_from(array).expect("a program array");
    for (entry, program) in (0..).zip(&loaded) {
        array.set(entry, program, 0).expect("enter a program");
    }
}

fn map_data<'a>(object: &'a Ebpf, name: &str) -> &'a MapData {
    match object.map(name) {
        Some(aya::maps::Map::Array(data)) => data,
        other => panic!("{name} is no array: {other:?}"),
    }
}

fn sum(map: &PerCpuArray<impl Borrow<MapData>, Counter>, index: u32) -> Counter {
    let values = map.get(&index, 0).expect("in the array");
    values.iter().fold(Counter::default(), |sum, value| Counter {
        packets: sum.packets + value.packets,
        bytes: sum.bytes + value.bytes,
    })
}

fn entries<K: Pod + Ord>(map: &HashMap<&MapData, K, Flow>) -> BTreeMap<K, Flow> {
    map.iter().map(|entry| entry.expect("a readable entry")).collect()
}

fn difference(
    before: &BTreeMap<Counted, Counter>,
    after: &BTreeMap<Counted, Counter>,
) -> Vec<(Counted, Counter)> {
    let since = |(reason, now): (&Counted, &Counter)| {
        let old = before.get(reason).copied().unwrap_or_default();
        let counter = Counter {
            packets: now.packets - old.packets,
            bytes: now.bytes - old.bytes,
        };
        (*reason, counter)
    };
    after
        .iter()
        .map(since)
        .filter(|(_, counter)| *counter != Counter::default())
        .collect()
}
