//! An amended table decides like one that is built anew, and like the reference.

mod generations;
mod members;

use calico_ebpf_common::line::Line;
use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::calc::effective::PacketFacts;
use crate::compile::cells::MAX_CELLS;
use crate::compile::generate::{Case, Random, case};
use crate::compile::input::{Limits, TableInput};
use crate::compile::reference::judge_packet;
use crate::compile::rule_ids::RuleIds;
use crate::compile::table::{BuiltTable, PlacedLines, build, judge_compiled};
use crate::model::name::ResourceKey;

const BASE: u32 = 640;

fn write_all(lines: &mut [Line], writes: &[Write]) {
    for write in writes {
        let line = &mut lines[(write.line - BASE) as usize];
        match write.value {
            Number::Word(value) => line.words[write.index as usize] = value,
            Number::Half(value) => {
                bytemuck::cast_mut::<_, [u16; 32]>(&mut line.words)[write.index as usize] = value;
            }
        }
    }
}

/// Moves one to three addresses into sets and out of them.
fn moved(case: &Case, random: &mut Random) -> EffectiveState {
    let mut now = case.state.clone();
    let sets: Vec<SetId> = now.sets.keys().cloned().collect();
    for _ in 0..=random.below(3) {
        let net = IpNet::from(random.pick(&case.addresses));
        let members = now.sets.get_mut(&random.pick(&sets));
        let Some(members) = members else { continue };
        if !members.remove(&net) {
            members.insert(net);
        }
    }
    now
}

/// A question with its answer under two states.
struct Probe {
    facts: PacketFacts,
    source: Option<ResourceKey>,
    target: Option<ResourceKey>,
}

impl Probe {
    fn random(case: &Case, random: &mut Random) -> Option<Self> {
        let source = if random.chance(60) {
            case.endpoint(random)
        } else {
            None
        };
        let target = if random.chance(60) || source.is_none() {
            case.endpoint(random)
        } else {
            None
        };
        Some(Self {
            facts: case.packet(random, source, target)?,
            source: source.cloned(),
            target: target.cloned(),
        })
    }

    fn expected(&self, state: &EffectiveState) -> bool {
        let endpoint = |key: &Option<ResourceKey>| key.as_ref().map(|key| &*state.endpoints[key]);
        judge_packet(state, endpoint(&self.source), endpoint(&self.target), &self.facts).allow
    }

    fn compiled(&self, case: &Case, lines: &[Line]) -> bool {
        let lines = PlacedLines {
            lines,
            base_line: BASE,
        };
        let slot = |key: &Option<ResourceKey>| key.as_ref().map_or(0, |key| case.slots[key]);
        judge_compiled(&lines, &self.facts, slot(&self.source), slot(&self.target))
            .expect("whole tables")
            .allow
    }
}

fn built(case: &Case) -> BuiltTable {
    built_within(case, Limits::default())
}

