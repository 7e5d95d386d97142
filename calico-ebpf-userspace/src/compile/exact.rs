//! Single addresses in buckets: each address has two, and others move aside for it.

use calico_ebpf_common::address::{Bucket4, Bucket6, Class, hashes4, hashes6};
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::line::Line;

use super::writer::line_of;

/// Buckets beyond which a hash has no more bits.
const MAX_BUCKETS: usize = 1 << 24;
const KEYS4: usize = 8;
const KEYS6: usize = 3;
/// Moves after which a table counts as too full.
const MAX_MOVES: usize = 500;
const MAX_ATTEMPTS: u32 = 64;

/// An address with what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exact<A> {
    pub(super) address: A,
    pub(super) class: Class,
    pub(super) slot: Slot,
}

/// Both exact tables; each has a power of two of lines, at least one.
pub(super) struct ExactTables {
    pub(super) seed: u64,
    pub(super) v4: Vec<Line>,
    pub(super) v6: Vec<Line>,
}

/// No seed lets all addresses find a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no arrangement of {addresses} addresses found")]
pub struct NoArrangement {
    pub addresses: usize,
}

/// Arranges the addresses; equal input gives equal tables.
pub(super) fn arrange(v4: &[Exact<u32>], v6: &[Exact<u128>]) -> Result<ExactTables, NoArrangement> {
    let mut buckets4 = bucket_count(v4.len(), KEYS4);
    let mut buckets6 = bucket_count(v6.len(), KEYS6);
    for attempt in 1..=MAX_ATTEMPTS {
        let seed = u64::from(attempt).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let places4 = place(v4.len(), KEYS4, buckets4, |index| {
            hashes4(seed, v4[index].address)
        });
        let places6 = place(v6.len(), KEYS6, buckets6, |index| {
            hashes6(seed, words(v6[index].address))
        });
        match (places4, places6) {
            (Some(places4), Some(places6)) => {
                return Ok(ExactTables {
                    seed,
                    v4: lines4(v4, &places4),
                    v6: lines6(v6, &places6),
                });
            }
            // Another seed first, then more room.
            (places4, places6) if attempt % 3 == 0 => {
                buckets4 = if places4.is_none() {
                    (buckets4 * 2).min(MAX_BUCKETS)
                } else {
                    buckets4
                };
                buckets6 = if places6.is_none() {
                    (buckets6 * 2).min(MAX_BUCKETS)
                } else {
                    buckets6
                };
            }
            _ => {}
        }
    }
    Err(NoArrangement {
        addresses: v4.len() + v6.len(),
    })
}

/// Returns an IPv6 address as the tables have it: high half first.
#[expect(clippy::cast_possible_truncation, reason = "the halves are taken apart")]
pub(super) fn words(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}

/// Returns the least power of two of buckets that are at most three quarters full.
fn bucket_count(addresses: usize, keys: usize) -> usize {
    (addresses * 4)
        .div_ceil(keys * 3)
        .next_power_of_two()
        .min(MAX_BUCKETS)
}

/// Returns for each bucket the indices placed there.
fn place(
    count: usize,
    keys: usize,
    buckets: usize,
    hashes: impl Fn(usize) -> [u32; 2],
) -> Option<Vec<Vec<usize>>> {
    if count > keys * buckets {
        return None;
    }
    let mut places: Vec<Vec<usize>> = vec![Vec::new(); buckets];
    let choices = |index: usize| hashes(index).map(|hash| hash as usize & (buckets - 1));
    let mut turn = 0;
    for index in 0..count {
        let [first, second] = choices(index);
        let mut bucket = if places[second].len() < places[first].len() {
            second
        } else {
            first
        };
        let mut homeless = index;
        let mut moves = 0;
        while places[bucket].len() == keys {
            if moves == MAX_MOVES {
                return None;
            }
            moves += 1;
            turn = (turn + 1) % keys;
            homeless = std::mem::replace(&mut places[bucket][turn], homeless);
            let [first, second] = choices(homeless);
            bucket = if bucket == first { second } else { first };
        }
        places[bucket].push(homeless);
    }
    Some(places)
}

