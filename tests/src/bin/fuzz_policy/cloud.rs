//! A cloud of objects: workloads with labels here and elsewhere, network sets, tiers, policies and profiles.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_ebpf_userspace::calc::calculation::Calculation;
use calico_ebpf_userspace::calc::effective::EffectiveState;
use calico_ebpf_userspace::calc::resolve::{CalcOptions, resolve};
use calico_ebpf_userspace::compile::generate::{
    Case, ICMP_CODES, ICMP_TYPES, MOST_ENDPOINTS, PORTS, PROTOCOLS, Random, border_addresses,
    endpoint_networks, net,
};
use calico_ebpf_userspace::compile::input::HostFacts;
use calico_ebpf_userspace::model::labels::Labels;
use calico_ebpf_userspace::model::name::{Kind, ResourceKey};
use calico_ebpf_userspace::model::resource::{
    Changes, MacAddress, NamedPort, NetworkSet, Policy, Profile, Resource, Snapshot, Tier, WorkloadEndpoint,
    apply_changes,
};
use calico_ebpf_userspace::model::rule::{Action, Entity, IcmpMatch, IpVersion, PortMatch, Protocol, Rule};
use calico_ebpf_userspace::model::selector::Selector;
use ipnet::IpNet;

const HOST: &str = "here";
const SELECTORS: [&str; 11] = [
    "all()",
    "has(a)",
    "!has(a)",
    "a == 'x'",
    "a != 'x'",
    "b in {'x', 'y'}",
    "b not in {'x'}",
    "a == 'x' || b == 'y'",
    "has(a) && !has(b)",
    "a starts with 'x'",
    "c == 'p'",
];
const TIERS: [&str; 3] = ["default", "first", "second"];
const PROFILES: [&str; 3] = ["p", "q", "missing"];
const PORT_NAMES: [&str; 3] = ["http", "dns", "other"];
const ELSEWHERE: u16 = 8;

/// Objects, and what was calculated of them.
pub(crate) struct Cloud {
    snapshot: Snapshot,
    calculation: Calculation,
    changes: usize,
}

impl Cloud {
    pub(crate) fn random(random: &mut Random) -> (Self, Case) {
        let options = CalcOptions {
            hostname: HOST.to_owned(),
            workload_source_spoofing: false,
        };
        let mut cloud = Self {
            snapshot: Snapshot::new(),
            calculation: Calculation::new(options),
            changes: 0,
        };
        let mut changes = Changes::new();
        for number in 1..=u16::try_from(random.below(3)).unwrap_or(0) + 1 {
            put(&mut changes, workload(random, number, true));
        }
        for number in 1..=ELSEWHERE / 2 {
            put(&mut changes, workload(random, number, false));
        }
        for name in ["one", "two"] {
            put(&mut changes, network_set(random, name));
        }
        for name in &TIERS[..2] {
            put(&mut changes, tier(random, name));
        }
        for name in ["1", "2", "3", "4"] {
            put(&mut changes, policy(random, name));
        }
        for name in &PROFILES[..2] {
            put(&mut changes, profile(random, name));
        }
        let mut case = Case {
            state: EffectiveState::default(),
            host: HostFacts::default(),
            generations: BTreeMap::new(),
            slots: BTreeMap::new(),
            addresses: Vec::new(),
        };
        case.host.host_addresses.extend([
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            IpAddr::V6(Ipv6Addr::from_bits(1)),
        ]);
        cloud.take(&changes, &mut case);
        (cloud, case)
    }

