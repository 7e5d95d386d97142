//! Packets under way while the policy table changes: each is judged wholly by what was, or wholly by what is.
//!
//! Two policies count every packet of one flow by a rule of their own at its source and at its target, and differ in
//! everything else: addresses, ports, cells, and where all of that stands. A packet that finds parts of both is counted
//! by other rules, or by one at its source and another at its target.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use calico_ebpf_common::line::Line;
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::programs::{Hook, Hooks, Packets, Table};
use calico_ebpf_userspace::calc::effective::{
    DirectionPolicy, EffectiveEndpoint, EffectiveEntity, EffectivePolicy, EffectivePolicyRules,
    EffectivePort, EffectiveRule, EffectiveState, EffectiveTier, SetId,
};
use calico_ebpf_userspace::compile::generate::host_interface;
use calico_ebpf_userspace::compile::input::{HostFacts, Limits, TableInput};
use calico_ebpf_userspace::compile::reference::{Direction, RuleOwner, RuleRef};
use calico_ebpf_userspace::compile::rule_ids::{RuleIds, RuleKey};
use calico_ebpf_userspace::compile::table::{BuiltTable, build};
use calico_ebpf_userspace::model::name::{Kind, ResourceKey};
use calico_ebpf_userspace::model::resource::MacAddress;
use calico_ebpf_userspace::model::rule::{Action, Protocol};
use ipnet::IpNet;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Rules that no packet of the test meets, in each policy.
const DECOYS: u16 = 40;
/// Packets of one run of the program: an update waits for it to end.
const BURST: u32 = 400;
const UPDATES: u32 = 60;
/// Members moved.
const MOVES: u32 = 6_000;
/// Updates in the wrong order until one is noticed, at most.
const MOST_REVERSED: u32 = 20_000;
/// Workload 1 stands at `lo`: a run needs an interface that exists.
const LO: u32 = 1;
/// Place of the rule that counts, behind the decoys.
const COUNTING: u32 = 1000;

fn key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey {
        kind,
        namespace: String::new(),
        name: name.to_owned(),
    }
}

/// Address families.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// Returns an address of the workloads' network.
fn address(family: Family, last: u8) -> IpNet {
    address_of(family, 10, last)
}

fn address_of(family: Family, network: u8, last: u8) -> IpNet {
    IpNet::from(match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(network, 0, 0, last)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, network.into(), 0, 0, 0, 0, 0, last.into())),
    })
}

fn rule(index: u32, action: Action, source: EffectiveEntity, destination: EffectiveEntity) -> EffectiveRule {
    EffectiveRule {
        action,
        ip_version: None,
        protocol: Some(Protocol(17)),
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source,
        destination,
        index,
    }
}

fn direction(policy: &str, rules: Vec<EffectiveRule>) -> DirectionPolicy {
    let rules = EffectivePolicyRules {
        key: key(Kind::GlobalNetworkPolicy, policy),
        rules,
    };
    DirectionPolicy {
        tiers: vec![EffectiveTier {
            name: "default".into(),
            policies: vec![rules],
            default_pass: false,
        }],
        profiles: Vec::new(),
    }
}

/// Workloads 1 and 2, which send and receive under these lists.
fn state(family: Family, egress: DirectionPolicy, ingress: DirectionPolicy) -> EffectiveState {
    let policy = Arc::new(EffectivePolicy { egress, ingress });
    let mut state = EffectiveState::default();
    for number in [1, 2] {
        let endpoint = EffectiveEndpoint {
            interface_name: format!("tap{number}"),
            mac: Some(MacAddress([0xfa, 0x16, 0x3e, 0, 0, number])),
            ip_networks: vec![address(family, number)],
            allowed_ips: Vec::new(),
            allow_spoofed_source_prefixes: Vec::new(),
            ip_nats: Vec::new(),
            policy: Arc::clone(&policy),
            labels: Arc::default(),
        };
        let key = key(Kind::WorkloadEndpoint, &format!("vm{number}"));
        state.endpoints.insert(key, Arc::new(endpoint));
    }
    state
}

