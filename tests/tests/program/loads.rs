//! The programs by themselves.

use calico_ebpf_common::expire::ExpireEntry;
use calico_ebpf_common::maps;
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::packets::udp;
use calico_ebpf_tests::programs::Dataplane;

use crate::scene::{families, open};

#[test]
fn every_program_passes_the_verifier() {
    let verified = Dataplane::new().verified_instructions();
    for (name, instructions) in &verified {
        println!("{name}: {instructions:?} instructions verified");
    }
    let attached = [
        maps::PROGRAM_FROM_WORKLOAD,
        maps::PROGRAM_TO_WORKLOAD,
        maps::PROGRAM_EXPIRE_FLOWS,
        maps::PROGRAM_READ_CLOCK,
    ];
    for name in attached.iter().chain(&maps::UNSETTLED_PROGRAMS) {
        assert!(verified.contains_key(*name), "{name}");
    }
}

#[test]
fn every_program_passes_the_verifier_with_every_setting_turned_over() {
    use maps::settings::{
        ALLOW_IPIP, ALLOW_VXLAN, ANSWER_DENIED, DEBUG_LOG, DRY_RUN, ENDPOINT_TO_HOST_ACCEPT, IPV6,
        KEEP_FLOWS, METADATA_ADDRESS, METADATA_PORT, OPENSTACK,
    };
    for (dry_run, ipv6) in [(0, 1), (0, 0), (1, 0)] {
        Dataplane::with_settings(&[
            (ENDPOINT_TO_HOST_ACCEPT, 0),
            (IPV6, ipv6),
            (KEEP_FLOWS, 1),
            (ANSWER_DENIED, 1),
            (OPENSTACK, 0),
            (ALLOW_VXLAN, 1),
            (ALLOW_IPIP, 1),
            (METADATA_ADDRESS, 0x7f00_0001),
            (METADATA_PORT, 8775),
            (DRY_RUN, dry_run),
            (DEBUG_LOG, 1),
        ]);
    }
}

#[test]
fn without_a_table_everything_is_dropped() {
    let mut dataplane = Dataplane::new();
    for program in [maps::PROGRAM_FROM_WORKLOAD, maps::PROGRAM_TO_WORKLOAD] {
        for packet in [udp("10.0.0.1:1 -> 10.0.0.2:2"), udp("[fd00::1]:1 -> [fd00::2]:2")] {
            dataplane
                .run_bare(program, &packet)
                .expect_drop(DropReason::NoPolicyTable);
        }
    }
}

#[test]
fn on_an_unknown_interface_everything_is_dropped() {
    let mut dataplane = open();
    dataplane.switch_to("nobody");
    for program in [maps::PROGRAM_FROM_WORKLOAD, maps::PROGRAM_TO_WORKLOAD] {
        for family in families() {
            dataplane
                .run_bare(program, &family.a_to_b(1, 2).udp())
                .expect_drop(DropReason::UnknownInterface);
        }
    }
}

#[test]
fn read_clock_tells_both_clocks_and_they_never_go_back() {
    let dataplane = Dataplane::new();
    let mut last = dataplane.read_clock();
    assert!(last.jiffies > 0 && last.monotonic_ns > 0);
    for _ in 0..100 {
        let clock = dataplane.read_clock();
        assert!(clock.jiffies >= last.jiffies && clock.monotonic_ns > last.monotonic_ns);
        last = clock;
    }
}

#[test]
fn scenario_68_expire_flows_deletes_only_entries_that_no_packet_touched() {
    let mut dataplane = open();
    for family in families() {
        for port in [1, 2, 3] {
            dataplane.from_workload("a", &family.a_to_far(4000, port).udp());
        }
    }
    let mut stale4: Vec<ExpireEntry> = Vec::new();
    for (key, flow) in dataplane.flows4() {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(bytemuck::bytes_of(&key));
        stale4.push(ExpireEntry {
            key: bytes,
            last_seen: flow.last_seen,
        });
    }
    let mut stale6: Vec<ExpireEntry> = dataplane
        .flows6()
        .iter()
        .map(|(key, flow)| ExpireEntry {
            key: bytemuck::cast(*key),
            last_seen: flow.last_seen,
        })
        .collect();
    // A packet touched the middle one after the agent read it.
    stale4[1].last_seen -= 1;
    stale6[1].last_seen -= 1;
    assert_eq!(dataplane.expire(4, &stale4), 2);
    assert_eq!(dataplane.expire(6, &stale6), 2);
    assert_eq!((dataplane.flows4().len(), dataplane.flows6().len()), (1, 1));
    // What is gone is no error, and the count in the header is what counts.
    assert_eq!(dataplane.expire(4, &stale4), 0);
    assert_eq!(dataplane.expire(6, &[]), 0);
    assert_eq!(dataplane.flow_count(), 2);
}

#[test]
fn scenario_68_expire_flows_takes_a_full_packet_of_entries() {
    let mut dataplane = open();
    let most = u16::try_from(calico_ebpf_common::expire::MAX_ENTRIES).expect("few");
    for family in families() {
        for port in 1..=most {
            dataplane.from_workload("a", &family.a_to_far(port, 80).tcp("S"));
        }
    }
    let entry = |key: &[u8], last_seen: u64| {
        let mut entry = ExpireEntry {
            key: [0; 40],
            last_seen,
        };
        entry.key[..key.len()].copy_from_slice(key);
        entry
    };
    let (flows4, flows6) = (dataplane.flows4(), dataplane.flows6());
    let entries4 = flows4
        .iter()
        .map(|(key, flow)| entry(bytemuck::bytes_of(key), flow.last_seen));
    let entries6 = flows6
        .iter()
        .map(|(key, flow)| entry(bytemuck::bytes_of(key), flow.last_seen));
    assert_eq!(
        dataplane.expire(4, &entries4.collect::<Vec<_>>()),
        u32::from(most)
    );
    assert_eq!(
        dataplane.expire(6, &entries6.collect::<Vec<_>>()),
        u32::from(most)
    );
    assert_eq!(dataplane.flow_count(), 0);
}
