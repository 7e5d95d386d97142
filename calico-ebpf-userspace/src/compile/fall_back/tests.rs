//! Whatever a tenant writes: the table is built, its neighbour keeps cells and verdicts, and its own verdicts are right.

use calico_ebpf_common::policy::Cell;

use crate::compile::cells::MAX_CELLS;
use crate::compile::generate::{Case, Random};
use crate::compile::hostile::{Attack, hostile, packet};
use crate::compile::input::{Limits, TableInput};
use crate::compile::reference::{Judgement, judge_packet};
use crate::compile::rule_ids::{RuleIds, RuleKey};
use crate::compile::table::{BuiltTable, PlacedLines, build, judge_compiled};
use crate::model::rule::Action;

const BASE: u32 = 320;
const MEMBERS: usize = 1_500;

fn built(case: &Case, limits: Limits, ids: &mut RuleIds) -> BuiltTable {
    let input = TableInput {
        limits,
        // What the agent has by default.
        max_lines: 262_112,
        ..case.input(BASE)
    };
    build(&input, ids).unwrap()
}

fn expected_cell(judgement: &Judgement, ids: &RuleIds) -> Cell {
    let action = if judgement.allow {
        Action::Allow
    } else {
        Action::Deny
    };
    let number = judgement
        .decided_by
        .clone()
        .map_or(0, |rule| ids.find(&RuleKey { rule, action }).unwrap());
    Cell::new(judgement.allow, judgement.log, number)
}

/// Compares verdicts about packets of the endpoint at `slot` with the reference; returns how many are allowed.
fn compare(
    case: &Case,
    table: &BuiltTable,
    ids: &RuleIds,
    slot: u16,
    packets: usize,
    random: &mut Random,
) -> usize {
    let lines = PlacedLines {
        lines: &table.lines,
        base_line: BASE,
    };
    let endpoint = case.state.endpoints.values().nth(usize::from(slot) - 1).unwrap();
    let mut allowed = 0;
    for number in 0..packets {
        let outgoing = number % 2 == 0;
        let facts = packet(random, slot, outgoing, MEMBERS);
        let (expected, found) = if outgoing {
            let judged = judge_packet(&case.state, Some(endpoint), None, &facts).egress;
            (judged, judge_compiled(&lines, &facts, slot, 0).unwrap().egress)
        } else {
            let judged = judge_packet(&case.state, None, Some(endpoint), &facts).ingress;
            (judged, judge_compiled(&lines, &facts, 0, slot).unwrap().ingress)
        };
        let expected = expected.unwrap();
        assert_eq!(
            found,
            Some(expected_cell(&expected, ids)),
            "{facts:?}: {expected:?}"
        );
        allowed += usize::from(expected.allow);
    }
    allowed
}

fn withstands(attack: Attack, limits: Limits, engine: Option<&str>, packets: usize) {
    let mut random = Random::new(attack as u64 + 1);
    let case = hostile(attack, &mut random, MEMBERS);
    let mut ids = RuleIds::new();
    let table = built(&case, limits, &mut ids);
    assert_eq!(table.over_budget, [], "{attack:?}");
    let [hostile, plain] = &table.policy_sets[..] else {
        panic!("two policy sets")
    };
    if let Some(engine) = engine {
        assert_eq!(
            (&*hostile.egress_engine, &*hostile.ingress_engine),
            (engine, engine),
            "{attack:?}"
        );
    }
    if limits.cells > 0 {
        assert_eq!(
            (&*plain.egress_engine, &*plain.ingress_engine),
            ("cells", "cells"),
            "{attack:?}"
        );
    }
    let allowed = compare(&case, &table, &ids, 1, packets, &mut random);
    println!("{attack:?}: {allowed} of {packets} allowed, {:?}", table.report);
    let plainly = compare(&case, &table, &ids, 2, 200, &mut random);
    assert!(plainly > 0 && plainly < 200, "{plainly}");
}

/// Less room for classes than by default, so that fewer members already go beyond it.
const NARROW: Limits = Limits {
    cells: MAX_CELLS,
    address_classes: 600,
};

#[test]
fn hostile_policies_that_multiply_memberships_touch_nobody_else() {
    withstands(Attack::Memberships, NARROW, Some("fall-back"), 100);
}

#[test]
fn hostile_policies_with_every_port_boundary_touch_nobody_else() {
    withstands(Attack::PortBoundaries, Limits::default(), Some("fall-back"), 100);
}

#[test]
fn hostile_policies_with_a_thousand_prefixes_touch_nobody_else() {
    withstands(Attack::Prefixes, Limits::default(), None, 100);
    withstands(Attack::Prefixes, Limits::FALL_BACK, Some("fall-back"), 100);
}

#[test]
fn hostile_policies_of_negations_touch_nobody_else() {
    withstands(Attack::Negations, NARROW, Some("fall-back"), 100);
}

#[test]
fn hostile_policies_of_ten_thousand_logs_touch_nobody_else() {
    withstands(Attack::Logs, Limits::default(), None, 100);
    withstands(Attack::Logs, Limits::FALL_BACK, Some("fall-back"), 100);
}

#[test]
fn hostile_policies_of_a_thousand_passes_touch_nobody_else() {
    withstands(Attack::Passes, Limits::default(), None, 100);
    withstands(Attack::Passes, Limits::FALL_BACK, Some("fall-back"), 100);
}

#[test]
fn hostile_policies_over_many_addresses_are_built_within_the_usual_limits() {
    let mut random = Random::new(9);
    let case = hostile(Attack::Memberships, &mut random, 100_000);
    let mut ids = RuleIds::new();
    let table = built(&case, Limits::default(), &mut ids);
    assert_eq!(table.over_budget, []);
    assert_eq!(table.policy_sets[0].ingress_engine, "fall-back");
    assert_eq!(table.policy_sets[1].ingress_engine, "cells");
    println!("{:?}", table.report);
    compare(&case, &table, &ids, 2, 50, &mut random);
}
