//! From ordered rules to cells: each combination of classes is judged once, for all rules at a time by bits.

use std::collections::HashMap;
use std::sync::Arc;

use calico_ebpf_common::policy::Cell;

use super::amend::{Judging, Merged};
use super::classes::{AddressClasses, AddressPredicates};
use super::grid::Grid;
use super::lower::{LoweredDirection, LoweredRule, PortTests};
use super::ports::PortClasses;
use super::projection::{
    Projection, RowKeys, column_predicates, local_predicates, remote_predicates, rules_by_row,
    source_predicates,
};
use super::rows::{Judge, PortMasks, Scratch};

/// Cells that one direction of a policy set may have by default.
pub const MAX_CELLS: u64 = 1 << 20;
/// Combinations of classes that may be looked at for one direction before equal ones are merged.
const MAX_COMBINATIONS: u64 = 1 << 26;
/// Distinct combinations that may be held at a time.
const MAX_HELD_CELLS: u64 = 1 << 22;
/// Bits of working memory: 128 MiB.
const MAX_BITS: u64 = 1 << 30;

/// One direction of one policy set: a table with four axes.
#[derive(Clone, Debug)]
pub struct DirectionTable {
    pub local: Axis,
    pub remote: Axis,
    pub columns: Axis,
    pub sources: Axis,
    /// Cells in the order of [`calico_ebpf_common::policy::PolicySet`].
    pub cells: Vec<Cell>,
    /// Rows of the remote axis, for classes that come later.
    pub(super) remote_keys: RowKeys,
    /// Rows of the local axis.
    pub(super) local_keys: RowKeys,
    /// Judges classes that come later, when it is small enough to be kept.
    pub(super) judging: Option<Arc<Judging>>,
}

/// From class to index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    pub size: u32,
    /// Index by class; empty where there is but one.
    pub remap: Vec<u16>,
}

impl DirectionTable {
    /// Returns the table with one cell.
    pub fn single(cell: Cell) -> Self {
        let axis = || Axis {
            size: 1,
            remap: Vec::new(),
        };
        Self {
            local: axis(),
            remote: axis(),
            columns: axis(),
            sources: axis(),
            cells: vec![cell],
            remote_keys: RowKeys::single(),
            local_keys: RowKeys::single(),
            judging: None,
        }
    }
}

impl Axis {
    /// `indices` are by class; of an address axis from class 1, as class 0 belongs to no address.
    fn new(size: usize, indices: impl Iterator<Item = u16>, of_addresses: bool) -> Self {
        let remap = if size > 1 {
            of_addresses.then_some(0).into_iter().chain(indices).collect()
        } else {
            Vec::new()
        };
        Self {
            size: u32::try_from(size).unwrap_or(u32::MAX),
            remap,
        }
    }
}

/// The rules tell too many combinations apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{combinations} combinations of addresses and ports to tell apart, more than {limit}")]
pub struct OverBudget {
    pub combinations: u64,
    pub limit: u64,
}

impl OverBudget {
    pub(super) fn new(combinations: usize, limit: usize) -> Self {
        Self {
            combinations: as_count(combinations),
            limit: as_count(limit),
        }
    }
}

