//! The unit of the policy table: one cache line.

use bytemuck::{Pod, Zeroable};

/// Bytes in a line.
pub const LINE_BYTES: usize = 64;
/// 16-bit numbers in a line.
pub const HALVES: u32 = 32;
/// 32-bit numbers in a line.
pub const WORDS: u32 = 16;
/// 64-bit numbers in a line.
pub const DOUBLES: u32 = 8;

/// One 64-byte line of the policy table, in the host's byte order.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Line {
    pub words: [u32; 16],
}
crate::shared_type!(Line, LINE_BYTES);

impl Line {
    /// Returns the 16-bit number at `index` modulo 32.
    #[inline(always)]
    pub fn half(&self, index: u32) -> u16 {
        let first = core::ptr::from_ref(self).cast::<u16>();
        // SAFETY: the mask keeps the index inside the line's 32 halves; the line is aligned for `u16`.
        unsafe { *first.add((index & (HALVES - 1)) as usize) }
    }

    /// Returns the 32-bit number at `index` modulo 16.
    #[inline(always)]
    pub fn word(&self, index: u32) -> u32 {
        let first = core::ptr::from_ref(self).cast::<u32>();
        // SAFETY: the mask keeps the index inside the line's 16 words.
        unsafe { *first.add((index & (WORDS - 1)) as usize) }
    }

    /// Returns the 64-bit number at `index` modulo 8.
    #[inline(always)]
    pub fn double(&self, index: u32) -> u64 {
        let first = core::ptr::from_ref(self).cast::<u64>();
        // SAFETY: the mask keeps the index inside the line's 8 doubles; the line is aligned for `u64`.
        unsafe { *first.add((index & (DOUBLES - 1)) as usize) }
    }

    /// Returns the line read as another 64-byte type.
    #[inline(always)]
    pub fn read_as<T: LineType>(&self) -> &T {
        // SAFETY: `LineType` is a promise that `T` is 64 bytes of plain data with alignment of 64 or less.
        unsafe { &*core::ptr::from_ref(self).cast::<T>() }
    }
}

/// A type that fills one line exactly.
///
/// # Safety
/// The type is 64 bytes, accepts every bit pattern and needs no more than 64-byte alignment.
pub unsafe trait LineType: Pod {}

/// Where lines are read from: the map in the kernel, a slice in the agent.
pub trait Lines {
    /// Returns the line at `index`, or `None` beyond the end.
    fn line(&self, index: u32) -> Option<&Line>;

    /// Returns the 16-bit number at `index` of the array that begins at line `first`.
    #[inline(always)]
    fn half_at(&self, first: u32, index: u32) -> Option<u16> {
        Some(self.line(first.wrapping_add(index / HALVES))?.half(index))
    }

    /// Returns the 32-bit number at `index` of the array that begins at line `first`.
    #[inline(always)]
    fn word_at(&self, first: u32, index: u32) -> Option<u32> {
        Some(self.line(first.wrapping_add(index / WORDS))?.word(index))
    }
}

impl Lines for [Line] {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        self.get(index as usize)
    }
}

/// Declares that `$t` fills a line.
#[macro_export]
macro_rules! line_type {
    ($t:ty) => {
        $crate::shared_type!($t, $crate::line::LINE_BYTES);
        // SAFETY: the size is asserted above, `Pod` accepts every bit pattern.
        unsafe impl $crate::line::LineType for $t {}
    };
}
