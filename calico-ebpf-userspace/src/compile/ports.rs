//! Port predicates and the classes into which they cut protocols, ports, and ICMP types and codes.

use std::collections::{BTreeSet, HashMap};

use calico_ebpf_common::port::{GROUPS, GROUPS_WITH_PORTS, PortClass, group, protocol};

use crate::model::rule::{IcmpMatch, IpVersion, Protocol};

/// Number of a predicate in [`PortPredicates`].
pub type PortPredicateId = u32;

/// Bit set over the groups of [`calico_ebpf_common::port::group`].
pub type GroupMask = u8;

/// All groups with ports.
pub const PORT_GROUPS: GroupMask = (1 << GROUPS_WITH_PORTS) - 1;

/// One test of protocol and destination port, or of protocol and ICMP type and code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PortPredicate {
    Protocol(u8),
    /// The protocol has ports.
    HasPorts,
    /// The protocol is in one of the groups, and the value is in one of the ranges (ascending, apart).
    Values {
        groups: GroupMask,
        ranges: Vec<(u16, u16)>,
    },
}

/// The port predicates in use on this host, each once; those of source ports are numbered apart.
#[derive(Clone, Debug, Default)]
pub struct PortPredicates {
    ids: HashMap<PortPredicate, PortPredicateId>,
    predicates: Vec<PortPredicate>,
    source_ids: HashMap<PortPredicate, PortPredicateId>,
    source: Vec<PortPredicate>,
}

impl PortPredicates {
    /// Returns the number of "the protocol is this one".
    pub fn protocol(&mut self, number: Protocol) -> PortPredicateId {
        intern(
            &mut self.ids,
            &mut self.predicates,
            PortPredicate::Protocol(number.0),
        )
    }

    /// Returns how many predicates there are, those of source ports apart.
    pub(super) fn len(&self) -> usize {
        self.predicates.len()
    }

    /// Returns how many predicates of source ports there are.
    pub(super) fn source_len(&self) -> usize {
        self.source.len()
    }

