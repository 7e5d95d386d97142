//! One axis: from border to border, which parts hold.
//!
//! Each part has a counter of tests that do not hold. The counters of 64 parts are kept as bits of words ("slices"), so
//! that one predicate that comes to hold counts for all of them at a time. Work grows with what changes at a border.

use std::collections::HashMap;

use calico_ebpf_common::fall_back::{Bits, RULES_PER_LINE};
use calico_ebpf_common::line::{DOUBLES, WORDS};

use super::rules::OrderedParts;
use crate::compile::cells::OverBudget;

/// Words of bits that may be counted in for one axis: some seconds.
const MAX_WORK: usize = 1 << 31;
/// Line numbers of rows that may be held: 64 MiB.
const MAX_ROW_WORDS: usize = 1 << 24;
const WORDS_PER_LINE: usize = DOUBLES as usize;

/// Who asks for what on one axis.
pub(super) struct Axis {
    /// By predicate: word and mask of the parts for which it must hold, and for which it must not.
    uses: Vec<[Vec<(usize, u64)>; 2]>,
    /// Bits of the counters while nothing holds, by word; the lowest first.
    counters: Vec<Vec<u64>>,
    /// Bits that stand for parts.
    in_use: Vec<u64>,
}

/// The rows of an axis.
#[derive(Clone, Debug)]
pub(super) struct AxisRows {
    width: usize,
    most_rows: usize,
    /// Line by its bits; from 1, as 0 is the empty one.
    lines: HashMap<Bits, u32>,
    rows: HashMap<Vec<u32>, u32>,
}

/// Where predicates begin and cease to hold.
pub(super) struct Borders {
    last: u128,
    borders: Vec<(u128, i32, u32)>,
}

impl Borders {
    /// Starts without a border on keys from 0 to `last`.
    pub(super) fn new(last: u128) -> Self {
        Self {
            last,
            borders: Vec::new(),
        }
    }

    /// A predicate holds from key to key.
    pub(super) fn add(&mut self, first: u128, last: u128, predicate: u32) {
        self.borders.push((first, 1, predicate));
        if last < self.last {
            self.borders.push((last + 1, -1, predicate));
        }
    }
}

impl Axis {
    /// `axis` is that of the parts' tests.
    pub(super) fn new(ordered: &OrderedParts, axis: usize, predicates: usize) -> Self {
        let words = ordered.width() * WORDS_PER_LINE;
        let mut uses = vec![[Vec::new(), Vec::new()]; predicates];
        let mut in_use = vec![0_u64; words];
        let most = ordered
            .parts
            .iter()
            .flatten()
            .map(|part| part[axis].all.len() + part[axis].none.len());
        let slices = (usize::BITS - most.max().unwrap_or(0).leading_zeros()) as usize;
        let mut counters = vec![vec![0_u64; slices]; words];
        for (bit, part) in ordered.parts.iter().enumerate() {
            let Some(part) = part else { continue };
            let (word, mask) = (bit / 64, 1_u64 << (bit % 64));
            in_use[word] |= mask;
            for (wanted, ids) in [&part[axis].all, &part[axis].none].into_iter().enumerate() {
                for id in ids {
                    let list: &mut Vec<(usize, u64)> = &mut uses[*id as usize][wanted];
                    match list.last_mut() {
                        Some((latest, bits)) if *latest == word => *bits |= mask,
                        _ => list.push((word, mask)),
                    }
                }
            }
            part[axis]
                .all
                .iter()
                .for_each(|_| count_up(&mut counters[word], mask));
        }
        Self {
            uses,
            counters,
            in_use,
        }
    }

    /// Returns whether a test on this axis asks for the predicate.
    pub(super) fn asks_for(&self, predicate: u32) -> bool {
        let [all, none] = &self.uses[predicate as usize];
        !all.is_empty() || !none.is_empty()
    }

    /// Returns the place for the rows, of which at most `most_lines` can be written.
    pub(super) fn rows(&self, most_lines: u32) -> AxisRows {
        let width = self.in_use.len() / WORDS_PER_LINE;
        let most_words = (most_lines as usize)
            .saturating_mul(WORDS as usize)
            .min(MAX_ROW_WORDS);
        AxisRows {
            width,
            most_rows: most_words / width.max(1),
            lines: HashMap::from([([0; WORDS_PER_LINE], 0)]),
            rows: HashMap::new(),
        }
    }

