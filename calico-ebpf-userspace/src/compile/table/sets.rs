//! The policy sets of a version.

use std::collections::{BTreeSet, HashMap, HashSet};

use calico_ebpf_common::policy::{Cell, PolicySet};

use super::engines::Compiled;
use super::{OverBudgetSet, as_u32};
use crate::calc::effective::{DirectionPolicy, EffectivePolicy};
use crate::compile::amend::{AmendableDirection, class_room, digests};
use crate::compile::cells::{Axis, DirectionTable};
use crate::compile::describe::describe_direction;
use crate::compile::lower::LoweredDirection;
use crate::compile::projection::RowKeys;
use crate::compile::reference::Direction;
use crate::compile::rule_ids::RuleIds;
use crate::compile::writer::LineWriter;
use crate::report::{PolicySetReport, TableReport};

/// The distinct policies of a host: directions, and pairs of them.
#[derive(Default)]
pub(super) struct Policies<'a> {
    pub(super) directions: Vec<(Direction, &'a DirectionPolicy)>,
    known_directions: HashMap<(Direction, &'a DirectionPolicy), usize>,
    /// Egress and ingress, by their place in `directions`.
    pub(super) sets: Vec<[usize; 2]>,
    known_sets: HashMap<[usize; 2], usize>,
}

impl<'a> Policies<'a> {
    /// Returns the index of the set of an endpoint's policy.
    pub(super) fn set(&mut self, policy: &'a EffectivePolicy) -> usize {
        let egress = self.direction(Direction::Egress, &policy.egress);
        let ingress = self.direction(Direction::Ingress, &policy.ingress);
        let next = self.sets.len();
        *self.known_sets.entry([egress, ingress]).or_insert_with(|| {
            self.sets.push([egress, ingress]);
            next
        })
    }

    fn direction(&mut self, direction: Direction, policy: &'a DirectionPolicy) -> usize {
        let next = self.directions.len();
        *self
            .known_directions
            .entry((direction, policy))
            .or_insert_with(|| {
                self.directions.push((direction, policy));
                next
            })
    }

    /// Describes the sets; endpoints are not filled in. `sizes` gives rows and columns by set.
    pub(super) fn describe(
        &self,
        sizes: &[[u32; 2]],
        compiled: &[Compiled],
        ids: &RuleIds,
    ) -> Vec<PolicySetReport> {
        let engine = |index: usize| compiled[index].engine().to_owned();
        let describe =
            |index: usize| describe_direction(self.directions[index].0, self.directions[index].1, ids);
        let sets = self.sets.iter().zip(sizes).zip(1..);
        sets.map(|(([egress, ingress], [rows, columns]), id)| PolicySetReport {
            id,
            endpoints: Vec::new(),
            egress: describe(*egress),
            ingress: describe(*ingress),
            egress_engine: engine(*egress),
            ingress_engine: engine(*ingress),
            rows: *rows,
            columns: *columns,
        })
        .collect()
    }
}

/// Where the policy sets are.
pub(super) struct WrittenSets {
    /// Egress and ingress line by set.
    pub(super) lines: Vec<[u32; 2]>,
    /// Rows and columns by set, the larger of both directions.
    pub(super) sizes: Vec<[u32; 2]>,
    pub(super) over_budget: Vec<OverBudgetSet>,
    /// By their place in [`Policies::directions`].
    pub(super) directions: Vec<AmendableDirection>,
}

/// Whether a version gets room for rows and classes that come later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    ToGrow,
    Tight,
}

/// Writes the sets.
pub(super) fn write_policies(
    writer: &mut LineWriter,
    policies: &Policies<'_>,
    lowered: &[LoweredDirection],
    compiled: &[Compiled],
    room: Room,
) -> WrittenSets {
    let directions: Vec<AmendableDirection> = lowered
        .iter()
        .zip(compiled)
        .map(|(lowered, compiled)| {
            let lead_to = |cell| {
                (
                    LoweredDirection::without_rules(lowered),
                    DirectionTable::single(cell),
                )
            };
            match compiled {
                Compiled::Cells(table) => write_direction(writer, lowered, table, room),
                Compiled::FallBack(table) => {
                    let (lowered, table) = lead_to(table.write(writer));
                    write_direction(writer, &lowered, &table, Room::Tight)
                }
                Compiled::Denied(_) => {
                    let (lowered, table) = lead_to(Cell::DENY);
                    write_direction(writer, &lowered, &table, Room::Tight)
                }
            }
        })
        .collect();
    let mut sets = WrittenSets {
        lines: Vec::new(),
        sizes: Vec::new(),
        over_budget: Vec::new(),
        directions: Vec::new(),
    };
    for (pair, id) in policies.sets.iter().zip(1_u32..) {
        let written = pair.map(|index| directions[index].set);
        sets.lines
            .push(written.map(|set| writer.push_one(&PolicySet { id, ..set })));
        let most = |size: &dyn Fn(usize) -> u32| pair.iter().map(|index| size(*index)).max().unwrap_or(0);
        sets.sizes.push([
            most(&|index| directions[index].set.local_rows * directions[index].used_rows),
            most(&|index| directions[index].set.columns * directions[index].set.source_columns),
        ]);
        for index in pair {
            let direction = policies.directions[*index].0;
            if let Compiled::Denied(why) = compiled[*index] {
                sets.over_budget.push(OverBudgetSet {
                    policy_set: id,
                    direction,
                    why,
                });
            }
        }
    }
    sets.directions = directions;
    sets
}

