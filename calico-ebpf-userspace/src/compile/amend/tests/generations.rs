//! Whose flows are judged again: everybody's for whom a cell has changed.

use calico_ebpf_common::address::{address_entry4, address_entry6};
use calico_ebpf_common::endpoint::endpoint_at;
use calico_ebpf_common::line::Lines as _;
use calico_ebpf_common::policy::{Question, verdict};

use super::*;
use crate::compile::exact::words;

/// Everything that a cell depends on, but for the class of the peer or of the endpoint itself.
fn questions(amendable: &Amendable) -> impl Iterator<Item = (Class, u16, u16)> {
    let count = |length: usize| u16::try_from(length).unwrap();
    let classes = 1..=count(amendable.class_count());
    let ports = count(amendable.ports.signatures.len());
    let sources = count(amendable.ports.source_signatures.len());
    classes.flat_map(move |class| {
        (0..ports).flat_map(move |port| (0..sources).map(move |source| (class, port, source)))
    })
}

fn class_of(lines: &PlacedLines<'_>, address: IpAddr) -> Class {
    let root = lines.line(BASE).unwrap().read_as();
    let entry = match address {
        IpAddr::V4(address) => address_entry4(lines, root, address.to_bits()),
        IpAddr::V6(address) => address_entry6(lines, root, words(address.to_bits())),
    };
    entry.unwrap().class
}

/// Returns whether a cell of the set differs between peers, or endpoints, of the two classes.
fn cells_differ(lines: &PlacedLines<'_>, set: u32, amendable: &Amendable, [one, other]: [Class; 2]) -> bool {
    questions(amendable).any(|(class, port_class, source_port_class)| {
        let asked = |local_class, remote_class| {
            let question = Question {
                local_class,
                remote_class,
                port_class,
                source_port_class,
            };
            verdict(lines, set, question)
        };
        asked(class, one) != asked(class, other)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_member_that_moves_has_the_flows_of_every_policy_set_judged_again_whose_cells_change(seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let case = case(&mut random);
        let mut table = built(&case);
        let mut amendable = table.amendable.take().unwrap();
        let address = random.pick(&case.addresses);
        let sets: Vec<SetId> = case.state.sets.keys().cloned().collect();
        let mut now = case.state.clone();
        let members = now.sets.get_mut(&random.pick(&sets)).unwrap();
        let net = IpNet::from(address);
        if !members.remove(&net) {
            members.insert(net);
        }
        let before = class_of(&PlacedLines { lines: &table.lines, base_line: BASE }, address);
        let Ok(amendment) = amendable.amend(&case.state, &now) else { return Ok(()) };
        write_all(&mut table.lines, &amendment.prepare);
        write_all(&mut table.lines, &amendment.switch);
        let lines = PlacedLines { lines: &table.lines, base_line: BASE };
        let after = class_of(&lines, address);
        let root = lines.line(BASE).unwrap().read_as();
        for (key, slot) in &case.slots {
            let endpoint = endpoint_at(&lines, root, *slot).unwrap();
            for set in [endpoint.egress_set, endpoint.ingress_set] {
                if cells_differ(&lines, set, &amendable, [before, after]) {
                    prop_assert!(amendment.touched.contains(slot), "{key}: {address} from class {before} to {after}");
                }
            }
            let owns = case.state.endpoints[key].ip_networks.contains(&net) && before != after;
            prop_assert!(!owns || amendment.touched.contains(slot), "{key} owns {address}");
        }
    }
}
