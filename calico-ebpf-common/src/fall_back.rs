//! The other engine: rules that tell too much apart for cells, judged in order by bit vectors.
//!
//! One bit stands for one rule, or for a part of it that is one test on each of four axes: remote address, local
//! address, protocol with destination port (or ICMP type and code), and protocol with source port. A tree on each axis
//! gives a row; a row says by its bits which rules hold there. The first bit that is set on all four axes decides.
//! `Log` rules are marked: they decide nothing. Tiers begin at a word of their own, so that `Pass` leads to a word; the
//! end of a tier that denies is a rule that always holds.

use bytemuck::{Pod, Zeroable};

use crate::address::{PrefixTree, interval4, interval6};
use crate::branchless::{in_turn, lowest};
use crate::line::{DOUBLES, Line, Lines};
use crate::policy::Cell;

/// Lines of bits that a row may have.
pub const MAX_WIDTH: u32 = 256;
/// Tiers that a direction may have, the profiles being one: each begins at a word. Each may be left by a `Pass`, which takes
/// a round of its own.
pub const MAX_TIERS: u32 = MAX_WIDTH * DOUBLES;
/// Rules in a line of bits.
pub const RULES_PER_LINE: u32 = 64 * DOUBLES;
/// Rows that no look-up gives: the tables are broken.
pub const NO_ROWS: u64 = u64::MAX;

/// Set in what [`step`] returns when the verdict is in the low half.
pub const DECIDED: u64 = 1 << 33;
/// Set when a `Log` rule matched on the way.
const LOGGED_SHIFT: u32 = 32;

/// One direction of one policy set.
///
/// A tree is the line of a [`PrefixTree`] that gives rows; 0 stands for an axis with the single row 0. Rows are
/// arrays of `width` line numbers (`u32`): each leads to 512 bits, 0 to none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FallBack {
    pub remote4: u32,
    pub remote6: u32,
    /// Array of rows.
    pub remote_rows: u32,
    pub local4: u32,
    pub local6: u32,
    pub local_rows: u32,
    /// Tree like those of IPv4 over `protocol << 16 | value`.
    pub ports: u32,
    pub port_rows: u32,
    /// Tree like those of IPv4 over `protocol << 16 | source port`.
    pub sources: u32,
    pub source_rows: u32,
    /// `width` lines of bits, one after the other: which rules only log.
    pub logs: u32,
    /// Array by rule of what it decides, see [`outcome`].
    pub outcomes: u32,
    /// Lines of bits in a row.
    pub width: u32,
    pub reserved: [u32; 3],
}
crate::line_type!(FallBack);

/// What rules decide.
pub mod outcome {
    /// Goes on at the word in the other bits. Without it, the outcome is a [`crate::policy::Cell`].
    pub const PASS: u32 = 1 << 29;
}

/// Packs what the port axes are asked. `value` is the destination port, or ICMP `type << 8 | code`.
#[inline(always)]
pub fn ports(protocol: u8, value: u16, source_port: u16) -> u64 {
    let protocol = u64::from(protocol) << 16;
    (protocol | u64::from(source_port)) << 32 | protocol | u64::from(value)
}

/// Returns the rows of two IPv4 addresses in the set that `cell` leads to, the remote one's in the low half.
#[inline(always)]
pub fn address_rows4<L: Lines + ?Sized>(lines: &L, cell: Cell, remote: u32, local: u32) -> u64 {
    let Some(set) = set_of(lines, cell) else {
        return NO_ROWS;
    };
    let remote = row4(lines, set.remote4, remote);
    pack(remote, row4(lines, set.local4, local))
}

/// As [`address_rows4`], for IPv6.
#[inline(always)]
pub fn address_rows6<L: Lines + ?Sized>(lines: &L, cell: Cell, remote: [u64; 2], local: [u64; 2]) -> u64 {
    let Some(set) = set_of(lines, cell) else {
        return NO_ROWS;
    };
    let remote = row6(lines, set.remote6, remote);
    pack(remote, row6(lines, set.local6, local))
}

/// Returns the rows of [`ports`], that of the destination port in the low half. `row` looks up as [`row4`] does.
#[inline(always)]
pub fn port_rows<L: Lines + ?Sized>(lines: &L, cell: Cell, ports: u64, row: impl Fn(u32, u32) -> u64) -> u64 {
    let Some(set) = set_of(lines, cell) else {
        return NO_ROWS;
    };
    let port = row(set.ports, ports as u32);
    pack(port, row(set.sources, (ports >> 32) as u32))
}

/// Asks `step` for line after line. `step` gets what it returned last, 0 at first.
#[inline(always)]
pub fn walk(mut step: impl FnMut(u64) -> u64) -> Cell {
    let mut state = 0;
    for _ in 0..MAX_WIDTH + MAX_TIERS {
        state = step(state);
        if state & DECIDED != 0 {
            let logged = (state >> LOGGED_SHIFT) as u32 & 1;
            return Cell(state as u32 | (logged * Cell::new(false, true, 0).0));
        }
    }
    Cell::DENY
}

/// Looks at the rules of one line, from the word in the low half of `state` on.
#[inline(always)]
pub fn step<L: Lines + ?Sized>(lines: &L, cell: Cell, address_rows: u64, port_rows: u64, state: u64) -> u64 {
    match checked_step(lines, cell, address_rows, port_rows, state) {
        Some(state) => state,
        None => DECIDED | u64::from(Cell::DENY.0),
    }
}

