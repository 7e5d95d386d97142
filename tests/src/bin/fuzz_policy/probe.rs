//! One packet: what the reference evaluator says, and what the compiled table does.

use calico_ebpf_common::endpoint::SLOT_NONE;
use calico_ebpf_common::policy::Cell;
use calico_ebpf_userspace::calc::effective::{EffectiveEndpoint, EffectiveState, PacketFacts};
use calico_ebpf_userspace::compile::generate::{Case, Random};
use calico_ebpf_userspace::compile::reference::{Judgement, PacketJudgement, judge_packet};
use calico_ebpf_userspace::compile::rule_ids::{RuleIds, RuleKey};
use calico_ebpf_userspace::compile::table::{PlacedLines, judge_compiled};
use calico_ebpf_userspace::model::name::ResourceKey;
use calico_ebpf_userspace::model::rule::Action;

use crate::follow::Follow;

/// A packet and the local endpoints at its ends.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) facts: PacketFacts,
    pub(crate) source: Option<ResourceKey>,
    pub(crate) target: Option<ResourceKey>,
    /// Whether the ends own their addresses: others get no packets that far.
    pub(crate) is_possible: bool,
}

impl Probe {
    /// Makes a packet with a local endpoint at one end at least, if the case has any.
    pub(crate) fn random(case: &Case, random: &mut Random) -> Option<Self> {
        let end = |random: &mut Random, percent| {
            if random.chance(percent) {
                case.endpoint(random).cloned()
            } else {
                None
            }
        };
        let source = end(random, 65);
        let target = end(random, if source.is_none() { 100 } else { 65 });
        if source.is_none() && target.is_none() {
            return None;
        }
        let mut facts = case.packet(random, source.as_ref(), target.as_ref())?;
        let is_possible = !random.chance(20);
        if !is_possible {
            // The table does not ask whether an endpoint owns its address.
            let is_v4 = facts.source.is_ipv4();
            let others: Vec<_> = case
                .addresses
                .iter()
                .filter(|address| address.is_ipv4() == is_v4)
                .collect();
            if !others.is_empty() {
                (facts.source, facts.destination) = (*random.pick(&others), *random.pick(&others));
            }
        }
        Some(Self {
            facts,
            source,
            target,
            is_possible,
        })
    }

    /// Returns whether both ends are what they were, if they were endpoints.
    pub(crate) fn is_about(&self, state: &EffectiveState) -> bool {
        [&self.source, &self.target]
            .into_iter()
            .flatten()
            .all(|key| state.endpoints.contains_key(key))
    }

    pub(crate) fn expected(&self, state: &EffectiveState) -> PacketJudgement {
        let [source, target] = [&self.source, &self.target].map(|key| endpoint(state, key.as_ref()));
        judge_packet(state, source, target, &self.facts)
    }

    /// Compares the table with the reference.
    pub(crate) fn check(&self, follow: &Follow, state: &EffectiveState) -> Result<PacketJudgement, String> {
        let expected = self.expected(state);
        let slot = |key: &Option<ResourceKey>| match key {
            Some(key) => follow.assignments.slots.get(key).copied().unwrap_or(SLOT_NONE),
            None => SLOT_NONE,
        };
        let lines = PlacedLines {
            lines: &follow.lines,
            base_line: follow.base_line,
        };
        let compiled = judge_compiled(&lines, &self.facts, slot(&self.source), slot(&self.target))
            .ok_or("the tables are broken")?;
        let cell = |judgement: &Option<Judgement>| {
            judgement
                .as_ref()
                .map(|judgement| expected_cell(judgement, &follow.ids))
        };
        let wanted = (expected.allow, cell(&expected.egress), cell(&expected.ingress));
        let found = (compiled.allow, compiled.egress, compiled.ingress);
        if wanted == found {
            Ok(expected)
        } else {
            Err(format!("reference {}, table {}", told(wanted), told(found)))
        }
    }
}

fn endpoint<'a>(state: &'a EffectiveState, key: Option<&ResourceKey>) -> Option<&'a EffectiveEndpoint> {
    key.and_then(|key| state.endpoints.get(key))
        .map(|endpoint| &**endpoint)
}

fn expected_cell(judgement: &Judgement, ids: &RuleIds) -> Cell {
    let action = if judgement.allow {
        Action::Allow
    } else {
        Action::Deny
    };
    let number = judgement.decided_by.as_ref().map_or(0, |rule| {
        let rule = rule.clone();
        // A rule without a number is none that the table knows.
        ids.find(&RuleKey { rule, action }).unwrap_or(u32::MAX)
    });
    Cell::new(judgement.allow, judgement.log, number)
}

fn told((allow, egress, ingress): (bool, Option<Cell>, Option<Cell>)) -> String {
    let of = |name: &str, cell: Option<Cell>| {
        cell.map_or(String::new(), |cell| {
            let verdict = if cell.allows() { "allow" } else { "deny" };
            let log = if cell.logs() { " with log" } else { "" };
            format!(", {name} {verdict} by rule {}{log}", cell.rule())
        })
    };
    let verdict = if allow { "allows" } else { "denies" };
    format!("{verdict}{}{}", of("egress", egress), of("ingress", ingress))
}