    /// Returns first key and row of each interval, from key 0; neighbours differ. `holding` holds everywhere.
    pub(super) fn cut(
        &self,
        borders: Borders,
        holding: &[u32],
        rows: &mut AxisRows,
    ) -> Result<Vec<(u128, u32)>, OverBudget> {
        let mut borders = borders.borders;
        let work = borders
            .iter()
            .map(|(_, _, id)| self.uses[*id as usize].iter().map(Vec::len).sum::<usize>())
            .fold(0, usize::saturating_add);
        if work > MAX_WORK {
            return Err(OverBudget::new(work, MAX_WORK));
        }
        borders.sort_unstable();
        let mut state = State::new(self);
        for predicate in holding {
            state.turn(*predicate, true);
        }
        let mut open: HashMap<u32, i32> = HashMap::new();
        let mut cuts: Vec<(u128, u32)> = Vec::new();
        if borders.first().is_none_or(|border| border.0 != 0) {
            cuts.push((0, state.row(rows)?));
        }
        for group in borders.chunk_by(|one, other| one.0 == other.0) {
            for (_, step, predicate) in group {
                *open.entry(*predicate).or_default() += step;
            }
            for (_, _, predicate) in group {
                state.turn(*predicate, open[predicate] > 0);
            }
            let row = state.row(rows)?;
            if cuts.last().is_none_or(|(_, last)| *last != row) {
                cuts.push((group[0].0, row));
            }
        }
        Ok(cuts)
    }
}

/// What holds between two borders.
struct State<'a> {
    axis: &'a Axis,
    counters: Vec<Vec<u64>>,
    /// By predicate.
    holds: Vec<bool>,
    /// Lines whose counters were touched since the last row.
    touched: Vec<bool>,
    row: Vec<u32>,
}

impl<'a> State<'a> {
    fn new(axis: &'a Axis) -> Self {
        let width = axis.in_use.len() / WORDS_PER_LINE;
        Self {
            axis,
            counters: axis.counters.clone(),
            holds: vec![false; axis.uses.len()],
            touched: vec![true; width],
            row: vec![0; width],
        }
    }

    /// Notes whether a predicate holds.
    fn turn(&mut self, predicate: u32, holds: bool) {
        if std::mem::replace(&mut self.holds[predicate as usize], holds) == holds {
            return;
        }
        let [all, none] = &self.axis.uses[predicate as usize];
        let (fewer, more) = if holds { (all, none) } else { (none, all) };
        for (word, mask) in fewer {
            count_down(&mut self.counters[*word], *mask);
            self.touched[word / WORDS_PER_LINE] = true;
        }
        for (word, mask) in more {
            count_up(&mut self.counters[*word], *mask);
            self.touched[word / WORDS_PER_LINE] = true;
        }
    }

    /// Returns the number of the row for what holds now.
    fn row(&mut self, rows: &mut AxisRows) -> Result<u32, OverBudget> {
        for (line, touched) in self.touched.iter_mut().enumerate() {
            if !std::mem::take(touched) {
                continue;
            }
            let mut bits = [0; WORDS_PER_LINE];
            for (word, bits) in (line * WORDS_PER_LINE..).zip(&mut bits) {
                let failing = self.counters[word].iter().fold(0, |any, slice| any | slice);
                *bits = self.axis.in_use[word] & !failing;
            }
            let next = u32::try_from(rows.lines.len()).unwrap_or(u32::MAX);
            self.row[line] = *rows.lines.entry(bits).or_insert(next);
        }
        if let Some(row) = rows.rows.get(&self.row) {
            return Ok(*row);
        }
        if rows.rows.len() >= rows.most_rows {
            return Err(OverBudget::new(rows.rows.len() + 1, rows.most_rows));
        }
        let next = u32::try_from(rows.rows.len()).unwrap_or(u32::MAX);
        rows.rows.insert(self.row.clone(), next);
        Ok(next)
    }
}

/// Adds 1 to the counters in `mask`.
fn count_up(slices: &mut [u64], mask: u64) {
    let mut carry = mask;
    for slice in slices {
        (*slice, carry) = (*slice ^ carry, *slice & carry);
    }
}

/// Takes 1 from the counters in `mask`.
fn count_down(slices: &mut [u64], mask: u64) {
    let mut borrow = mask;
    for slice in slices {
        (*slice, borrow) = (*slice ^ borrow, !*slice & borrow);
    }
}

impl AxisRows {
    /// Returns how many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns how many lines of the table they take.
    pub(super) fn lines_to_write(&self) -> usize {
        self.lines.len() + self.rows.len() * self.width / WORDS as usize
    }

    /// Returns the bits of each line, and of each row its lines.
    pub(super) fn laid_out(&self) -> (Vec<Bits>, Vec<u32>) {
        let mut lines = vec![[0; WORDS_PER_LINE]; self.lines.len()];
        for (bits, line) in &self.lines {
            lines[*line as usize] = *bits;
        }
        let mut rows = vec![0; self.rows.len() * self.width];
        for (row, number) in &self.rows {
            rows[*number as usize * self.width..][..self.width].copy_from_slice(row);
        }
        (lines, rows)
    }
}

const _: () = assert!(RULES_PER_LINE as usize == WORDS_PER_LINE * 64);
