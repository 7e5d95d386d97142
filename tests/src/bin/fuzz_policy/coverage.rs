//! What the fuzzer has come past: counted while it runs.

use std::collections::BTreeMap;

use calico_ebpf_tests::fuzzing::workers::Counted;
use calico_ebpf_userspace::calc::effective::{
    DirectionPolicy, EffectiveEntity, EffectivePort, EffectiveRule, EffectiveState,
};
use calico_ebpf_userspace::compile::amend::NotAmendable;
use calico_ebpf_userspace::compile::reference::{Judgement, PacketJudgement, RuleOwner, RuleRef};
use calico_ebpf_userspace::model::rule::Action;

use crate::follow::Way;
use crate::probe::Probe;

/// Everything that is counted: what stays at zero is a gap.
const FEATURES: &[&str] = &[
    "engine: cells",
    "engine: fall-back",
    "origin: generator of policies",
    "origin: objects with labels",
    "change: members move",
    "change: a prefix moves",
    "change: policies change",
    "change: an endpoint's policy changes",
    "change: an endpoint comes",
    "change: an endpoint goes",
    "change: a workload elsewhere comes or changes",
    "change: a workload elsewhere goes",
    "change: a workload here comes or changes",
    "change: a workload here goes",
    "change: a network set changes",
    "change: a policy comes or changes",
    "change: a tier comes or changes",
    "change: an object goes or a profile changes",
    "table: amended, class known",
    "table: amended, class appended",
    "table: amended, nothing to write",
    "table: anew, other changes",
    "table: anew, a prefix moved",
    "table: anew, no class left",
    "table: anew, no row left",
    "table: anew, other axes",
    "table: anew, judged by the fall-back",
    "table: anew, no bucket left",
    "table: too large",
    "flows: judged again after an amendment",
    "flows: judged again after a new version",
    "packet: IPv4",
    "packet: IPv6",
    "packet: with ports",
    "packet: ICMP",
    "packet: other protocol",
    "packet: both ends local",
    "verdict: allow",
    "verdict: deny",
    "verdict: logged",
    "decided: by no rule",
    "decided: in the first tier",
    "decided: in a later tier",
    "decided: by the first profile",
    "decided: by a later profile",
    "rule: IP version",
    "rule: protocol",
    "rule: negated protocol",
    "rule: ICMP type",
    "rule: ICMP type and code",
    "rule: negated ICMP",
    "rule: nets",
    "rule: negated nets",
    "rule: set",
    "rule: several sets",
    "rule: negated set",
    "rule: destination ports",
    "rule: source ports",
    "rule: named port",
    "rule: negated ports",
    "rule: negated named port",
    "rule: asks both ends' addresses",
    "kernel: a new flow is allowed",
    "kernel: a new flow is denied",
    "kernel: refused before policy",
    "kernel: an open flow goes on",
    "kernel: an open flow ends",
    "kernel: a refused flow is allowed now",
    "kernel: a refused flow stays refused",
    "kernel: an end of a flow goes",
];

/// Counts of what ran.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    hits: BTreeMap<&'static str, u64>,
    pub(crate) cases: u64,
    pub(crate) steps: u64,
    pub(crate) packets: u64,
    pub(crate) kernel_packets: u64,
}

impl Counted for Coverage {
    fn add(&mut self, other: &Self) {
        for (feature, count) in &other.hits {
            *self.hits.entry(feature).or_default() += count;
        }
        self.cases += other.cases;
        self.steps += other.steps;
        self.packets += other.packets;
        self.kernel_packets += other.kernel_packets;
    }

    fn progress(&self) -> String {
        format!(
            "{} cases, {} changes, {} packets, {} of them in the kernel",
            self.cases,
            self.steps,
            self.packets + self.kernel_packets,
            self.kernel_packets
        )
    }
}

impl Coverage {
    pub(crate) fn hit(&mut self, feature: &'static str) {
        *self.hits.entry(feature).or_default() += 1;
    }

    pub(crate) fn change(&mut self, what: &str) {
        let known = FEATURES
            .iter()
            .find(|feature| feature.strip_prefix("change: ") == Some(what));
        self.hit(known.unwrap_or_else(|| panic!("{what:?} is no feature")));
    }

    /// Returns every feature with its count.
    pub(crate) fn features(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let listed = self.hits.keys().filter(|feature| !FEATURES.contains(feature));
        let unlisted: Vec<_> = listed.collect();
        assert!(unlisted.is_empty(), "{unlisted:?} are no features");
        FEATURES
            .iter()
            .map(|feature| (*feature, self.hits.get(feature).copied().unwrap_or(0)))
    }

    pub(crate) fn way(&mut self, way: &Way) {
        self.hit(match way {
            Way::Amended(amendment, _) if amendment.switch.is_empty() => "table: amended, nothing to write",
            Way::Amended(_, [before, after]) if before == after => "table: amended, class known",
            Way::Amended(..) => "table: amended, class appended",
            Way::Rebuilt(NotAmendable::OtherChanges) => "table: anew, other changes",
            Way::Rebuilt(NotAmendable::Prefix) => "table: anew, a prefix moved",
            Way::Rebuilt(NotAmendable::Classes) => "table: anew, no class left",
            Way::Rebuilt(NotAmendable::Rows) => "table: anew, no row left",
            Way::Rebuilt(NotAmendable::Apart) => "table: anew, judged by the fall-back",
            Way::Rebuilt(NotAmendable::Axes) => "table: anew, other axes",
            Way::Rebuilt(NotAmendable::Buckets) => "table: anew, no bucket left",
        });
    }

