//! From classes to a verdict: the cells of a policy set.

use bytemuck::{Pod, Zeroable};

use crate::address::Class;
use crate::line::Lines;
use crate::port::PortClass;

/// Verdict of one policy set for one combination of classes. Zero denies by no rule.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Cell(pub u32);

impl Cell {
    /// Denies; no rule decided.
    pub const DENY: Self = Self(0);
    const ALLOW_BIT: u32 = 1 << 31;
    const LOG_BIT: u32 = 1 << 30;
    const FALL_BACK_BIT: u32 = 1 << 29;
    /// Set in the cells of an egress and an ingress set, the egress one in the low half, if one of them only says which
    /// [`crate::fall_back::FallBack`] is to be asked.
    pub const FALL_BACK_BITS: u64 = (Self::FALL_BACK_BIT as u64) << 32 | Self::FALL_BACK_BIT as u64;
    const RULE_MASK: u32 = (1 << 24) - 1;

    /// Makes a cell. `rule` is the number of the deciding rule's counter (0: end of tier, profile or policy).
    pub const fn new(allow: bool, log: bool, rule: u32) -> Self {
        let allow = if allow { Self::ALLOW_BIT } else { 0 };
        let log = if log { Self::LOG_BIT } else { 0 };
        Self(allow | log | rule & Self::RULE_MASK)
    }

    /// Makes the only cell of a set that is judged by the [`crate::fall_back::FallBack`] at `line`. It denies where it is
    /// taken for a verdict.
    pub const fn fall_back(line: u32) -> Self {
        Self(Self::FALL_BACK_BIT | line & (Self::FALL_BACK_BIT - 1))
    }

    /// Returns the line of the fall-back that is to be asked; `None` for a verdict.
    #[inline(always)]
    pub const fn fall_back_line(self) -> Option<u32> {
        if self.0 & Self::FALL_BACK_BIT == 0 {
            None
        } else {
            Some(self.0 & (Self::FALL_BACK_BIT - 1))
        }
    }

    #[inline(always)]
    pub const fn allows(self) -> bool {
        self.0 & Self::ALLOW_BIT != 0
    }

    /// Returns whether a `Log` rule matched on the way.
    #[inline(always)]
    pub const fn logs(self) -> bool {
        self.0 & Self::LOG_BIT != 0
    }

    /// Returns the number of the deciding rule's counter.
    #[inline(always)]
    pub const fn rule(self) -> u32 {
        self.0 & Self::RULE_MASK
    }
}

/// One direction of one policy set.
///
/// "Remote" is the peer, "local" the endpoint that the set judges for. A line number of 0 stands for an axis with
/// the single index 0. The cell of indices (local, remote, column, source) is number
/// `((local * remote_rows + remote) * columns + column) * source_columns + source`. A set with too many combinations has a
/// single cell, which says which [`crate::fall_back::FallBack`] judges.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PolicySet {
    /// Array of `u16`: class of the remote address to row.
    pub remote_remap: u32,
    /// Array of `u16`: class of the local address to row.
    pub local_remap: u32,
    /// Array of `u16`: port class to column.
    pub port_remap: u32,
    /// Array of `u16`: source-port class to source column.
    pub source_remap: u32,
    /// Array of [`Cell`].
    pub cells: u32,
    pub local_rows: u32,
    pub remote_rows: u32,
    pub columns: u32,
    pub source_columns: u32,
    /// Number of the policy set, for people and tools.
    pub id: u32,
    pub reserved: [u32; 6],
}
crate::line_type!(PolicySet);

/// What a policy set is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub local_class: Class,
    pub remote_class: Class,
    pub port_class: PortClass,
    pub source_port_class: PortClass,
}

/// Returns the verdict of the set at line `set`, or which fall-back says it; [`Cell::DENY`] for set 0 and for anything
/// out of bounds.
#[inline(always)]
pub fn verdict<L: Lines + ?Sized>(lines: &L, set: u32, question: Question) -> Cell {
    match checked_verdict(lines, set, question) {
        Some(cell) => cell,
        None => Cell::DENY,
    }
}

#[inline(always)]
fn checked_verdict<L: Lines + ?Sized>(lines: &L, set: u32, question: Question) -> Option<Cell> {
    if set == 0 {
        return None;
    }
    let set: &PolicySet = lines.line(set)?.read_as();
    let remote = remapped(lines, set.remote_remap, question.remote_class)?;
    let local = remapped(lines, set.local_remap, question.local_class)?;
    let column = remapped(lines, set.port_remap, question.port_class)?;
    let source = remapped(lines, set.source_remap, question.source_port_class)?;
    let index = local.wrapping_mul(set.remote_rows).wrapping_add(remote);
    let index = index.wrapping_mul(set.columns).wrapping_add(column);
    let index = index.wrapping_mul(set.source_columns).wrapping_add(source);
    Some(Cell(lines.word_at(set.cells, index)?))
}

#[inline(always)]
fn remapped<L: Lines + ?Sized>(lines: &L, remap: u32, value: u16) -> Option<u32> {
    if remap == 0 {
        return Some(0);
    }
    Some(u32::from(lines.half_at(remap, u32::from(value))?))
}
