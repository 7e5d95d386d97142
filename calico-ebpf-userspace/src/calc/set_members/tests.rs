//! A tree of members is a set, and tells what changed.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Nets of both families that share their first digits, differ early, or in their length only.
fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (
        prop::sample::select(vec![0_u32, 10 << 24, 0xac10_0000, u32::MAX - 0xfff]),
        0..0x400_u32,
        0..=32_u8,
    );
    let v4 = v4.prop_map(|(net, host, length)| {
        let address = (net | host).into();
        IpNet::new_assert(
            std::net::IpAddr::V4(address),
            if length < 28 { 32 } else { length },
        )
        .trunc()
    });
    let v6 = (
        prop::sample::select(vec![0_u128, 0xfd << 120, 0xfd << 120 | 1 << 64]),
        0..0x400_u128,
        0..=128_u8,
    );
    let v6 = v6.prop_map(|(net, host, length)| {
        let address = (net | host).into();
        IpNet::new_assert(
            std::net::IpAddr::V6(address),
            if length < 120 { 128 } else { length },
        )
        .trunc()
    });
    let all = prop::sample::select(vec!["0.0.0.0/0", "::/0", "255.255.255.255/32", "10.0.0.0/8"]);
    prop_oneof![10 => v4, 5 => v6, 1 => all.prop_map(|text| text.parse().unwrap())]
}

fn sorted(nets: &BTreeSet<IpNet>) -> Vec<IpNet> {
    nets.iter().copied().collect()
}

/// Checks what every version must be.
fn assert_is(members: &SetMembers, expected: &BTreeSet<IpNet>) {
    assert_eq!(members.iter().copied().collect::<Vec<_>>(), sorted(expected));
    assert_eq!(
        (members.len(), members.is_empty()),
        (expected.len(), expected.is_empty())
    );
    let anew: SetMembers = expected.iter().copied().collect();
    assert_eq!(members, &anew, "equal members have equal shape");
    assert_eq!(members.changes_since(&anew), MemberChanges::default());
}

fn assert_changes(before: (&SetMembers, &BTreeSet<IpNet>), now: (&SetMembers, &BTreeSet<IpNet>)) {
    let changes = now.0.changes_since(before.0);
    assert_eq!(
        changes.came,
        now.1.difference(before.1).copied().collect::<Vec<_>>()
    );
    assert_eq!(
        changes.gone,
        before.1.difference(now.1).copied().collect::<Vec<_>>()
    );
    assert_eq!(now.0 == before.0, now.1 == before.1);
}

proptest! {
    #[test]
    fn any_history_gives_the_set_and_what_changed_between_any_two_versions(
        begin in prop::collection::vec(net(), 0..400),
        batches in prop::collection::vec(prop::collection::vec((net(), any::<bool>()), 0..60), 1..8),
    ) {
        let mut members: SetMembers = begin.iter().copied().collect();
        let mut expected: BTreeSet<IpNet> = begin.iter().copied().collect();
        let mut versions = vec![(members.clone(), expected.clone())];
        for batch in batches {
            for (net, comes) in batch {
                if comes {
                    prop_assert_eq!(members.insert(net), expected.insert(net));
                } else {
                    // One that is there: random ones seldom are.
                    let nearest = expected.range(net..).next().copied().unwrap_or(net);
                    prop_assert_eq!(members.remove(&nearest), expected.remove(&nearest));
                    prop_assert!(!members.contains(&nearest));
                }
            }
            assert_is(&members, &expected);
            versions.push((members.clone(), expected.clone()));
        }
        for (before, expected_before) in &versions {
            for (now, expected_now) in &versions {
                assert_changes((before, expected_before), (now, expected_now));
            }
        }
        for net in sorted(&expected) {
            prop_assert!(members.contains(&net) && members.remove(&net));
        }
        assert_is(&members, &BTreeSet::new());
        // Versions from before are as they were.
        for (members, expected) in &versions {
            assert_is(members, expected);
        }
    }

    #[test]
    fn digits_order_nets_as_they_are_ordered(one in net(), other in net()) {
        let digits = |net: &IpNet| (0..=34).map(|digit| place(net, digit)).collect::<Vec<_>>();
        let same_family = one.addr().is_ipv4() == other.addr().is_ipv4();
        if same_family {
            let count = if one.addr().is_ipv4() { 11 } else { 35 };
            prop_assert_eq!(digits(&one)[..count].cmp(&digits(&other)[..count]), one.cmp(&other));
            let differs = (0..count).find(|digit| digits(&one)[*digit] != digits(&other)[*digit]);
            prop_assert_eq!(first_difference(&one, &other).map(usize::from), differs);
        } else {
            prop_assert_eq!(place(&one, 0).cmp(&place(&other, 0)), one.cmp(&other));
            prop_assert_eq!(first_difference(&one, &other), Some(0));
        }
    }
}

/// Returns the nodes of a version.
fn nodes(members: &SetMembers) -> Vec<&Node> {
    let mut nodes: Vec<&Node> = members.root.iter().collect();
    let mut next = 0;
    while let Some(node) = nodes.get(next) {
        if let Node::Branch(branch) = node {
            nodes.extend(branch.parts.iter().flatten());
        }
        next += 1;
    }
    nodes
}

#[test]
fn one_more_of_a_hundred_thousand_shares_all_but_its_way_from_the_root() {
    let address = |number: u32| IpNet::from(std::net::IpAddr::V4((0x0a00_0000 + number * 3).into()));
    let before: SetMembers = (0..100_000).map(address).collect();
    let mut now = before.clone();
    assert!(now.is(&before));
    assert!(now.insert(IpNet::from(std::net::IpAddr::V4(0x0a00_0001.into()))));
    let (old, new) = (nodes(&before), nodes(&now));
    let own = new
        .iter()
        .filter(|node| !old.iter().any(|old| old.is(node)))
        .count();
    assert!(own < 10, "{own} of {} nodes are new", new.len());
    assert!(new.len() < 100_000 / 4, "{} nodes", new.len());
}