    pub(crate) fn judged(&mut self, probe: &Probe, judgement: &PacketJudgement, state: &EffectiveState) {
        self.packets += 1;
        let facts = &probe.facts;
        self.hit(if facts.source.is_ipv4() {
            "packet: IPv4"
        } else {
            "packet: IPv6"
        });
        self.hit(match facts.protocol {
            6 | 17 | 33 | 132 | 136 => "packet: with ports",
            _ if facts.icmp.is_some() => "packet: ICMP",
            _ => "packet: other protocol",
        });
        if probe.source.is_some() && probe.target.is_some() {
            self.hit("packet: both ends local");
        }
        let ends = [
            (&probe.source, &judgement.egress),
            (&probe.target, &judgement.ingress),
        ];
        for (key, judgement) in ends {
            let (Some(key), Some(judgement)) = (key, judgement) else {
                continue;
            };
            let policy = &state.endpoints[key].policy;
            let direction = match &judgement.decided_by {
                Some(rule) if rule.direction.as_str() == "ingress" => &policy.ingress,
                _ => &policy.egress,
            };
            self.decided(judgement, direction);
        }
    }

    fn decided(&mut self, judgement: &Judgement, direction: &DirectionPolicy) {
        self.hit(if judgement.allow {
            "verdict: allow"
        } else {
            "verdict: deny"
        });
        if judgement.log {
            self.hit("verdict: logged");
        }
        let Some(reference) = &judgement.decided_by else {
            self.hit("decided: by no rule");
            return;
        };
        let Some((place, rule)) = find(direction, reference) else {
            return;
        };
        self.hit(place);
        for (feature, is_there) in parts(rule) {
            if is_there {
                self.hit(feature);
            }
        }
    }
}

/// Returns where the rule stands, and the rule.
fn find<'a>(direction: &'a DirectionPolicy, wanted: &RuleRef) -> Option<(&'static str, &'a EffectiveRule)> {
    let (place, rules) = match &wanted.owner {
        RuleOwner::Policy { tier, key } => {
            let number = direction.tiers.iter().position(|other| other.name == *tier)?;
            let policies = &direction.tiers[number].policies;
            let rules = &policies.iter().find(|policy| policy.key == *key)?.rules;
            let places = ["decided: in the first tier", "decided: in a later tier"];
            (places[number.min(1)], rules)
        }
        RuleOwner::Profile(name) => {
            let number = direction
                .profiles
                .iter()
                .position(|profile| profile.name == *name)?;
            let rules = direction.profiles[number].rules.as_ref()?;
            let places = ["decided: by the first profile", "decided: by a later profile"];
            (places[number.min(1)], rules)
        }
    };
    let is_wanted = |rule: &&EffectiveRule| {
        rule.index == wanted.index && matches!(rule.action, Action::Allow | Action::Deny)
    };
    Some((place, rules.iter().find(is_wanted)?))
}

/// Returns what a rule asks for.
fn parts(rule: &EffectiveRule) -> [(&'static str, bool); 17] {
    let ends = [&rule.source, &rule.destination];
    let any = |holds: &dyn Fn(&EffectiveEntity) -> bool| ends.iter().any(|entity| holds(entity));
    let asks_address = |entity: &EffectiveEntity| {
        entity.nets.is_some()
            || !entity.not_nets.is_empty()
            || !entity.sets.is_empty()
            || !entity.not_sets.is_empty()
    };
    let named = |ports: &[EffectivePort]| {
        ports
            .iter()
            .any(|port| matches!(port, EffectivePort::Member { .. }))
    };
    [
        ("rule: IP version", rule.ip_version.is_some()),
        ("rule: protocol", rule.protocol.is_some()),
        ("rule: negated protocol", rule.not_protocol.is_some()),
        (
            "rule: ICMP type",
            rule.icmp.is_some_and(|icmp| icmp.code.is_none()),
        ),
        (
            "rule: ICMP type and code",
            rule.icmp.is_some_and(|icmp| icmp.code.is_some()),
        ),
        ("rule: negated ICMP", rule.not_icmp.is_some()),
        ("rule: nets", any(&|entity| entity.nets.is_some())),
        ("rule: negated nets", any(&|entity| !entity.not_nets.is_empty())),
        ("rule: set", any(&|entity| entity.sets.len() == 1)),
        ("rule: several sets", any(&|entity| entity.sets.len() > 1)),
        ("rule: negated set", any(&|entity| !entity.not_sets.is_empty())),
        ("rule: destination ports", rule.destination.ports.is_some()),
        ("rule: source ports", rule.source.ports.is_some()),
        (
            "rule: named port",
            any(&|entity| entity.ports.as_ref().is_some_and(|ports| named(ports))),
        ),
        ("rule: negated ports", any(&|entity| !entity.not_ports.is_empty())),
        (
            "rule: negated named port",
            any(&|entity| named(&entity.not_ports)),
        ),
        (
            "rule: asks both ends' addresses",
            ends.iter().all(|entity| asks_address(entity)),
        ),
    ]
}
