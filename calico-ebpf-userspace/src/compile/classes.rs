//! Address predicates and the classes into which they cut all addresses.
//!
//! A predicate is one test of an address that some rule on this host makes. A class is a distinct vector of
//! predicates that hold; the family is one of them, so that no class has addresses of both families.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use calico_ebpf_common::address::{CLASS_NONE, Class};
use ipnet::IpNet;

use crate::calc::effective::{SetId, SetMembers};
use crate::model::rule::IpVersion;

/// Number of a predicate in [`AddressPredicates`].
pub type PredicateId = u32;

/// One test of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressPredicate {
    /// The address is of this family.
    Family(IpVersion),
    /// The address is in the set.
    Set(SetId),
    /// The address is in one of these; masked, sorted, without duplicates.
    Nets(Vec<IpNet>),
}

/// The predicates in use on this host, each once.
#[derive(Clone, Debug)]
pub struct AddressPredicates {
    ids: HashMap<AddressPredicate, PredicateId>,
    predicates: Vec<AddressPredicate>,
}

impl AddressPredicates {
    /// Holds for IPv4 addresses. Always present.
    pub const V4: PredicateId = 0;
    /// Holds for IPv6 addresses. Always present.
    pub const V6: PredicateId = 1;

    /// Makes a table with the two family predicates.
    pub fn new() -> Self {
        let mut predicates = Self {
            ids: HashMap::new(),
            predicates: Vec::new(),
        };
        predicates.intern(AddressPredicate::Family(IpVersion::V4));
        predicates.intern(AddressPredicate::Family(IpVersion::V6));
        predicates
    }

    /// Returns the number of "in the set".
    pub fn set(&mut self, set: &SetId) -> PredicateId {
        self.intern(AddressPredicate::Set(set.clone()))
    }

    /// Returns the number of "in one of these nets".
    pub fn nets(&mut self, nets: &[IpNet]) -> PredicateId {
        let nets: BTreeSet<IpNet> = nets.iter().map(IpNet::trunc).collect();
        self.intern(AddressPredicate::Nets(nets.into_iter().collect()))
    }

    /// Returns the numbers of "in the set", by set.
    pub fn sets(&self) -> HashMap<SetId, PredicateId> {
        let sets = self.ids.iter().filter_map(|(predicate, id)| match predicate {
            AddressPredicate::Set(set) => Some((set.clone(), *id)),
            AddressPredicate::Family(_) | AddressPredicate::Nets(_) => None,
        });
        sets.collect()
    }

    /// Calls `add` with the first and last address of each net of one family, and whose it is, for predicates that
    /// are `wanted`.
    pub(super) fn for_each_net(
        &self,
        sets: &BTreeMap<SetId, SetMembers>,
        wanted: impl Fn(PredicateId) -> bool,
        family: PredicateId,
        add: &mut dyn FnMut(u128, u128, PredicateId),
    ) {
        for (predicate, id) in self.predicates.iter().zip(0..).filter(|(_, id)| wanted(*id)) {
            for_each_member(predicate, sets, &mut |net| match net {
                IpNet::V4(net) if family == Self::V4 => add(
                    net.network().to_bits().into(),
                    net.broadcast().to_bits().into(),
                    id,
                ),
                IpNet::V6(net) if family == Self::V6 => {
                    add(net.network().to_bits(), net.broadcast().to_bits(), id);
                }
                IpNet::V4(_) | IpNet::V6(_) => {}
            });
        }
    }

    /// Returns how many predicates there are.
    pub fn len(&self) -> usize {
        self.predicates.len()
    }

    /// Returns whether there are none; never, as the families are always there.
    pub fn is_empty(&self) -> bool {
        self.predicates.is_empty()
    }

    fn intern(&mut self, predicate: AddressPredicate) -> PredicateId {
        let next = PredicateId::try_from(self.predicates.len()).unwrap_or(PredicateId::MAX);
        *self.ids.entry(predicate).or_insert_with_key(|key| {
            self.predicates.push(key.clone());
            next
        })
    }
}

