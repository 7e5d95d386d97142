//! The reference evaluator against iptables: real packets under random policies.

use std::time::{Duration, Instant};

use calico_ebpf_tests::felix_oracle::{Oracle, Question};
use calico_ebpf_tests::fuzzing::cases::case_seed;
use calico_ebpf_tests::fuzzing::told::line;
use calico_ebpf_tests::policy_packets::{is_routable, owner};
use calico_ebpf_userspace::compile::generate::{Case, MOST_ENDPOINTS, Random};
use calico_ebpf_userspace::compile::reference::judge_packet;

use crate::world::World;

/// Changes of a world.
const STEPS: usize = 8;
const PACKETS: usize = 100;

/// Compares until time is up. Returns whether all verdicts were the same.
pub(crate) fn run(seed: u64, time: Duration) -> bool {
    let mut oracle = Oracle::new(u8::try_from(MOST_ENDPOINTS).unwrap_or(u8::MAX));
    let started = Instant::now();
    let (mut cases, mut policies, mut without_form, mut packets, mut allowed) = (0, 0, 0, 0, 0);
    while started.elapsed() < time {
        let case = case_seed(seed, cases);
        cases += 1;
        let mut random = Random::new(case);
        let mut world = World::random(&mut random);
        for step in 0..=STEPS {
            if step > 0
                && let Err(what) = world.change(&mut random)
            {
                line(&format!("case {case:#x}, change {step}: {what}"));
                return false;
            }
            if oracle.enforce(&world.case.state).is_err() {
                without_form += 1;
                continue;
            }
            policies += 1;
            match compare(&oracle, &world.case, &mut random) {
                Ok((sent, passed)) => {
                    packets += sent;
                    allowed += passed;
                }
                Err(what) => {
                    line(&format!("case {case:#x}, change {step}: {what}"));
                    return false;
                }
            }
        }
    }
    line(&format!(
        "seed {seed}: {policies} policies in {cases} cases, {packets} real packets, {allowed} of them allowed: iptables \
         says the same; {without_form} more policies have no form as rules of iptables"
    ));
    true
}

/// Sends packets under the policy in force; returns how many, and how many are allowed.
fn compare(oracle: &Oracle, case: &Case, random: &mut Random) -> Result<(usize, usize), String> {
    let questions: Vec<Question> = (0..PACKETS).filter_map(|_| question(case, random)).collect();
    let verdicts = oracle.verdicts(&case.state, &questions);
    let mut allowed = 0;
    for (question, arrives) in questions.iter().zip(verdicts) {
        let endpoint = |key: &Option<_>| key.as_ref().map(|key| &*case.state.endpoints[key]);
        let (source, target) = (endpoint(&question.source), endpoint(&question.target));
        let expected = judge_packet(&case.state, source, target, &question.facts);
        if arrives != expected.allow {
            return Err(format!(
                "iptables {}: {question:?}: {expected:?}",
                if arrives { "allows" } else { "denies" }
            ));
        }
        allowed += usize::from(arrives);
    }
    Ok((questions.len(), allowed))
}

/// Makes a packet that a host forwards, from an endpoint or to one.
fn question(case: &Case, random: &mut Random) -> Option<Question> {
    let key = case.endpoint(random)?;
    let is_from = random.chance(50);
    let other = case.endpoint(random).filter(|_| random.chance(40));
    let facts = if is_from {
        case.packet(random, Some(key), other)?
    } else {
        case.packet(random, None, Some(key))?
    };
    let is_forwarded = is_routable(facts.source)
        && is_routable(facts.destination)
        && !case.host.host_addresses.contains(&facts.destination);
    is_forwarded.then(|| Question {
        facts,
        source: is_from.then(|| key.clone()),
        target: owner(&case.state, &case.host, facts.destination).cloned(),
    })
}
