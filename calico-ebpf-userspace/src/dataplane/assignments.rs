//! Numbers that the agent gives to endpoints: slots and generations.

use std::collections::{BTreeMap, BTreeSet};

use calico_ebpf_common::endpoint::MAX_ENDPOINTS;
use serde::{Deserialize, Serialize};

use super::host_addresses::is_routable;
use crate::calc::effective::{
    DirectionPolicy, EffectiveEndpoint, EffectiveEntity, EffectivePort, EffectiveState, SetId,
};
use crate::compile::input::HostFacts;
use crate::model::name::ResourceKey;

/// Slots and generations of all endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignments {
    pub slots: BTreeMap<ResourceKey, u16>,
    pub generations: BTreeMap<ResourceKey, u32>,
    /// Since when each endpoint is who it is.
    pub born: BTreeMap<ResourceKey, Born>,
    /// Highest generation given so far.
    pub last_generation: u32,
    /// Slots that are free but go to nobody while there are others: flows of who had them are known by them still.
    pub resting: BTreeSet<u16>,
}

/// Since when an endpoint has its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Born {
    /// Its generation then.
    pub generation: u32,
    /// What its flows are known by: interface, MAC, addresses.
    pub identity: String,
}

impl Assignments {
    /// Gives each endpoint that is new, or has other addresses than before, its present generation as the one that it was
    /// born with. `remembered` is what the last run knew of those that this one sees first.
    pub fn note_births(&mut self, state: &EffectiveState, remembered: &BTreeMap<String, Born>) {
        let earlier = std::mem::take(&mut self.born);
        for (key, endpoint) in &state.endpoints {
            let identity = identity_of(endpoint);
            let known = earlier.get(key).or_else(|| remembered.get(&key.to_string()));
            let known = known.filter(|born| born.identity == identity && born.generation != 0);
            let generation = match known {
                Some(born) => born.generation,
                None => self.generations.get(key).copied().unwrap_or(0),
            };
            self.born.insert(key.clone(), Born { generation, identity });
        }
    }

    /// Returns the generation that each endpoint was born with.
    pub fn births(&self) -> BTreeMap<ResourceKey, u32> {
        let births = self.born.iter();
        births.map(|(key, born)| (key.clone(), born.generation)).collect()
    }
}

fn identity_of(endpoint: &EffectiveEndpoint) -> String {
    let EffectiveEndpoint {
        interface_name,
        mac,
        ip_networks,
        allowed_ips,
        allow_spoofed_source_prefixes,
        ip_nats,
        policy: _,
        labels: _,
    } = endpoint;
    format!(
        "{interface_name} {mac:?} {ip_networks:?} {allowed_ips:?} {allow_spoofed_source_prefixes:?} {ip_nats:?}"
    )
}

/// No generation is left. Only four thousand million changes in one life of the conntrack table lead here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation numbers are used up: stop the agent, run `calico-ebpf cleanup` and start again")]
pub struct GenerationsUsedUp;

impl Assignments {
    /// Gives slots: an endpoint keeps its own as long as it lives, also over a restart by `remembered`. Endpoints
    /// beyond [`MAX_ENDPOINTS`] get none.
    pub fn assign_slots(&mut self, state: &EffectiveState, remembered: &BTreeMap<String, u16>) {
        self.slots.retain(|key, _| state.endpoints.contains_key(key));
        let mut taken: BTreeSet<u16> = self.slots.values().copied().collect();
        let new: Vec<_> = state
            .endpoints
            .keys()
            .filter(|key| !self.slots.contains_key(key))
            .cloned()
            .collect();
        let (known, unknown): (Vec<_>, Vec<_>) = new
            .into_iter()
            .partition(|key| remembered.contains_key(&key.to_string()));
        for key in known {
            let slot = remembered.get(&key.to_string()).copied().unwrap_or(0);
            if is_slot(slot) && taken.insert(slot) {
                self.slots.insert(key, slot);
            } else {
                self.give_free_slot(key, &mut taken);
            }
        }
        for key in unknown {
            self.give_free_slot(key, &mut taken);
        }
    }

