//! Events for whoever watches.

use std::net::IpAddr;

use calico_ebpf_common::event::{EVENTS_A_SECOND, Event, HAS_ADDRESSES, HAS_TRANSPORT, REASON_NONE};
use calico_ebpf_common::policy::Cell;
use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::manifests::{allow_all_egress, allow_udp, network_policy};
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::programs::{Dataplane, Origin};
use serde_json::json;

use crate::scene::{families, under};

/// Everybody sends anything; udp/53 is logged and allowed, udp/54 denied by rule 2, the rest by the end of the tier.
fn watched() -> Dataplane {
    let policy = network_policy("some", "all()")
        .with("types", json!(["Ingress"]))
        .ingress(json!({ "action": "Log", "protocol": "UDP", "destination": { "ports": [53] } }))
        .ingress(allow_udp(53))
        .ingress(json!({ "action": "Deny", "protocol": "UDP", "destination": { "ports": [54] } }));
    let mut dataplane = under(&[allow_all_egress(), policy]);
    dataplane.switch_to("a");
    dataplane.watch();
    dataplane
}

/// Returns the only event.
#[track_caller]
fn only(dataplane: &mut Dataplane) -> Event {
    let events = dataplane.events();
    let [event] = events[..] else {
        panic!("one event, not {events:?}");
    };
    event
}

fn address(event: &Event, bytes: [u8; 16]) -> IpAddr {
    if event.ethertype == 0x86dd {
        bytes.into()
    } else {
        <[u8; 4]>::try_from(&bytes[..4]).expect("four").into()
    }
}

#[track_caller]
fn expect_packet(event: &Event, path: Path) {
    assert_eq!(event.flags, HAS_ADDRESSES | HAS_TRANSPORT);
    let ends = [address(event, event.source), address(event, event.destination)];
    assert_eq!(ends, [path.source.ip(), path.target.ip()]);
    let ports = [path.source.port(), path.target.port()]
        .map(u16::to_be_bytes)
        .concat();
    assert_eq!(event.transport[..], ports[..]);
    assert_eq!(event.protocol, 17);
}

#[test]
fn what_policy_denies_is_told_with_the_cells_and_taps_of_both_ends() {
    let mut dataplane = watched();
    for family in families() {
        for (port, has_rule) in [(54, true), (55, false)] {
            let path = family.a_to_b(4000, port);
            dataplane
                .from_workload("a", &path.udp())
                .expect_drop(DropReason::IngressPolicy);
            let event = only(&mut dataplane);
            expect_packet(&event, path);
            assert_eq!(u32::from(event.reason), DropReason::IngressPolicy as u32);
            assert_eq!(event.source_mac, dataplane.named("a").mac);
            let [egress, ingress] = event.cells.map(Cell);
            assert!(egress.allows() && !ingress.allows() && !ingress.logs());
            assert_eq!(ingress.rule() != 0, has_rule);
            let taps = ["a", "b"].map(|name| dataplane.host().interfaces[&format!("tap{name}")].ifindex);
            // Workload a is at `lo` while its hook is run.
            assert_eq!(event.ends, [1, taps[1]]);
            assert_eq!([event.ifindex, event.ingress_ifindex], [1, 1]);
            assert_eq!(event.slot, dataplane.slot("a"));
        }
        let path = family.far_to_a(4000, 54);
        dataplane
            .to_workload("a", &path.udp(), Origin::Remote)
            .expect_drop(DropReason::IngressPolicy);
        let event = only(&mut dataplane);
        expect_packet(&event, path);
        assert_eq!((event.ends, event.cells[0]), ([0, 1], 0));
    }
}

#[test]
fn a_log_rule_is_told_once_a_flow() {
    let mut dataplane = watched();
    for family in families() {
        let path = family.a_to_b(4000, 53);
        for _ in 0..3 {
            assert!(dataplane.from_workload("a", &path.udp()).passed());
        }
        let event = only(&mut dataplane);
        expect_packet(&event, path);
        assert_eq!(event.reason, REASON_NONE);
        let ingress = Cell(event.cells[1]);
        assert!(ingress.allows() && ingress.logs() && ingress.rule() != 0);
    }
}

#[test]
fn what_is_dropped_before_policy_is_told_without_cells() {
    let mut dataplane = watched();
    for family in families() {
        let spoofed = Path::new((family.far, 1), (family.b, 53)).udp();
        dataplane
            .from_workload("a", &spoofed)
            .expect_drop(DropReason::SourceAddress);
        let event = only(&mut dataplane);
        assert_eq!(u32::from(event.reason), DropReason::SourceAddress as u32);
        assert_eq!((event.cells, event.ends), ([0; 2], [0; 2]));
    }
    let behind = families()[1].a_to_b(4000, 54);
    let options = vec![0, 0, 1, 4, 0, 0, 0, 0];
    dataplane.from_workload("a", &behind.udp_behind(&[(60, options)]));
    expect_packet(&only(&mut dataplane), behind);
}

#[test]
fn nothing_is_told_while_nobody_watches_or_after_the_deadline() {
    let mut dataplane = watched();
    let [family, _] = families();
    for deadline in [0, 1] {
        dataplane.watch_until(deadline);
        let before = dataplane.budget(Some("a"));
        dataplane.from_workload("a", &family.a_to_b(1, 54).udp());
        assert_eq!(dataplane.events(), []);
        assert_eq!(dataplane.budget(Some("a")), before);
    }
}

#[test]
fn beyond_its_budget_an_endpoint_is_counted_and_others_are_still_told() {
    let mut dataplane = watched();
    let before = dataplane.budget(Some("a")).suppressed;
    let [family, _] = families();
    let packets = 5 * EVENTS_A_SECOND;
    for _ in 0..packets {
        dataplane.from_workload("a", &family.a_to_b(1, 54).udp());
    }
    let told = u32::try_from(dataplane.events().len()).expect("few");
    let after = dataplane.budget(Some("a"));
    assert_eq!((told + after.suppressed - before, after.lost), (packets, 0));
    assert!(
        told >= EVENTS_A_SECOND && after.used <= EVENTS_A_SECOND,
        "{told} {after:?}"
    );
    let other = Path::new((family.b, 1), (family.a, 54));
    dataplane
        .from_workload("b", &other.udp())
        .expect_drop(DropReason::IngressPolicy);
    expect_packet(&only(&mut dataplane), other);
}
