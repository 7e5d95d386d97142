//! The reference evaluator, by which our tables are judged, is itself judged: iptables and ipset decide about real
//! packets under the same random policies.

use calico_ebpf_tests::felix_oracle::{Oracle, Question};
use calico_ebpf_tests::policy_packets::{is_routable, owner};
use calico_ebpf_userspace::compile::generate::{Case, MOST_ENDPOINTS, Random, case};
use calico_ebpf_userspace::compile::reference::judge_packet;

const CASES: u64 = 25;
const PACKETS: usize = 80;
/// Of these, as many must have been judged; the other policies cannot be told to iptables.
const LEAST_JUDGED: usize = 1000;

/// Makes a packet that a host forwards, from an endpoint or to one.
fn question(case: &Case, random: &mut Random) -> Option<Question> {
    let key = case.endpoint(random);
    let other = if random.chance(40) {
        case.endpoint(random)
    } else {
        None
    };
    let is_from = random.chance(50);
    let facts = if is_from {
        case.packet(random, key, other)?
    } else {
        case.packet(random, None, key)?
    };
    let is_forwarded = is_routable(facts.source)
        && is_routable(facts.destination)
        && !case.host.host_addresses.contains(&facts.destination);
    is_forwarded.then(|| Question {
        facts,
        source: key.filter(|_| is_from).cloned(),
        target: owner(&case.state, &case.host, facts.destination).cloned(),
    })
}

#[test]
fn iptables_agree_with_the_reference_about_real_packets_under_random_policies() {
    let mut oracle = Oracle::new(u8::try_from(MOST_ENDPOINTS).expect("a few"));
    let (mut judged, mut allowed, mut without_form) = (0, 0, 0);
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let case = case(&mut random);
        if oracle.enforce(&case.state).is_err() {
            without_form += 1;
            continue;
        }
        let questions: Vec<Question> = (0..PACKETS)
            .filter_map(|_| question(&case, &mut random))
            .collect();
        let verdicts = oracle.verdicts(&case.state, &questions);
        for (question, arrives) in questions.iter().zip(verdicts) {
            let endpoint = |key: &Option<_>| key.as_ref().map(|key| &*case.state.endpoints[key]);
            let (source, target) = (endpoint(&question.source), endpoint(&question.target));
            let expected = judge_packet(&case.state, source, target, &question.facts);
            assert_eq!(arrives, expected.allow, "seed {seed}: {question:?}: {expected:?}");
            judged += 1;
            allowed += usize::from(expected.allow);
        }
    }
    println!("{judged} packets judged, {allowed} of them allowed; {without_form} policies have no form");
    assert!(judged >= LEAST_JUDGED, "{judged}");
    assert!(
        allowed * 20 >= judged && allowed * 20 <= judged * 19,
        "{allowed} of {judged}"
    );
}