/// One of the two policies: decoys with addresses and ports on one side of those of the packet, so that its classes
/// have other numbers, then the rule that counts.
fn version(family: Family, name: &str, network: u8, first_port: u16) -> EffectiveState {
    let decoy = |number: u16| {
        let [_, low] = number.to_be_bytes();
        let other = EffectiveEntity {
            nets: Some(vec![address_of(family, network, low)]),
            ..EffectiveEntity::default()
        };
        let port = first_port + number * 2;
        let ports = EffectiveEntity {
            ports: Some(vec![EffectivePort::Range(port, port)]),
            ..other.clone()
        };
        rule(u32::from(number), Action::Deny, other, ports)
    };
    let rules = |action| {
        let from = EffectiveEntity {
            nets: Some(vec![address(family, 1)]),
            ..EffectiveEntity::default()
        };
        let to = EffectiveEntity {
            nets: Some(vec![address(family, 2)]),
            ports: Some(vec![EffectivePort::Range(1000, 1000)]),
            ..EffectiveEntity::default()
        };
        let decoys = (1..=DECOYS).map(decoy);
        decoys.chain([rule(COUNTING, action, from, to)]).collect()
    };
    // Denied in the end, so that no packet opens a flow for those behind it.
    state(
        family,
        direction(name, rules(Action::Allow)),
        direction(name, rules(Action::Deny)),
    )
}

struct Compiler {
    host: HostFacts,
    /// For each policy its own: a policy that a version does not have would lose its numbers.
    ids: [RuleIds; 2],
    generations: BTreeMap<ResourceKey, u32>,
    slots: BTreeMap<ResourceKey, u16>,
    epoch: u32,
}

impl Compiler {
    fn new() -> Self {
        let numbers = [1_u16, 2];
        let keys = numbers.map(|number| key(Kind::WorkloadEndpoint, &format!("vm{number}")));
        let mut host = HostFacts::default();
        for number in numbers {
            let interface = host_interface(number);
            host.interfaces.insert(format!("tap{number}"), interface);
        }
        if let Some(interface) = host.interfaces.get_mut("tap1") {
            interface.ifindex = LO;
        }
        Self {
            host,
            ids: [RuleIds::new(), numbers_from(500)],
            generations: keys.clone().map(|key| (key, 1)).into(),
            slots: keys.into_iter().zip(numbers).collect(),
            epoch: 0,
        }
    }

    fn compile(
        &mut self,
        policy: usize,
        state: &EffectiveState,
        (base_line, max_lines): (u32, u32),
    ) -> BuiltTable {
        self.epoch += 1;
        let input = TableInput {
            state,
            host: &self.host,
            generations: &self.generations,
            slots: &self.slots,
            epoch: self.epoch,
            base_line,
            max_lines,
            born: &self.generations,
            limits: Limits::default(),
        };
        build(&input, &mut self.ids[policy]).expect("the table fits")
    }

    /// Returns the counters of a rule, at the source and at the target.
    fn counters(&mut self, policy: usize, name: &str, index: u32) -> [u32; 2] {
        let owner = || RuleOwner::Policy {
            tier: "default".into(),
            key: key(Kind::GlobalNetworkPolicy, name),
        };
        let mut number = |direction, action| {
            let rule = RuleRef {
                direction,
                owner: owner(),
                index,
            };
            self.ids[policy].number(&RuleKey { rule, action })
        };
        [
            number(Direction::Egress, Action::Allow),
            number(Direction::Ingress, Action::Deny),
        ]
    }
}

/// Returns a table of counters whose first numbers are not given.
fn numbers_from(first: u32) -> RuleIds {
    let mut ids = RuleIds::new();
    for index in 1..first {
        let rule = RuleRef {
            direction: Direction::Egress,
            owner: RuleOwner::Profile("none".into()),
            index,
        };
        ids.number(&RuleKey {
            rule,
            action: Action::Allow,
        });
    }
    ids
}

