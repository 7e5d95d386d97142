//! From a calculated state to the verdict: one member of a large set, and one rule of a large policy.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_userspace::calc::effective::{EffectivePort, EffectiveState, SetId};
use ipnet::IpNet;

use super::Run;
use super::classes::fill_trie;
use super::figures::{Figure, Goal};
use super::host::{Site, Working, names};
use crate::bed::Bed;
use crate::felix;
use crate::rules::{Last, PORT, Peer, Policy, everybody_id, set_id};

/// Changes of one round to a class that exists, each there and back, and to new ones: a version has room for some rows
/// only.
const CHANGES: usize = 8;
const NEW_CLASSES: usize = 4;
/// The address that comes and goes.
const NEWCOMER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Port that the changed rule allows in one of both states.
const OTHER_PORT: u16 = 7777;

/// Measures the rows of this file.
pub(super) fn measure(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if run.wants("update_member") {
        figures.extend(members(run)?);
    }
    if run.wants("update_policy") {
        figures.extend(policies(run)?);
    }
    Ok(figures)
}

/// 100 rules; the last names a set of all members.
fn member_policy(run: &Run<'_>) -> Policy {
    Policy {
        members: run.sizes.members,
        last: Last::Everybody,
        ..Policy::default()
    }
}

fn members(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    run.say("update_member: table and trie");
    let policy = member_policy(run);
    let site = Site::new(2)?;
    let mut trie = Bed::new(policy).load()?;
    fill_trie(&mut trie, &policy)?;
    let mut trie: LpmTrie<_, [u8; 4], u32> =
        LpmTrie::try_from(trie.take_map("BENCH_TRIE4").context("no trie")?)?;
    let config = site.config();
    let [existing, new] = site.namespace.run(|| -> anyhow::Result<_> {
        let mut without = Arc::new(policy.state(&site.names, 1));
        let mut working = Working::start(&config, &site.names[0], &without)?;
        let (mut existing, mut new) = (Vec::new(), Vec::new());
        let mut combination = 0;
        for round in 0..run.sizes.rounds {
            run.say(&format!("update_member: round {}", round + 1));
            let trie_update = trie_nanoseconds(&mut trie)?;
            let with = with_member(&without, &[everybody_id()]);
            let mut times = Vec::new();
            for _ in 0..CHANGES {
                times.push(change(&mut working, &with, PORT, true)?);
                times.push(change(&mut working, &without, PORT, false)?);
            }
            existing.push([mean(&times), trie_update]);
            // Another version has its room for new rows anew.
            without = with_other_label(&without, round);
            working.put_in_force(&without)?;
            let mut times = Vec::new();
            for _ in 0..NEW_CLASSES {
                // Two sets or more: a membership that no address had before.
                combination = next_combination(combination);
                let sets: Vec<usize> = (0..policy.sets)
                    .filter(|set| combination >> set & 1 != 0)
                    .collect();
                let mut ids: Vec<SetId> = sets.iter().map(|set| set_id(*set)).collect();
                ids.push(everybody_id());
                let with = with_member(&without, &ids);
                let port = port_of(&policy, sets[0])?;
                times.push(change(&mut working, &with, port, true)?);
                change(&mut working, &without, port, false)?;
            }
            new.push([mean(&times), trie_update]);
        }
        Ok([existing, new])
    })?;
    let what = "a member joins or leaves: calculated state to verdict";
    let baseline = "update of a BPF LPM trie with the same members, one system call";
    Ok(vec![
        Figure::new("update_member/existing_class", what, baseline, existing).goal(Goal::RatioAtMost(1.0)),
        Figure::new(
            "update_member/new_class",
            "a member joins sets that no address was in together: calculated state to verdict",
            baseline,
            new,
        )
        .goal(Goal::RatioAtMost(10.0)),
    ])
}

/// Returns the next number with at least two bits.
fn next_combination(combination: u32) -> u32 {
    (combination + 1..u32::MAX)
        .find(|next| next.count_ones() > 1)
        .unwrap_or(3)
}

fn port_of(policy: &Policy, set: usize) -> anyhow::Result<u16> {
    let rules = (0..policy.rules).map(|index| policy.rule(index));
    let named = rules
        .filter(|(peer, _)| *peer == Peer::Set(set))
        .map(|(_, port)| port)
        .next();
    named.with_context(|| format!("no rule names set {set}"))
}

fn with_member(state: &EffectiveState, sets: &[SetId]) -> Arc<EffectiveState> {
    let mut state = state.clone();
    for id in sets {
        if let Some(members) = state.sets.get_mut(id) {
            members.insert(IpNet::from(IpAddr::V4(NEWCOMER)));
        }
    }
    Arc::new(state)
}

/// Returns the same state with an endpoint that differs in what no rule asks for.
fn with_other_label(state: &EffectiveState, number: usize) -> Arc<EffectiveState> {
    let mut state = state.clone();
    if let Some(endpoint) = state.endpoints.values_mut().next() {
        let labels = [("number".to_owned(), number.to_string())];
        Arc::make_mut(endpoint).labels = Arc::new(labels.into_iter().collect());
    }
    Arc::new(state)
}

