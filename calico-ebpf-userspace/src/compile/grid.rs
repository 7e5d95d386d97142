//! A table of four axes whose equal rows are merged.

use std::collections::HashMap;

/// Numbers by four indices, the last one running fastest: local, remote, column, source.
pub(super) struct Grid {
    pub(super) sizes: [usize; 4],
    pub(super) cells: Vec<u32>,
}

impl Grid {
    /// Lays out blocks of (local, column, source) by their number on the remote axis.
    pub(super) fn from_blocks(
        blocks: &HashMap<Vec<u32>, usize>,
        [local, columns, sources]: [usize; 3],
    ) -> Self {
        let sizes = [local, blocks.len(), columns, sources];
        let width = columns * sources;
        let mut cells = vec![0; local * blocks.len() * width];
        for (block, remote) in blocks {
            for (row, part) in block.chunks(width.max(1)).enumerate() {
                cells[(row * blocks.len() + remote) * width..][..width].copy_from_slice(part);
            }
        }
        Self { sizes, cells }
    }

    /// Merges equal slices across `axis`; returns the new index of each old one.
    pub(super) fn merge(&mut self, axis: usize) -> Vec<u16> {
        let count = self.sizes[axis];
        let outer: usize = self.sizes[..axis].iter().product();
        let inner: usize = self.sizes[axis + 1..].iter().product();
        let mut known: HashMap<Vec<u32>, u16> = HashMap::new();
        let mut firsts = Vec::new();
        let mut merged = Vec::with_capacity(count);
        for index in 0..count {
            let mut slice = Vec::with_capacity(outer * inner);
            for block in 0..outer {
                slice.extend_from_slice(&self.cells[(block * count + index) * inner..][..inner]);
            }
            // No axis is longer than its classes, whose numbers are of 16 bits.
            let next = u16::try_from(firsts.len()).unwrap_or(u16::MAX);
            merged.push(*known.entry(slice).or_insert_with(|| {
                firsts.push(index);
                next
            }));
        }
        let mut cells = Vec::with_capacity(outer * firsts.len() * inner);
        for block in 0..outer {
            for first in &firsts {
                cells.extend_from_slice(&self.cells[(block * count + first) * inner..][..inner]);
            }
        }
        self.sizes[axis] = firsts.len();
        self.cells = cells;
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_slices_of_each_axis_become_one() {
        let blocks = HashMap::from([(vec![1, 1, 2, 1, 1, 2], 0), (vec![3, 3, 2, 3, 3, 2], 1)]);
        let mut grid = Grid::from_blocks(&blocks, [2, 3, 1]);
        assert_eq!(grid.cells, [1, 1, 2, 3, 3, 2, 1, 1, 2, 3, 3, 2]);
        assert_eq!(grid.merge(0), [0, 0]);
        assert_eq!(grid.merge(1), [0, 1]);
        assert_eq!(grid.merge(2), [0, 0, 1]);
        assert_eq!(grid.merge(3), [0]);
        assert_eq!(grid.sizes, [1, 2, 2, 1]);
        assert_eq!(grid.cells, [1, 2, 3, 2]);
    }
}