    /// Changes one object and returns what.
    pub(crate) fn change(&mut self, random: &mut Random, case: &mut Case) -> Result<&'static str, String> {
        let mut changes = Changes::new();
        let what = match random.below(16) {
            0..=5 => {
                let number = number(random, ELSEWHERE);
                put(&mut changes, workload(random, number, false));
                "a workload elsewhere comes or changes"
            }
            6 | 7 => {
                let number = number(random, ELSEWHERE);
                changes.insert(workload_key(number, false), None);
                "a workload elsewhere goes"
            }
            8 | 9 => {
                let number = number(random, MOST_ENDPOINTS);
                put(&mut changes, workload(random, number, true));
                "a workload here comes or changes"
            }
            10 => {
                let number = number(random, MOST_ENDPOINTS);
                changes.insert(workload_key(number, true), None);
                "a workload here goes"
            }
            11 => {
                let name = random.pick(&["one", "two"]);
                put(&mut changes, network_set(random, name));
                "a network set changes"
            }
            12 | 13 => {
                let name = random.pick(&["1", "2", "3", "4", "5"]);
                put(&mut changes, policy(random, name));
                "a policy comes or changes"
            }
            14 => {
                let name = random.pick(&TIERS);
                put(&mut changes, tier(random, name));
                "a tier comes or changes"
            }
            _ => {
                let count = self.snapshot.len().max(1);
                let key = self.snapshot.keys().nth(random.below(count)).cloned();
                let name = random.pick(&PROFILES[..2]);
                match key {
                    Some(key) if random.chance(50) => drop(changes.insert(key, None)),
                    _ => put(&mut changes, profile(random, name)),
                }
                "an object goes or a profile changes"
            }
        };
        self.take(&changes, case);
        self.changes += 1;
        if self.changes.is_multiple_of(4) && resolve(&self.snapshot, self.calculation.options()) != case.state
        {
            return Err("incremental and plain calculation differ".to_owned());
        }
        Ok(what)
    }

    fn take(&mut self, changes: &Changes, case: &mut Case) {
        apply_changes(&mut self.snapshot, changes);
        self.calculation.apply(changes);
        case.state = (*self.calculation.state()).clone();
        case.addresses = border_addresses(&case.state);
    }
}

fn put(changes: &mut Changes, (key, resource): (ResourceKey, Resource)) {
    changes.insert(key, Some(Arc::new(resource)));
}

fn number(random: &mut Random, most: u16) -> u16 {
    u16::try_from(random.below(usize::from(most))).unwrap_or(0) + 1
}

fn key(kind: Kind, name: String) -> ResourceKey {
    let namespace = if kind.is_namespaced() { "openstack" } else { "" };
    ResourceKey {
        kind,
        namespace: namespace.to_owned(),
        name,
    }
}

fn workload_key(number: u16, here: bool) -> ResourceKey {
    let side = if here { HOST } else { "there" };
    key(Kind::WorkloadEndpoint, format!("{side}-{number}"))
}

fn labels(random: &mut Random) -> Labels {
    let value = |random: &mut Random| random.pick(&["x", "y", ""]).to_owned();
    let pairs = [("a", random.some(60, value)), ("b", random.some(60, value))];
    pairs
        .into_iter()
        .filter_map(|(label, value)| Some((label.to_owned(), value?)))
        .collect()
}

fn workload(random: &mut Random, number: u16, here: bool) -> (ResourceKey, Resource) {
    let [_, low] = number.to_be_bytes();
    let ip_networks = if here {
        endpoint_networks(random, number)
    } else {
        let addresses = [
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, 32 + low)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 32 + number)),
        ];
        addresses.map(IpNet::from).into()
    };
    let port = |random: &mut Random| NamedPort {
        name: random.pick(&PORT_NAMES).to_owned(),
        protocol: Protocol(random.pick(&[6, 17, 132])),
        port: random.pick(&PORTS[1..]),
    };
    let endpoint = WorkloadEndpoint {
        node: if here { HOST } else { "there" }.to_owned(),
        orchestrator: "openstack".to_owned(),
        workload: format!("vm{number}"),
        endpoint: format!("port{number}"),
        interface_name: format!("tap{number}"),
        mac: Some(MacAddress([0xfa, 0x16, 0x3e, 0, 0, low])),
        ip_networks,
        allowed_ips: Vec::new(),
        ipv4_gateway: None,
        ipv6_gateway: None,
        ip_nats: Vec::new(),
        labels: labels(random),
        profiles: random.list(2, |random| random.pick(&PROFILES).to_owned()),
        ports: random.list(3, port),
        allow_spoofed_source_prefixes: Vec::new(),
        has_qos_controls: false,
    };
    (workload_key(number, here), Resource::WorkloadEndpoint(endpoint))
}

