//! The sets that rules in force use, followed as members come and go and as rules do.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::counted::{CountedSet, Counts, Step, count};
use super::matching::{GroupId, Matching, SelectorId};
use crate::calc::effective::{SetId, SetMembers};
use crate::calc::endpoints::Member;
use crate::calc::rules::{SetSource, port_set_id, set_id};
use crate::model::labels::Labels;
use crate::model::name::ResourceKey;
use crate::model::resource::NamedPort;
use crate::model::rule::Protocol;
use crate::model::selector::Selector;

/// Whose rules use sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reader {
    Policy(ResourceKey),
    Profile(String),
}

/// The use of a set; to be given back with [`ActiveSets::release`].
#[derive(Debug)]
pub(super) enum Hold {
    Selected(SelectorId),
    Port {
        selector: SelectorId,
        name: String,
        wanted: Option<Protocol>,
    },
}

/// What has changed about sets, by name; `None`: no longer used.
pub(super) type SetChanges = BTreeMap<SetId, Option<SetMembers>>;

/// Everything that has labels and addresses, and the sets in use.
#[derive(Debug, Default)]
pub(super) struct ActiveSets {
    matching: Matching,
    groups: HashMap<GroupId, Addresses>,
    watches: HashMap<SelectorId, Watch>,
    /// Watches whose sets may have changed since they were told.
    stale: BTreeSet<SelectorId>,
    /// Sets that were in use when last told.
    gone: Vec<SetId>,
    /// Whose named ports stand for others than when they were resolved.
    stale_readers: BTreeSet<Reader>,
}

/// What members with equal labels have together.
#[derive(Debug, Default)]
struct Addresses {
    nets: Counts,
    ports: BTreeMap<NamedPort, Counts>,
}

/// The sets of one selector.
#[derive(Debug)]
struct Watch {
    selector: Selector,
    /// The set of all addresses, and how many use it.
    selected: Option<(usize, CountedSet)>,
    ports: BTreeMap<String, PortWatch>,
}

/// A named port of what one selector selects.
#[derive(Debug, Default)]
struct PortWatch {
    /// Which protocol its users ask for, and how many do.
    wanted: BTreeMap<Option<Protocol>, usize>,
    readers: BTreeMap<Reader, usize>,
    pairs: BTreeMap<(Protocol, u16), CountedSet>,
}

impl ActiveSets {
    /// Returns the labels, shared with members that have the same.
    pub(super) fn share(&self, labels: Cow<'_, Labels>) -> Arc<Labels> {
        self.matching.share(labels)
    }

    /// Takes up a member with its labels, inherited ones included.
    pub(super) fn enter(&mut self, labels: &Arc<Labels>, member: &Member<'_>) -> GroupId {
        let group = self.matching.enter(labels);
        self.count(group, member, Step::Comes);
        group
    }

    /// Gives a member back, as it was taken up.
    pub(super) fn leave(&mut self, group: GroupId, member: &Member<'_>) {
        self.count(group, member, Step::Goes);
        if self.matching.leave(group) {
            self.groups.remove(&group);
        }
    }

    /// Returns the labels of a group.
    pub(super) fn labels(&self, group: GroupId) -> Arc<Labels> {
        self.matching.labels(group)
    }

    /// Starts to resolve a reader's rules.
    pub(super) fn resolving<'a>(&'a mut self, reader: &'a Reader) -> Resolving<'a> {
        Resolving {
            sets: self,
            reader,
            holds: Vec::new(),
        }
    }

    /// Gives back what a reader used.
    pub(super) fn release(&mut self, reader: &Reader, holds: Vec<Hold>) {
        for hold in holds {
            let id = match &hold {
                Hold::Selected(selector) | Hold::Port { selector, .. } => *selector,
            };
            if let Some(watch) = self.watches.get_mut(&id) {
                self.gone.extend(watch.release(reader, &hold));
                self.stale.insert(id);
            }
            if self.matching.unwatch(id) {
                self.watches.remove(&id);
            }
        }
    }

    /// Returns whose named ports have changed since the last call.
    pub(super) fn take_stale_readers(&mut self) -> BTreeSet<Reader> {
        std::mem::take(&mut self.stale_readers)
    }

    /// Returns what may have changed since the last call.
    pub(super) fn take_changes(&mut self) -> SetChanges {
        let gone = std::mem::take(&mut self.gone);
        let mut changes: SetChanges = gone.into_iter().map(|id| (id, None)).collect();
        for id in std::mem::take(&mut self.stale) {
            if let Some(watch) = self.watches.get_mut(&id) {
                watch.tell(&mut changes);
            }
        }
        changes
    }

    /// Returns how many times a selector was held against labels.
    pub(super) fn evaluated(&self) -> u64 {
        self.matching.evaluated()
    }

    /// Returns whether nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.matching.is_empty() && self.groups.is_empty() && self.watches.is_empty()
    }

    fn count(&mut self, group: GroupId, member: &Member<'_>, step: Step) {
        if member.nets.is_empty() {
            return;
        }
        let addresses = self.groups.entry(group).or_default();
        for net in &member.nets {
            count(&mut addresses.nets, *net, step);
        }
        for port in member.ports {
            let counts = addresses.ports.entry(port.clone()).or_default();
            for net in &member.nets {
                count(counts, *net, step);
            }
            if counts.is_empty() {
                addresses.ports.remove(port);
            }
        }
        for selector in self.matching.selectors_of(group) {
            if let Some(watch) = self.watches.get_mut(&selector) {
                watch.count(member, step, &mut self.stale_readers);
                self.stale.insert(selector);
            }
        }
    }

    fn watch(&mut self, selector: &Selector) -> (SelectorId, &mut Watch, Vec<&Addresses>) {
        let id = self.matching.watch(selector);
        let watch = self.watches.entry(id).or_insert_with(|| Watch {
            selector: selector.clone(),
            selected: None,
            ports: BTreeMap::new(),
        });
        self.stale.insert(id);
        let groups = &self.groups;
        let addresses = self
            .matching
            .groups_of(id)
            .filter_map(|group| groups.get(&group))
            .collect();
        (id, watch, addresses)
    }
}

