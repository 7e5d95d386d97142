//! First match of ordered rules over all columns of a row at once.

use std::collections::HashMap;

use calico_ebpf_common::policy::Cell;

use super::bits::Bits;
use super::classes::AddressPredicates;
use super::lower::{LoweredDirection, LoweredRule, PortList};
use super::projection::{Projection, where_all_hold};
use super::reference::Direction;
use crate::model::rule::Action;

/// Where on the plane of columns and source columns each rule holds.
#[derive(Debug)]
pub(super) struct PortMasks {
    rules: Vec<RuleMask>,
}

#[derive(Debug)]
struct RuleMask {
    /// For IPv4 and IPv6: what holds whatever the addresses.
    fixed: [Bits; 2],
    /// Lists with named ports: these depend on the addresses.
    lists: Vec<MemberMask>,
}

#[derive(Debug)]
struct MemberMask {
    /// Whether the sets are the peer's, not the endpoint's own.
    on_remote: bool,
    /// Whether the list is of ports that must not be.
    negated: bool,
    /// Where the ranges of the list hold.
    ranges: Bits,
    /// Set of each named port, and where the port holds.
    members: Vec<(u32, Bits)>,
}

impl PortMasks {
    /// Finds out for all rules.
    pub(super) fn new(lowered: &LoweredDirection, columns: &Projection, sources: &Projection) -> Self {
        let width = columns.len() * sources.len();
        let spread =
            |holders: HashMap<u32, Bits>, of_index: &dyn Fn(usize, &mut Bits)| -> HashMap<u32, Bits> {
                let spread_one = |bits: Bits| {
                    let mut wide = Bits::none(width);
                    bits.for_each(|index| of_index(index, &mut wide));
                    wide
                };
                holders
                    .into_iter()
                    .map(|(id, bits)| (id, spread_one(bits)))
                    .collect()
            };
        let columns_wide = spread(columns.holders(), &|column, wide| {
            (0..sources.len()).for_each(|source| wide.insert(column * sources.len() + source));
        });
        let sources_wide = spread(sources.holders(), &|source, wide| {
            (0..columns.len()).for_each(|column| wide.insert(column * sources.len() + source));
        });
        let planes = Planes {
            columns: columns_wide,
            sources: sources_wide,
            width,
        };
        Self {
            rules: lowered
                .rules
                .iter()
                .map(|rule| planes.rule(rule, lowered.direction))
                .collect(),
        }
    }

    /// Returns how many bits they hold on a plane of `width` cells.
    pub(super) fn bits(&self, width: usize) -> usize {
        let of_list = |list: &MemberMask| 1 + list.members.len();
        let masks = self
            .rules
            .iter()
            .map(|rule| 2 + rule.lists.iter().map(of_list).sum::<usize>());
        masks.sum::<usize>() * width
    }
}

struct Planes {
    columns: HashMap<u32, Bits>,
    sources: HashMap<u32, Bits>,
    width: usize,
}

impl Planes {
    fn rule(&self, rule: &LoweredRule, direction: Direction) -> RuleMask {
        let mut fixed = [0, 1].map(|family: usize| match &rule.ports[family] {
            Some(tests) => where_all_hold(tests, &self.columns, self.width),
            None => Bits::none(self.width),
        });
        let mut lists = Vec::new();
        for (is_source, tests) in [(false, &rule.destination), (true, &rule.source)] {
            let Some(tests) = tests else { continue };
            for (negated, list) in tests
                .any
                .iter()
                .map(|any| (false, any))
                .chain([(true, &tests.none)])
            {
                let on_remote = is_source == (direction == Direction::Ingress);
                let mask = MemberMask {
                    on_remote,
                    negated,
                    ..self.list(list, is_source)
                };
                if !mask.members.is_empty() {
                    lists.push(mask);
                    continue;
                }
                for fixed in &mut fixed {
                    if negated {
                        fixed.remove(&mask.ranges);
                    } else {
                        fixed.keep(&mask.ranges);
                    }
                }
            }
        }
        RuleMask { fixed, lists }
    }