fn network_set(random: &mut Random, name: &str) -> (ResourceKey, Resource) {
    let set = NetworkSet {
        nets: random.list(4, net),
        labels: labels(random),
        profiles: Vec::new(),
    };
    (
        key(Kind::GlobalNetworkSet, name.to_owned()),
        Resource::NetworkSet(set),
    )
}

fn tier(random: &mut Random, name: &str) -> (ResourceKey, Resource) {
    let tier = Tier {
        order: random.some(80, |random| random.pick(&[1.0, 2.0, 3.0])),
        default_pass: random.chance(60),
    };
    (key(Kind::Tier, name.to_owned()), Resource::Tier(tier))
}

fn policy(random: &mut Random, name: &str) -> (ResourceKey, Resource) {
    let policy = Policy {
        tier: random.pick(&TIERS[..2]).to_owned(),
        order: random.some(70, |random| random.pick(&[1.0, 2.0])),
        selector: selector(random),
        ingress_enabled: random.chance(80),
        egress_enabled: random.chance(80),
        ingress: rules(random),
        egress: rules(random),
        host_endpoints_only: false,
    };
    (
        key(Kind::GlobalNetworkPolicy, name.to_owned()),
        Resource::Policy(policy),
    )
}

fn profile(random: &mut Random, name: &str) -> (ResourceKey, Resource) {
    let mut labels_to_apply = labels(random);
    if random.chance(50) {
        labels_to_apply.insert("c".to_owned(), "p".to_owned());
    }
    let profile = Profile {
        labels_to_apply,
        ingress: rules(random),
        egress: rules(random),
    };
    (key(Kind::Profile, name.to_owned()), Resource::Profile(profile))
}

fn selector(random: &mut Random) -> Selector {
    Selector::parse(random.pick(&SELECTORS)).expect("a good selector")
}

fn rules(random: &mut Random) -> Vec<Rule> {
    let rules = random.list(5, rule).into_iter().zip(0..);
    rules.map(|(rule, index)| Rule { index, ..rule }).collect()
}

fn rule(random: &mut Random) -> Rule {
    let actions = [
        Action::Allow,
        Action::Allow,
        Action::Allow,
        Action::Deny,
        Action::Log,
        Action::Pass,
    ];
    let icmp = |random: &mut Random| IcmpMatch {
        kind: random.pick(&ICMP_TYPES),
        code: random.some(50, |random| random.pick(&ICMP_CODES)),
    };
    let is_about_icmp = random.chance(15);
    let mut some_icmp = |percent| {
        if is_about_icmp {
            random.some(percent, icmp)
        } else {
            None
        }
    };
    let (wanted, unwanted) = (some_icmp(60), some_icmp(50));
    Rule {
        action: random.pick(&actions),
        ip_version: random.some(20, |random| random.pick(&[IpVersion::V4, IpVersion::V6])),
        protocol: random.some(30, |random| Protocol(random.pick(&PROTOCOLS))),
        not_protocol: random.some(10, |random| Protocol(random.pick(&PROTOCOLS))),
        icmp: wanted,
        not_icmp: unwanted,
        source: entity(random, 10),
        destination: entity(random, 30),
        index: 0,
    }
}

fn entity(random: &mut Random, ports_percent: usize) -> Entity {
    let few_nets = |random: &mut Random| random.list(2, net);
    let few_ports = |random: &mut Random| random.list(2, port);
    Entity {
        nets: random.some(15, |random| random.list(4, net)),
        not_nets: random.some(12, few_nets).unwrap_or_default(),
        selector: random.some(35, selector),
        not_selector: random.some(15, selector),
        ports: random.some(ports_percent, |random| random.list(4, port)),
        not_ports: random.some(ports_percent / 2, few_ports).unwrap_or_default(),
    }
}

fn port(random: &mut Random) -> PortMatch {
    if random.chance(50) {
        return PortMatch::Named(random.pick(&PORT_NAMES).to_owned());
    }
    let (first, last) = (random.pick(&PORTS), random.pick(&PORTS));
    PortMatch::Range(first.min(last), first.max(last))
}
