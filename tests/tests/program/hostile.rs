//! Policies that are written to break the compiler, in the kernel: the programs judge them right, and a plain policy beside
//! them keeps its cells.

use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::programs::{Dataplane, Origin};
use calico_ebpf_userspace::calc::effective::PacketFacts;
use calico_ebpf_userspace::compile::generate::Random;
use calico_ebpf_userspace::compile::hostile::{Attack, HOSTILE_TAP, PLAIN_TAP, hostile, packet};
use calico_ebpf_userspace::compile::input::Limits;
use calico_ebpf_userspace::compile::reference::judge_packet;

const MEMBERS: usize = 1_000;
const PACKETS: usize = 40;
/// Room for both directions of what needs most.
const LINES: u32 = 1 << 20;
/// So few classes that few members go beyond them.
const LIMITS: Limits = Limits {
    cells: 1 << 20,
    address_classes: 500,
};

fn packet_of(facts: &PacketFacts) -> Packet {
    let path = Path::new(
        (facts.source, facts.source_port),
        (facts.destination, facts.destination_port),
    );
    let ports = [
        facts.source_port.to_be_bytes(),
        facts.destination_port.to_be_bytes(),
    ];
    match facts.protocol {
        6 => path.tcp("S"),
        17 => path.udp(),
        number => path.protocol(number, &[&ports.concat()[..], &[0; 12]].concat()),
    }
}

#[test]
fn hostile_policies_are_judged_by_the_programs_and_their_neighbour_is_not_touched() {
    let mut dataplane = Dataplane::with_lines(LINES);
    dataplane.set_limits(LIMITS);
    for attack in Attack::ALL {
        let mut random = Random::new(attack as u64 + 100);
        let case = hostile(attack, &mut random, MEMBERS);
        dataplane.set_state(case.state.clone(), case.host.clone());
        let mut allowed = [0; 2];
        for (slot, tap) in [(1_u16, HOSTILE_TAP), (2, PLAIN_TAP)] {
            let name = tap.trim_start_matches("tap");
            let endpoint = case.state.endpoints.values().nth(usize::from(slot) - 1);
            for number in 0..2 * PACKETS {
                let outgoing = number < PACKETS;
                let facts = packet(&mut random, slot, outgoing, MEMBERS);
                dataplane.clear_flows();
                let (ran, expected) = if outgoing {
                    let ran = dataplane.from_workload(name, &packet_of(&facts));
                    (
                        ran,
                        judge_packet(&case.state, endpoint.map(|endpoint| &**endpoint), None, &facts),
                    )
                } else {
                    let ran = dataplane.to_workload(name, &packet_of(&facts), Origin::Remote);
                    (
                        ran,
                        judge_packet(&case.state, None, endpoint.map(|endpoint| &**endpoint), &facts),
                    )
                };
                assert_eq!(
                    ran.passed(),
                    expected.allow,
                    "{attack:?}: {facts:?}: {expected:?}, got {ran:?}"
                );
                allowed[usize::from(slot) - 1] += usize::from(expected.allow);
            }
        }
        let (table, _) = dataplane.table();
        assert_eq!(table.over_budget, [], "{attack:?}");
        let engines: Vec<[&str; 2]> = table
            .policy_sets
            .iter()
            .map(|set| [&*set.egress_engine, &*set.ingress_engine])
            .collect();
        println!(
            "{attack:?}: {allowed:?} allowed, {engines:?}, {} lines",
            table.report.lines
        );
        assert_eq!(engines[1], ["cells"; 2], "{attack:?}");
        assert!(allowed[1] > 0, "{attack:?}");
    }
}
