//! Intervals between prefix borders as a static search tree.

use calico_ebpf_common::address::{Class, FANOUT4, FANOUT6, MAX_LEVELS, PrefixTree, Starts6};
use calico_ebpf_common::line::Line;

use super::exact::words;
use super::writer::{LineWriter, line_of};

/// More intervals than a tree can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{intervals} intervals between prefixes do not fit into a search tree")]
pub struct TooManyIntervals {
    pub intervals: usize,
}

/// Writes the tree of IPv4; returns the number of its [`PrefixTree`] line.
pub(super) fn write_tree4(
    writer: &mut LineWriter,
    intervals: &[(u32, Class)],
) -> Result<u32, TooManyIntervals> {
    let start = |first: u32| mutated!(PrefixBoundary, first, first + u32::from(first > 0));
    let starts: Vec<u32> = intervals.iter().map(|interval| start(interval.0)).collect();
    let classes: Vec<Class> = intervals.iter().map(|interval| interval.1).collect();
    write_tree(writer, levels4(&starts), intervals.len(), 0, |writer| {
        writer.halves(&classes)
    })
}

/// As [`write_tree4`], for IPv6.
pub(super) fn write_tree6(
    writer: &mut LineWriter,
    intervals: &[(u128, Class)],
) -> Result<u32, TooManyIntervals> {
    let starts: Vec<[u64; 2]> = intervals.iter().map(|interval| words(interval.0)).collect();
    let classes: Vec<Class> = intervals.iter().map(|interval| interval.1).collect();
    write_tree(writer, levels6(&starts), intervals.len(), 0, |writer| {
        writer.halves(&classes)
    })
}

/// Writes a tree that gives rows (see `calico_ebpf_common::fall_back`); 0 without a cut. One that is too large to be
/// searched leads nowhere, which denies.
pub(super) fn write_rows4(writer: &mut LineWriter, cuts: &[(u32, u32)]) -> u32 {
    let starts: Vec<u32> = cuts.iter().map(|cut| cut.0).collect();
    let rows: Vec<u32> = cuts.iter().map(|cut| cut.1).collect();
    write_rows(writer, levels4(&starts), &rows)
}

/// As [`write_rows4`], for IPv6.
pub(super) fn write_rows6(writer: &mut LineWriter, cuts: &[([u64; 2], u32)]) -> u32 {
    let starts: Vec<[u64; 2]> = cuts.iter().map(|cut| cut.0).collect();
    let rows: Vec<u32> = cuts.iter().map(|cut| cut.1).collect();
    write_rows(writer, levels6(&starts), &rows)
}

fn write_rows(writer: &mut LineWriter, levels: Vec<Vec<Line>>, rows: &[u32]) -> u32 {
    let Some(last) = rows.last() else { return 0 };
    let tree = write_tree(writer, levels, rows.len(), *last, |writer| writer.words(rows));
    tree.unwrap_or(u32::MAX)
}

fn levels4(starts: &[u32]) -> Vec<Vec<Line>> {
    levels(starts, FANOUT4 as usize, |keys| {
        let mut line = Line {
            words: [u32::MAX; 16],
        };
        line.words[..keys.len()].copy_from_slice(keys);
        line
    })
}

fn levels6(starts: &[[u64; 2]]) -> Vec<Vec<Line>> {
    levels(starts, FANOUT6 as usize, |keys| {
        let mut line = Starts6 {
            keys: [[u64::MAX; 2]; 4],
        };
        line.keys[..keys.len()].copy_from_slice(keys);
        line_of(&line)
    })
}

/// Returns the lines of each level, the root's first.
fn levels<T: Copy>(starts: &[T], fanout: usize, line: impl Fn(&[T]) -> Line) -> Vec<Vec<Line>> {
    let mut levels = vec![starts.chunks(fanout).map(&line).collect::<Vec<_>>()];
    let mut firsts: Vec<T> = starts.chunks(fanout).map(|chunk| chunk[0]).collect();
    while firsts.len() > 1 {
        levels.push(
            firsts
                .chunks(fanout + 1)
                .map(|children| line(&children[1..]))
                .collect(),
        );
        firsts = firsts.chunks(fanout + 1).map(|children| children[0]).collect();
    }
    levels.reverse();
    levels
}

fn write_tree(
    writer: &mut LineWriter,
    levels: Vec<Vec<Line>>,
    intervals: usize,
    last: u32,
    values: impl FnOnce(&mut LineWriter) -> u32,
) -> Result<u32, TooManyIntervals> {
    if levels.len() > MAX_LEVELS {
        return Err(TooManyIntervals { intervals });
    }
    let mut tree = PrefixTree {
        levels: u32::try_from(levels.len()).unwrap_or(u32::MAX),
        intervals: u32::try_from(intervals).unwrap_or(u32::MAX),
        last,
        ..PrefixTree::default()
    };
    let number = writer.push_one(&tree);
    for (first, lines) in tree.level_lines.iter_mut().zip(levels) {
        *first = writer.push(&lines);
    }
    tree.classes = values(writer);
    writer.set(number, &tree);
    Ok(number)
}

#[cfg(test)]
mod tests {
    use calico_ebpf_common::address::{prefix_class4, prefix_class6};

    use super::*;

    fn class(index: usize) -> Class {
        Class::try_from(index % 65_000).unwrap() + 1
    }

    #[test]
    fn trees_of_all_sizes_find_each_side_of_each_border() {
        for count in [1, 2, 15, 16, 17, 18, 272, 273, 4_624, 4_625, 20_000] {
            let step = u32::MAX / u32::try_from(count).unwrap();
            let intervals: Vec<(u32, Class)> = (0..count)
                .map(|index| (u32::try_from(index).unwrap() * step, class(index)))
                .collect();
            let mut writer = LineWriter::new(0, u32::MAX);
            let tree = write_tree4(&mut writer, &intervals).unwrap();
            let lines = writer.into_lines();
            for (index, (start, class)) in intervals.iter().enumerate() {
                assert_eq!(
                    prefix_class4(&lines[..], tree, *start),
                    Some(*class),
                    "{count} intervals"
                );
                if index > 0 {
                    assert_eq!(
                        prefix_class4(&lines[..], tree, start - 1),
                        Some(intervals[index - 1].1)
                    );
                }
            }
            assert_eq!(
                prefix_class4(&lines[..], tree, u32::MAX),
                Some(intervals[count - 1].1)
            );
        }
    }

    #[test]
    fn trees_of_all_sizes_find_each_side_of_each_border_in_ipv6() {
        for count in [1, 2, 3, 4, 5, 20, 21, 100, 101, 3_000] {
            let step = u128::MAX / count as u128;
            let intervals: Vec<(u128, Class)> = (0..count)
                .map(|index| (index as u128 * step, class(index)))
                .collect();
            let mut writer = LineWriter::new(0, u32::MAX);
            let tree = write_tree6(&mut writer, &intervals).unwrap();
            let lines = writer.into_lines();
            for (index, (start, class)) in intervals.iter().enumerate() {
                assert_eq!(
                    prefix_class6(&lines[..], tree, words(*start)),
                    Some(*class),
                    "{count} intervals"
                );
                if index > 0 {
                    let before = prefix_class6(&lines[..], tree, words(start - 1));
                    assert_eq!(before, Some(intervals[index - 1].1));
                }
            }
            assert_eq!(
                prefix_class6(&lines[..], tree, [u64::MAX; 2]),
                Some(intervals[count - 1].1)
            );
        }
    }
}
