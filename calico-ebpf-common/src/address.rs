//! From an address to its class: an exact table of 64-byte buckets, and behind it a tree of prefixes.
//!
//! An exact entry already holds the memberships of the prefixes around it, so a hit needs no second look-up.

use bytemuck::{Pod, Zeroable};

use crate::branchless::{in_turn, is_below, is_equal, sign};
use crate::endpoint::{SLOT_NONE, Slot};
use crate::line::Lines;
use crate::root::Root;

/// Number of an address class. Addresses of one class satisfy the same predicates.
pub type Class = u16;
/// No class: an empty entry of a bucket. Never the class of an address.
pub const CLASS_NONE: Class = 0;

/// What an address is to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressEntry {
    pub class: Class,
    /// The local endpoint that owns the address, [`crate::endpoint::SLOT_HOST`], or [`SLOT_NONE`].
    pub slot: Slot,
}

/// Eight IPv4 addresses in the host's byte order. Unused entries are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Bucket4 {
    pub keys: [u32; 8],
    pub classes: [Class; 8],
    pub slots: [Slot; 8],
}
crate::line_type!(Bucket4);

/// Three IPv6 addresses, each as two numbers in the host's byte order, high half first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Bucket6 {
    pub keys: [[u64; 2]; 3],
    pub classes: [Class; 3],
    pub slots: [Slot; 3],
    pub reserved: [u16; 2],
}
crate::line_type!(Bucket6);

