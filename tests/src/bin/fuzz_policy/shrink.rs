//! A failure made small: fewer changes first, then fewer rules.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use calico_ebpf_tests::programs::Hooks;
use calico_ebpf_userspace::calc::effective::{
    DirectionPolicy, EffectiveEntity, EffectiveRule, EffectiveState, SetId,
};
use calico_ebpf_userspace::compile::describe::{action_name, describe_rule};
use calico_ebpf_userspace::compile::generate::Case;
use ipnet::IpNet;

use crate::coverage::Coverage;
use crate::follow::Follow;
use crate::history::{self, Failure};

/// A failure, and how to see it again.
pub(crate) struct Reproduction {
    pub(crate) seed: u64,
    pub(crate) failure: Box<Failure>,
    pub(crate) left_out: BTreeSet<usize>,
    /// The smallest state that shows it without any change, if there is one.
    pub(crate) state: Option<Arc<EffectiveState>>,
}

/// Makes a failure of a case small.
pub(crate) fn shrink(seed: u64, failure: Box<Failure>, mut hooks: Option<&mut Hooks>) -> Reproduction {
    let mut left_out: BTreeSet<usize> = (failure.step + 1..=history::STEPS).collect();
    let mut smallest = failure;
    for step in (1..=smallest.step).rev() {
        let mut fewer = left_out.clone();
        fewer.insert(step);
        let mut unused = Coverage::default();
        if let Err(failure) = history::run(seed, &fewer, hooks.as_deref_mut(), &mut unused) {
            left_out = fewer;
            smallest = failure;
        }
    }
    let state = smallest
        .case
        .as_ref()
        .and_then(|case| shrink_state(case, &smallest));
    Reproduction {
        seed,
        failure: smallest,
        left_out,
        state,
    }
}

fn shrink_state(case: &Case, failure: &Failure) -> Option<Arc<EffectiveState>> {
    let probe = failure.probe.as_ref()?;
    let fails = |state: &EffectiveState| {
        let judged = catch_unwind(AssertUnwindSafe(|| {
            let follow = Follow::begin(failure.engine, Arc::new(state.clone()), &case.host, None);
            follow.map(|follow| probe.check(&follow, state))
        }));
        matches!(judged, Err(_) | Ok(Ok(Err(_))))
    };
    let mut state = case.state.clone();
    if !fails(&state) {
        return None;
    }
    let mut attempt = |change: &dyn Fn(&mut EffectiveState) -> bool| {
        let mut smaller = state.clone();
        if change(&mut smaller) && smaller != state && probe.is_about(&smaller) && fails(&smaller) {
            state = smaller;
            return true;
        }
        false
    };
    for key in case.state.endpoints.keys() {
        attempt(&|state| state.endpoints.remove(key).is_some());
    }
    for key in case.state.endpoints.keys() {
        for is_egress in [true, false] {
            let with_direction =
                |state: &mut EffectiveState, change: &dyn Fn(&mut DirectionPolicy) -> bool| {
                    let Some(endpoint) = state.endpoints.get_mut(key) else {
                        return false;
                    };
                    let policy = Arc::make_mut(&mut Arc::make_mut(endpoint).policy);
                    change(if is_egress {
                        &mut policy.egress
                    } else {
                        &mut policy.ingress
                    })
                };
            for place in 0..MOST_PARTS {
                while attempt(&|state| with_direction(state, &|direction| drop_part(direction, place))) {}
                for field in 0..FIELDS {
                    attempt(&|state| with_direction(state, &|direction| drop_field(direction, place, field)));
                }
            }
        }
    }
    for (set, members) in &case.state.sets {
        for member in members {
            attempt(&|state| remove_member(state, set, member));
        }
    }
    Some(Arc::new(state))
}

fn remove_member(state: &mut EffectiveState, set: &SetId, member: &IpNet) -> bool {
    let members = state.sets.get_mut(set);
    members.is_some_and(|members| members.remove(member))
}