fn for_each_member(
    predicate: &AddressPredicate,
    sets: &BTreeMap<SetId, SetMembers>,
    visit: &mut dyn FnMut(&IpNet),
) {
    match predicate {
        AddressPredicate::Family(_) => {}
        AddressPredicate::Nets(nets) => nets.iter().for_each(visit),
        AddressPredicate::Set(set) => {
            if let Some(members) = sets.get(set) {
                members.iter().for_each(visit);
            }
        }
    }
}

impl Default for AddressPredicates {
    fn default() -> Self {
        Self::new()
    }
}

/// Predicates that hold for the addresses of a class, ascending.
pub type Membership = Arc<[PredicateId]>;

/// The classes of a host, and what belongs to them.
#[derive(Clone, Debug)]
pub struct AddressClasses {
    /// Membership by class; the first is empty and belongs to [`CLASS_NONE`].
    pub memberships: Vec<Membership>,
    /// Single addresses of IPv4 with their class, ascending.
    pub exact4: Vec<(u32, Class)>,
    /// Single addresses of IPv6 with their class, ascending.
    pub exact6: Vec<(u128, Class)>,
    /// First address and class of each interval between prefix borders, from address 0; neighbours differ.
    pub intervals4: Vec<(u32, Class)>,
    /// As `intervals4`.
    pub intervals6: Vec<(u128, Class)>,
    /// Distinct prefixes shorter than an address.
    pub prefixes: usize,
}

/// Memberships that may be held, counted by predicates in classes: each direction looks at all of them.
const MAX_MEMBERSHIPS: usize = 1 << 23;

/// More classes than there may be, or more in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rules cut the addresses into more than {limit} classes")]
pub struct TooManyAddressClasses {
    pub limit: usize,
}

impl AddressClasses {
    /// Cuts all addresses into classes by the predicates that are `wanted`. Every address in `exact` becomes a single
    /// address, whether or not a predicate names it; sets that are not in `sets` have no members.
    ///
    /// # Errors
    /// More than `limit` classes, 65,535 at most, or too much in them.
    pub fn build(
        predicates: &AddressPredicates,
        wanted: &BTreeSet<PredicateId>,
        sets: &BTreeMap<SetId, SetMembers>,
        exact: impl IntoIterator<Item = IpAddr>,
        limit: usize,
    ) -> Result<Self, TooManyAddressClasses> {
        let mut v4 = Space::new(AddressPredicates::V4, 32);
        let mut v6 = Space::new(AddressPredicates::V6, 128);
        for address in exact {
            match address {
                IpAddr::V4(address) => v4.name_address(u128::from(address.to_bits())),
                IpAddr::V6(address) => v6.name_address(address.to_bits()),
            }
        }
        for (predicate, id) in predicates.predicates.iter().zip(0..) {
            if wanted.contains(&id) {
                for_each_member(predicate, sets, &mut |net| match net.trunc() {
                    IpNet::V4(net) => v4.add(u128::from(net.addr().to_bits()), net.prefix_len(), id),
                    IpNet::V6(net) => v6.add(net.addr().to_bits(), net.prefix_len(), id),
                });
            }
        }
        let prefixes = v4.prefix_count() + v6.prefix_count();
        let mut classes = Interner::new(limit);
        let (exact4, intervals4) = v4.cut(&mut classes)?;
        let (exact6, intervals6) = v6.cut(&mut classes)?;
        let low = |list: Vec<(u128, Class)>| -> Vec<(u32, Class)> {
            list.into_iter()
                .map(|(address, class)| (u32::try_from(address).unwrap_or(u32::MAX), class))
                .collect()
        };
        Ok(Self {
            memberships: classes.memberships,
            exact4: low(exact4),
            exact6,
            intervals4: low(intervals4),
            intervals6,
            prefixes,
        })
    }
}

/// Gives equal memberships one class.
struct Interner {
    classes: HashMap<Membership, Class>,
    memberships: Vec<Membership>,
    /// Classes that there may be.
    limit: usize,
    /// Predicates in all memberships.
    held: usize,
}

