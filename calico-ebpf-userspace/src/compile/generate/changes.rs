//! Random changes of a case: what a cloud does to a host, one at a time.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Case, Pool, Random, border_addresses, endpoint_key, net};
use crate::calc::effective::{EffectivePolicy, SetId};

/// Most endpoints that a case comes to have.
pub const MOST_ENDPOINTS: u16 = 6;

impl Case {
    /// Changes one thing and returns what.
    pub fn change(&mut self, random: &mut Random) -> &'static str {
        let what = match random.below(10) {
            0..=5 => self.move_members(random),
            6 => self.move_prefix(random),
            7 => self.replace_policies(random),
            8 => self.share_policy(random),
            _ => self.come_or_go(random),
        };
        self.addresses = border_addresses(&self.state);
        what
    }

    /// Moves one to three addresses into sets and out of them.
    fn move_members(&mut self, random: &mut Random) -> &'static str {
        for _ in 0..=random.below(3) {
            let member = IpNet::from(random.pick(&self.addresses));
            self.toggle(random, member);
        }
        "members move"
    }

    fn move_prefix(&mut self, random: &mut Random) -> &'static str {
        let member = net(random);
        self.toggle(random, member);
        "a prefix moves"
    }

    fn toggle(&mut self, random: &mut Random, member: IpNet) {
        let sets: Vec<SetId> = self.state.sets.keys().cloned().collect();
        if let Some(members) = self.state.sets.get_mut(&random.pick(&sets))
            && !members.remove(&member)
        {
            members.insert(member);
        }
    }

    fn replace_policies(&mut self, random: &mut Random) -> &'static str {
        let policy = self.new_policy(random);
        for endpoint in self.state.endpoints.values_mut() {
            if random.chance(60) {
                Arc::make_mut(endpoint).policy = Arc::clone(&policy);
            }
        }
        "policies change"
    }

    /// Gives an endpoint the policy of another, or takes rules out of its own.
    fn share_policy(&mut self, random: &mut Random) -> &'static str {
        let keys: Vec<_> = self.state.endpoints.keys().cloned().collect();
        let (from, to) = (random.pick(&keys), random.pick(&keys));
        let mut policy = Arc::clone(&self.state.endpoints[&from].policy);
        if from == to {
            let direction = &mut Arc::make_mut(&mut policy).egress;
            let rules = direction.tiers.iter_mut().flat_map(|tier| &mut tier.policies);
            for policy in rules {
                policy.rules.retain(|_| random.chance(70));
            }
        }
        if let Some(endpoint) = self.state.endpoints.get_mut(&to) {
            Arc::make_mut(endpoint).policy = policy;
        }
        "an endpoint's policy changes"
    }

    fn come_or_go(&mut self, random: &mut Random) -> &'static str {
        let absent: Vec<u16> = (1..=MOST_ENDPOINTS)
            .filter(|number| !self.state.endpoints.contains_key(&endpoint_key(*number)))
            .collect();
        let present: Vec<_> = self.state.endpoints.keys().cloned().collect();
        if absent.is_empty() || present.len() > 1 && random.chance(50) {
            let gone = random.pick(&present);
            self.state.endpoints.remove(&gone);
            self.generations.remove(&gone);
            self.slots.remove(&gone);
            return "an endpoint goes";
        }
        let policy = self.new_policy(random);
        let number = random.pick(&absent);
        self.add_endpoint(random, number, policy);
        "an endpoint comes"
    }

    fn new_policy(&self, random: &mut Random) -> Arc<EffectivePolicy> {
        let sets: Vec<SetId> = self.state.sets.keys().cloned().collect();
        Arc::new(Pool::new(random, &sets).policy(random))
    }
}
