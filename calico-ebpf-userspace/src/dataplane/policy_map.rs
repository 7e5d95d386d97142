//! The policy table in the kernel: two versions side by side, and the number that says which one counts.
//!
//! A packet reads the number once and uses that version to the end, so a version is written where no packet looks,
//! then the number is switched. The half that was left may be overwritten when every packet that could have read
//! the old number has gone: after an RCU grace period. Single numbers of the version in force are overwritten where
//! `compile::amend` says that a packet finds everything either before or after.

use std::io;

use aya::maps::MapData;
use calico_ebpf_common::line::Line;

use super::bpf_syscall::{MappedArray, wait_for_grace_period};
use crate::compile::amend::{Number, Write};

/// The first half begins here: line 0 means "none", and a page boundary keeps the halves apart.
const FIRST_LINE: u32 = 64;

/// The mapped policy table.
#[derive(Debug)]
pub struct PolicyMap {
    lines: MappedArray<Line>,
    active: MappedArray<u64>,
    halves: Halves,
    /// Which half is in force, `None` before the first version.
    current: Option<usize>,
}

/// Why a version could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PolicyMapError {
    #[error("cannot map the policy table into memory")]
    Map(#[source] io::Error),
    #[error("the policy table has {lines} lines, it needs at least {needed}")]
    TooSmall { lines: u32, needed: u32 },
    #[error("version of {lines} lines does not fit into {room}")]
    NoRoom { lines: usize, room: u32 },
    #[error("cannot write the policy table")]
    Write(#[source] io::Error),
}

impl PolicyMap {
    /// Maps the array of `size` lines and the array of the active root, both new.
    ///
    /// # Errors
    /// When the maps are too small or cannot be mapped.
    pub fn map(policy: &MapData, active: &MapData, size: u32) -> Result<Self, PolicyMapError> {
        let halves = Halves::of(size)?;
        Ok(Self {
            lines: MappedArray::map(policy.fd(), size).map_err(PolicyMapError::Map)?,
            active: MappedArray::map(active.fd(), 1).map_err(PolicyMapError::Map)?,
            halves,
            current: None,
        })
    }

    /// Returns the line number at which the next version must stand.
    pub fn base_line(&self) -> u32 {
        self.halves.first_line(self.next_half())
    }

    /// Returns the number of lines that a version may have.
    pub fn max_lines(&self) -> u32 {
        self.halves.lines
    }

    /// Puts a version in force: writes `lines` at [`Self::base_line`], makes `root` the active root, and returns when
    /// no packet uses the version before any more.
    ///
    /// # Errors
    /// When the version does not fit; the version before stays in force.
    pub fn put_in_force(&mut self, lines: &[Line], root: u32) -> Result<(), PolicyMapError> {
        let limit = self.halves.lines;
        if lines.len() > limit as usize {
            return Err(PolicyMapError::NoRoom {
                lines: lines.len(),
                room: limit,
            });
        }
        self.lines
            .write(self.base_line() as usize, lines)
            .map_err(PolicyMapError::Write)?;
        self.active
            .store_release(0, u64::from(root))
            .map_err(PolicyMapError::Write)?;
        self.current = Some(self.next_half());
        wait_for_grace_period();
        Ok(())
    }

    /// Overwrites numbers of the version in force, one after the other: whoever sees one sees all before it.
    ///
    /// # Errors
    /// When a number lies outside of the table; those before it are written.
    pub fn overwrite<'a>(&self, writes: impl IntoIterator<Item = &'a Write>) -> Result<(), PolicyMapError> {
        for write in writes {
            let line = write.line as usize;
            let written = match write.value {
                Number::Half(value) => self.lines.store_half_release(line, write.index, value),
                Number::Word(value) => self.lines.store_word_release(line, write.index, value),
            };
            written.map_err(PolicyMapError::Write)?;
        }
        Ok(())
    }

    fn next_half(&self) -> usize {
        self.current.map_or(0, |half| 1 - half)
    }
}

/// Where the two versions stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halves {
    /// Lines of one half.
    lines: u32,
}

impl Halves {
    fn of(lines: u32) -> Result<Self, PolicyMapError> {
        let needed = FIRST_LINE * 3;
        if lines < needed {
            return Err(PolicyMapError::TooSmall { lines, needed });
        }
        Ok(Self {
            lines: (lines - FIRST_LINE) / 2 / FIRST_LINE * FIRST_LINE,
        })
    }

    fn first_line(self, half: usize) -> u32 {
        if half == 0 {
            FIRST_LINE
        } else {
            FIRST_LINE + self.lines
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_leave_line_zero_alone_and_do_not_overlap() {
        for lines in [192, 193, 4096, 524_288, 524_289] {
            let halves = Halves::of(lines).unwrap();
            assert!(halves.first_line(0) > 0);
            assert_eq!(halves.first_line(1), halves.first_line(0) + halves.lines);
            assert!(halves.first_line(1) + halves.lines <= lines);
            assert!(halves.lines >= (lines / 2).saturating_sub(128));
        }
    }

    #[test]
    fn table_without_room_for_two_versions_is_refused() {
        assert!(matches!(
            Halves::of(191),
            Err(PolicyMapError::TooSmall {
                lines: 191,
                needed: 192
            })
        ));
    }
}