fn built_within(case: &Case, limits: Limits) -> BuiltTable {
    let input = TableInput {
        limits,
        ..case.input(BASE)
    };
    build(&input, &mut RuleIds::new()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn an_amended_table_decides_like_the_reference(seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let mut case = case(&mut random);
        // Cells for all, for some, and for nobody.
        let cells = random.pick(&[MAX_CELLS, MAX_CELLS, 12, 0]);
        let limits = Limits { cells, ..Limits::default() };
        let mut table = built_within(&case, limits);
        let mut amendable = table.amendable.take().unwrap();
        for _ in 0..12 {
            let now = moved(&case, &mut random);
            let probes: Vec<Probe> = (0..40).filter_map(|_| Probe::random(&case, &mut random)).collect();
            // What is too large to be kept is prepared for each row anew, to the same end.
            let mut forgetful = amendable.clone();
            forgetful.directions.iter_mut().for_each(|direction| direction.judging = None);
            let amended = amendable.amend(&case.state, &now);
            prop_assert_eq!(&forgetful.amend(&case.state, &now), &amended);
            let Ok(amendment) = amended else {
                case.state = now;
                table = built_within(&case, limits);
                amendable = table.amendable.take().unwrap();
                continue;
            };
            write_all(&mut table.lines, &amendment.prepare);
            for probe in &probes {
                let what = &probe.facts;
                prop_assert_eq!(probe.compiled(&case, &table.lines), probe.expected(&case.state), "prepared {:?}", what);
            }
            for write in &amendment.switch {
                write_all(&mut table.lines, std::slice::from_ref(write));
            }
            for probe in &probes {
                let after = probe.expected(&now);
                prop_assert_eq!(probe.compiled(&case, &table.lines), after, "switched {:?}", &probe.facts);
                if after != probe.expected(&case.state) {
                    let touched = [&probe.source, &probe.target]
                        .into_iter()
                        .flatten()
                        .any(|key| amendment.touched.contains(&case.slots[key]));
                    prop_assert!(touched, "nobody's flows are judged again: {:?}", &probe.facts);
                }
            }
            case.state = now;
        }
    }
}

#[test]
fn enough_of_these_changes_need_no_new_version() {
    let amended = (0..60).filter(|seed| {
        let mut random = Random::new(*seed);
        let case = case(&mut random);
        let now = moved(&case, &mut random);
        built(&case).amendable.unwrap().amend(&case.state, &now).is_ok()
    });
    let amended = amended.count();
    assert!(amended > 15, "only {amended} of 60 were amended");
}

#[test]
fn a_change_of_endpoints_or_of_a_prefix_needs_a_new_version() {
    let case = (0..1000)
        .map(|seed| case(&mut Random::new(seed)))
        .find(|case| !built(case).amendable.unwrap().predicates.is_empty())
        .unwrap();
    let amendable = built(&case).amendable.unwrap();
    let mut now = case.state.clone();
    now.endpoints.pop_first();
    assert_eq!(
        amendable.clone().amend(&case.state, &now),
        Err(NotAmendable::OtherChanges)
    );
    let mut now = case.state.clone();
    let used = amendable.predicates.keys().next().unwrap();
    let members = now.sets.get_mut(used).unwrap();
    members.insert("203.0.113.0/24".parse().unwrap());
    assert_eq!(
        amendable.clone().amend(&case.state, &now),
        Err(NotAmendable::Prefix)
    );
}

#[test]
fn a_set_of_a_policy_without_cells_needs_a_new_version() {
    let case = (0..1000)
        .map(|seed| case(&mut Random::new(seed)))
        .find(|case| {
            !built_within(case, Limits::FALL_BACK)
                .amendable
                .unwrap()
                .apart
                .is_empty()
        })
        .unwrap();
    let amendable = built_within(&case, Limits::FALL_BACK).amendable.unwrap();
    let sets: Vec<SetId> = case.state.sets.keys().cloned().collect();
    let mut refused = 0;
    for set in sets {
        let mut now = case.state.clone();
        let members = now.sets.get_mut(&set).unwrap();
        members.insert("203.0.113.7/32".parse().unwrap());
        let apart = amendable
            .predicates
            .get(&set)
            .is_some_and(|id| amendable.apart.contains(id));
        let answer = amendable.clone().amend(&case.state, &now);
        assert_eq!(answer == Err(NotAmendable::Apart), apart, "{set:?}");
        refused += usize::from(apart);
    }
    assert!(refused > 0);
}

#[test]
fn what_does_not_change_a_verdict_touches_nobody() {
    let case = case(&mut Random::new(3));
    let amendment = built(&case)
        .amendable
        .unwrap()
        .amend(&case.state, &case.state.clone());
    assert_eq!(amendment, Ok(Amendment::default()));
}

#[test]
fn a_version_without_room_to_grow_is_still_built() {
    let case = case(&mut Random::new(5));
    let roomy = built(&case);
    let mut input = case.input(BASE);
    input.max_lines = roomy.report.lines - 1;
    let tight = build(&input, &mut RuleIds::new()).unwrap();
    assert!(tight.amendable.is_none() && tight.report.lines < roomy.report.lines);
}