#[inline(always)]
fn checked_step<L: Lines + ?Sized>(
    lines: &L,
    cell: Cell,
    address_rows: u64,
    port_rows: u64,
    state: u64,
) -> Option<u64> {
    let set = set_of(lines, cell)?;
    let mut word = state as u32;
    let mut logged = state >> LOGGED_SHIFT & 1;
    let line = word / DOUBLES;
    if line >= set.width {
        return None;
    }
    let bits = |rows: u32, row: u32| lines.word_at(rows, row.wrapping_mul(set.width).wrapping_add(line));
    let remote = bits(set.remote_rows, address_rows as u32)?;
    let local = bits(set.local_rows, (address_rows >> 32) as u32)?;
    let port = bits(set.port_rows, port_rows as u32)?;
    let source = bits(set.source_rows, (port_rows >> 32) as u32)?;
    let next_line = (line + 1) * DOUBLES;
    if remote == 0 || local == 0 || port == 0 || source == 0 {
        return Some(logged << LOGGED_SHIFT | u64::from(next_line));
    }
    let (remote, local) = (lines.line(remote)?, lines.line(local)?);
    let (port, source) = (lines.line(port)?, lines.line(source)?);
    let logs = lines.line(set.logs.wrapping_add(line))?;
    let mut deciding = 0;
    for _ in 0..DOUBLES {
        let hold = remote.double(word) & local.double(word) & port.double(word) & source.double(word);
        let only_log = logs.double(word);
        deciding = hold & !only_log;
        // What holds in front of the deciding rule; everything without one.
        let before = deciding ^ deciding.wrapping_sub(1);
        logged |= u64::from(hold & only_log & before != 0);
        if deciding != 0 {
            break;
        }
        word += 1;
        if word / DOUBLES != line {
            break;
        }
    }
    let logged = logged << LOGGED_SHIFT;
    if deciding == 0 {
        return Some(logged | u64::from(word));
    }
    // One look-up behind the loop: inside it, all that lives across it would need stack.
    let rule = word.wrapping_mul(64).wrapping_add(lowest(deciding));
    let outcome = lines.word_at(set.outcomes, rule)?;
    if outcome & outcome::PASS == 0 {
        return Some(DECIDED | logged | u64::from(outcome));
    }
    Some(logged | u64::from(outcome & !outcome::PASS))
}

#[inline(always)]
fn set_of<L: Lines + ?Sized>(lines: &L, cell: Cell) -> Option<&FallBack> {
    Some(lines.line(cell.fall_back_line()?)?.read_as())
}

/// Returns the row of a key in a tree like those of IPv4, or [`NO_ROWS`].
#[inline(always)]
pub fn row4<L: Lines + ?Sized>(lines: &L, tree: u32, key: u32) -> u64 {
    if tree == 0 {
        return 0;
    }
    match checked_row4(lines, tree, key) {
        Some(row) => u64::from(row),
        None => NO_ROWS,
    }
}

#[inline(always)]
fn checked_row4<L: Lines + ?Sized>(lines: &L, tree: u32, key: u32) -> Option<u32> {
    let tree: &PrefixTree = lines.line(tree)?.read_as();
    if key == u32::MAX {
        return Some(tree.last);
    }
    lines.word_at(
        tree.classes,
        interval4(lines, tree, key, |count| in_turn(count.into()) as u32)?,
    )
}

#[inline(always)]
fn row6<L: Lines + ?Sized>(lines: &L, tree: u32, key: [u64; 2]) -> u64 {
    if tree == 0 {
        return 0;
    }
    match checked_row6(lines, tree, key) {
        Some(row) => u64::from(row),
        None => NO_ROWS,
    }
}

#[inline(always)]
fn checked_row6<L: Lines + ?Sized>(lines: &L, tree: u32, key: [u64; 2]) -> Option<u32> {
    let tree: &PrefixTree = lines.line(tree)?.read_as();
    if key[0] == u64::MAX && key[1] == u64::MAX {
        return Some(tree.last);
    }
    lines.word_at(tree.classes, interval6(lines, tree, key)?)
}

#[inline(always)]
fn pack(low: u64, high: u64) -> u64 {
    if low == NO_ROWS || high == NO_ROWS {
        NO_ROWS
    } else {
        high << 32 | low
    }
}

/// Judges in one go, for the agent. `address_rows` are of [`address_rows4`] or [`address_rows6`], `ports` of [`ports`].
pub fn verdict<L: Lines + ?Sized>(lines: &L, cell: Cell, address_rows: u64, ports: u64) -> Cell {
    let port_rows = port_rows(lines, cell, ports, |tree, key| row4(lines, tree, key));
    if address_rows == NO_ROWS || port_rows == NO_ROWS {
        return Cell::DENY;
    }
    walk(|state| step(lines, cell, address_rows, port_rows, state))
}

/// A line of bits.
pub type Bits = [u64; DOUBLES as usize];

/// Returns a line with these bits.
pub fn line_of_bits(bits: Bits) -> Line {
    Line {
        words: bytemuck::cast(bits),
    }
}
