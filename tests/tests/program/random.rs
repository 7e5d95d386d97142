//! Random policies and packets: the reference evaluator, the compiled tables and the programs in the kernel agree.

use calico_ebpf_common::endpoint::{SLOT_HOST, SLOT_NONE};
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::packets::PAYLOAD;
use calico_ebpf_tests::policy_packets::{owner, packet_of, refused_before_policy};
use calico_ebpf_tests::programs::{Counted, Dataplane, Origin, Ran};
use calico_ebpf_userspace::calc::effective::PacketFacts;
use calico_ebpf_userspace::compile::generate::{Random, case};
use calico_ebpf_userspace::compile::input::Limits;
use calico_ebpf_userspace::compile::reference::{PacketJudgement, judge_packet};
use calico_ebpf_userspace::compile::table::{PlacedLines, judge_compiled};
use calico_ebpf_userspace::model::name::ResourceKey;

const CASES: u64 = 40;
const PACKETS_BY_HOOK: usize = 24;
/// Of these, as many are judged by policy at least; the others are refused before.
const LEAST_JUDGED: usize = 1000;

/// Cells for all, for some, and for nobody.
const ENGINES: [Limits; 3] = [
    Limits {
        cells: 1 << 20,
        address_classes: 65_535,
    },
    Limits {
        cells: 16,
        address_classes: 65_535,
    },
    Limits::FALL_BACK,
];

fn reasons(ran: &Ran) -> Vec<Counted> {
    ran.counted.iter().map(|(reason, _)| *reason).collect()
}

/// Compares what the kernel did with what was to be done. Returns whether policy was asked.
fn compare(
    facts: &PacketFacts,
    from_workload: bool,
    ran: &Ran,
    expected: &PacketJudgement,
    seed: u64,
) -> bool {
    let told = || format!("seed {seed}, from_workload {from_workload}: {facts:?}: {expected:?}, got {ran:?}");
    if let Some(allowed) = refused_before_policy(facts, from_workload) {
        let found = reasons(ran);
        assert!(
            matches!(found[..], [Counted::Drop(reason)] if allowed.contains(&reason)),
            "{}",
            told()
        );
        return false;
    }
    assert_eq!(ran.passed(), expected.allow, "{}", told());
    if !expected.allow {
        let reason = match &expected.egress {
            Some(egress) if !egress.allow => DropReason::EgressPolicy,
            _ => DropReason::IngressPolicy,
        };
        assert_eq!(reasons(ran), [Counted::Drop(reason)], "{}", told());
    }
    true
}

#[test]
fn reference_and_tables_and_kernel_agree_about_random_packets() {
    let mut dataplane = Dataplane::new();
    let (mut judged, mut allowed) = (0, 0);
    for (seed, limits) in (0..CASES).flat_map(|seed| ENGINES.map(|limits| (seed, limits))) {
        let mut random = Random::new(seed);
        let case = case(&mut random);
        dataplane.set_state(case.state.clone(), case.host.clone());
        dataplane.set_limits(limits);
        for (key, endpoint) in &case.state.endpoints {
            let name = endpoint.interface_name.trim_start_matches("tap").to_owned();
            for number in 0..PACKETS_BY_HOOK * 2 {
                let from_workload = number < PACKETS_BY_HOOK;
                let other = if random.chance(40) {
                    case.endpoint(&mut random)
                } else {
                    None
                };
                let facts = if from_workload {
                    case.packet(&mut random, Some(key), other)
                } else {
                    case.packet(&mut random, other, Some(key))
                };
                let Some(facts) = facts else { continue };
                let packet = packet_of(&facts, PAYLOAD);
                dataplane.clear_flows();
                let (ran, source, target) = if from_workload {
                    let ran = dataplane.from_workload(&name, &packet);
                    (ran, Some(key), owner(&case.state, &case.host, facts.destination))
                } else {
                    (
                        dataplane.to_workload(&name, &packet, Origin::Remote),
                        None,
                        Some(key),
                    )
                };
                let by_key = |key: Option<&ResourceKey>| key.map(|key| &*case.state.endpoints[key]);
                let expected = judge_packet(&case.state, by_key(source), by_key(target), &facts);
                let slots = &dataplane.assignments().slots;
                let slot = |key: Option<&ResourceKey>| key.map_or(SLOT_NONE, |key| slots[key]);
                let (table, base_line) = dataplane.table();
                let lines = PlacedLines {
                    lines: &table.lines,
                    base_line,
                };
                let compiled =
                    judge_compiled(&lines, &facts, slot(source), slot(target)).expect("the tables are whole");
                assert_eq!(
                    compiled.allow, expected.allow,
                    "seed {seed}: {facts:?}: {expected:?}"
                );
                let owned = case.host.host_addresses.contains(&facts.destination);
                assert_eq!(compiled.destination.slot == SLOT_HOST, owned, "{facts:?}");
                if compare(&facts, from_workload, &ran, &expected, seed) {
                    judged += 1;
                    allowed += usize::from(expected.allow);
                }
            }
        }
    }
    println!("{judged} packets judged by policy, {allowed} of them allowed");
    assert!(judged >= LEAST_JUDGED, "{judged}");
    assert!(
        allowed * 10 >= judged && allowed * 10 <= judged * 9,
        "{allowed} of {judged}"
    );
}