fn lines4(entries: &[Exact<u32>], places: &[Vec<usize>]) -> Vec<Line> {
    let bucket = |indices: &Vec<usize>| {
        let mut bucket = Bucket4::default();
        for (position, entry) in indices.iter().map(|index| entries[*index]).enumerate() {
            bucket.keys[position] = entry.address;
            bucket.classes[position] = entry.class;
            bucket.slots[position] = entry.slot;
        }
        line_of(&bucket)
    };
    places.iter().map(bucket).collect()
}

fn lines6(entries: &[Exact<u128>], places: &[Vec<usize>]) -> Vec<Line> {
    let bucket = |indices: &Vec<usize>| {
        let mut bucket = Bucket6::default();
        for (position, entry) in indices.iter().map(|index| entries[*index]).enumerate() {
            bucket.keys[position] = words(entry.address);
            bucket.classes[position] = entry.class;
            bucket.slots[position] = entry.slot;
        }
        line_of(&bucket)
    };
    places.iter().map(bucket).collect()
}

#[cfg(test)]
mod tests {
    use calico_ebpf_common::address::{AddressEntry, exact4, exact6};
    use calico_ebpf_common::root::Root;

    use super::*;

    fn root(tables: &ExactTables) -> Root {
        Root {
            exact4_mask: u32::try_from(tables.v4.len()).unwrap() - 1,
            exact6_mask: u32::try_from(tables.v6.len()).unwrap() - 1,
            seed: [
                u32::try_from(tables.seed & 0xffff_ffff).unwrap(),
                u32::try_from(tables.seed >> 32).unwrap(),
            ],
            ..Root::default()
        }
    }

    #[test]
    fn every_address_is_found_and_no_other() {
        let class = |index: u32| u16::try_from(index % 60_000).unwrap() + 1;
        let v4: Vec<_> = (0..100_000_u32)
            .map(|index| Exact {
                address: index * 7,
                class: class(index),
                slot: 0,
            })
            .collect();
        let v6: Vec<_> = (0..20_000_u32)
            .map(|index| Exact {
                address: u128::from(index) << 64 | u128::from(index),
                class: class(index),
                slot: 3,
            })
            .collect();
        let tables = arrange(&v4, &v6).unwrap();
        assert_eq!(tables.v4.len(), 32_768, "a table is at least 3/8 full");
        let root = root(&tables);
        for entry in &v4 {
            let expected = Some(AddressEntry {
                class: entry.class,
                slot: 0,
            });
            assert_eq!(exact4(&tables.v4[..], &root, entry.address), expected);
            assert_eq!(exact4(&tables.v4[..], &root, entry.address + 1), None);
        }
        for entry in &v6 {
            let expected = Some(AddressEntry {
                class: entry.class,
                slot: 3,
            });
            assert_eq!(exact6(&tables.v6[..], &root, words(entry.address)), expected);
            assert_eq!(
                exact6(&tables.v6[..], &root, words(entry.address + (1 << 100))),
                None
            );
        }
    }

    #[test]
    fn a_table_without_addresses_is_one_empty_line() {
        let tables = arrange(&[], &[]).unwrap();
        assert_eq!((tables.v4.len(), tables.v6.len()), (1, 1));
        assert_eq!(exact4(&tables.v4[..], &root(&tables), 0), None);
    }

    #[test]
    fn three_quarters_full_buckets_still_find_places() {
        let v4: Vec<_> = (0..6 * 1024_u32)
            .map(|index| Exact {
                address: index << 8,
                class: 1,
                slot: 0,
            })
            .collect();
        let v6: Vec<_> = (0..9 * 1024_u32 / 4)
            .map(|index| Exact {
                address: u128::from(index),
                class: 1,
                slot: 0,
            })
            .collect();
        let tables = arrange(&v4, &v6).unwrap();
        assert_eq!((tables.v4.len(), tables.v6.len()), (1024, 1024));
    }
}
