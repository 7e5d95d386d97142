//! One client's port at a floating and at the fixed address: never mixed up (contract 3.5).

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::manifests::allow_everything;
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::programs::Origin;

use crate::nat::{SECOND, arrives, external, floating, like};
use crate::scene::families;

#[test]
fn contract_3_5_floating_and_fixed_address_on_the_same_ports_are_never_mixed_up() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        let fixed = family.a_to_b(4000, 80);
        let outer = Path::new((family.a, 4000), (external(&family), 80));
        let second = Path::new((family.a, 4000), (like(&family, SECOND), 80));
        // Who came first goes on; the other's answers would look the same.
        dataplane
            .from_workload("a", &fixed.tcp("S"))
            .expect_redirect_to("b");
        dataplane
            .from_workload("a", &outer.tcp("S"))
            .expect_drop(DropReason::NatClash);
        let ran = dataplane.from_workload("b", &fixed.back().tcp("SA"));
        arrives(&mut dataplane, "a", &ran, &fixed.back().tcp("SA"));
        // When it is over, the other has its turn.
        dataplane.from_workload("a", &fixed.tcp("FA"));
        dataplane.from_workload("b", &fixed.back().tcp("FA"));
        let ran = dataplane.from_workload("a", &outer.tcp("S"));
        arrives(&mut dataplane, "b", &ran, &fixed.tcp("S"));
        for clashing in [&fixed, &second] {
            for packet in [clashing.tcp("S"), clashing.tcp("A")] {
                dataplane
                    .from_workload("a", &packet)
                    .expect_drop(DropReason::NatClash);
            }
        }
        let ran = dataplane.from_workload("b", &fixed.back().tcp("SA"));
        arrives(&mut dataplane, "a", &ran, &outer.back().tcp("SA"));
        dataplane.from_workload("a", &outer.tcp("R"));
        dataplane
            .from_workload("a", &fixed.tcp("S"))
            .expect_redirect_to("b");
        assert_eq!(dataplane.flow_count(), 1);
        // Other ports are other flows, at the same time.
        let elsewhere = Path::new((family.a, 4001), (external(&family), 80));
        dataplane
            .from_workload("a", &elsewhere.tcp("S"))
            .expect_redirect_to("b");
        let ran = dataplane.from_workload("b", &family.a_to_b(4001, 80).back().tcp("SA"));
        arrives(&mut dataplane, "a", &ran, &elsewhere.back().tcp("SA"));
        dataplane.clear_flows();
    }
}

#[test]
fn contract_3_5_outside_and_host_are_not_mixed_up_either() {
    let mut dataplane = floating(&[allow_everything()]);
    for family in families() {
        for (origin, outside) in [(Origin::Remote, family.far), (Origin::Host, family.host)] {
            let fixed = Path::new((outside, 4000), (family.b, 80));
            let outer = Path::new((outside, 4000), (external(&family), 80));
            for (first, other) in [(fixed, outer), (outer, fixed)] {
                assert!(dataplane.to_workload("b", &first.udp(), origin).passed());
                dataplane
                    .to_workload("b", &other.udp(), origin)
                    .expect_drop(DropReason::NatClash);
                assert!(dataplane.to_workload("b", &first.udp(), origin).passed());
                dataplane.clear_flows();
            }
        }
    }
}