/// What became of the packets.
#[derive(Debug)]
struct Tally {
    sent: u64,
    /// Packets that each policy counted, at the source and at the target.
    counted: [[u64; 2]; 2],
}

impl Tally {
    /// Returns how many packets were judged by neither policy, or by one at their source and by the other at their
    /// target; at least so many, as such may make up for each other.
    fn mixed(&self) -> u64 {
        let by_side = |side: usize| self.counted[0][side] + self.counted[1][side];
        (0..2)
            .map(|side| self.sent.abs_diff(by_side(side)))
            .chain(
                self.counted
                    .iter()
                    .map(|[source, target]| source.abs_diff(*target)),
            )
            .max()
            .unwrap_or(0)
    }
}

fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("a processor's number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("a processor of this machine");
}

/// Sends packets on one processor while `update` changes the table on another. They are all judged, as none opens a
/// flow.
fn under_traffic(
    family: Family,
    packets: Packets<'_>,
    counters: [[u32; 2]; 2],
    update: impl FnOnce(&dyn Fn() -> Tally),
) -> Tally {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let [from, to] = [1, 2].map(|last| address(family, last).addr());
    let frame = Path::new((from, 4000), (to, 1000)).udp();
    let frame = frame.filled([0xfa, 0x16, 0x3e, 0, 0, 1], host_interface(1).mac.0);
    let read = || counters.map(|of_policy| of_policy.map(|number| packets.decided_by(number)));
    let before = read();
    let tally = |sent: u64| {
        let now = read();
        let since = |policy: usize, side: usize| now[policy][side] - before[policy][side];
        Tally {
            sent,
            counted: [0, 1].map(|policy| [0, 1].map(|side| since(policy, side))),
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            stay_on(1);
            while !stop.load(Ordering::Relaxed) {
                packets.send(Hook::FromWorkload, LO, &frame, BURST);
                sent.fetch_add(u64::from(BURST), Ordering::Relaxed);
            }
        });
        stay_on(0);
        // Under way, the counts of a burst come before it is noted as sent.
        update(&|| tally(sent.load(Ordering::Relaxed)));
        stop.store(true, Ordering::Relaxed);
    });
    tally(sent.into_inner())
}

/// Returns both policies, and the counters of the rules that count.
fn two_versions(family: Family, compiler: &mut Compiler) -> ([EffectiveState; 2], [[u32; 2]; 2]) {
    let versions = [version(family, "low", 9, 10), version(family, "high", 11, 2000)];
    let counters = [(0, "low"), (1, "high")].map(|(policy, name)| compiler.counters(policy, name, COUNTING));
    (versions, counters)
}

/// Which policy comes with each update: each half of the table gets the other one the next time.
fn in_turn(update: u32) -> usize {
    usize::from(update / 2 % 2 == 1)
}

#[test]
fn scenario_47_an_update_under_traffic_is_wholly_before_or_wholly_after() {
    [Family::V4, Family::V6]
        .into_iter()
        .for_each(update_under_traffic);
}

fn update_under_traffic(family: Family) {
    let (mut hooks, mut compiler) = (Hooks::new(), Compiler::new());
    let (packets, mut table) = hooks.split();
    let (versions, counters) = two_versions(family, &mut compiler);
    let put = |compiler: &mut Compiler, table: &mut Table<'_>, update: u32| {
        let (room, policy) = (table.room(), in_turn(update));
        let built = compiler.compile(policy, &versions[policy], room);
        table.put_in_force(&built.lines, room.0);
    };
    put(&mut compiler, &mut table, 0);
    let tally = under_traffic(family, packets, counters, |_| {
        (1..=UPDATES).for_each(|update| put(&mut compiler, &mut table, update));
    });
    eprintln!("{tally:?}");
    assert_eq!(tally.mixed(), 0, "{tally:?}");
    let both = tally
        .counted
        .iter()
        .all(|[source, _]| *source > u64::from(UPDATES));
    assert!(both, "each policy has judged packets: {tally:?}");
}

