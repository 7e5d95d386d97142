//! Lines of one version of the table as they are put together.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use calico_ebpf_common::line::{HALVES, Line, LineType, WORDS};

/// Appends lines and gives out their numbers in the whole table.
///
/// Beyond the room there is, lines are counted but not kept.
pub(super) struct LineWriter {
    lines: Vec<Line>,
    base: u32,
    room: u64,
    count: u64,
    /// Arrays by hash of their content: first line and number of lines.
    arrays: HashMap<u64, Vec<(usize, usize)>>,
}

impl LineWriter {
    /// Starts at line `base` with room for `room` lines.
    pub(super) fn new(base: u32, room: u32) -> Self {
        Self {
            lines: Vec::new(),
            base,
            room: u64::from(room),
            count: 0,
            arrays: HashMap::new(),
        }
    }

    /// Returns how many lines there are, including those without room.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the lines.
    pub(super) fn into_lines(self) -> Vec<Line> {
        self.lines
    }

    /// Appends lines; returns the number of the first.
    pub(super) fn push(&mut self, lines: &[Line]) -> u32 {
        let first = u64::from(self.base) + self.count;
        self.count += lines.len() as u64;
        if self.count <= self.room {
            self.lines.extend_from_slice(lines);
        }
        u32::try_from(first).unwrap_or(u32::MAX)
    }

    /// Appends one line.
    pub(super) fn push_one<T: LineType>(&mut self, value: &T) -> u32 {
        self.push(&[line_of(value)])
    }

    /// Writes one line that was appended before, by its number.
    pub(super) fn set<T: LineType>(&mut self, number: u32, value: &T) {
        let index = (number - self.base) as usize;
        if let Some(line) = self.lines.get_mut(index) {
            *line = line_of(value);
        }
    }

    /// Appends an array of 16-bit numbers, or finds an equal one.
    pub(super) fn halves(&mut self, values: &[u16]) -> u32 {
        let lines: Vec<Line> = values.chunks(HALVES as usize).map(half_line).collect();
        self.array(&lines)
    }

    /// Appends an array of 32-bit numbers, or finds an equal one.
    pub(super) fn words(&mut self, values: &[u32]) -> u32 {
        let lines: Vec<Line> = values.chunks(WORDS as usize).map(word_line).collect();
        self.array(&lines)
    }

    /// Appends an array of 16-bit numbers that will be written to.
    pub(super) fn own_halves(&mut self, values: &[u16]) -> u32 {
        let lines: Vec<Line> = values.chunks(HALVES as usize).map(half_line).collect();
        self.push(&lines)
    }

    /// Appends an array of 32-bit numbers that will be written to.
    pub(super) fn own_words(&mut self, values: &[u32]) -> u32 {
        let lines: Vec<Line> = values.chunks(WORDS as usize).map(word_line).collect();
        self.push(&lines)
    }

    fn array(&mut self, lines: &[Line]) -> u32 {
        let mut hasher = DefaultHasher::new();
        for line in lines {
            line.words.hash(&mut hasher);
        }
        let same = self.arrays.entry(hasher.finish()).or_default();
        for (first, count) in same.iter() {
            if self.lines.get(*first..*first + *count) == Some(lines) {
                return u32::try_from(u64::from(self.base) + *first as u64).unwrap_or(u32::MAX);
            }
        }
        if self.count + lines.len() as u64 <= self.room {
            same.push((self.lines.len(), lines.len()));
        }
        self.push(lines)
    }
}

/// Returns a line with the value's bytes.
pub(super) fn line_of<T: LineType>(value: &T) -> Line {
    bytemuck::cast(*value)
}

/// Returns a line of up to 16 numbers, filled up with zero.
pub(super) fn word_line(values: &[u32]) -> Line {
    let mut line = Line::default();
    line.words[..values.len()].copy_from_slice(values);
    line
}

/// Returns a line of up to 32 numbers, filled up with zero.
fn half_line(values: &[u16]) -> Line {
    let mut halves = [0_u16; HALVES as usize];
    halves[..values.len()].copy_from_slice(values);
    Line {
        words: bytemuck::cast(halves),
    }
}

#[cfg(test)]
mod tests {
    use calico_ebpf_common::line::Lines;

    use super::*;

    #[test]
    fn equal_arrays_are_written_once() {
        let mut writer = LineWriter::new(100, 10);
        let first = writer.halves(&[1; 40]);
        let words = writer.words(&[7, 8]);
        assert_eq!(writer.halves(&[1; 40]), first);
        assert_eq!((first, words, writer.count()), (100, 102, 3));
        let lines = writer.into_lines();
        assert_eq!(lines.half_at(0, 39), Some(1));
        assert_eq!(lines.half_at(0, 40), Some(0));
        assert_eq!(lines.word_at(2, 1), Some(8));
    }

    #[test]
    fn lines_without_room_are_counted_only() {
        let mut writer = LineWriter::new(0, 1);
        writer.halves(&[1]);
        writer.words(&[2; 33]);
        writer.words(&[2; 33]);
        assert_eq!(writer.count(), 7);
        assert_eq!(writer.into_lines().len(), 1);
    }
}