/// Takes out the rule, policy, tier or profile with this number.
fn drop_part(direction: &mut DirectionPolicy, place: usize) -> bool {
    let mut number = 0;
    let mut is_it = || {
        number += 1;
        number == place + 1
    };
    for tier in 0..direction.tiers.len() {
        if is_it() {
            direction.tiers.remove(tier);
            return true;
        }
        for policy in 0..direction.tiers[tier].policies.len() {
            if is_it() && direction.tiers[tier].policies.len() > 1 {
                direction.tiers[tier].policies.remove(policy);
                return true;
            }
            let rules = &mut direction.tiers[tier].policies[policy].rules;
            if let Some(rule) = (0..rules.len()).find(|_| is_it()) {
                rules.remove(rule);
                return true;
            }
        }
    }
    for profile in 0..direction.profiles.len() {
        if is_it() {
            direction.profiles.remove(profile);
            return true;
        }
        if let Some(rules) = &mut direction.profiles[profile].rules
            && let Some(rule) = (0..rules.len()).find(|_| is_it())
        {
            rules.remove(rule);
            return true;
        }
    }
    false
}

/// Tiers, policies, profiles and rules of one direction, at most.
const MOST_PARTS: usize = 60;
/// Parts of a rule that can be left out.
const FIELDS: usize = 17;

/// Takes a part out of the rule with this number.
fn drop_field(direction: &mut DirectionPolicy, place: usize, field: usize) -> bool {
    let of_tiers = direction
        .tiers
        .iter_mut()
        .flat_map(|tier| &mut tier.policies)
        .flat_map(|policy| &mut policy.rules);
    let of_profiles = direction
        .profiles
        .iter_mut()
        .filter_map(|profile| profile.rules.as_mut())
        .flatten();
    let Some(rule) = of_tiers.chain(of_profiles).nth(place) else {
        return false;
    };
    match field {
        0 => rule.ip_version = None,
        1 => rule.protocol = None,
        2 => rule.not_protocol = None,
        3 => rule.icmp = None,
        4 => rule.not_icmp = None,
        5..11 => drop_entity_field(&mut rule.source, field - 5),
        _ => drop_entity_field(&mut rule.destination, field - 11),
    }
    true
}

fn drop_entity_field(entity: &mut EffectiveEntity, field: usize) {
    match field {
        0 => entity.nets = None,
        1 => entity.not_nets.clear(),
        2 => entity.sets.clear(),
        3 => entity.not_sets.clear(),
        4 => entity.ports = None,
        _ => entity.not_ports.clear(),
    }
}

/// Returns what a state enforces, for people.
pub(crate) fn describe(state: &EffectiveState) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, endpoint) in &state.endpoints {
        lines.push(format!("{key} {:?}", endpoint.ip_networks));
        for (name, direction) in [
            ("egress", &endpoint.policy.egress),
            ("ingress", &endpoint.policy.ingress),
        ] {
            for tier in &direction.tiers {
                let end = if tier.default_pass { "pass" } else { "deny" };
                lines.push(format!("  {name} tier {}, at its end {end}", tier.name));
                for policy in &tier.policies {
                    lines.push(format!("    {}", policy.key));
                    lines.extend(policy.rules.iter().map(of_rule));
                }
            }
            for profile in &direction.profiles {
                let missing = if profile.rules.is_none() { ", missing" } else { "" };
                lines.push(format!("  {name} profile {}{missing}", profile.name));
                lines.extend(profile.rules.iter().flatten().map(of_rule));
            }
        }
    }
    for (set, members) in &state.sets {
        lines.push(format!("set [{}]: {members:?}", set.0));
    }
    lines
}

fn of_rule(rule: &EffectiveRule) -> String {
    format!(
        "      {}. {} {}",
        rule.index,
        action_name(rule.action),
        describe_rule(rule)
    )
}
