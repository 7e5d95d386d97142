//! The exact address table of the version in force.

use std::net::IpAddr;

use calico_ebpf_common::address::{AddressEntry, Bucket4, Bucket6, CLASS_NONE, Class, hashes4, hashes6};
use calico_ebpf_common::line::{Line, WORDS};
use calico_ebpf_common::root::Root;

use super::{Amendment, NotAmendable, Number, Write};
use crate::compile::exact::words;
use crate::compile::writer::line_of;

/// Where the classes begin in a bucket, in 16-bit numbers.
const CLASSES4: usize = std::mem::offset_of!(Bucket4, classes) / size_of::<u16>();
const CLASSES6: usize = std::mem::offset_of!(Bucket6, classes) / size_of::<u16>();

/// A copy of the buckets, and where they stand.
#[derive(Clone, Debug)]
pub(in crate::compile) struct Buckets {
    pub(in crate::compile) root: Root,
    pub(in crate::compile) v4: Vec<Line>,
    pub(in crate::compile) v6: Vec<Line>,
}

/// A place in the table: which bucket, and which of its entries.
#[derive(Clone, Copy)]
struct Place {
    bucket: usize,
    entry: usize,
}

impl Buckets {
    /// Returns what is known of an address that has an entry.
    pub(super) fn find(&self, address: IpAddr) -> Option<AddressEntry> {
        match address {
            IpAddr::V4(address) => {
                let place = self.place4(address.to_bits(), |bucket, entry| {
                    bucket.keys[entry] == address.to_bits() && bucket.classes[entry] != CLASS_NONE
                })?;
                let bucket: &Bucket4 = self.v4[place.bucket].read_as();
                Some(AddressEntry {
                    class: bucket.classes[place.entry],
                    slot: bucket.slots[place.entry],
                })
            }
            IpAddr::V6(address) => {
                let key = words(address.to_bits());
                let place = self.place6(key, |bucket, entry| {
                    bucket.keys[entry] == key && bucket.classes[entry] != CLASS_NONE
                })?;
                let bucket: &Bucket6 = self.v6[place.bucket].read_as();
                Some(AddressEntry {
                    class: bucket.classes[place.entry],
                    slot: bucket.slots[place.entry],
                })
            }
        }
    }

    /// Gives an address a class, and an entry if it has none: the key first, where the class says that nothing is
    /// there.
    pub(super) fn put(
        &mut self,
        address: IpAddr,
        class: Class,
        amendment: &mut Amendment,
    ) -> Result<(), NotAmendable> {
        match address {
            IpAddr::V4(address) => self.put4(address.to_bits(), class, amendment),
            IpAddr::V6(address) => self.put6(words(address.to_bits()), class, amendment),
        }
    }

    fn put4(&mut self, key: u32, class: Class, amendment: &mut Amendment) -> Result<(), NotAmendable> {
        let own =
            |bucket: &Bucket4, entry: usize| bucket.keys[entry] == key && bucket.classes[entry] != CLASS_NONE;
        let free = |bucket: &Bucket4, entry: usize| bucket.classes[entry] == CLASS_NONE;
        let place = self
            .place4(key, own)
            .or_else(|| self.place4(key, free))
            .ok_or(NotAmendable::Buckets)?;
        let mut bucket: Bucket4 = *self.v4[place.bucket].read_as();
        bucket.keys[place.entry] = key;
        let before = std::mem::replace(&mut bucket.classes[place.entry], class);
        let line = self.root.exact4 + as_u32(place.bucket);
        if before == CLASS_NONE {
            amendment
                .prepare
                .extend(key_writes(line, line_of(&bucket), place.entry, 1));
        }
        self.v4[place.bucket] = line_of(&bucket);
        amendment.switch.push(Write {
            line,
            index: as_u32(CLASSES4 + place.entry),
            value: Number::Half(class),
        });
        Ok(())
    }

    fn put6(&mut self, key: [u64; 2], class: Class, amendment: &mut Amendment) -> Result<(), NotAmendable> {
        let own =
            |bucket: &Bucket6, entry: usize| bucket.keys[entry] == key && bucket.classes[entry] != CLASS_NONE;
        let free = |bucket: &Bucket6, entry: usize| bucket.classes[entry] == CLASS_NONE;
        let place = self
            .place6(key, own)
            .or_else(|| self.place6(key, free))
            .ok_or(NotAmendable::Buckets)?;
        let mut bucket: Bucket6 = *self.v6[place.bucket].read_as();
        bucket.keys[place.entry] = key;
        let before = std::mem::replace(&mut bucket.classes[place.entry], class);
        let line = self.root.exact6 + as_u32(place.bucket);
        if before == CLASS_NONE {
            let words = size_of::<[u64; 2]>() / size_of::<u32>();
            amendment
                .prepare
                .extend(key_writes(line, line_of(&bucket), place.entry * words, words));
        }
        self.v6[place.bucket] = line_of(&bucket);
        amendment.switch.push(Write {
            line,
            index: as_u32(CLASSES6 + place.entry),
            value: Number::Half(class),
        });
        Ok(())
    }

    fn place4(&self, key: u32, fits: impl Fn(&Bucket4, usize) -> bool) -> Option<Place> {
        hashes4(self.root.hash_seed(), key).into_iter().find_map(|hash| {
            let number = (hash & self.root.exact4_mask) as usize;
            let bucket: &Bucket4 = self.v4[number].read_as();
            let entry = (0..bucket.keys.len()).find(|entry| fits(bucket, *entry))?;
            Some(Place {
                bucket: number,
                entry,
            })
        })
    }

    fn place6(&self, key: [u64; 2], fits: impl Fn(&Bucket6, usize) -> bool) -> Option<Place> {
        hashes6(self.root.hash_seed(), key).into_iter().find_map(|hash| {
            let number = (hash & self.root.exact6_mask) as usize;
            let bucket: &Bucket6 = self.v6[number].read_as();
            let entry = (0..bucket.keys.len()).find(|entry| fits(bucket, *entry))?;
            Some(Place {
                bucket: number,
                entry,
            })
        })
    }
}

/// Writes `count` words of a line, as they are there.
fn key_writes(line: u32, content: Line, first: usize, count: usize) -> impl Iterator<Item = Write> {
    debug_assert!(first + count <= WORDS as usize);
    (first..first + count).map(move |index| Write {
        line,
        index: as_u32(index),
        value: Number::Word(content.words[index]),
    })
}

fn as_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
