//! Changes to the version in force: an address that comes into a set or leaves it.
//!
//! A new version for each of them would cost what the whole cloud costs. Instead the class of the address is
//! overwritten, one 16-bit number, when everything that the new class leads to is in place: its rows in all policy
//! sets, and their cells. So a packet finds an address wholly before or wholly after the change. Class numbers and rows
//! are only appended; what leaves no room, or changes anything but single addresses, needs a new version.

mod buckets;
mod judging;
mod row;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use calico_ebpf_common::address::Class;
use calico_ebpf_common::endpoint::{Endpoint, SLOT_HOST, SLOT_NONE, Slot};
use calico_ebpf_common::line::{HALVES, WORDS};
use calico_ebpf_common::nat::is_nat_slot;
use ipnet::IpNet;

pub(super) use self::buckets::Buckets;
pub(super) use self::judging::{Judging, Merged};
pub(super) use self::row::{AmendableDirection, digests};
use super::classes::{AddressClasses, Membership, PredicateId};
use super::ports::PortClasses;
use crate::calc::effective::{EffectiveState, MemberChanges, SetId};

/// A number of the table to be overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Line number in the whole table.
    pub line: u32,
    /// Position in the line, counted in numbers of the value's size.
    pub index: u32,
    pub value: Number,
}

/// A number by its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Half(u16),
    Word(u32),
}

impl Write {
    /// Overwrites one of the 16-bit numbers of the array that begins at line `first`.
    fn half(first: u32, index: u32, value: u16) -> Self {
        Self {
            line: first + index / HALVES,
            index: index % HALVES,
            value: Number::Half(value),
        }
    }

    /// Overwrites one of the 32-bit numbers of the array that begins at line `first`.
    fn word(first: u32, index: u32, value: u32) -> Self {
        Self {
            line: first + index / WORDS,
            index: index % WORDS,
            value: Number::Word(value),
        }
    }
}

/// What makes the version in force follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amendment {
    /// Where no packet looks yet, in any order.
    pub prepare: Vec<Write>,
    /// Classes of addresses. Written when all of `prepare` is visible, each in one store.
    pub switch: Vec<Write>,
    /// Endpoints about whose packets a verdict may have changed.
    pub touched: BTreeSet<Slot>,
}

/// Why a new version is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAmendable {
    #[error("endpoints, policies or sets came, went or changed")]
    OtherChanges,
    #[error("a prefix came into a set or left it")]
    Prefix,
    #[error("no number is left for another class of addresses")]
    Classes,
    #[error("no room is left for another row of cells")]
    Rows,
    #[error("the new row tells apart what no row did before")]
    Axes,
    #[error("no room is left in the address table")]
    Buckets,
    #[error("a policy that is not judged by cells asks for the set")]
    Apart,
}

/// What must be known of the version in force to amend it.
#[derive(Clone, Debug)]
pub struct Amendable {
    predicates: HashMap<SetId, PredicateId>,
    /// Predicates that classes are made of.
    shared: BTreeSet<PredicateId>,
    /// Predicates of directions that are not judged by cells.
    apart: BTreeSet<PredicateId>,
    memberships: Vec<Membership>,
    classes: HashMap<Membership, Class>,
    /// Classes that the remaps have room for.
    class_room: usize,
    intervals4: Vec<(u32, Class)>,
    intervals6: Vec<(u128, Class)>,
    buckets: Buckets,
    ports: PortClasses,
    directions: Vec<AmendableDirection>,
    /// Directions that ask for a predicate of the peer's address.
    asking: HashMap<PredicateId, Vec<usize>>,
}

/// What comes into sets and leaves them, of one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Moves {
    into: Vec<PredicateId>,
    out_of: Vec<PredicateId>,
}

/// What a version was built from, to be kept for amendments.
pub(super) struct Built {
    pub(super) predicates: HashMap<SetId, PredicateId>,
    pub(super) shared: BTreeSet<PredicateId>,
    pub(super) apart: BTreeSet<PredicateId>,
    pub(super) addresses: AddressClasses,
    pub(super) ports: PortClasses,
    pub(super) directions: Vec<AmendableDirection>,
    pub(super) class_room: usize,
    pub(super) buckets: Buckets,
}

/// Returns what gives an endpoint another generation; `endpoints` is the first line of the endpoints.
pub fn generation(endpoints: u32, slot: Slot, generation: u32) -> Write {
    let index = std::mem::offset_of!(Endpoint, generation) / size_of::<u32>();
    Write {
        line: endpoints + u32::from(slot),
        index: u32::try_from(index).unwrap_or(0),
        value: Number::Word(generation),
    }
}

/// Returns how many classes the remaps of a version have room for.
pub(super) fn class_room(classes: usize) -> usize {
    (classes + classes / 8 + 256).min(usize::from(Class::MAX))
}

impl Amendable {
    pub(super) fn new(built: Built) -> Self {
        let mut asking: HashMap<PredicateId, Vec<usize>> = HashMap::new();
        for (index, direction) in built.directions.iter().enumerate() {
            for predicate in direction.remote_predicates() {
                asking.entry(*predicate).or_default().push(index);
            }
        }
        let memberships = built.addresses.memberships;
        let classes = memberships.iter().cloned().zip(0..).skip(1).collect();
        Self {
            predicates: built.predicates,
            shared: built.shared,
            apart: built.apart,
            memberships,
            classes,
            class_room: built.class_room,
            intervals4: built.addresses.intervals4,
            intervals6: built.addresses.intervals6,
            buckets: built.buckets,
            ports: built.ports,
            directions: built.directions,
            asking,
        }
    }

