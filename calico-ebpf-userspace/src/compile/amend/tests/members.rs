//! From objects that come, go and change to the table: what was amended is what would be built.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::calc::calculation::Calculation;
use crate::calc::fixture::{endpoint, endpoint_key, endpoint_on, global, labelled, options, snapshot};
use crate::compile::input::{HostFacts, HostInterface};
use crate::model::resource::{Changes, MacAddress, Snapshot, changes_between};

/// Addresses that objects elsewhere have, and one that is of the endpoint here.
const ADDRESSES: [&str; 6] = [
    "10.0.0.1/32",
    "10.0.0.2/32",
    "10.0.0.3/32",
    "10.0.1.1/32",
    "fd00::1/128",
    "10.0.9.9/32",
];
const LABELS: [&str; 4] = ["red", "green", "blue", "none"];
const PORTS: [u16; 5] = [1, 2, 3, 4, 5];
const OWN: &str = "10.0.9.9";

/// An endpoint here whose rules ask for three sets, two at once, and for a set's absence.
fn base() -> Vec<Value> {
    let rule = |action: &str, port: u16, source: Value| json!({"action": action, "protocol": "UDP", "source": source, "destination": {"ports": [port]}});
    let ingress = json!([
        rule(
            "Deny",
            4,
            json!({"selector": "has(blue)", "notSelector": "has(green)"})
        ),
        rule("Allow", 1, json!({"selector": "has(red)"})),
        rule("Allow", 2, json!({"selector": "has(green)"})),
        rule("Allow", 3, json!({"selector": "has(red) && has(green)"})),
        rule("Allow", 4, json!({"notSelector": "has(red)"})),
        rule(
            "Allow",
            5,
            json!({"nets": ["10.0.0.0/24"], "selector": "has(blue)"})
        ),
    ]);
    let spec = json!({"selector": "role == 'here'", "types": ["Ingress"], "ingress": ingress});
    vec![
        endpoint("here", &["10.0.9.9/32", "fd00::99/128"]),
        global("GlobalNetworkPolicy", "asks", spec),
    ]
}

fn labels(random: &mut Random) -> Value {
    let chosen = (0..=random.below(3)).map(|_| (random.pick(&LABELS).to_owned(), json!("")));
    Value::Object(chosen.collect())
}

/// Endpoints elsewhere and network sets, by turns, which share addresses.
fn source(random: &mut Random, number: usize) -> Value {
    let addresses: Vec<&str> = (0..=random.below(2)).map(|_| random.pick(&ADDRESSES)).collect();
    let object = if number.is_multiple_of(2) {
        endpoint_on("compute-2", &format!("e{number}"), &addresses)
    } else {
        global(
            "GlobalNetworkSet",
            &format!("s{number}"),
            json!({"nets": addresses}),
        )
    };
    labelled(object, labels(random))
}

/// What the datastore tells at once: objects come, go, change their labels, and some are gone and back again before
/// anybody asks.
fn change(random: &mut Random, sources: &mut BTreeMap<usize, Value>) {
    for _ in 0..=random.below(3) {
        let number = random.below(8);
        match random.below(12) {
            0..=3 => {
                sources.remove(&number);
            }
            // Every set is empty.
            4 => sources.clear(),
            _ => {
                let object = source(random, number);
                sources.insert(number, object);
            }
        }
    }
}

fn objects(sources: &BTreeMap<usize, Value>) -> Snapshot {
    let all: Vec<Value> = base().into_iter().chain(sources.values().cloned()).collect();
    snapshot(&all)
}

/// The host, its one endpoint, and how a table of it is built.
struct Host {
    facts: HostFacts,
    generations: BTreeMap<ResourceKey, u32>,
    slots: BTreeMap<ResourceKey, u16>,
}

impl Host {
    fn new() -> Self {
        let tap = HostInterface {
            ifindex: 7,
            mac: MacAddress([0xfe, 0x16, 0x3e, 0, 0, 1]),
            mtu: 1500,
            loose_until: 0,
        };
        let mut facts = HostFacts::default();
        facts.interfaces.insert("taphere".to_owned(), tap);
        Self {
            facts,
            generations: [(endpoint_key("here"), 1)].into(),
            slots: [(endpoint_key("here"), 1)].into(),
        }
    }

    fn build(&self, state: &EffectiveState) -> BuiltTable {
        let input = TableInput {
            state,
            host: &self.facts,
            generations: &self.generations,
            born: &self.generations,
            slots: &self.slots,
            epoch: 1,
            base_line: BASE,
            max_lines: u32::MAX,
            limits: Limits::default(),
        };
        build(&input, &mut RuleIds::new()).unwrap()
    }
}

/// Returns the verdict about each address and port.
fn verdicts(lines: &[Line]) -> Vec<bool> {
    let lines = PlacedLines {
        lines,
        base_line: BASE,
    };
    let others = ["10.0.0.77", "10.0.7.7", "fd00::7"].into_iter();
    let sources = ADDRESSES.iter().map(|net| net.parse::<IpNet>().unwrap().addr());
    let sources: Vec<IpAddr> = sources
        .chain(others.map(|address| address.parse().unwrap()))
        .collect();
    let mut verdicts = Vec::new();
    for source in sources {
        for destination_port in PORTS {
            let destination = if source.is_ipv4() { OWN } else { "fd00::99" };
            let facts = PacketFacts {
                source,
                destination: destination.parse().unwrap(),
                protocol: 17,
                source_port: 4000,
                destination_port,
                icmp: None,
            };
            verdicts.push(judge_compiled(&lines, &facts, 0, 1).expect("whole tables").allow);
        }
    }
    verdicts
}

/// Follows changes of one history; returns how many of how many were amended.
fn follow(seed: u64) -> (usize, usize) {
    let mut random = Random::new(seed);
    let host = Host::new();
    let mut calculation = Calculation::new(options());
    let mut sources: BTreeMap<usize, Value> = (0..5)
        .map(|number| (number, source(&mut random, number)))
        .collect();
    let mut there = objects(&sources);
    calculation.apply(&changes_between(&Snapshot::new(), &there));
    let mut state = calculation.state();
    let mut table = host.build(&state);
    let (mut amended, mut of) = (0, 0);
    for _ in 0..15 {
        let before = there.clone();
        change(&mut random, &mut sources);
        there = objects(&sources);
        let changes = changes_between(&before, &there);
        if random.chance(30) {
            // Gone and back in one batch: only the end of it counts.
            let gone: Changes = changes.keys().map(|key| (key.clone(), None)).collect();
            calculation.apply(&gone);
            calculation.apply(&changes_between(&Snapshot::new(), &there));
        }
        calculation.apply(&changes);
        let now = calculation.state();
        of += usize::from(now.sets != state.sets);
        let anew = host.build(&now);
        let mut amendable = table.amendable.take().unwrap();
        match amendable.amend(&state, &now) {
            Ok(amendment) => {
                amended += usize::from(!amendment.switch.is_empty());
                write_all(&mut table.lines, &amendment.prepare);
                write_all(&mut table.lines, &amendment.switch);
                table.amendable = Some(amendable);
                assert_eq!(
                    verdicts(&table.lines),
                    verdicts(&anew.lines),
                    "amended, seed {seed}"
                );
            }
            Err(_) => table = anew,
        }
        state = now;
    }
    (amended, of)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_objects_change_leaves_the_table_as_one_that_is_built_anew(seed in any::<u64>()) {
        follow(seed);
    }
}

#[test]
fn most_of_what_objects_change_is_amended() {
    let counts = (0..20).map(follow);
    let (amended, changed) = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert!(amended > changed / 2, "{amended} of {changed}");
}
