//! Everything that has labels and addresses, and the sets that selectors make of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;

use super::effective::{SetId, SetMembers};
use crate::model::labels::Labels;
use crate::model::name::ResourceKey;
use crate::model::resource::{NamedPort, Profile, Resource, Snapshot, WorkloadEndpoint};
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
    /// Group of each workload endpoint.
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
            match &**resource {
                Resource::WorkloadEndpoint(endpoint) if is_complete(endpoint) => {
                    let group = population.group(inherited(&endpoint.labels, &endpoint.profiles, profiles));
                    population.add(group, endpoint.ip_networks.iter().copied(), &endpoint.ports);
                    population.group_of.insert(key, group);
                }
                Resource::HostEndpoint(endpoint) => {
                    let group = population.group(inherited(&endpoint.labels, &endpoint.profiles, profiles));
                    population.add(
                        group,
                        endpoint.expected_ips.iter().map(|ip| IpNet::from(*ip)),
                        &endpoint.ports,
                    );
                }
                Resource::NetworkSet(set) => {
                    let group = population.group(inherited(&set.labels, &set.profiles, profiles));
                    population.add(group, set.nets.iter().copied(), &[]);
                }
                Resource::WorkloadEndpoint(_)
                | Resource::Policy(_)
                | Resource::Tier(_)
                | Resource::Profile(_)
                | Resource::IpPool(_)
                | Resource::Node(_)
                | Resource::LiveMigration(_)
                | Resource::FelixConfiguration(_)
                | Resource::ClusterInformation(_) => {}
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
    pub(super) fn select(&self, selector: &Selector) -> SetMembers {
        let mut members = BTreeSet::new();
        self.for_each_selected(selector, |group| members.extend(group.nets.iter().copied()));
        Arc::new(members)
    }

    /// Returns the addresses that have the named port, of all that the selector selects, by protocol and port.
    pub(super) fn select_port(
        &self,
        selector: &Selector,
        name: &str,
    ) -> BTreeMap<(Protocol, u16), BTreeSet<IpNet>> {
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

    fn add(&mut self, group: GroupId, nets: impl Iterator<Item = IpNet>, ports: &'a [NamedPort]) {
        let group = &mut self.groups[group];
        let nets: Vec<IpNet> = nets.map(|net| net.trunc()).collect();
        group.nets.extend(nets.iter().copied());
        for port in ports {
            group.ports.entry(port).or_default().extend(nets.iter().copied());
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

/// Returns whether Felix would take the endpoint at all: with an interface and an address.
pub(super) fn is_complete(endpoint: &WorkloadEndpoint) -> bool {
    !endpoint.interface_name.is_empty() && !endpoint.ip_networks.is_empty()
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

/// Returns own labels, then those of each profile in order that are not there yet.
fn inherited(own: &Labels, profiles: &[String], known: &HashMap<&str, &Profile>) -> Labels {
    let mut labels = own.clone();
    for profile in profiles.iter().filter_map(|name| known.get(name.as_str())) {
        for (label, value) in &profile.labels_to_apply {
            labels.entry(label.clone()).or_insert_with(|| value.clone());
        }
    }
    labels
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

    /// Returns the set of what the selector selects.
    pub(super) fn selected(&mut self, selector: &Selector) -> SetId {
        let id = SetId(Arc::from(selector.to_string()));
        self.sets
            .entry(id.clone())
            .or_insert_with(|| self.population.select(selector));
        id
    }

    /// Returns the sets of what the selector selects and has the named port, with protocol and port.
    pub(super) fn with_port(&mut self, selector: &Selector, name: &str) -> Vec<(SetId, Protocol, u16)> {
        let mut found = Vec::new();
        for ((protocol, port), members) in self.population.select_port(selector, name) {
            let id = SetId(Arc::from(format!(
                "port {name} {}/{port} of {selector}",
                protocol.0
            )));
            self.sets.insert(id.clone(), Arc::new(members));
            found.push((id, protocol, port));
        }
        found
    }
}
