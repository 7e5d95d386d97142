//! The scenarios of policy, from manifests to verdicts: by the reference and by the compiled table.

mod matching;
mod order;

use serde_json::{Value, json};

use super::*;
use crate::calc::effective::EffectivePolicy;
use crate::calc::fixture::{endpoint, endpoint_key, endpoint_on, global, labelled, options, snapshot, with};
use crate::calc::resolve::resolve;
use crate::compile::input::{HostFacts, Limits, TableInput};
use crate::compile::rule_ids::{RuleIds, RuleKey};
use crate::compile::table::{BuiltTable, PlacedLines, build, judge_compiled};

const WEB: [&str; 2] = ["10.0.0.2", "fd00::2"];
const CLIENT: [&str; 2] = ["10.0.0.1", "fd00::1"];

/// The endpoint `web` of this host under some policy, with its table.
struct World {
    state: EffectiveState,
    /// By each engine.
    tables: [BuiltTable; 2],
    ids: RuleIds,
}

impl World {
    /// `web` is local, `client` on another host; the objects are added.
    fn new(objects: &[Value]) -> Self {
        Self::with_web(endpoint("web", &["10.0.0.2/32", "fd00::2/128"]), objects)
    }

    fn with_web(web: Value, objects: &[Value]) -> Self {
        let mut all = vec![
            web,
            endpoint_on("compute-2", "client", &["10.0.0.1/32", "fd00::1/128"]),
        ];
        all.extend_from_slice(objects);
        Self::of(resolve(&snapshot(&all), &options()))
    }

    fn of(state: EffectiveState) -> Self {
        let key = endpoint_key("web");
        let mut ids = RuleIds::new();
        let host = HostFacts::default();
        let tables = [Limits::default(), Limits::FALL_BACK].map(|limits| {
            let input = TableInput {
                state: &state,
                host: &host,
                generations: &[(key.clone(), 1)].into(),
                born: &[(key.clone(), 1)].into(),
                slots: &[(key.clone(), 1)].into(),
                epoch: 1,
                base_line: 64,
                max_lines: 1 << 20,
                limits,
            };
            let table = build(&input, &mut ids).unwrap();
            assert!(table.over_budget.is_empty());
            assert_eq!(table.report.fall_back, u32::from(limits == Limits::FALL_BACK));
            table
        });
        Self { state, tables, ids }
    }

    /// Judges a packet from or to `web`; the compiled tables must say the same.
    fn judge(&self, facts: &PacketFacts) -> Judgement {
        let web = &*self.state.endpoints[&endpoint_key("web")];
        let is_own = |address: IpAddr| web.ip_networks.iter().any(|net| net.contains(&address));
        let from_web = is_own(facts.source);
        let judgement = if from_web {
            judge_packet(&self.state, Some(web), None, facts).egress.unwrap()
        } else {
            judge_packet(&self.state, None, Some(web), facts).ingress.unwrap()
        };
        let action = if judgement.allow {
            Action::Allow
        } else {
            Action::Deny
        };
        let counter = judgement.decided_by.as_ref().map_or(Some(0), |rule| {
            self.ids.find(&RuleKey {
                rule: rule.clone(),
                action,
            })
        });
        for table in &self.tables {
            let lines = PlacedLines {
                lines: &table.lines,
                base_line: 64,
            };
            let cell = if from_web {
                judge_compiled(&lines, facts, 1, 0).unwrap().egress.unwrap()
            } else {
                judge_compiled(&lines, facts, 0, 1).unwrap().ingress.unwrap()
            };
            assert_eq!(
                (cell.allows(), cell.logs(), Some(cell.rule())),
                (judgement.allow, judgement.log, counter),
                "{facts:?}: {judgement:?}"
            );
        }
        judgement
    }

    fn allows(&self, packet: &str) -> bool {
        self.judge(&parse(packet)).allow
    }

    /// Judges the packet between `client` and `web` of both families and in both directions, which must agree.
    fn allows_everywhere(&self, what: &str) -> bool {
        let mut verdicts = Vec::new();
        for family in 0..2 {
            for [source, destination] in [[CLIENT, WEB], [WEB, CLIENT]] {
                let packet = format!("{} > {} {what}", source[family], destination[family]);
                verdicts.push((self.allows(&packet), packet));
            }
        }
        assert!(
            verdicts.iter().all(|verdict| verdict.0 == verdicts[0].0),
            "{verdicts:?}"
        );
        verdicts[0].0
    }

    /// Returns the name of the rule that decides about a TCP packet from `client` to port 80 of `web`.
    fn decider(&self) -> String {
        let judgement = self.judge(&parse("10.0.0.1 > 10.0.0.2 tcp 80"));
        judgement
            .decided_by
            .map_or_else(|| "nothing".to_owned(), |rule| rule.to_string())
    }
}

/// Reads `SOURCE > DESTINATION PROTOCOL [NUMBERS]`: destination port and source port, or ICMP type and code. `icmp` is
/// the family's own.
fn parse(text: &str) -> PacketFacts {
    let words: Vec<&str> = text.split_whitespace().collect();
    let source: IpAddr = words[0].parse().unwrap();
    let protocol = match words[3] {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        "udplite" => 136,
        "icmp" if source.is_ipv4() => 1,
        "icmp" => 58,
        number => number.parse().unwrap(),
    };
    let number = |index: usize| words.get(index).map_or(0, |word| word.parse::<u16>().unwrap());
    let byte = |index| u8::try_from(number(index)).unwrap();
    let is_icmp = matches!(protocol, 1 | 58);
    PacketFacts {
        source,
        destination: words[2].parse().unwrap(),
        protocol,
        source_port: if is_icmp { 0 } else { number(5) },
        destination_port: if is_icmp { 0 } else { number(4) },
        icmp: is_icmp.then(|| (byte(4), byte(5))),
    }
}

/// A policy for `web` in a tier with the same rules in both directions.
fn policy_in(tier: &str, name: &str, rules: &Value) -> Value {
    let spec = json!({"selector": "role == 'web'", "tier": tier, "ingress": rules, "egress": rules});
    global("GlobalNetworkPolicy", name, spec)
}

fn policy(rules: &Value) -> Value {
    policy_in("default", "p", rules)
}

/// `web` under one policy.
fn under(rules: &Value) -> World {
    World::new(&[policy(rules)])
}

fn tier(name: &str, order: u32, default_action: &str) -> Value {
    global(
        "Tier",
        name,
        json!({"order": order, "defaultAction": default_action}),
    )
}

fn allow() -> Value {
    json!([{"action": "Allow"}])
}

fn deny() -> Value {
    json!([{"action": "Deny"}])
}

fn pass() -> Value {
    json!([{"action": "Pass"}])
}