/// Counts cells, and sets by engine.
pub(super) fn count(
    policies: &Policies<'_>,
    compiled: &[Compiled],
    sets: &WrittenSets,
    report: &mut TableReport,
) {
    let cells = |compiled: &Compiled| match compiled {
        Compiled::Cells(table) => table.cells.len() as u64,
        Compiled::FallBack(_) | Compiled::Denied(_) => 0,
    };
    report.cells = compiled.iter().map(cells).sum();
    let falls_back = |index: &usize| matches!(compiled[*index], Compiled::FallBack(_));
    let walked = policies.sets.iter().filter(|pair| pair.iter().any(falls_back));
    report.fall_back = as_u32(walked.count());
    let over_budget: HashSet<u32> = sets.over_budget.iter().map(|over| over.policy_set).collect();
    report.over_budget = as_u32(over_budget.len());
}

fn write_direction(
    writer: &mut LineWriter,
    lowered: &LoweredDirection,
    table: &DirectionTable,
    room: Room,
) -> AmendableDirection {
    let used_rows = table.remote.size;
    let remote_rows = match room {
        // A single row has no remap that could lead to another.
        Room::ToGrow if used_rows > 1 => used_rows + used_rows / 16 + 4,
        Room::ToGrow | Room::Tight => used_rows,
    };
    let mut of_addresses = |axis: &Axis, keys: &RowKeys| match (room, axis.remap.len()) {
        (_, 0) => 0,
        (Room::Tight, _) => writer.halves(&axis.remap),
        (Room::ToGrow, classes) => {
            let mut remap = axis.remap.clone();
            remap.resize(class_room(classes - 1) + 1, 0);
            if keys.tell_only_families_apart() {
                writer.halves(&remap)
            } else {
                // Equal arrays may come to differ: each direction has its own.
                writer.own_halves(&remap)
            }
        }
    };
    let remote_remap = of_addresses(&table.remote, &table.remote_keys);
    let local_remap = of_addresses(&table.local, &table.local_keys);
    let mut of_ports = |axis: &Axis| {
        if axis.remap.is_empty() {
            0
        } else {
            writer.halves(&axis.remap)
        }
    };
    let (port_remap, source_remap) = (of_ports(&table.columns), of_ports(&table.sources));
    let width = (table.columns.size * table.sources.size) as usize;
    let mut cells: Vec<u32> = Vec::with_capacity((table.local.size * remote_rows) as usize * width);
    for block in table.cells.chunks(used_rows as usize * width) {
        cells.extend(block.iter().map(|cell| cell.0));
        // Rows that are not in use yet deny.
        cells.resize(cells.len() + (remote_rows - used_rows) as usize * width, 0);
    }
    let first_cell = match room {
        Room::Tight => writer.words(&cells),
        Room::ToGrow => writer.own_words(&cells),
    };
    let set = PolicySet {
        remote_remap,
        local_remap,
        port_remap,
        source_remap,
        cells: first_cell,
        local_rows: table.local.size,
        remote_rows,
        columns: table.columns.size,
        source_columns: table.sources.size,
        ..PolicySet::default()
    };
    AmendableDirection {
        lowered: lowered.clone(),
        digests: digests(&cells, &set, used_rows),
        set,
        cells,
        used_rows,
        remote: table.remote_keys.clone(),
        rows: table.remote.remap.clone(),
        local: table.local_keys.clone(),
        columns: table.columns.remap.clone(),
        sources: table.sources.remap.clone(),
        judging: table.judging.clone(),
        slots: BTreeSet::new(),
    }
}
