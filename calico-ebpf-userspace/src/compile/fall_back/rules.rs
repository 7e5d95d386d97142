//! Rules as bits: each is one part or several, a part is one conjunction of tests on each axis.

use calico_ebpf_common::fall_back::{MAX_WIDTH, RULES_PER_LINE, outcome};
use calico_ebpf_common::policy::Cell;

use crate::compile::cells::OverBudget;
use crate::compile::classes::AddressPredicates;
use crate::compile::lower::{LoweredDirection, LoweredRule, PortList, PortTests, Tests};
use crate::compile::reference::Direction;
use crate::model::rule::Action;

/// Tests of the peer's address.
pub(super) const REMOTE: usize = 0;
/// Tests of the endpoint's own address.
pub(super) const LOCAL: usize = 1;
/// Tests of protocol and destination port, or ICMP type and code.
pub(super) const PORTS: usize = 2;
/// Tests of protocol and source port.
pub(super) const SOURCES: usize = 3;

/// Parts that a direction may have.
const MAX_PARTS: usize = (MAX_WIDTH * RULES_PER_LINE) as usize;
const WORD: usize = 64;

/// Tests by axis.
pub(super) type Part = [Tests; 4];

/// All rules of a direction in order, ends of tiers too.
#[derive(Clone, Debug, Default)]
pub(super) struct OrderedParts {
    /// By bit; `None` in front of a tier, which begins at a word.
    pub(super) parts: Vec<Option<Part>>,
    /// By bit, see [`outcome`].
    pub(super) outcomes: Vec<u32>,
    /// Which parts only log.
    pub(super) logs: Vec<u64>,
}

impl OrderedParts {
    /// Returns how many lines of bits a row has.
    pub(super) fn width(&self) -> usize {
        self.parts.len().div_ceil(RULES_PER_LINE as usize)
    }

    fn begin_word(&mut self) -> usize {
        let word = self.parts.len().div_ceil(WORD);
        self.parts.resize(word * WORD, None);
        self.outcomes.resize(word * WORD, Cell::DENY.0);
        word
    }

    fn push(&mut self, part: Part, outcome: u32, only_logs: bool) {
        let bit = self.parts.len();
        self.logs.resize(bit / WORD + 1, 0);
        self.logs[bit / WORD] |= u64::from(only_logs) << (bit % WORD);
        self.parts.push(Some(part));
        self.outcomes.push(outcome);
    }
}

/// Lays the rules of a direction out.
///
/// # Errors
/// They have more parts than bits.
pub(super) fn expand(lowered: &LoweredDirection) -> Result<OrderedParts, OverBudget> {
    let mut ordered = OrderedParts::default();
    let mut passes: Vec<(usize, usize)> = Vec::new();
    let mut first_words = Vec::new();
    let mut rules = lowered.rules.iter().peekable();
    for (tier, default_pass) in lowered.default_pass.iter().enumerate() {
        first_words.push(ordered.begin_word());
        while let Some(rule) = rules.next_if(|rule| rule.tier == tier) {
            let outcome = Cell::new(rule.action == Action::Allow, false, rule.number).0;
            for part in parts(rule, lowered.direction, MAX_PARTS - ordered.parts.len())? {
                if rule.action == Action::Pass {
                    passes.push((ordered.parts.len(), tier + 1));
                }
                ordered.push(part, outcome, rule.action == Action::Log);
            }
        }
        if !default_pass {
            ordered.push(Part::default(), Cell::DENY.0, false);
        }
        if ordered.parts.len() > MAX_PARTS - WORD {
            return Err(OverBudget::new(ordered.parts.len(), MAX_PARTS - WORD));
        }
    }
    for (bit, tier) in passes {
        // Behind the last tier nothing allows.
        ordered.outcomes[bit] = first_words.get(tier).map_or(Cell::DENY.0, |word| {
            outcome::PASS | u32::try_from(*word).unwrap_or(u32::MAX)
        });
    }
    Ok(ordered)
}

/// Returns the parts of a rule; it holds where one of them does.
fn parts(rule: &LoweredRule, direction: Direction, room: usize) -> Result<Vec<Part>, OverBudget> {
    let mut choices: Vec<Vec<Part>> = vec![families(rule)];
    for (is_source, tests) in [(false, &rule.destination), (true, &rule.source)] {
        let Some(PortTests { any, none }) = tests else {
            continue;
        };
        let side = if is_source == (direction == Direction::Ingress) {
            REMOTE
        } else {
            LOCAL
        };
        let axis = if is_source { SOURCES } else { PORTS };
        choices.extend(any.as_ref().map(|list| one_of(list, side, axis)));
        choices.push(none_of(none, side, axis));
    }
    let count = choices
        .iter()
        .fold(1_usize, |count, parts| count.saturating_mul(parts.len()));
    if count > room {
        return Err(OverBudget::new(count, room));
    }
    let mut parts = vec![Part::default()];
    for choice in &choices {
        parts = parts
            .iter()
            .flat_map(|part| choice.iter().map(move |more| both(part, more)))
            .collect();
    }
    Ok(parts)
}

/// Returns the tests of addresses and protocol: one part for both families where they ask the same.
fn families(rule: &LoweredRule) -> Vec<Part> {
    let part = |ports: &Tests, family: Option<u32>| {
        let mut part = Part::default();
        part[REMOTE] = rule.remote.clone();
        part[REMOTE].all.extend(family);
        part[LOCAL] = rule.local.clone();
        part[PORTS] = ports.clone();
        part
    };
    match &rule.ports {
        [Some(v4), Some(v6)] if v4 == v6 => vec![part(v4, None)],
        [v4, v6] => [(v4, AddressPredicates::V4), (v6, AddressPredicates::V6)]
            .into_iter()
            .filter_map(|(ports, family)| Some(part(ports.as_ref()?, Some(family))))
            .collect(),
    }
}

/// Returns where one port of the list holds: a named one only with its set.
fn one_of(list: &PortList, side: usize, axis: usize) -> Vec<Part> {
    let ranges = list.ranges.map(|ranges| {
        let mut part = Part::default();
        part[axis].all.push(ranges);
        part
    });
    let members = list.members.iter().map(|member| {
        let mut part = Part::default();
        part[side].all.push(member.set);
        part[PORTS].all.push(member.protocol);
        part[axis].all.push(member.port);
        part
    });
    ranges.into_iter().chain(members).collect()
}

/// Returns where no port of the list holds. The named ports are of one protocol and one number each, so no two hold at
/// once: either none of them does, or one, and then its sets must not.
fn none_of(list: &PortList, side: usize, axis: usize) -> Vec<Part> {
    let mut without = Part::default();
    without[axis].none.extend(list.ranges);
    let mut named: Vec<u32> = list.members.iter().map(|member| member.port).collect();
    named.sort_unstable();
    named.dedup();
    let mut parts = Vec::new();
    for port in &named {
        let mut part = without.clone();
        part[axis].all.push(*port);
        let sets = list.members.iter().filter(|member| member.port == *port);
        part[side].none.extend(sets.map(|member| member.set));
        parts.push(part);
    }
    without[axis].none.extend(named);
    parts.push(without);
    parts
}

fn both(one: &Part, other: &Part) -> Part {
    let mut part = one.clone();
    for (tests, more) in part.iter_mut().zip(other) {
        tests.all.extend(&more.all);
        tests.none.extend(&more.none);
        for list in [&mut tests.all, &mut tests.none] {
            list.sort_unstable();
            list.dedup();
        }
    }
    part
}