    fn give_free_slot(&mut self, key: ResourceKey, taken: &mut BTreeSet<u16>) {
        let mut free = (1..=u16::MAX)
            .take_while(|slot| is_slot(*slot))
            .filter(|slot| !taken.contains(slot));
        let first = free.clone().next();
        let rested = free.find(|slot| !self.resting.contains(slot));
        if let Some(slot) = rested.or(first) {
            taken.insert(slot);
            self.slots.insert(key, slot);
        }
    }

    /// Gives a new generation to each endpoint about which a verdict may differ between `before` and `now`; all that
    /// change at once share one. Returns whether any changed.
    ///
    /// # Errors
    /// When no number is left.
    pub fn assign_generations(
        &mut self,
        before: Option<(&EffectiveState, &HostFacts)>,
        now: (&EffectiveState, &HostFacts),
    ) -> Result<bool, GenerationsUsedUp> {
        self.generations
            .retain(|key, _| now.0.endpoints.contains_key(key));
        let changed: Vec<_> = match before {
            Some(before) if reaches_alike(before, now) => now
                .0
                .endpoints
                .keys()
                .filter(|key| !self.generations.contains_key(*key) || !judges_alike(before.0, now.0, key))
                .cloned()
                .collect(),
            _ => now.0.endpoints.keys().cloned().collect(),
        };
        if changed.is_empty() {
            return Ok(false);
        }
        self.last_generation = self.last_generation.checked_add(1).ok_or(GenerationsUsedUp)?;
        self.generations
            .extend(changed.into_iter().map(|key| (key, self.last_generation)));
        Ok(true)
    }
}

impl Assignments {
    /// Gives the endpoints that have these slots a new generation. Returns it with the slots that an endpoint has.
    ///
    /// # Errors
    /// When no number is left.
    pub fn renew(&mut self, slots: &BTreeSet<u16>) -> Result<(u32, Vec<u16>), GenerationsUsedUp> {
        let next = self.last_generation.checked_add(1).ok_or(GenerationsUsedUp)?;
        let mut owned = Vec::new();
        for (key, slot) in self.slots.iter().filter(|(_, slot)| slots.contains(slot)) {
            owned.push(*slot);
            match self.generations.get_mut(key) {
                Some(generation) => *generation = next,
                None => {
                    self.generations.insert(key.clone(), next);
                }
            }
        }
        if !owned.is_empty() {
            self.last_generation = next;
        }
        Ok((self.last_generation, owned))
    }
}

fn is_slot(slot: u16) -> bool {
    (1..=MAX_ENDPOINTS).contains(&u32::from(slot))
}

/// Returns whether every address means the same in both states: the host's, a local endpoint's, or somebody else's.
fn reaches_alike(before: (&EffectiveState, &HostFacts), now: (&EffectiveState, &HostFacts)) -> bool {
    let routable = |host: &HostFacts| -> BTreeSet<_> {
        host.host_addresses.iter().copied().filter(is_routable).collect()
    };
    let interfaces = |host: &HostFacts| {
        host.interfaces
            .iter()
            .map(|(name, tap)| (name.clone(), tap.ifindex))
            .collect()
    };
    let (interfaces_before, interfaces_now): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (interfaces(before.1), interfaces(now.1));
    let places_alike = before.0.endpoints.len() == now.0.endpoints.len()
        && before
            .0
            .endpoints
            .iter()
            .zip(&now.0.endpoints)
            .all(|((key, old), (other, new))| {
                key == other
                    && old.interface_name == new.interface_name
                    && old.mac == new.mac
                    && old.ip_networks == new.ip_networks
                    && old.ip_nats == new.ip_nats
            });
    places_alike
        && interfaces_before == interfaces_now
        && routable(before.1) == routable(now.1)
        && before.1.expected == now.1.expected
}

/// Returns whether an endpoint's own policy says the same in both states.
fn judges_alike(before: &EffectiveState, now: &EffectiveState, key: &ResourceKey) -> bool {
    let (Some(old), Some(new)) = (before.endpoints.get(key), now.endpoints.get(key)) else {
        return false;
    };
    old == new
        && sets_of(&new.policy.egress)
            .chain(sets_of(&new.policy.ingress))
            .all(|set| before.sets.get(set) == now.sets.get(set))
}

