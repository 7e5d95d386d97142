//! What the rules of one direction say about any peer: prepared once, asked for each kind of peer that comes later.

use std::collections::HashMap;

use calico_ebpf_common::policy::Cell;

use crate::compile::bits::Bits;
use crate::compile::classes::PredicateId;
use crate::compile::lower::LoweredDirection;
use crate::compile::projection::Projection;
use crate::compile::rows::{Judge, PortMasks, Scratch};

/// Bits that are kept for one direction, 128 KiB; what needs more is prepared for each row anew.
const KEPT_BITS: usize = 1 << 20;

/// The rules of a direction, seen from the columns that they tell apart.
#[derive(Debug)]
pub(in crate::compile) struct Judging {
    masks: PortMasks,
    /// Endpoints by what the rules ask of them, and the rules that hold for each kind.
    local: Projection,
    local_rules: Vec<Bits>,
    /// Rules that ask for no predicate of a peer.
    free: Vec<usize>,
    /// The other rules, by the first predicate that they ask for.
    asking: HashMap<PredicateId, Vec<usize>>,
    /// Columns times source columns before equal ones were merged.
    width: usize,
    merged: Merged,
}

/// Where the merged table has what was told apart before.
#[derive(Debug)]
pub(in crate::compile) struct Merged {
    /// Local row of each kind of endpoint.
    pub(in crate::compile) local: Vec<u16>,
    /// Column of each column.
    pub(in crate::compile) columns: Vec<u16>,
    /// Source column of each source column.
    pub(in crate::compile) sources: Vec<u16>,
}

/// Rows, columns and source columns of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) local_rows: usize,
    pub(super) columns: usize,
    pub(super) source_columns: usize,
}

impl Judging {
    /// Prepares. `local_rules` are the rules that hold for each of `local`.
    pub(in crate::compile) fn new(
        lowered: &LoweredDirection,
        masks: PortMasks,
        (mut local, local_rules): (Projection, Vec<Bits>),
        merged: Merged,
    ) -> Self {
        // Signatures are asked for, not which class has which: that is as long as there are classes, for each direction.
        local.index = Vec::new();
        let mut free = Vec::new();
        let mut asking: HashMap<PredicateId, Vec<usize>> = HashMap::new();
        for (number, rule) in lowered.rules.iter().enumerate() {
            match rule.remote.all.first() {
                Some(predicate) => asking.entry(*predicate).or_default().push(number),
                None => free.push(number),
            }
        }
        let width = merged.columns.len() * merged.sources.len();
        Self {
            masks,
            local,
            local_rules,
            free,
            asking,
            width,
            merged,
        }
    }

    /// Returns whether it is small enough to be kept.
    pub(in crate::compile) fn is_small(&self, lowered: &LoweredDirection) -> bool {
        let of_rules = lowered.rules.len() * self.local_rules.len();
        self.masks.bits(self.width) + of_rules <= KEPT_BITS
    }

    /// Judges peers with a membership, for all local rows one after the other. `None` if the table has one column, or one
    /// local row, for what the rules tell apart now.
    pub(super) fn judge(
        &self,
        lowered: &LoweredDirection,
        membership: &[PredicateId],
        size: Size,
    ) -> Option<Vec<u32>> {
        let remote = Projection::single(membership.to_vec());
        let remote_rules = self.remote_rules(lowered, membership);
        let mut judge = Judge {
            lowered,
            masks: &self.masks,
            remote: &remote,
            local: &self.local,
            scratch: Scratch::new(self.width),
        };
        let mut judged: Vec<Option<u32>> = vec![None; size.local_rows * size.columns * size.source_columns];
        let mut cells = vec![Cell::DENY.0; self.width];
        for (row, local_rules) in self.local_rules.iter().enumerate() {
            let mut matching = remote_rules.clone();
            matching.keep(local_rules);
            judge.row(&matching, 0, row, &mut cells);
            let local_row = usize::from(self.merged.local[row]);
            for (column, cells) in self
                .merged
                .columns
                .iter()
                .zip(cells.chunks(self.merged.sources.len()))
            {
                let first = (local_row * size.columns + usize::from(*column)) * size.source_columns;
                for (source, cell) in self.merged.sources.iter().zip(cells) {
                    let known = judged.get_mut(first + usize::from(*source))?;
                    if known.is_some_and(|known| known != *cell) {
                        return None;
                    }
                    *known = Some(*cell);
                }
            }
        }
        judged.into_iter().collect()
    }

    /// Returns the rules whose address tests hold for peers with a membership.
    fn remote_rules(&self, lowered: &LoweredDirection, membership: &[PredicateId]) -> Bits {
        let holds = |predicate: &PredicateId| membership.binary_search(predicate).is_ok();
        let mut rules = Bits::none(lowered.rules.len());
        let asking = membership
            .iter()
            .filter_map(|predicate| self.asking.get(predicate));
        for number in asking.flatten().chain(&self.free) {
            let tests = &lowered.rules[*number].remote;
            if tests.all.iter().all(holds) && !tests.none.iter().any(holds) {
                rules.insert(*number);
            }
        }
        rules
    }
}