impl Interner {
    fn new(limit: usize) -> Self {
        let none: Membership = Arc::from([]);
        Self {
            classes: HashMap::new(),
            memberships: vec![none],
            limit: limit.min(usize::from(Class::MAX)),
            held: 0,
        }
    }

    fn class(&mut self, membership: &[PredicateId]) -> Result<Class, TooManyAddressClasses> {
        if let Some(class) = self.classes.get(membership) {
            return Ok(*class);
        }
        let limit = self.limit;
        self.held += membership.len();
        let class = Class::try_from(self.memberships.len())
            .ok()
            .filter(|class| usize::from(*class) <= limit && self.held <= MAX_MEMBERSHIPS)
            .ok_or(TooManyAddressClasses { limit })?;
        debug_assert_ne!(class, CLASS_NONE);
        let membership: Membership = Arc::from(membership);
        self.memberships.push(Arc::clone(&membership));
        self.classes.insert(membership, class);
        Ok(class)
    }
}

/// Addresses of one family with their classes.
type Classed = Vec<(u128, Class)>;

/// One family's part of the work.
struct Space {
    family: PredicateId,
    bits: u8,
    /// Address and predicate; a `None` only names the address.
    exact: Vec<(u128, Option<PredicateId>)>,
    /// First address, length and predicate.
    prefixes: Vec<(u128, u8, PredicateId)>,
}