#[test]
fn a_reversed_swap_is_caught_by_the_packets_that_find_parts_of_both() {
    let family = Family::V4;
    let (mut hooks, mut compiler) = (Hooks::new(), Compiler::new());
    let (packets, mut table) = hooks.split();
    let (versions, counters) = two_versions(family, &mut compiler);
    let (first, lines) = table.room();
    // Compiled once for each half.
    let built = [0, 1].map(|policy| {
        let state = &versions[policy];
        [first, first + lines].map(|base_line| compiler.compile(policy, state, (base_line, lines)).lines)
    });
    let put = |table: &mut Table<'_>, update: u32| {
        let half = update as usize % 2;
        let version: &[Line] = &built[in_turn(update)][half];
        table.put_in_force_reversed(version, [first, first + lines][half]);
    };
    // Both halves hold something before packets come.
    (0..2).for_each(|update| put(&mut table, update));
    let tally = under_traffic(family, packets, counters, |so_far| {
        for update in 2..MOST_REVERSED {
            put(&mut table, update);
            let enough = u64::from(BURST) * 2;
            if update % 16 == 0 && so_far().mixed() > enough {
                break;
            }
        }
    });
    eprintln!("{tally:?}");
    assert!(tally.mixed() > 0, "nothing was noticed: {tally:?}");
}

#[test]
fn a_member_that_moves_under_traffic_is_wholly_before_or_wholly_after_for_both_ends() {
    [Family::V4, Family::V6].into_iter().for_each(move_under_traffic);
}

fn move_under_traffic(family: Family) {
    let set = |name: &str| SetId(name.into());
    let of = |name: &str| EffectiveEntity {
        sets: vec![set(name)],
        ..EffectiveEntity::default()
    };
    let rules = |action| {
        let names = [("old", 0), ("new", 1)];
        let rules = names.map(|(name, index)| rule(index, action, of(name), EffectiveEntity::default()));
        rules.into()
    };
    let mut before = state(
        family,
        direction("moving", rules(Action::Allow)),
        direction("moving", rules(Action::Deny)),
    );
    // Each set keeps a member: its class stays known.
    let members = |own: u8, has_it: bool| {
        let member = has_it.then(|| address(family, 1));
        [address(family, own)].into_iter().chain(member).collect()
    };
    let mut after = before.clone();
    before.sets = [(set("old"), members(8, true)), (set("new"), members(9, false))]
        .into_iter()
        .collect();
    after.sets = [(set("old"), members(8, false)), (set("new"), members(9, true))]
        .into_iter()
        .collect();

    let (mut hooks, mut compiler) = (Hooks::new(), Compiler::new());
    let (packets, mut table) = hooks.split();
    let room = table.room();
    let built = compiler.compile(0, &before, room);
    table.put_in_force(&built.lines, room.0);
    let counters = [0, 1].map(|index| compiler.counters(0, "moving", index));
    let mut amendable = built.amendable.expect("there is room to grow");
    let tally = under_traffic(family, packets, counters, |_| {
        for update in 0..MOVES {
            let (from, to) = if update % 2 == 0 {
                (&before, &after)
            } else {
                (&after, &before)
            };
            let amendment = amendable.amend(from, to).expect("single addresses move");
            assert_eq!(amendment.touched.len(), 2, "flows of both ends are judged again");
            table.overwrite(amendment.prepare.iter().chain(&amendment.switch));
        }
    });
    eprintln!("{tally:?}");
    assert_eq!(tally.mixed(), 0, "{tally:?}");
    let both = tally.counted.iter().all(|[source, _]| *source > u64::from(BURST));
    assert!(both, "each state has judged packets: {tally:?}");
}
