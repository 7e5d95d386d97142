//! Everything that has labels and addresses, and the sets that selectors make of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;

use super::effective::{SetId, SetMembers};
use super::endpoints::{Member, inherited, member_of};
use super::rules::{SetSource, port_set_id, set_id};
use crate::model::labels::Labels;
use crate::model::name::ResourceKey;
use crate::model::resource::{NamedPort, Profile, Snapshot};
use crate::model::rule::Protocol;
use crate::model::selector::{Expression, Selector};

/// Number of a distinct set of labels.
pub(super) type GroupId = usize;

/// Everything that has labels and addresses, those with equal labels together.
#[derive(Default)]
pub(super) struct Population<'a> {
    groups: Vec<Group<'a>>,
    ids: HashMap<Arc<Labels>, GroupId>,
    /// Groups that have a label, ascending.
    by_label: HashMap<String, Vec<GroupId>>,
    /// Group of each member.
    group_of: HashMap<&'a ResourceKey, GroupId>,
}

/// Those with one set of labels, inherited ones included.
struct Group<'a> {
    labels: Arc<Labels>,
    nets: BTreeSet<IpNet>,
    /// Addresses by named port.
    ports: BTreeMap<&'a NamedPort, BTreeSet<IpNet>>,
}

impl<'a> Population<'a> {
    /// Collects the endpoints of all hosts, the host endpoints and the network sets.
    pub(super) fn new(snapshot: &'a Snapshot, profiles: &HashMap<&str, &Profile>) -> Self {
        let mut population = Self::default();
        for (key, resource) in snapshot {
            if let Some(member) = member_of(resource) {
                let labels = inherited(member.labels, member.profiles, |name| profiles.get(name).copied());
                let group = population.group(labels.into_owned());
                population.add(group, &member);
                population.group_of.insert(key, group);
            }
        }
        population
    }

    /// Returns the group of a complete workload endpoint.
    pub(super) fn group_of(&self, endpoint: &ResourceKey) -> Option<GroupId> {
        self.group_of.get(endpoint).copied()
    }

    /// Returns the labels of a group, inherited ones included.
    pub(super) fn labels(&self, group: GroupId) -> &Arc<Labels> {
        &self.groups[group].labels
    }

    /// Returns all addresses that the selector selects.
    fn select(&self, selector: &Selector) -> SetMembers {
        let mut members = Vec::new();
        self.for_each_selected(selector, |group| members.extend(group.nets.iter().copied()));
        members.into_iter().collect()
    }

    /// Returns the addresses that have the named port, of all that the selector selects, by protocol and port.
    fn select_port(&self, selector: &Selector, name: &str) -> BTreeMap<(Protocol, u16), BTreeSet<IpNet>> {
        let mut members: BTreeMap<(Protocol, u16), BTreeSet<IpNet>> = BTreeMap::new();
        self.for_each_selected(selector, |group| {
            for (port, nets) in group.ports.iter().filter(|(port, _)| port.name == name) {
                members
                    .entry((port.protocol, port.port))
                    .or_default()
                    .extend(nets.iter().copied());
            }
        });
        members
    }

    fn group(&mut self, labels: Labels) -> GroupId {
        if let Some(id) = self.ids.get(&labels) {
            return *id;
        }
        let id = self.groups.len();
        let labels = Arc::new(labels);
        for label in labels.keys() {
            self.by_label.entry(label.clone()).or_default().push(id);
        }
        self.ids.insert(Arc::clone(&labels), id);
        self.groups.push(Group {
            labels,
            nets: BTreeSet::new(),
            ports: BTreeMap::new(),
        });
        id
    }

    fn add(&mut self, group: GroupId, member: &Member<'a>) {
        let group = &mut self.groups[group];
        group.nets.extend(member.nets.iter().copied());
        // A port of something without addresses is nowhere.
        for port in member.ports.iter().filter(|_| !member.nets.is_empty()) {
            let nets = group.ports.entry(port).or_default();
            nets.extend(member.nets.iter().copied());
        }
    }

    fn for_each_selected(&self, selector: &Selector, mut visit: impl FnMut(&Group<'a>)) {
        let mut visit_if = |group: &Group<'a>| {
            if selector.matches(&group.labels) {
                visit(group);
            }
        };
        match required_label(selector.expression()) {
            Some(label) => {
                let having = self.by_label.get(label).map_or(&[][..], Vec::as_slice);
                for group in having {
                    visit_if(&self.groups[*group]);
                }
            }
            None => self.groups.iter().for_each(visit_if),
        }
    }
}

/// Returns a label without which nothing is selected, if there is one in plain sight.
fn required_label(expression: &Expression) -> Option<&str> {
    match expression {
        Expression::Has(label)
        | Expression::Equal(label, _)
        | Expression::Contains(label, _)
        | Expression::StartsWith(label, _)
        | Expression::EndsWith(label, _)
        | Expression::In(label, _) => Some(label),
        Expression::And(parts) => parts.iter().find_map(required_label),
        Expression::All
        | Expression::Global
        | Expression::NotEqual(..)
        | Expression::NotIn(..)
        | Expression::Not(_)
        | Expression::Or(_) => None,
    }
}

/// The sets in use, each made once.
pub(super) struct Sets<'a> {
    population: &'a Population<'a>,
    pub(super) sets: BTreeMap<SetId, SetMembers>,
}

impl<'a> Sets<'a> {
    /// Starts without sets.
    pub(super) fn new(population: &'a Population<'a>) -> Self {
        Self {
            population,
            sets: BTreeMap::new(),
        }
    }
}

impl SetSource for Sets<'_> {
    fn selected(&mut self, selector: &Selector) -> SetId {
        let id = set_id(selector);
        self.sets
            .entry(id.clone())
            .or_insert_with(|| self.population.select(selector));
        id
    }

    fn with_port(
        &mut self,
        selector: &Selector,
        name: &str,
        wanted: Option<Protocol>,
    ) -> Vec<(SetId, Protocol, u16)> {
        let mut found = Vec::new();
        for ((protocol, port), members) in self.population.select_port(selector, name) {
            if wanted.is_none_or(|wanted| wanted == protocol) {
                let id = port_set_id(selector, name, protocol, port);
                self.sets.insert(id.clone(), members.into_iter().collect());
                found.push((id, protocol, port));
            }
        }
        found
    }
}
