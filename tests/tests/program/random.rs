//! Random policies and packets: the reference evaluator, the compiled tables and the programs in the kernel agree.

use std::net::IpAddr;

use calico_ebpf_common::endpoint::{SLOT_HOST, SLOT_NONE};
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::programs::{Counted, Dataplane, Origin, Ran};
use calico_ebpf_userspace::calc::effective::PacketFacts;
use calico_ebpf_userspace::compile::generate::{Case, Random, case};
use calico_ebpf_userspace::compile::reference::{PacketJudgement, judge_packet};
use calico_ebpf_userspace::compile::table::{PlacedLines, judge_compiled};
use calico_ebpf_userspace::model::name::ResourceKey;

const CASES: u64 = 40;
const PACKETS_BY_HOOK: usize = 24;
/// Of these, as many are judged by policy at least; the others are refused before.
const LEAST_JUDGED: usize = 1000;

/// What the programs say without asking policy.
fn refused_before_policy(facts: &PacketFacts, from_workload: bool) -> Option<&'static [DropReason]> {
    if from_workload && !is_routable(facts.destination) {
        return Some(&[
            DropReason::Martian,
            DropReason::Multicast,
            DropReason::IcmpUnrelated,
        ]);
    }
    let icmp = if facts.source.is_ipv4() { 1 } else { 58 };
    let (kind, _) = facts.icmp.filter(|_| facts.protocol == icmp)?;
    match (facts.source.is_ipv4(), kind) {
        (_, 3) => Some(&[DropReason::IcmpUnrelated]),
        (true, 0) | (false, 129) => Some(&[DropReason::NoFlow]),
        _ => None,
    }
}

/// Whether a workload may send there at all.
fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            !matches!(first, 0 | 127 | 224..) && [first, second] != [169, 254]
        }
        IpAddr::V6(address) => {
            let segments = address.segments();
            let embeds_v4 = segments[..5] == [0; 5] && matches!(segments[5], 0 | 0xffff);
            !embeds_v4 && segments[0] >> 8 != 0xff && segments[0] & 0xffc0 != 0xfe80
        }
    }
}

fn packet_of(facts: &PacketFacts) -> Packet {
    let path = Path::new(
        (facts.source, facts.source_port),
        (facts.destination, facts.destination_port),
    );
    let ports = [
        facts.source_port.to_be_bytes(),
        facts.destination_port.to_be_bytes(),
    ]
    .concat();
    match (facts.protocol, facts.icmp) {
        (6, _) => path.tcp("S"),
        (17, _) => path.udp(),
        (number @ (33 | 132 | 136), _) => path.protocol(number, &[&ports[..], &[0; 12]].concat()),
        (number, Some((kind, code))) => path.protocol(number, &[kind, code, 0, 0, 0, 7, 0, 1, 0, 0, 0, 0]),
        (number, None) => path.protocol(number, &[0; 16]),
    }
}

/// The local endpoint that owns an address, unless it is the host's.
fn owner(case: &Case, address: IpAddr) -> Option<&ResourceKey> {
    if case.host.host_addresses.contains(&address) {
        return None;
    }
    let owns = |key: &&ResourceKey| {
        case.state.endpoints[*key]
            .ip_networks
            .iter()
            .any(|net| net.addr() == address)
    };
    case.state.endpoints.keys().find(owns)
}

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
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let case = case(&mut random);
        dataplane.set_state(case.state.clone(), case.host.clone());
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
                let packet = packet_of(&facts);
                dataplane.clear_flows();
                let (ran, source, target) = if from_workload {
                    let ran = dataplane.from_workload(&name, &packet);
                    (ran, Some(key), owner(&case, facts.destination))
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