/// Puts a state in force and returns nanoseconds, when the verdict before and after is what it must be.
fn change(
    working: &mut Working,
    state: &Arc<EffectiveState>,
    port: u16,
    allows: bool,
) -> anyhow::Result<f64> {
    ensure!(
        working.may_send(NEWCOMER, port)? != allows,
        "the verdict was {allows} before the change"
    );
    let amendments = working.dataplane.amendments;
    let started = Instant::now();
    working.put_in_force(state)?;
    let nanoseconds = started.elapsed().as_secs_f64() * 1e9;
    ensure!(
        working.may_send(NEWCOMER, port)? == allows,
        "the verdict did not become {allows}"
    );
    ensure!(
        working.dataplane.amendments == amendments + 1,
        "the change needed a new version of the table"
    );
    let unsettled = working.dataplane.take_unsettled();
    working.dataplane.renew_generations(&unsettled)?;
    Ok(nanoseconds)
}

/// Returns nanoseconds of one update.
fn trie_nanoseconds(trie: &mut LpmTrie<aya::maps::MapData, [u8; 4], u32>) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for number in 0..CHANGES {
        let key = Key::new(32, [198, 51, 100, u8::try_from(number)?]);
        let started = Instant::now();
        trie.insert(&key, 3, 0)?;
        times.push(started.elapsed().as_secs_f64() * 1e9);
        let started = Instant::now();
        trie.remove(&key)?;
        times.push(started.elapsed().as_secs_f64() * 1e9);
    }
    Ok(mean(&times))
}

/// Returns the mean without the slowest quarter: what an interruption hit says nothing.
fn mean(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.truncate((times.len() * 3).div_ceil(4));
    #[expect(clippy::cast_precision_loss, reason = "some tens")]
    let count = times.len() as f64;
    times.iter().sum::<f64>() / count
}

fn policies(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    run.say("update_policy: table and rules");
    let policy = Policy {
        rules: 1000.min(run.sizes.members as usize / 2),
        members: run.sizes.members,
        ..Policy::default()
    };
    let site = Site::new(run.sizes.endpoints_changed)?;
    let felix = Netns::host();
    felix.feed("ipset", &["restore"], &felix::sets(&policy, site.names.len()));
    let text = felix::rules(&policy, &names(run.sizes.endpoints_changed), 1);
    let config = site.config();
    let rounds = site.namespace.run(|| -> anyhow::Result<_> {
        let states = [
            Arc::new(policy.state(&site.names, 1)),
            Arc::new(with_other_port(&policy, &site.names)),
        ];
        let mut working = Working::start(&config, &site.names[0], &states[0])?;
        let net = Ipv4Addr::new(172, 16, 0, 1);
        let mut rounds = [Vec::new(), Vec::new()];
        for round in 0..run.sizes.rounds {
            run.say(&format!("update_policy: round {}", round + 1));
            let mut times = Vec::new();
            for changed in [true, false] {
                let state = &states[usize::from(changed)];
                let epoch = working.dataplane.epoch();
                let started = Instant::now();
                working.put_in_force(state)?;
                times.push(started.elapsed().as_secs_f64() * 1e3);
                ensure!(working.dataplane.epoch() != epoch, "no new version of the table");
                ensure!(
                    working.may_send(net, OTHER_PORT)? == changed,
                    "the verdict did not follow the rule"
                );
            }
            for (rounds, restore) in rounds
                .iter_mut()
                .zip(["iptables-legacy-restore", "iptables-nft-restore"])
            {
                rounds.push([
                    times[0].midpoint(times[1]),
                    restore_milliseconds(&felix, restore, &text)?,
                ]);
                // The kind that is not measured must not slow the other one down.
                felix.feed(restore, &[], &felix::nothing());
            }
        }
        Ok(rounds)
    })?;
    let [legacy, nft] = rounds;
    let what = format!(
        "one of {} rules changes, {} members: calculated state to the new table in force",
        policy.rules, policy.members
    );
    let baseline = |kind: &str| {
        format!(
            "iptables-{kind}-restore of the same for {} endpoints",
            run.sizes.endpoints_changed
        )
    };
    Ok(vec![
        Figure::new("update_policy", &what, &baseline("legacy"), legacy)
            .in_unit("ms")
            .goal(Goal::RatioAtMost(0.3)),
        Figure::new("update_policy/beside_nft", &what, &baseline("nft"), nft).in_unit("ms"),
    ])
}

/// Returns milliseconds that a program takes to restore rules.
pub(super) fn restore_milliseconds(namespace: &Netns, restore: &str, text: &str) -> anyhow::Result<f64> {
    let started = Instant::now();
    namespace
        .try_feed(restore, &[], text)
        .with_context(|| restore.to_owned())?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Returns the state in which the first rule of both directions allows another port.
fn with_other_port(policy: &Policy, names: &[String]) -> EffectiveState {
    let mut state = policy.state(names, 1);
    let first = state
        .endpoints
        .values()
        .next()
        .map(|endpoint| Arc::clone(&endpoint.policy));
    let Some(first) = first else { return state };
    let mut changed = (*first).clone();
    for direction in [&mut changed.egress, &mut changed.ingress] {
        let rules = direction.tiers.iter_mut().flat_map(|tier| &mut tier.policies);
        for rule in rules.filter_map(|policy| policy.rules.first_mut()) {
            rule.destination.ports = Some(vec![EffectivePort::Range(OTHER_PORT, OTHER_PORT)]);
        }
    }
    let changed = Arc::new(changed);
    for endpoint in state.endpoints.values_mut() {
        Arc::make_mut(endpoint).policy = Arc::clone(&changed);
    }
    state
}