    /// Calls `add` with the first and last `protocol << 16 | value` of each range in which a predicate holds, and the
    /// predicate, for those that are `wanted`.
    pub(super) fn for_each_range(
        &self,
        of_source: bool,
        wanted: impl Fn(PortPredicateId) -> bool,
        add: &mut dyn FnMut(u32, u32, PortPredicateId),
    ) {
        let predicates = if of_source { &self.source } else { &self.predicates };
        let key = |protocol: u8, value: u16| u32::from(protocol) << 16 | u32::from(value);
        for (predicate, id) in predicates.iter().zip(0..).filter(|(_, id)| wanted(*id)) {
            match predicate {
                PortPredicate::Protocol(number) => add(key(*number, 0), key(*number, u16::MAX), id),
                PortPredicate::HasPorts => {
                    for number in &GROUP_PROTOCOLS[..GROUPS_WITH_PORTS] {
                        add(key(*number, 0), key(*number, u16::MAX), id);
                    }
                }
                PortPredicate::Values { groups, ranges } => {
                    for (group, number) in GROUP_PROTOCOLS.into_iter().enumerate() {
                        if groups >> group & 1 == 1 {
                            for (first, last) in ranges {
                                add(key(number, *first), key(number, *last), id);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Returns the number of "the protocol has ports".
    pub fn has_ports(&mut self) -> PortPredicateId {
        intern(&mut self.ids, &mut self.predicates, PortPredicate::HasPorts)
    }

    /// Returns the number of "the destination port of a protocol in `groups` is in one of the ranges".
    pub fn destination_ports(&mut self, groups: GroupMask, ranges: &[(u16, u16)]) -> PortPredicateId {
        let predicate = PortPredicate::Values {
            groups,
            ranges: joined(ranges),
        };
        intern(&mut self.ids, &mut self.predicates, predicate)
    }

    /// Returns the number of "the source port of a protocol in `groups` is in one of the ranges".
    pub fn source_ports(&mut self, groups: GroupMask, ranges: &[(u16, u16)]) -> PortPredicateId {
        let predicate = PortPredicate::Values {
            groups,
            ranges: joined(ranges),
        };
        intern(&mut self.source_ids, &mut self.source, predicate)
    }

    /// Returns the number of "type and code are these", for the ICMP of one family.
    pub fn icmp(&mut self, version: IpVersion, wanted: IcmpMatch) -> PortPredicateId {
        let first = u16::from(wanted.kind) << 8 | u16::from(wanted.code.unwrap_or(0));
        let last = u16::from(wanted.kind) << 8
            | u16::from(mutated!(IcmpCode, wanted.code.unwrap_or(u8::MAX), u8::MAX));
        let groups = group_mask(icmp_protocol(version).0);
        let predicate = PortPredicate::Values {
            groups,
            ranges: vec![(first, last)],
        };
        intern(&mut self.ids, &mut self.predicates, predicate)
    }
}

/// Returns the protocol number of the family's ICMP.
pub fn icmp_protocol(version: IpVersion) -> Protocol {
    match version {
        IpVersion::V4 => Protocol(protocol::ICMP),
        IpVersion::V6 => Protocol(protocol::ICMPV6),
    }
}

/// Returns the mask of a protocol's group; 0 for a protocol without one.
pub fn group_mask(number: u8) -> GroupMask {
    let group = group(number);
    if group < GROUPS { 1 << group } else { 0 }
}

fn intern(
    ids: &mut HashMap<PortPredicate, PortPredicateId>,
    predicates: &mut Vec<PortPredicate>,
    predicate: PortPredicate,
) -> PortPredicateId {
    let next = PortPredicateId::try_from(predicates.len()).unwrap_or(PortPredicateId::MAX);
    *ids.entry(predicate).or_insert_with_key(|key| {
        predicates.push(key.clone());
        next
    })
}

/// Returns the ranges ascending, with those joined that touch; a range that ends before it begins is empty.
fn joined(ranges: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut sorted: Vec<(u16, u16)> = ranges
        .iter()
        .copied()
        .filter(|(first, last)| first <= last)
        .collect();
    sorted.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in sorted {
        match joined.last_mut() {
            Some(previous) if u32::from(first) <= u32::from(previous.1) + 1 => {
                previous.1 = previous.1.max(last);
            }
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// Class of each value of a table of 65,536: first value and class of each run.
pub type Runs = Vec<(u16, PortClass)>;

/// The port classes of a host.
#[derive(Clone, Debug)]
pub struct PortClasses {
    /// Predicates that hold, ascending, by class.
    pub signatures: Vec<Vec<PortPredicateId>>,
    /// Class by protocol number, for protocols without a table.
    pub protocols: [PortClass; 256],
    /// Tables by group; `None` where no rule tells the protocol's values apart.
    pub destination: [Option<Runs>; GROUPS],
    /// Source predicates that hold, ascending, by source class; none hold for class 0.
    pub source_signatures: Vec<Vec<PortPredicateId>>,
    /// Tables by group with ports; `None` where no rule looks at source ports.
    pub source: [Option<Runs>; GROUPS_WITH_PORTS],
}

/// Predicates in all signatures together that may be held.
const MAX_SIGNATURES: usize = 1 << 23;

/// More classes than a class number can tell apart, or more in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rules cut the ports into more than {limit} classes")]
pub struct TooManyPortClasses {
    pub limit: usize,
}

impl PortClasses {
    /// Cuts all protocols and ports into classes by the predicates that are wanted.
    ///
    /// # Errors
    /// More than 65,536 classes, or too much in them.
    pub fn build(
        predicates: &PortPredicates,
        wanted: &BTreeSet<PortPredicateId>,
        wanted_of_source: &BTreeSet<PortPredicateId>,
    ) -> Result<Self, TooManyPortClasses> {
        let destinations = chosen(&predicates.predicates, wanted);
        let sources = chosen(&predicates.source, wanted_of_source);
        let mut classes = Interner::default();
        let mut protocols = [0; 256];
        for number in 0..=u8::MAX {
            protocols[usize::from(number)] = classes.class(&fixed_signature(&destinations, number))?;
        }
        let mut destination = [const { None }; GROUPS];
        for (group, number) in GROUP_PROTOCOLS.into_iter().enumerate() {
            let fixed = fixed_signature(&destinations, number);
            let runs = cut_values(&destinations, group, &fixed, &mut classes)?;
            protocols[usize::from(number)] = runs[0].1;
            destination[group] = (runs.len() > 1).then_some(runs);
        }
        let mut source_classes = Interner::default();
        source_classes.class(&[])?;
        let mut source = [const { None }; GROUPS_WITH_PORTS];
        for (group, table) in source.iter_mut().enumerate() {
            let runs = cut_values(&sources, group, &[], &mut source_classes)?;
            *table = (runs.len() > 1 || runs[0].1 != 0).then_some(runs);
        }
        Ok(Self {
            signatures: classes.signatures,
            protocols,
            destination,
            source_signatures: source_classes.signatures,
            source,
        })
    }
}

/// Protocol number by group.
const GROUP_PROTOCOLS: [u8; GROUPS] = [
    protocol::TCP,
    protocol::UDP,
    protocol::SCTP,
    protocol::UDPLITE,
    protocol::DCCP,
    protocol::ICMP,
    protocol::ICMPV6,
];

/// Predicates with their numbers.
type Chosen<'a> = Vec<(&'a PortPredicate, PortPredicateId)>;

fn chosen<'a>(predicates: &'a [PortPredicate], wanted: &BTreeSet<PortPredicateId>) -> Chosen<'a> {
    let numbered = predicates.iter().zip(0..);
    numbered.filter(|(_, id)| wanted.contains(id)).collect()
}

/// Returns the predicates that hold whatever the port.
fn fixed_signature(predicates: &Chosen<'_>, number: u8) -> Vec<PortPredicateId> {
    let holds = |predicate: &PortPredicate| match predicate {
        PortPredicate::Protocol(wanted) => *wanted == number,
        PortPredicate::HasPorts => group(number) < GROUPS_WITH_PORTS,
        PortPredicate::Values { .. } => false,
    };
    predicates
        .iter()
        .filter(|(predicate, _)| holds(predicate))
        .map(|(_, id)| *id)
        .collect()
}

/// Cuts the 65,536 values of a group.
fn cut_values(
    predicates: &Chosen<'_>,
    group: usize,
    fixed: &[PortPredicateId],
    classes: &mut Interner,
) -> Result<Runs, TooManyPortClasses> {
    // Value, whether the predicate ends there, predicate. Ranges of one predicate never touch.
    let mut borders: Vec<(u32, bool, PortPredicateId)> = Vec::new();
    for (predicate, id) in predicates {
        let PortPredicate::Values { groups, ranges } = *predicate else {
            continue;
        };
        if groups >> group & 1 == 0 {
            continue;
        }
        for (first, last) in ranges {
            borders.push((u32::from(*first), false, *id));
            borders.push((u32::from(*last) + mutated!(PortBoundary, 1, 0), true, *id));
        }
    }
    borders.sort_unstable();
    let mut open: BTreeSet<PortPredicateId> = fixed.iter().copied().collect();
    let mut runs: Runs = Vec::new();
    if borders.first().is_none_or(|border| border.0 != 0) {
        runs.push((0, classes.class(fixed)?));
    }
    for borders in borders.chunk_by(|a, b| a.0 == b.0) {
        for (_, ends, predicate) in borders {
            if *ends {
                open.remove(predicate)
            } else {
                open.insert(*predicate)
            };
        }
        let Ok(first) = u16::try_from(borders[0].0) else {
            break;
        };
        let signature: Vec<PortPredicateId> = open.iter().copied().collect();
        let class = classes.class(&signature)?;
        if runs.last().is_none_or(|(_, last)| *last != class) {
            runs.push((first, class));
        }
    }
    Ok(runs)
}

/// Gives equal signatures one class.
#[derive(Default)]
struct Interner {
    classes: HashMap<Vec<PortPredicateId>, PortClass>,
    signatures: Vec<Vec<PortPredicateId>>,
    /// Predicates in all signatures.
    held: usize,
}

impl Interner {
    fn class(&mut self, signature: &[PortPredicateId]) -> Result<PortClass, TooManyPortClasses> {
        if let Some(class) = self.classes.get(signature) {
            return Ok(*class);
        }
        let limit = usize::from(PortClass::MAX) + 1;
        self.held += signature.len();
        let class = PortClass::try_from(self.signatures.len())
            .ok()
            .filter(|_| self.held <= MAX_SIGNATURES)
            .ok_or(TooManyPortClasses { limit })?;
        self.signatures.push(signature.to_vec());
        self.classes.insert(signature.to_vec(), class);
        Ok(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(predicates: &PortPredicates) -> PortClasses {
        let all = |count: usize| (0..u32::try_from(count).unwrap()).collect();
        let (wanted, of_source) = (all(predicates.len()), all(predicates.source_len()));
        PortClasses::build(predicates, &wanted, &of_source).unwrap()
    }

    fn class_of(classes: &PortClasses, number: u8, value: u16) -> PortClass {
        let group = group(number);
        match classes.destination.get(group).and_then(Option::as_ref) {
            Some(runs) => runs[runs.partition_point(|run| run.0 <= value) - 1].1,
            None => classes.protocols[usize::from(number)],
        }
    }

    #[test]
    fn without_rules_there_is_one_class_and_no_table() {
        let classes = build(&PortPredicates::default());
        assert_eq!(classes.signatures.len(), 1);
        assert!(classes.destination.iter().all(Option::is_none));
        assert!(classes.source.iter().all(Option::is_none));
    }

    #[test]
    fn borders_are_where_the_ranges_say() {
        let mut predicates = PortPredicates::default();
        let tcp = predicates.protocol(Protocol(6));
        let low = predicates.destination_ports(group_mask(6), &[(0, 80), (443, 443), (81, 90)]);
        let high = predicates.destination_ports(group_mask(6), &[(80, 65535)]);
        let classes = build(&predicates);
        let of = |value| classes.signatures[usize::from(class_of(&classes, 6, value))].clone();
        assert_eq!(of(0), [tcp, low]);
        assert_eq!(of(79), [tcp, low]);
        assert_eq!(of(80), [tcp, low, high]);
        assert_eq!(of(90), [tcp, low, high]);
        assert_eq!(of(91), [tcp, high]);
        assert_eq!(of(443), [tcp, low, high]);
        assert_eq!(of(65535), [tcp, high]);
        assert!(classes.destination[1].is_none(), "no rule tells UDP ports apart");
        assert_eq!(class_of(&classes, 17, 80), class_of(&classes, 47, 0));
    }

    #[test]
    fn icmp_type_zero_and_code_zero_are_values() {
        let mut predicates = PortPredicates::default();
        let whole = predicates.icmp(IpVersion::V4, IcmpMatch { kind: 0, code: None });
        let coded = predicates.icmp(
            IpVersion::V4,
            IcmpMatch {
                kind: 0,
                code: Some(0),
            },
        );
        let classes = build(&predicates);
        let of = |value| classes.signatures[usize::from(class_of(&classes, 1, value))].clone();
        assert_eq!(of(0), [whole, coded]);
        assert_eq!(of(255), [whole]);
        assert!(of(256).is_empty());
        assert!(classes.destination[6].is_none());
    }

    #[test]
    fn source_class_zero_is_no_predicate() {
        let mut predicates = PortPredicates::default();
        predicates.source_ports(group_mask(17), &[(0, 1023)]);
        let classes = build(&predicates);
        assert_eq!(classes.source[1].as_deref(), Some(&[(0, 1), (1024, 0)][..]));
        assert!(classes.source[0].is_none());
    }
}