fn sets_of(policy: &DirectionPolicy) -> impl Iterator<Item = &SetId> {
    let of_tiers = policy
        .tiers
        .iter()
        .flat_map(|tier| &tier.policies)
        .flat_map(|policy| &policy.rules);
    let of_profiles = policy
        .profiles
        .iter()
        .filter_map(|profile| profile.rules.as_ref())
        .flatten();
    of_tiers
        .chain(of_profiles)
        .flat_map(|rule| [&rule.source, &rule.destination])
        .flat_map(|entity| {
            entity
                .sets
                .iter()
                .chain(&entity.not_sets)
                .chain(port_sets(entity))
        })
}

fn port_sets(entity: &EffectiveEntity) -> impl Iterator<Item = &SetId> {
    let ports = entity.ports.iter().flatten().chain(&entity.not_ports);
    ports.filter_map(|port| match port {
        EffectivePort::Member { set, .. } => Some(set),
        EffectivePort::Range(..) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::calc::effective::{EffectivePolicy, EffectiveProfile, EffectiveRule};
    use crate::model::name::Kind;
    use crate::model::rule::Action;

    fn key(name: &str) -> ResourceKey {
        let (namespace, name) = ("openstack".to_owned(), name.to_owned());
        ResourceKey {
            kind: Kind::WorkloadEndpoint,
            namespace,
            name,
        }
    }

    fn endpoint(name: &str, set: &str) -> EffectiveEndpoint {
        let source = EffectiveEntity {
            sets: vec![SetId(set.into())],
            ..EffectiveEntity::default()
        };
        let rule = EffectiveRule {
            action: Action::Allow,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source,
            destination: EffectiveEntity::default(),
            index: 0,
        };
        let profiles = vec![EffectiveProfile {
            name: "p".into(),
            rules: Some(vec![rule]),
        }];
        let ingress = DirectionPolicy {
            profiles,
            ..DirectionPolicy::default()
        };
        EffectiveEndpoint {
            interface_name: format!("tap-{name}"),
            mac: None,
            ip_networks: vec![],
            allowed_ips: vec![],
            allow_spoofed_source_prefixes: vec![],
            ip_nats: vec![],
            policy: Arc::new(EffectivePolicy {
                ingress,
                ..EffectivePolicy::default()
            }),
            labels: Arc::default(),
        }
    }

    fn state(endpoints: &[(&str, &str)]) -> EffectiveState {
        let endpoints = endpoints
            .iter()
            .map(|(name, set)| (key(name), Arc::new(endpoint(name, set))))
            .collect();
        EffectiveState {
            endpoints,
            ..EffectiveState::default()
        }
    }

    #[test]
    fn endpoint_keeps_its_slot_and_a_free_one_is_given_again() {
        let mut assignments = Assignments::default();
        assignments.assign_slots(&state(&[("a", "s"), ("b", "s")]), &BTreeMap::new());
        assert_eq!(assignments.slots[&key("b")], 2);
        assignments.assign_slots(&state(&[("b", "s"), ("c", "s")]), &BTreeMap::new());
        assert_eq!(
            (assignments.slots[&key("b")], assignments.slots[&key("c")]),
            (2, 1)
        );
    }

    #[test]
    fn a_slot_that_rests_is_given_only_when_no_other_is_left() {
        let mut assignments = Assignments {
            resting: BTreeSet::from([1]),
            ..Assignments::default()
        };
        assignments.assign_slots(&state(&[("a", "s")]), &BTreeMap::new());
        assert_eq!(assignments.slots[&key("a")], 2);
        let all = u16::try_from(MAX_ENDPOINTS).unwrap();
        assignments.resting = (1..=all).collect();
        assignments.assign_slots(&state(&[("a", "s"), ("b", "s")]), &BTreeMap::new());
        assert_eq!(assignments.slots[&key("b")], 1);
    }

    #[test]
    fn slots_of_the_last_run_are_kept() {
        let remembered = BTreeMap::from([(key("b").to_string(), 1)]);
        let mut assignments = Assignments::default();
        assignments.assign_slots(&state(&[("a", "s"), ("b", "s")]), &remembered);
        assert_eq!(
            (assignments.slots[&key("a")], assignments.slots[&key("b")]),
            (2, 1)
        );
    }

    #[test]
    fn generation_is_never_given_twice_and_starts_after_the_last_run() {
        let mut assignments = Assignments {
            last_generation: 41,
            ..Assignments::default()
        };
        let (now, host) = (state(&[("a", "s")]), HostFacts::default());
        assert_eq!(assignments.assign_generations(None, (&now, &host)), Ok(true));
        assert_eq!(assignments.generations[&key("a")], 42);
        assert_eq!(
            assignments.assign_generations(Some((&now, &host)), (&now, &host)),
            Ok(false)
        );
        assert_eq!(assignments.generations[&key("a")], 42);
    }

    #[test]
    fn endpoint_is_born_again_when_its_addresses_change_and_not_when_its_policy_does() {
        let mut assignments = Assignments::default();
        let host = HostFacts::default();
        let mut now = state(&[("a", "s"), ("b", "s")]);
        let mut follow = |now: &EffectiveState, remembered: &BTreeMap<String, Born>| {
            assignments.assign_generations(None, (now, &host)).unwrap();
            assignments.note_births(now, remembered);
            (assignments.last_generation, assignments.born.clone())
        };
        let (first, born) = follow(&now, &BTreeMap::new());
        assert_eq!(born[&key("a")].generation, first);
        let other_policy = Arc::new(endpoint("a", "t"));
        now.endpoints.insert(key("a"), other_policy);
        let (_, born) = follow(&now, &BTreeMap::new());
        assert_eq!(born[&key("a")].generation, first);
        let mut moved = endpoint("a", "t");
        moved.ip_networks = vec!["10.0.0.9/32".parse().unwrap()];
        now.endpoints.insert(key("a"), Arc::new(moved));
        let (third, born) = follow(&now, &BTreeMap::new());
        assert_eq!(
            (born[&key("a")].generation, born[&key("b")].generation),
            (third, first)
        );
        // The next run goes by what this one knew, unless the addresses changed meanwhile.
        let remembered: BTreeMap<String, Born> = born
            .iter()
            .map(|(key, born)| (key.to_string(), born.clone()))
            .collect();
        let mut next = Assignments {
            last_generation: third,
            ..Assignments::default()
        };
        now.endpoints.insert(key("a"), Arc::new(endpoint("a", "t")));
        next.assign_generations(None, (&now, &host)).unwrap();
        next.note_births(&now, &remembered);
        assert_eq!(
            (next.born[&key("a")].generation, next.born[&key("b")].generation),
            (third + 1, first)
        );
    }

    #[test]
    fn change_of_a_set_touches_only_the_endpoints_that_use_it() {
        let mut assignments = Assignments::default();
        let (before, host) = (state(&[("a", "s"), ("b", "t")]), HostFacts::default());
        assignments.assign_generations(None, (&before, &host)).unwrap();
        let mut now = before.clone();
        now.sets.insert(
            SetId("t".into()),
            ["10.0.0.1/32".parse().unwrap()].into_iter().collect(),
        );
        assert_eq!(
            assignments.assign_generations(Some((&before, &host)), (&now, &host)),
            Ok(true)
        );
        assert_eq!(
            (
                assignments.generations[&key("a")],
                assignments.generations[&key("b")]
            ),
            (1, 2)
        );
    }

    #[test]
    fn endpoint_that_appears_touches_all_because_flows_to_its_address_must_be_judged_again() {
        let mut assignments = Assignments::default();
        let (before, host) = (state(&[("a", "s")]), HostFacts::default());
        assignments.assign_generations(None, (&before, &host)).unwrap();
        let now = state(&[("a", "s"), ("b", "s")]);
        assignments
            .assign_generations(Some((&before, &host)), (&now, &host))
            .unwrap();
        assert_eq!(
            (
                assignments.generations[&key("a")],
                assignments.generations[&key("b")]
            ),
            (2, 2)
        );
    }

    #[test]
    fn link_local_address_of_a_new_tap_touches_nobody() {
        let mut assignments = Assignments::default();
        let (now, before) = (state(&[("a", "s")]), HostFacts::default());
        assignments.assign_generations(None, (&now, &before)).unwrap();
        let mut host = before.clone();
        host.host_addresses.insert("fe80::1".parse().unwrap());
        assert_eq!(
            assignments.assign_generations(Some((&now, &before)), (&now, &host)),
            Ok(false)
        );
    }
}