    /// Works out how the version that was built from `before` becomes one for `now`. After an error, `self` is of no
    /// use any more.
    ///
    /// # Errors
    /// When a new version is needed.
    pub fn amend(
        &mut self,
        before: &EffectiveState,
        now: &EffectiveState,
    ) -> Result<Amendment, NotAmendable> {
        let mut amendment = Amendment::default();
        for (address, moves) in self.moves(before, now)? {
            self.move_address(address, &moves, &mut amendment)?;
        }
        Ok(amendment)
    }

    /// Returns how many classes there are.
    pub fn class_count(&self) -> usize {
        self.memberships.len() - 1
    }

    fn moves(
        &self,
        before: &EffectiveState,
        now: &EffectiveState,
    ) -> Result<BTreeMap<IpAddr, Moves>, NotAmendable> {
        if before.endpoints != now.endpoints || before.sets.len() != now.sets.len() {
            return Err(NotAmendable::OtherChanges);
        }
        let mut moves: BTreeMap<IpAddr, Moves> = BTreeMap::new();
        if before.sets.is(&now.sets) {
            return Ok(moves);
        }
        for ((id, old), (other, new)) in before.sets.iter().zip(&now.sets) {
            if !Arc::ptr_eq(&id.0, &other.0) && id != other {
                return Err(NotAmendable::OtherChanges);
            }
            if old.is(new) {
                continue;
            }
            let Some(predicate) = self.predicates.get(id) else {
                continue;
            };
            if self.apart.contains(predicate) {
                return Err(NotAmendable::Apart);
            }
            if !self.shared.contains(predicate) {
                continue;
            }
            let MemberChanges { came, gone } = new.changes_since(old);
            for net in &came {
                moves
                    .entry(single_address(net)?)
                    .or_default()
                    .into
                    .push(*predicate);
            }
            for net in &gone {
                moves
                    .entry(single_address(net)?)
                    .or_default()
                    .out_of
                    .push(*predicate);
            }
        }
        Ok(moves)
    }

    fn move_address(
        &mut self,
        address: IpAddr,
        moves: &Moves,
        amendment: &mut Amendment,
    ) -> Result<(), NotAmendable> {
        let around = self.interval_class(address);
        let known = self.buckets.find(address);
        let old_class = known.map_or(around, |entry| entry.class);
        let mut membership = self.membership(old_class).to_vec();
        membership.retain(|predicate| mutated!(MemberNeverLeaves, !moves.out_of.contains(predicate), true));
        membership.extend_from_slice(&moves.into);
        membership.extend_from_slice(self.membership(around));
        membership.sort_unstable();
        membership.dedup();
        let new_class = match self.classes.get(membership.as_slice()) {
            Some(class) => *class,
            None => self.append_class(membership.into(), amendment)?,
        };
        if new_class == old_class {
            return Ok(());
        }
        self.note_touched(moves, old_class, new_class, amendment);
        let slot = known.map(|entry| entry.slot);
        if slot.is_some_and(is_nat_slot) {
            // Whose it is does not stand here.
            return Err(NotAmendable::OtherChanges);
        }
        if let Some(slot) = slot
            && slot != SLOT_NONE
            && slot != SLOT_HOST
        {
            amendment.touched.insert(slot);
        }
        self.buckets.put(address, new_class, amendment)
    }

    /// Gives a membership a number, and a place on every axis of addresses.
    fn append_class(
        &mut self,
        membership: Membership,
        amendment: &mut Amendment,
    ) -> Result<Class, NotAmendable> {
        let next = self.memberships.len();
        let class = Class::try_from(next)
            .ok()
            .filter(|_| next < self.class_room)
            .ok_or(NotAmendable::Classes)?;
        for direction in &mut self.directions {
            direction.place_class(class, &membership, &self.ports, amendment)?;
        }
        self.memberships.push(Arc::clone(&membership));
        self.classes.insert(membership, class);
        Ok(class)
    }

    /// Notes the endpoints for which a peer of one class is not what one of the other is.
    fn note_touched(&self, moves: &Moves, old: Class, new: Class, amendment: &mut Amendment) {
        let predicates = moves.into.iter().chain(&moves.out_of);
        let mut asking: Vec<usize> = predicates
            .filter_map(|predicate| self.asking.get(predicate))
            .flatten()
            .copied()
            .collect();
        asking.sort_unstable();
        asking.dedup();
        for index in asking {
            let direction = &self.directions[index];
            if mutated!(GenerationKept, !direction.judges_alike(old, new), false) {
                amendment.touched.extend(&direction.slots);
            }
        }
    }

    fn membership(&self, class: Class) -> &Membership {
        &self.memberships[usize::from(class)]
    }

    /// Returns the class of the prefixes around an address.
    fn interval_class(&self, address: IpAddr) -> Class {
        match address {
            IpAddr::V4(address) => class_at(&self.intervals4, address.to_bits()),
            IpAddr::V6(address) => class_at(&self.intervals6, address.to_bits()),
        }
    }
}

/// Returns the class of the interval that holds `address`; the first begins at 0.
fn class_at<A: Ord + Copy>(intervals: &[(A, Class)], address: A) -> Class {
    let after = intervals.partition_point(|(first, _)| *first <= address);
    intervals[after.saturating_sub(1)].1
}

fn single_address(net: &IpNet) -> Result<IpAddr, NotAmendable> {
    if net.prefix_len() == net.max_prefix_len() {
        Ok(net.addr())
    } else {
        Err(NotAmendable::Prefix)
    }
}