/// Returns the two buckets that may hold an IPv4 address, before masking.
#[inline(always)]
pub fn hashes4(seed: u64, address: u32) -> [u32; 2] {
    halves((u64::from(address) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Returns the two buckets that may hold an IPv6 address, before masking.
#[inline(always)]
pub fn hashes6(seed: u64, address: [u64; 2]) -> [u32; 2] {
    let high = (address[0] ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    halves((high ^ (high >> 32) ^ address[1]).wrapping_mul(0xd6e8_feb8_6659_fd93))
}

/// Splits a product into two indices from its well-mixed upper bits, 24 bits each.
#[inline(always)]
fn halves(product: u64) -> [u32; 2] {
    [(product >> 40) as u32, ((product >> 20) as u32) & 0x00ff_ffff]
}

/// Returns the entry of an IPv4 address in the exact table.
#[inline(always)]
pub fn exact4<L: Lines + ?Sized>(lines: &L, root: &Root, address: u32) -> Option<AddressEntry> {
    let hashes = hashes4(root.hash_seed(), address);
    match in_bucket4(lines, root, hashes[0], address) {
        Some(entry) => Some(entry),
        None => in_bucket4(lines, root, hashes[1], address),
    }
}

#[inline(always)]
fn in_bucket4<L: Lines + ?Sized>(lines: &L, root: &Root, hash: u32, address: u32) -> Option<AddressEntry> {
    let bucket: &Bucket4 = lines
        .line(root.exact4.wrapping_add(hash & root.exact4_mask))?
        .read_as();
    for index in 0..8 {
        if bucket.keys[index] == address && bucket.classes[index] != CLASS_NONE {
            return Some(AddressEntry {
                class: bucket.classes[index],
                slot: bucket.slots[index],
            });
        }
    }
    None
}

/// Returns the entry of an IPv6 address in the exact table.
#[inline(always)]
pub fn exact6<L: Lines + ?Sized>(lines: &L, root: &Root, address: [u64; 2]) -> Option<AddressEntry> {
    let hashes = hashes6(root.hash_seed(), address);
    match in_bucket6(lines, root, hashes[0], address) {
        Some(entry) => Some(entry),
        None => in_bucket6(lines, root, hashes[1], address),
    }
}

#[inline(always)]
fn in_bucket6<L: Lines + ?Sized>(
    lines: &L,
    root: &Root,
    hash: u32,
    address: [u64; 2],
) -> Option<AddressEntry> {
    let bucket: &Bucket6 = lines
        .line(root.exact6.wrapping_add(hash & root.exact6_mask))?
        .read_as();
    for index in 0..3 {
        if bucket.keys[index] == address && bucket.classes[index] != CLASS_NONE {
            return Some(AddressEntry {
                class: bucket.classes[index],
                slot: bucket.slots[index],
            });
        }
    }
    None
}

/// Levels that a prefix tree may have: 16^6 interval starts for IPv4, 4^9 for IPv6.
pub const MAX_LEVELS: usize = 9;
/// Interval starts in a line of the IPv4 tree.
pub const FANOUT4: u32 = 16;
/// Interval starts in a line of the IPv6 tree.
pub const FANOUT6: u32 = 4;

/// A static B+ tree over the starts of the intervals into which all prefixes cut the address space.
///
/// The lowest level is the sorted list of starts, [`FANOUT4`] or [`FANOUT6`] to a line; the first start is address
/// 0. A line of a higher level holds the first start of each child but its first, so that the child to descend to
/// is the count of keys that are not above the address: node `n` has children `n * (fanout + 1) + count`.
/// Unused keys are all ones; the last address is searched as the one before it (only a single-address prefix could
/// tell them apart, and those are exact entries).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PrefixTree {
    /// Levels in use, at least 1.
    pub levels: u32,
    /// First line of each level, the root's level first.
    pub level_lines: [u32; MAX_LEVELS],
    /// Array of one class (`u16`) for each interval; of one row (`u32`) in the trees of [`crate::fall_back`].
    pub classes: u32,
    /// Number of intervals.
    pub intervals: u32,
    /// Row of the last address, which the intervals cannot tell apart. Unused where that is an exact entry.
    pub last: u32,
    pub reserved: [u32; 3],
}
crate::line_type!(PrefixTree);

/// Returns the class of an IPv4 address by the prefixes that hold it; `tree` is the line of the [`PrefixTree`].
#[inline(always)]
pub fn prefix_class4<L: Lines + ?Sized>(lines: &L, tree: u32, address: u32) -> Option<Class> {
    let tree: &PrefixTree = lines.line(tree)?.read_as();
    lines.half_at(tree.classes, interval4(lines, tree, address, |count| count)?)
}

/// Returns the number of the interval that holds an IPv4 address. `in_turn` gets the count after each start: it may be
/// [`crate::branchless::in_turn`].
#[inline(always)]
pub fn interval4<L: Lines + ?Sized>(
    lines: &L,
    tree: &PrefixTree,
    address: u32,
    in_turn: impl Fn(u32) -> u32,
) -> Option<u32> {
    let address = if address == u32::MAX {
        u32::MAX - 1
    } else {
        address
    };
    let mut node = 0_u32;
    for level in 0..MAX_LEVELS {
        let line = lines.line(tree.level_lines[level].wrapping_add(node))?;
        let mut count = 0_u32;
        for word in &line.words {
            // Both are below 2^32: the difference with one more is negative just if the start is not above.
            let above = u64::from(*word).wrapping_sub(u64::from(address) + 1);
            count = in_turn(count + sign(above) as u32);
        }
        if level as u32 + 1 >= tree.levels {
            let rank = (node.wrapping_mul(FANOUT4)).wrapping_add(count);
            return Some(rank.wrapping_sub(1));
        }
        node = node.wrapping_mul(FANOUT4 + 1).wrapping_add(count);
    }
    None
}

/// As [`prefix_class4`], for IPv6.
#[inline(always)]
pub fn prefix_class6<L: Lines + ?Sized>(lines: &L, tree: u32, address: [u64; 2]) -> Option<Class> {
    let tree: &PrefixTree = lines.line(tree)?.read_as();
    lines.half_at(tree.classes, interval6(lines, tree, address)?)
}

/// As [`interval4`], for IPv6.
#[inline(always)]
pub fn interval6<L: Lines + ?Sized>(lines: &L, tree: &PrefixTree, address: [u64; 2]) -> Option<u32> {
    let low = if address[0] == u64::MAX && address[1] == u64::MAX {
        u64::MAX - 1
    } else {
        address[1]
    };
    let mut node = 0_u32;
    for level in 0..MAX_LEVELS {
        let starts: &Starts6 = lines.line(tree.level_lines[level].wrapping_add(node))?.read_as();
        let mut count = 0;
        for start in &starts.keys {
            let low_not_above = 1 ^ is_below(low, start[1]);
            let below = is_below(start[0], address[0]) | (is_equal(start[0], address[0]) & low_not_above);
            count = in_turn(count + below);
        }
        let count = count as u32;
        if level as u32 + 1 >= tree.levels {
            let rank = (node.wrapping_mul(FANOUT6)).wrapping_add(count);
            return Some(rank.wrapping_sub(1));
        }
        node = node.wrapping_mul(FANOUT6 + 1).wrapping_add(count);
    }
    None
}

/// A line of the IPv6 prefix tree.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Starts6 {
    pub keys: [[u64; 2]; 4],
}
crate::line_type!(Starts6);

/// Returns what an IPv4 address is: exact entry, else class by prefix. `None` only with broken tables.
#[inline(always)]
pub fn address_entry4<L: Lines + ?Sized>(lines: &L, root: &Root, address: u32) -> Option<AddressEntry> {
    if let Some(entry) = exact4(lines, root, address) {
        return Some(entry);
    }
    let class = prefix_class4(lines, root.prefixes4, address)?;
    Some(AddressEntry {
        class,
        slot: SLOT_NONE,
    })
}

/// As [`address_entry4`], for IPv6.
#[inline(always)]
pub fn address_entry6<L: Lines + ?Sized>(lines: &L, root: &Root, address: [u64; 2]) -> Option<AddressEntry> {
    if let Some(entry) = exact6(lines, root, address) {
        return Some(entry);
    }
    let class = prefix_class6(lines, root.prefixes6, address)?;
    Some(AddressEntry {
        class,
        slot: SLOT_NONE,
    })
}