/// Judges every combination of classes by the ordered rules. At most `max_cells` are kept.
///
/// # Errors
/// The table, or the work to find it, is too large.
pub fn compile_direction(
    lowered: &LoweredDirection,
    addresses: &AddressClasses,
    ports: &PortClasses,
    max_cells: u64,
) -> Result<DirectionTable, OverBudget> {
    let rules = &lowered.rules;
    let address_signatures = || addresses.memberships.iter().skip(1).map(AsRef::as_ref);
    let mut remote = Projection::new(
        address_signatures().chain(newcomers(lowered).iter().map(<[u32; 2]>::as_slice)),
        remote_predicates(lowered),
    );
    remote.index.truncate(address_signatures().count());
    let local = Projection::new(address_signatures(), local_predicates(lowered));
    let columns = Projection::new(
        ports.signatures.iter().map(Vec::as_slice),
        column_predicates(rules),
    );
    let sources = Projection::new(
        ports.source_signatures.iter().map(Vec::as_slice),
        source_predicates(rules),
    );
    check_budget(rules, &remote, &local, &columns, &sources)?;

    let masks = PortMasks::new(lowered, &columns, &sources);
    let remote_rules = rules_by_row(rules, &remote, |rule| &rule.remote);
    let local_rules = rules_by_row(rules, &local, |rule| &rule.local);
    let width = columns.len() * sources.len();
    let mut judge = Judge {
        lowered,
        masks: &masks,
        remote: &remote,
        local: &local,
        scratch: Scratch::new(width),
    };

    // Rows of equal cells are merged as they come, so that only distinct ones are held.
    let mut blocks: HashMap<Vec<u32>, usize> = HashMap::new();
    let mut block_of_row = Vec::with_capacity(remote.len());
    for (remote_row, remote_rules) in remote_rules.iter().enumerate() {
        let mut block = vec![0; local.len() * width];
        for (local_row, local_rules) in local_rules.iter().enumerate() {
            let cells = &mut block[local_row * width..][..width];
            let mut matching = remote_rules.clone();
            matching.keep(local_rules);
            judge.row(&matching, remote_row, local_row, cells);
        }
        let next = blocks.len();
        let index = *blocks.entry(block).or_insert(next);
        block_of_row.push(index);
        within(as_count(blocks.len() * local.len() * width), MAX_HELD_CELLS)?;
    }
    let mut grid = Grid::from_blocks(&blocks, [local.len(), columns.len(), sources.len()]);
    let local_merge = grid.merge(0);
    let remote_merge = grid.merge(1);
    let column_merge = grid.merge(2);
    let source_merge = grid.merge(3);
    within(as_count(grid.cells.len()), max_cells)?;
    let remote_merge: Vec<u16> = block_of_row.iter().map(|block| remote_merge[*block]).collect();
    let local_keys = local.keys(|row| local_merge[row]);
    let table = DirectionTable {
        local: Axis::new(
            grid.sizes[0],
            local.index.iter().map(|row| local_merge[*row]),
            true,
        ),
        remote: Axis::new(
            grid.sizes[1],
            remote.index.iter().map(|row| remote_merge[*row]),
            true,
        ),
        columns: Axis::new(
            grid.sizes[2],
            columns.index.iter().map(|row| column_merge[*row]),
            false,
        ),
        sources: Axis::new(
            grid.sizes[3],
            sources.index.iter().map(|row| source_merge[*row]),
            false,
        ),
        cells: grid.cells.into_iter().map(Cell).collect(),
        remote_keys: remote.keys(|row| remote_merge[row]),
        local_keys,
        judging: None,
    };
    let merged = Merged {
        local: local_merge,
        columns: column_merge,
        sources: source_merge,
    };
    let judging = Judging::new(lowered, masks, (local, local_rules), merged);
    Ok(DirectionTable {
        judging: judging.is_small(lowered).then(|| Arc::new(judging)),
        ..table
    })
}

/// Returns memberships that some address may come to have: in one set or net, and in none of the others. With rows for
/// these, a set that has no members yet still tells apart the columns that its first member will need.
fn newcomers(lowered: &LoweredDirection) -> Vec<[u32; 2]> {
    let sets = remote_predicates(lowered)
        .into_iter()
        .filter(|predicate| *predicate > AddressPredicates::V6);
    let families = [AddressPredicates::V4, AddressPredicates::V6];
    sets.flat_map(|set| families.map(|family| [family, set]))
        .collect()
}

fn as_count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn within(combinations: u64, limit: u64) -> Result<(), OverBudget> {
    if combinations > limit {
        Err(OverBudget { combinations, limit })
    } else {
        Ok(())
    }
}

fn check_budget(
    rules: &[LoweredRule],
    remote: &Projection,
    local: &Projection,
    columns: &Projection,
    sources: &Projection,
) -> Result<(), OverBudget> {
    let [remote_rows, local_rows, columns_wide, sources_wide, rule_count] = [
        remote.len(),
        local.len(),
        columns.len(),
        sources.len(),
        rules.len(),
    ]
    .map(as_count);
    let width = columns_wide.saturating_mul(sources_wide);
    within(
        remote_rows.saturating_mul(local_rows).saturating_mul(width),
        MAX_COMBINATIONS,
    )?;
    // Masks of rules and predicates over the columns; rules over the rows, walked for each pair of rows.
    let members: usize = rules
        .iter()
        .map(|rule| member_count(rule.source.as_ref()) + member_count(rule.destination.as_ref()))
        .sum();
    let predicates = as_count(columns.predicates.len() + sources.predicates.len() + members);
    let masks = rule_count
        .saturating_mul(4)
        .saturating_add(predicates)
        .saturating_mul(width);
    let rows = rule_count.saturating_mul(remote_rows.saturating_add(local_rows));
    within(masks.saturating_add(rows), MAX_BITS)?;
    within(
        rule_count.saturating_mul(remote_rows).saturating_mul(local_rows),
        MAX_BITS,
    )
}

fn member_count(tests: Option<&PortTests>) -> usize {
    tests.map_or(0, |tests| {
        tests.none.members.len() + tests.any.as_ref().map_or(0, |any| any.members.len())
    })
}
