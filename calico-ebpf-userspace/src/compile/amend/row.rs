//! One direction of a policy set in force, and rows that are appended to it.

use std::collections::BTreeSet;

use calico_ebpf_common::address::Class;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::policy::PolicySet;

use super::{Amendment, NotAmendable, Write};
use crate::compile::classes::PredicateId;
use crate::compile::lower::LoweredDirection;
use crate::compile::ports::PortClasses;
use crate::compile::projection::{Projection, RowKeys, column_predicates, rules_by_row, source_predicates};
use crate::compile::rows::{Judge, PortMasks, Scratch};

/// One direction of a policy set.
#[derive(Clone, Debug)]
pub(in crate::compile) struct AmendableDirection {
    pub(in crate::compile) lowered: LoweredDirection,
    /// As written: where the arrays stand, and `remote_rows` with those that are not in use yet.
    pub(in crate::compile) set: PolicySet,
    /// As written.
    pub(in crate::compile) cells: Vec<u32>,
    pub(in crate::compile) used_rows: u32,
    pub(in crate::compile) remote: RowKeys,
    pub(in crate::compile) local: RowKeys,
    /// Column by port class; empty where there is but one.
    pub(in crate::compile) columns: Vec<u16>,
    /// As `columns`, of source ports.
    pub(in crate::compile) sources: Vec<u16>,
    /// Endpoints that it judges.
    pub(in crate::compile) slots: BTreeSet<Slot>,
}

impl AmendableDirection {
    /// Returns the predicates that tell peers apart.
    pub(super) fn remote_predicates(&self) -> impl Iterator<Item = &PredicateId> {
        self.remote.predicates()
    }

    /// Finds the rows of a new class, or makes one.
    pub(super) fn place_class(
        &mut self,
        class: Class,
        membership: &[PredicateId],
        ports: &PortClasses,
        amendment: &mut Amendment,
    ) -> Result<(), NotAmendable> {
        // Which endpoint is judged decides about the shape of the whole table: only known kinds find a row.
        let local = self.local.row(membership).ok_or(NotAmendable::Axes)?;
        if self.set.local_remap != 0 {
            amendment
                .prepare
                .push(Write::half(self.set.local_remap, u32::from(class), local));
        }
        let remote = match self.remote.row(membership) {
            Some(row) => row,
            None => self.append_row(membership, ports, amendment)?,
        };
        if self.set.remote_remap != 0 {
            amendment.prepare.push(Write::half(
                self.set.remote_remap,
                u32::from(class),
                mutated!(AppendedClassRow, remote, 0),
            ));
        }
        Ok(())
    }

    /// Returns whether all packets of a peer with one membership are judged as those of a peer with the other.
    pub(super) fn judges_alike(&self, one: &[PredicateId], other: &[PredicateId]) -> bool {
        match (self.remote.row(one), self.remote.row(other)) {
            (Some(one), Some(other)) => {
                one == other
                    || self
                        .row_cells(u32::from(one))
                        .eq(self.row_cells(u32::from(other)))
            }
            _ => false,
        }
    }

    /// Judges peers of a kind that was not there before; returns their row.
    fn append_row(
        &mut self,
        membership: &[PredicateId],
        ports: &PortClasses,
        amendment: &mut Amendment,
    ) -> Result<u16, NotAmendable> {
        let cells = self.judge(membership, ports).ok_or(NotAmendable::Axes)?;
        let known = (0..self.used_rows).find(|row| self.row_cells(*row).eq(cells.iter().copied()));
        let row = match known {
            Some(row) => row,
            // With a single row there is no remap that could lead to another.
            None if self.set.remote_remap == 0 => return Err(NotAmendable::Axes),
            None if self.used_rows == self.set.remote_rows => return Err(NotAmendable::Rows),
            None => self.write_row(&cells, amendment),
        };
        let row = u16::try_from(row).ok().ok_or(NotAmendable::Rows)?;
        self.remote.insert(membership, row);
        Ok(row)
    }

    fn write_row(&mut self, cells: &[u32], amendment: &mut Amendment) -> u32 {
        let row = self.used_rows;
        self.used_rows += 1;
        for (local, block) in (0..mutated!(AppendedRowCells, u32::MAX, 1)).zip(cells.chunks(self.width())) {
            let first = (local * self.set.remote_rows + row) * self.width32();
            for (index, cell) in (first..).zip(block) {
                self.cells[index as usize] = *cell;
                amendment.prepare.push(Write::word(self.set.cells, index, *cell));
            }
        }
        row
    }

    /// Returns the cells of a row for all local rows, one after the other.
    fn row_cells(&self, row: u32) -> impl Iterator<Item = u32> {
        let width = self.width();
        (0..self.set.local_rows).flat_map(move |local| {
            let first = (local * self.set.remote_rows + row) as usize * width;
            self.cells[first..first + width].iter().copied()
        })
    }

    fn width32(&self) -> u32 {
        self.set.columns * self.set.source_columns
    }

    fn width(&self) -> usize {
        self.width32() as usize
    }

    /// Judges peers with a membership by the rules. `None` if the table has one column, or one local row, for what
    /// these rules tell apart now.
    fn judge(&self, membership: &[PredicateId], ports: &PortClasses) -> Option<Vec<u32>> {
        let rules = &self.lowered.rules;
        let columns = Projection::new(
            ports.signatures.iter().map(Vec::as_slice),
            column_predicates(rules),
        );
        let sources = Projection::new(
            ports.source_signatures.iter().map(Vec::as_slice),
            source_predicates(rules),
        );
        let remote = Projection::new(
            std::iter::once(membership),
            self.remote.predicates().copied().collect(),
        );
        let local = self.local.projection();
        let masks = PortMasks::new(&self.lowered, &columns, &sources);
        let remote_rules = rules_by_row(rules, &remote, |rule| &rule.remote);
        let local_rules = rules_by_row(rules, &local, |rule| &rule.local);
        let plane = columns.len() * sources.len();
        let mut judge = Judge {
            lowered: &self.lowered,
            masks: &masks,
            remote: &remote,
            local: &local,
            scratch: Scratch::new(plane),
        };
        let mut judged: Vec<Option<u32>> = vec![None; self.set.local_rows as usize * self.width()];
        for (row, local_rules) in local_rules.iter().enumerate() {
            let mut cells = vec![0; plane];
            let mut matching = remote_rules[0].clone();
            matching.keep(local_rules);
            judge.row(&matching, 0, row, &mut cells);
            let local_row = usize::from(self.local.merged(&local, row)?);
            for (port_class, column) in columns.index.iter().enumerate() {
                for (source_class, source) in sources.index.iter().enumerate() {
                    let index = (local_row * self.set.columns as usize + remapped(&self.columns, port_class))
                        * self.set.source_columns as usize
                        + remapped(&self.sources, source_class);
                    let cell = cells[column * sources.len() + source];
                    match judged[index] {
                        Some(other) if other != cell => return None,
                        _ => judged[index] = Some(cell),
                    }
                }
            }
        }
        judged.into_iter().collect()
    }
}

fn remapped(remap: &[u16], class: usize) -> usize {
    remap.get(class).map_or(0, |index| usize::from(*index))
}