impl Space {
    fn new(family: PredicateId, bits: u8) -> Self {
        Self {
            family,
            bits,
            exact: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    fn name_address(&mut self, address: u128) {
        self.exact.push((address, None));
    }

    fn add(&mut self, first: u128, length: u8, predicate: PredicateId) {
        if length == self.bits {
            self.exact.push((first, Some(predicate)));
        } else {
            self.prefixes.push((first, length, predicate));
        }
    }

    fn prefix_count(&self) -> usize {
        self.prefixes
            .iter()
            .map(|(first, length, _)| (*first, *length))
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// Returns the classes of single addresses and of intervals.
    fn cut(mut self, classes: &mut Interner) -> Result<(Classed, Classed), TooManyAddressClasses> {
        let cuts = self.interval_memberships(classes.limit)?;
        let mut intervals: Classed = Vec::new();
        for (first, membership) in &cuts {
            let class = classes.class(membership)?;
            if intervals.last().is_none_or(|(_, last)| *last != class) {
                intervals.push((*first, class));
            }
        }
        self.exact.sort_unstable();
        let mut exact: Classed = Vec::new();
        let mut membership = Vec::new();
        let mut interval = 0;
        for entries in self.exact.chunk_by(|a, b| a.0 == b.0) {
            let address = entries[0].0;
            while interval + 1 < cuts.len() && cuts[interval + 1].0 <= address {
                interval += 1;
            }
            membership.clear();
            membership.extend_from_slice(mutated!(
                ExactWithoutNets,
                &cuts[interval].1,
                std::slice::from_ref(&self.family)
            ));
            membership.extend(entries.iter().filter_map(|entry| entry.1));
            membership.sort_unstable();
            membership.dedup();
            exact.push((address, classes.class(&membership)?));
        }
        Ok((exact, intervals))
    }

    /// Returns first address and membership of each interval between prefix borders.
    fn interval_memberships(
        &self,
        limit: usize,
    ) -> Result<Vec<(u128, Vec<PredicateId>)>, TooManyAddressClasses> {
        // Prefixes of one predicate may lie in each other: count how many are open.
        let mut borders: Vec<(u128, bool, PredicateId)> = Vec::new();
        for (first, length, predicate) in &self.prefixes {
            borders.push((*first, true, *predicate));
            let span = u32::from(self.bits - *length);
            let end = 1_u128.checked_shl(span).and_then(|size| first.checked_add(size));
            // An end beyond the last address never comes.
            if let Some(end) = end.filter(|end| self.bits == 128 || *end < 1 << self.bits) {
                borders.push((end, false, *predicate));
            }
        }
        borders.sort_unstable();
        let mut open: BTreeMap<PredicateId, u32> = BTreeMap::from([(self.family, 1)]);
        let mut cuts: Vec<(u128, Vec<PredicateId>)> = Vec::new();
        let mut held = 0;
        if borders.first().is_none_or(|border| border.0 != 0) {
            cuts.push((0, vec![self.family]));
        }
        for group in borders.chunk_by(|a, b| a.0 == b.0) {
            for (_, opens, predicate) in group {
                let count = open.entry(*predicate).or_default();
                // Closings sort before openings of the same address.
                if *opens {
                    *count += 1;
                } else {
                    *count -= 1;
                }
                if *count == 0 {
                    open.remove(predicate);
                }
            }
            held += open.len();
            if held > 2 * MAX_MEMBERSHIPS {
                return Err(TooManyAddressClasses { limit });
            }
            cuts.push((group[0].0, open.keys().copied().collect()));
        }
        Ok(cuts)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn members(texts: &[&str]) -> SetMembers {
        texts.iter().map(|text| net(text)).collect()
    }

    fn build(
        predicates: &AddressPredicates,
        sets: &BTreeMap<SetId, SetMembers>,
        exact: impl IntoIterator<Item = IpAddr>,
    ) -> AddressClasses {
        let all = (0..u32::try_from(predicates.len()).unwrap()).collect();
        AddressClasses::build(predicates, &all, sets, exact, usize::MAX).unwrap()
    }

    fn set_id(name: &str) -> SetId {
        SetId(Arc::from(name))
    }

    #[test]
    fn families_are_apart_even_without_predicates() {
        let classes = build(&AddressPredicates::new(), &BTreeMap::new(), []);
        assert_eq!(classes.intervals4, [(0, 1)]);
        assert_eq!(classes.intervals6, [(0, 2)]);
        assert_eq!(&*classes.memberships[1], [AddressPredicates::V4]);
        assert_eq!(&*classes.memberships[2], [AddressPredicates::V6]);
    }

    #[test]
    fn a_single_address_has_the_memberships_of_the_prefixes_around_it() {
        let mut predicates = AddressPredicates::new();
        let a = predicates.set(&set_id("a"));
        let wide = predicates.nets(&[net("10.0.0.0/8"), net("10.1.0.0/16")]);
        let all = predicates.nets(&[net("0.0.0.0/0")]);
        let sets = BTreeMap::from([(
            set_id("a"),
            members(&["10.1.2.3/32", "255.255.255.255/32", "::/0"]),
        )]);
        let exact = ["10.1.2.4".parse().unwrap(), "9.0.0.1".parse().unwrap()];
        let classes = build(&predicates, &sets, exact);
        let of = |address: &str| {
            let address: std::net::Ipv4Addr = address.parse().unwrap();
            let class = classes
                .exact4
                .iter()
                .find(|entry| entry.0 == address.to_bits())
                .unwrap()
                .1;
            classes.memberships[usize::from(class)].to_vec()
        };
        assert_eq!(of("10.1.2.3"), [0, a, wide, all]);
        assert_eq!(of("10.1.2.4"), [0, wide, all]);
        assert_eq!(of("9.0.0.1"), [0, all]);
        assert_eq!(of("255.255.255.255"), [0, a, all]);
        // The nested /16 cuts nothing: it is the same predicate as the /8 around it.
        let starts: Vec<u32> = classes.intervals4.iter().map(|interval| interval.0).collect();
        assert_eq!(starts, [0, 10 << 24, 11 << 24]);
        assert_eq!(classes.prefixes, 4);
        assert_eq!(
            &*classes.memberships[usize::from(classes.intervals6[0].1)],
            [1, a]
        );
    }

    #[test]
    fn the_last_prefix_of_the_address_space_has_no_end() {
        let mut predicates = AddressPredicates::new();
        predicates.nets(&[net("128.0.0.0/1"), net("8000::/1")]);
        let classes = build(&predicates, &BTreeMap::new(), []);
        assert_eq!(classes.intervals4.len(), 2);
        assert_eq!(classes.intervals6.len(), 2);
    }
}