impl Watch {
    fn count(&mut self, member: &Member<'_>, step: Step, stale_readers: &mut BTreeSet<Reader>) {
        if let Some((_, set)) = &mut self.selected {
            member.nets.iter().for_each(|net| set.count(*net, step));
        }
        for port in member.ports {
            let Some(watch) = self.ports.get_mut(&port.name) else {
                continue;
            };
            let set = watch
                .pairs
                .entry((port.protocol, port.port))
                .or_insert_with(|| CountedSet::new(port_id(&self.selector, port)));
            let was_empty = set.is_empty();
            member.nets.iter().for_each(|net| set.count(*net, step));
            if set.is_empty() != was_empty {
                stale_readers.extend(watch.readers.keys().cloned());
            }
        }
    }

    /// Ends one use. Returns the sets that nobody uses any more.
    fn release(&mut self, reader: &Reader, hold: &Hold) -> Vec<SetId> {
        match hold {
            Hold::Selected(_) => {
                let Some((users, set)) = &mut self.selected else {
                    return Vec::new();
                };
                *users -= 1;
                if *users > 0 {
                    return Vec::new();
                }
                let gone = vec![set.id.clone()];
                self.selected = None;
                gone
            }
            Hold::Port { name, wanted, .. } => {
                let Some(watch) = self.ports.get_mut(name) else {
                    return Vec::new();
                };
                give_back(&mut watch.wanted, wanted);
                give_back(&mut watch.readers, reader);
                if !watch.wanted.is_empty() {
                    return Vec::new();
                }
                let gone = watch.pairs.values().map(|set| set.id.clone()).collect();
                self.ports.remove(name);
                gone
            }
        }
    }

    fn tell(&mut self, changes: &mut SetChanges) {
        if let Some((_, set)) = &mut self.selected {
            changes.insert(set.id.clone(), Some(set.tell()));
        }
        for watch in self.ports.values_mut() {
            let wanted = &watch.wanted;
            watch.pairs.retain(|(protocol, _), set| {
                let is_wanted = wanted.contains_key(&None) || wanted.contains_key(&Some(*protocol));
                let is_used = is_wanted && !set.is_empty();
                changes.insert(set.id.clone(), is_used.then(|| set.tell()));
                !set.is_empty()
            });
        }
    }
}

fn port_id(selector: &Selector, port: &NamedPort) -> SetId {
    port_set_id(selector, &port.name, port.protocol, port.port)
}

/// Counts one user less; nothing is left of the last.
fn give_back<Key: Ord>(users: &mut BTreeMap<Key, usize>, key: &Key) {
    if let Some(count) = users.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            users.remove(key);
        }
    }
}

/// Resolves one reader's rules and notes which sets they use.
#[derive(Debug)]
pub(super) struct Resolving<'a> {
    sets: &'a mut ActiveSets,
    reader: &'a Reader,
    holds: Vec<Hold>,
}

impl Resolving<'_> {
    /// Returns what the rules use.
    pub(super) fn into_holds(self) -> Vec<Hold> {
        self.holds
    }
}

impl SetSource for Resolving<'_> {
    fn selected(&mut self, selector: &Selector) -> SetId {
        let (id, watch, addresses) = self.sets.watch(selector);
        let (users, set) = watch.selected.get_or_insert_with(|| {
            let mut set = CountedSet::new(set_id(selector));
            for addresses in &addresses {
                set.add(&addresses.nets);
            }
            (0, set)
        });
        *users += 1;
        self.holds.push(Hold::Selected(id));
        set.id.clone()
    }

    fn with_port(
        &mut self,
        selector: &Selector,
        name: &str,
        wanted: Option<Protocol>,
    ) -> Vec<(SetId, Protocol, u16)> {
        let (id, watch, addresses) = self.sets.watch(selector);
        let watch = watch.ports.entry(name.to_owned()).or_insert_with(|| {
            let mut pairs: BTreeMap<_, CountedSet> = BTreeMap::new();
            let ports = addresses.iter().flat_map(|addresses| &addresses.ports);
            for (port, counts) in ports.filter(|(port, _)| port.name == name) {
                pairs
                    .entry((port.protocol, port.port))
                    .or_insert_with(|| CountedSet::new(port_id(selector, port)))
                    .add(counts);
            }
            PortWatch {
                pairs,
                ..PortWatch::default()
            }
        });
        *watch.wanted.entry(wanted).or_default() += 1;
        *watch.readers.entry(self.reader.clone()).or_default() += 1;
        self.holds.push(Hold::Port {
            selector: id,
            name: name.to_owned(),
            wanted,
        });
        let pairs = watch.pairs.iter().filter(|((protocol, _), set)| {
            wanted.is_none_or(|wanted| wanted == *protocol) && !set.is_empty()
        });
        pairs
            .map(|((protocol, port), set)| (set.id.clone(), *protocol, *port))
            .collect()
    }
}