    fn list(&self, list: &PortList, is_source: bool) -> MemberMask {
        let ports = if is_source { &self.sources } else { &self.columns };
        let ranges = list
            .ranges
            .map_or_else(|| Bits::none(self.width), |id| ports[&id].clone());
        let members = list.members.iter().map(|member| {
            let mut bits = ports[&member.port].clone();
            mutated!(NamedPortProtocol, bits.keep(&self.columns[&member.protocol]), ());
            (member.set, bits)
        });
        MemberMask {
            on_remote: false,
            negated: false,
            ranges,
            members: members.collect(),
        }
    }
}

/// Judges one pair of rows at a time.
pub(super) struct Judge<'a> {
    pub(super) lowered: &'a LoweredDirection,
    pub(super) masks: &'a PortMasks,
    pub(super) remote: &'a Projection,
    pub(super) local: &'a Projection,
    pub(super) scratch: Scratch,
}

/// Working memory of [`Judge`].
pub(super) struct Scratch {
    /// Undecided, still in the tier.
    live: Bits,
    /// Undecided, passed on to the next tier.
    passed: Bits,
    logged: Bits,
    hit: Bits,
    list: Bits,
}

impl Scratch {
    /// Makes room for a plane of `width` cells.
    pub(super) fn new(width: usize) -> Self {
        let none = || Bits::none(width);
        Self {
            live: none(),
            passed: none(),
            logged: none(),
            hit: none(),
            list: none(),
        }
    }
}

impl Judge<'_> {
    /// Fills the cells of a pair of rows. `matching` are the rules whose address tests hold there.
    pub(super) fn row(&mut self, matching: &Bits, remote: usize, local: usize, cells: &mut [u32]) {
        self.scratch.live.clear();
        self.scratch.live.invert();
        self.scratch.passed.clear();
        self.scratch.logged.clear();
        let mut tier = 0;
        matching.for_each(|number| {
            let rule = &self.lowered.rules[number];
            while tier < rule.tier {
                self.close_tier(tier, cells);
                tier += 1;
            }
            if self.scratch.live.is_empty() {
                return;
            }
            self.find_hits(number, remote, local);
            let Scratch {
                live,
                passed,
                logged,
                hit,
                ..
            } = &mut self.scratch;
            match rule.action {
                Action::Allow | Action::Deny => {
                    let allow = rule.action == Action::Allow;
                    hit.for_each(|cell| cells[cell] = Cell::new(allow, logged.contains(cell), rule.number).0);
                    live.remove(hit);
                }
                Action::Log => mutated!(LogDecides, logged.add(hit), live.remove(hit)),
                Action::Pass => {
                    passed.add(hit);
                    live.remove(hit);
                }
            }
        });
        for tier in tier..self.lowered.default_pass.len() {
            self.close_tier(tier, cells);
        }
        self.deny_live(cells);
    }

    fn close_tier(&mut self, tier: usize, cells: &mut [u32]) {
        if !self.lowered.default_pass[tier] {
            self.deny_live(cells);
        }
        let Scratch { live, passed, .. } = &mut self.scratch;
        live.add(passed);
        passed.clear();
    }

    fn deny_live(&mut self, cells: &mut [u32]) {
        let Scratch { live, logged, .. } = &mut self.scratch;
        let allow = mutated!(TierEndAllows, false, true);
        live.for_each(|cell| cells[cell] = Cell::new(allow, logged.contains(cell), 0).0);
        live.clear();
    }

    /// Leaves in `hit` where the rule holds and nothing has decided yet.
    fn find_hits(&mut self, number: usize, remote: usize, local: usize) {
        let mask = &self.masks.rules[number];
        let is_v6 = !self.remote.holds(remote, AddressPredicates::V4);
        let Scratch { live, hit, list, .. } = &mut self.scratch;
        hit.copy_from(live);
        hit.keep(&mask.fixed[usize::from(is_v6)]);
        for ports in &mask.lists {
            list.copy_from(&ports.ranges);
            for (set, bits) in &ports.members {
                let is_member = if ports.on_remote {
                    self.remote.holds(remote, *set)
                } else {
                    self.local.holds(local, *set)
                };
                if is_member {
                    list.add(bits);
                }
            }
            if ports.negated {
                hit.remove(list);
            } else {
                hit.keep(list);
            }
        }
    }
}
