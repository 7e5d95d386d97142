//! One direction of a policy set in force, and rows that are appended to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_ebpf_common::address::Class;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::policy::PolicySet;

use super::judging::{Judging, Merged, Size};
use super::{Amendment, NotAmendable, Write};
use crate::compile::classes::PredicateId;
use crate::compile::lower::LoweredDirection;
use crate::compile::ports::PortClasses;
use crate::compile::projection::{Projection, RowKeys, column_predicates, rules_by_row, source_predicates};
use crate::compile::rows::PortMasks;

/// One direction of a policy set.
#[derive(Clone, Debug)]
pub(in crate::compile) struct AmendableDirection {
    pub(in crate::compile) lowered: LoweredDirection,
    /// As written: where the arrays stand, and `remote_rows` with those that are not in use yet.
    pub(in crate::compile) set: PolicySet,
    /// As written.
    pub(in crate::compile) cells: Vec<u32>,
    pub(in crate::compile) used_rows: u32,
    /// Of the cells of each row in use: most rows are found to be others by that alone.
    pub(in crate::compile) digests: Vec<u64>,
    pub(in crate::compile) remote: RowKeys,
    /// Row by class; empty where there is but one.
    pub(in crate::compile) rows: Vec<u16>,
    pub(in crate::compile) local: RowKeys,
    /// Column by port class; empty where there is but one.
    pub(in crate::compile) columns: Vec<u16>,
    /// As `columns`, of source ports.
    pub(in crate::compile) sources: Vec<u16>,
    /// `None` where it is too large to be kept.
    pub(in crate::compile) judging: Option<Arc<Judging>>,
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
            debug_assert_eq!(self.rows.len(), usize::from(class), "classes are appended");
            self.rows.push(remote);
            amendment.prepare.push(Write::half(
                self.set.remote_remap,
                u32::from(class),
                mutated!(AppendedClassRow, remote, 0),
            ));
        }
        Ok(())
    }

    /// Returns whether all packets of a peer of one class are judged as those of a peer of the other.
    pub(super) fn judges_alike(&self, one: Class, other: Class) -> bool {
        // Where there is but one row nothing is told apart.
        let row = |class: Class| self.rows.get(usize::from(class)).map_or(0, |row| u32::from(*row));
        let (one, other) = (row(one), row(other));
        one == other || self.row_blocks(one).eq(self.row_blocks(other))
    }

    /// Judges peers of a kind that was not there before; returns their row.
    fn append_row(
        &mut self,
        membership: &[PredicateId],
        ports: &PortClasses,
        amendment: &mut Amendment,
    ) -> Result<u16, NotAmendable> {
        let cells = self.judge(membership, ports).ok_or(NotAmendable::Axes)?;
        let digest = digest(&cells);
        let known = self
            .digests
            .iter()
            .zip(0..)
            .filter(|(known, _)| **known == digest);
        let known = known
            .map(|(_, row)| row)
            .find(|row| self.row_blocks(*row).eq(cells.chunks(self.width())));
        let row = match known {
            Some(row) => row,
            // With a single row there is no remap that could lead to another.
            None if self.set.remote_remap == 0 => return Err(NotAmendable::Axes),
            None if self.used_rows == self.set.remote_rows => return Err(NotAmendable::Rows),
            None => {
                self.digests.push(digest);
                self.write_row(&cells, amendment)
            }
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
                // Most deny, as what is not in use yet does.
                let before = std::mem::replace(&mut self.cells[index as usize], *cell);
                if before != *cell {
                    amendment.prepare.push(Write::word(self.set.cells, index, *cell));
                }
            }
        }
        row
    }

    /// Returns the cells of a row, those of each local row together.
    fn row_blocks(&self, row: u32) -> impl Iterator<Item = &[u32]> {
        let width = self.width();
        (0..self.set.local_rows).map(move |local| {
            let first = (local * self.set.remote_rows + row) as usize * width;
            &self.cells[first..first + width]
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
        let size = Size {
            local_rows: self.set.local_rows as usize,
            columns: self.set.columns as usize,
            source_columns: self.set.source_columns as usize,
        };
        match &self.judging {
            Some(judging) => judging.judge(&self.lowered, membership, size),
            None => self.prepare(ports)?.judge(&self.lowered, membership, size),
        }
    }

    /// Prepares to judge, as the compiler has, from what was kept of it.
    fn prepare(&self, ports: &PortClasses) -> Option<Judging> {
        let rules = &self.lowered.rules;
        let columns = Projection::new(
            ports.signatures.iter().map(Vec::as_slice),
            column_predicates(rules),
        );
        let sources = Projection::new(
            ports.source_signatures.iter().map(Vec::as_slice),
            source_predicates(rules),
        );
        let local = self.local.projection();
        let local_merged: Option<Vec<u16>> = (0..local.len())
            .map(|row| self.local.merged(&local, row))
            .collect();
        let merged = Merged {
            local: local_merged?,
            columns: merged(&columns, &self.columns),
            sources: merged(&sources, &self.sources),
        };
        let masks = PortMasks::new(&self.lowered, &columns, &sources);
        let local_rules = rules_by_row(rules, &local, |rule| &rule.local);
        Some(Judging::new(&self.lowered, masks, (local, local_rules), merged))
    }
}

/// Returns a number that equal cells have in common.
fn digest<'a>(cells: impl IntoIterator<Item = &'a u32>) -> u64 {
    let add = |digest: u64, cell: &u32| (digest ^ u64::from(*cell)).wrapping_mul(0x0000_0100_0000_01b3);
    cells.into_iter().fold(0xcbf2_9ce4_8422_2325, add)
}

/// Returns the digest of each row in use.
pub(in crate::compile) fn digests(cells: &[u32], set: &PolicySet, used_rows: u32) -> Vec<u64> {
    let width = (set.columns * set.source_columns) as usize;
    let blocks = |row: u32| {
        (0..set.local_rows).flat_map(move |local| {
            let first = (local * set.remote_rows + row) as usize * width;
            &cells[first..first + width]
        })
    };
    (0..used_rows).map(|row| digest(blocks(row))).collect()
}

/// Returns the merged column of each column, by `remap` from classes to merged ones.
fn merged(columns: &Projection, remap: &[u16]) -> Vec<u16> {
    let mut merged = vec![0; columns.len()];
    for (column, remapped) in columns.index.iter().zip(remap) {
        merged[*column] = *remapped;
    }
    merged
}
