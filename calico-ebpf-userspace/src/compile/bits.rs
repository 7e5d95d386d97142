//! Sets of small numbers as bits.

/// A set of numbers below a fixed bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bits {
    words: Vec<u64>,
    bound: usize,
}

impl Bits {
    /// Makes the empty set of numbers below `bound`.
    pub(super) fn none(bound: usize) -> Self {
        Self {
            words: vec![0; bound.div_ceil(64)],
            bound,
        }
    }

    /// Makes the set of all numbers below `bound`.
    pub(super) fn all(bound: usize) -> Self {
        let mut bits = Self {
            words: vec![u64::MAX; bound.div_ceil(64)],
            bound,
        };
        bits.trim();
        bits
    }

    pub(super) fn insert(&mut self, number: usize) {
        self.words[number / 64] |= 1 << (number % 64);
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        self.words[number / 64] >> (number % 64) & 1 == 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(super) fn clear(&mut self) {
        self.words.fill(0);
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.words.copy_from_slice(&other.words);
    }

    /// Adds the numbers of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a | b);
    }

    /// Keeps the numbers that are in `other`, too.
    pub(super) fn keep(&mut self, other: &Self) {
        self.combine(other, |a, b| a & b);
    }

    /// Takes the numbers of `other` out.
    pub(super) fn remove(&mut self, other: &Self) {
        self.combine(other, |a, b| a & !b);
    }

    /// Turns the set into its complement below the bound.
    pub(super) fn invert(&mut self) {
        for word in &mut self.words {
            *word = !*word;
        }
        self.trim();
    }

    /// Calls `visit` with each number, ascending.
    pub(super) fn for_each(&self, mut visit: impl FnMut(usize)) {
        for (index, word) in self.words.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                visit(index * 64 + rest.trailing_zeros() as usize);
                rest &= rest - 1;
            }
        }
    }

    fn combine(&mut self, other: &Self, operation: impl Fn(u64, u64) -> u64) {
        debug_assert_eq!(self.bound, other.bound);
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word = operation(*word, *other);
        }
    }

    fn trim(&mut self) {
        if !self.bound.is_multiple_of(64)
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << (self.bound % 64)) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_stay_below_the_bound() {
        let mut bits = Bits::all(70);
        let mut numbers = Vec::new();
        bits.for_each(|number| numbers.push(number));
        assert_eq!(numbers, (0..70).collect::<Vec<_>>());
        bits.invert();
        assert!(bits.is_empty());
        bits.insert(69);
        let mut other = Bits::none(70);
        other.insert(69);
        other.insert(3);
        bits.add(&other);
        assert!(bits.contains(3));
        bits.keep(&other);
        bits.remove(&other);
        assert!(bits.is_empty());
    }
}
