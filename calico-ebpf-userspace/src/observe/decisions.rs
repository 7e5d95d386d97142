//! Who decided about a packet: a cell in words.
//!
//! A cell has the number of the deciding rule and whether a `Log` rule matched before it. It does not tell at the end of
//! which tier a packet was denied that no rule decided, nor which `Log` rule it was. Where policy leaves more than one
//! answer, all of them are told.

use std::net::IpAddr;

use calico_ebpf_common::policy::Cell;
use ipnet::IpNet;
use serde::Serialize;

use crate::report::{AgentReport, EndpointReport, PolicySetReport, RuleReport, TierReport};

/// Whose policy: the originator's or the responder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    Egress,
    Ingress,
}

impl Direction {
    /// Returns the name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// A rule by where it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleName {
    pub tier: String,
    pub policy: String,
    pub direction: Direction,
    /// Place among the policy's rules of this direction, from 0.
    pub index: u32,
    pub action: String,
    /// What it matches, in words.
    pub rule: String,
}

/// What the policy of one end decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    pub direction: Direction,
    /// The end's tap; empty when it has gone.
    pub interface: String,
    /// The end's endpoint, `namespace/name`.
    pub endpoint: String,
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// The deciding rule; `null` when no rule matched, or when the report does not have it (yet).
    pub decided_by: Option<RuleName>,
    /// Number of the deciding rule's counter; 0 for none.
    pub counter: u32,
    /// Without a deciding rule, the ends at which the packet was denied: one, or those among which policy leaves the
    /// choice.
    pub at_end_of: Vec<String>,
    /// If a `Log` rule matched: the one before the decision, or those one of which it was.
    pub logged_by: Vec<RuleName>,
}

/// Endpoints and policy sets of a report.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    report: AgentReport,
}

impl Policies {
    /// Takes what a report tells.
    pub fn of(report: AgentReport) -> Self {
        Self { report }
    }

    pub fn report(&self) -> &AgentReport {
        &self.report
    }

    /// Returns the endpoint whose tap has this number.
    pub fn at_interface(&self, ifindex: u32) -> Option<&EndpointReport> {
        let mut endpoints = self.report.endpoints.iter();
        endpoints.find(|endpoint| ifindex != 0 && endpoint.ifindex == ifindex)
    }

    /// Returns the endpoint that an address belongs to, a floating one too. Whole addresses go before prefixes.
    pub fn at_address(&self, address: IpAddr) -> Option<&EndpointReport> {
        let is_local = |endpoint: &&EndpointReport| endpoint.state != "inactive";
        let endpoints = || self.report.endpoints.iter().filter(is_local);
        let in_prefix =
            |endpoint: &&EndpointReport| networks(endpoint).any(|network| network.contains(&address));
        endpoints()
            .find(|endpoint| self.has_whole_address(endpoint, address))
            .or_else(|| endpoints().find(in_prefix))
    }

    /// Returns whether an address is one of an endpoint's by itself, not by a prefix around it; floating ones count.
    pub fn has_whole_address(&self, endpoint: &EndpointReport, address: IpAddr) -> bool {
        networks(endpoint)
            .any(|network| network.addr() == address && network.prefix_len() == network.max_prefix_len())
            || endpoint.floating.iter().any(|nat| nat.external == address)
    }

    /// Returns the endpoint at a slot.
    pub fn at_slot(&self, slot: u16) -> Option<&EndpointReport> {
        let mut endpoints = self.report.endpoints.iter();
        endpoints.find(|endpoint| slot != 0 && endpoint.slot == slot)
    }

    /// Returns the endpoint of a name: its interface, its name, or `namespace/name`.
    pub fn named(&self, name: &str) -> Option<&EndpointReport> {
        let mut endpoints = self.report.endpoints.iter();
        endpoints.find(|endpoint| {
            endpoint.interface == name || endpoint.name == name || full_name(endpoint) == name
        })
    }

    /// Puts the cell of the end at tap number `ifindex` in words.
    pub fn decision(&self, direction: Direction, ifindex: u32, cell: Cell) -> Decision {
        let endpoint = self.at_interface(ifindex);
        let set = endpoint.and_then(|endpoint| self.set(endpoint.policy_set));
        let counter = cell.rule();
        // The end's own policy, or whatever policy has the rule.
        let tiers = set.map(|set| tiers_of(set, direction)).unwrap_or_default();
        let decided_by = find_rule(tiers, direction, counter).or_else(|| {
            let sets = &self.report.policy_sets;
            sets.iter()
                .find_map(|set| find_rule(tiers_of(set, direction), direction, counter))
        });
        let at_end_of = if counter == 0 && !cell.allows() {
            possible_ends(tiers)
        } else {
            Vec::new()
        };
        let logged_by = if cell.logs() {
            log_rules_before(tiers, direction, counter)
        } else {
            Vec::new()
        };
        Decision {
            direction,
            interface: endpoint
                .map(|endpoint| endpoint.interface.clone())
                .unwrap_or_default(),
            endpoint: endpoint.map(full_name).unwrap_or_default(),
            verdict: if cell.allows() { "allow" } else { "deny" },
            decided_by,
            counter,
            at_end_of,
            logged_by,
        }
    }

    fn set(&self, id: u32) -> Option<&PolicySetReport> {
        self.report.policy_sets.iter().find(|set| set.id == id)
    }
}

/// Returns `namespace/name` of an endpoint.
pub fn full_name(endpoint: &EndpointReport) -> String {
    format!("{}/{}", endpoint.namespace, endpoint.name)
}

/// Returns the prefixes of an endpoint's addresses.
pub fn networks(endpoint: &EndpointReport) -> impl Iterator<Item = IpNet> {
    endpoint.addresses.iter().filter_map(|text| text.parse().ok())
}

impl RuleName {
    fn new(direction: Direction, tier: &TierReport, policy: &str, rule: &RuleReport) -> Self {
        Self {
            tier: tier.tier.clone(),
            policy: policy.to_owned(),
            direction,
            index: rule.index,
            action: rule.action.clone(),
            rule: rule.text.clone(),
        }
    }

    /// Returns tier, policy, direction and index: `default/NetworkPolicy(openstack/web) ingress[0]`, as `flows` tells it.
    pub fn short(&self) -> String {
        format!(
            "{}/{} {}[{}]",
            self.tier,
            self.policy,
            self.direction.name(),
            self.index
        )
    }
}

impl Decision {
    /// Returns what decided, on one line.
    pub fn by(&self) -> String {
        match &self.decided_by {
            Some(rule) => format!("{} ({} {})", rule.short(), rule.action, rule.rule),
            None if self.counter != 0 => {
                format!("rule number {}, which the report does not have", self.counter)
            }
            None if self.at_end_of.is_empty() => "no rule".to_owned(),
            None => format!("no rule: {}", self.at_end_of.join(", or ")),
        }
    }

    /// Returns which `Log` rules matched, on one line; empty when none did.
    pub fn logged(&self) -> String {
        let names: Vec<String> = self.logged_by.iter().map(RuleName::short).collect();
        match names.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            several => format!("one or more of {}", several.join(", ")),
        }
    }
}

fn tiers_of(set: &PolicySetReport, direction: Direction) -> &[TierReport] {
    match direction {
        Direction::Egress => &set.egress,
        Direction::Ingress => &set.ingress,
    }
}

/// How the report calls the profiles behind the tiers.
const PROFILES: &str = "profiles";

fn rules_of(tier: &TierReport) -> impl Iterator<Item = (&str, &RuleReport)> {
    let policies = tier.policies.iter();
    policies.flat_map(|policy| policy.rules.iter().map(|rule| (policy.name.as_str(), rule)))
}

fn find_rule(tiers: &[TierReport], direction: Direction, counter: u32) -> Option<RuleName> {
    if counter == 0 {
        return None;
    }
    tiers.iter().find_map(|tier| {
        let (policy, rule) = rules_of(tier).find(|(_, rule)| rule.counter == counter)?;
        Some(RuleName::new(direction, tier, policy, rule))
    })
}

/// Returns the ends that deny what no rule decided: those that a packet can get to. Only a `pass` leads past a tier that
/// denies.
fn possible_ends(tiers: &[TierReport]) -> Vec<String> {
    let mut ends = Vec::new();
    for tier in tiers.iter().filter(|tier| tier.tier != PROFILES) {
        if tier.default_action != "deny" {
            continue;
        }
        ends.push(format!("end of tier {}", tier.tier));
        if !rules_of(tier).any(|(_, rule)| rule.action == "pass") {
            return ends;
        }
    }
    ends.push("end of policy".to_owned());
    ends
}

/// Returns the `Log` rules that are asked before the rule with this counter; with 0 all of them.
fn log_rules_before(tiers: &[TierReport], direction: Direction, counter: u32) -> Vec<RuleName> {
    let mut names = Vec::new();
    for tier in tiers {
        for (policy, rule) in rules_of(tier) {
            if counter != 0 && rule.counter == counter {
                return names;
            }
            if rule.action == "log" {
                names.push(RuleName::new(direction, tier, policy, rule));
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::report::PolicyReport;

    fn rule(index: u32, action: &str, counter: u32) -> RuleReport {
        RuleReport {
            counter,
            index,
            action: action.to_owned(),
            text: "any packet".to_owned(),
        }
    }

    fn tier(name: &str, default_action: &str, rules: Vec<RuleReport>) -> TierReport {
        TierReport {
            tier: name.to_owned(),
            default_action: default_action.to_owned(),
            policies: vec![PolicyReport {
                name: format!("of-{name}"),
                rules,
            }],
        }
    }

    fn policies(ingress: Vec<TierReport>) -> Policies {
        Policies::of(AgentReport {
            endpoints: vec![EndpointReport {
                namespace: "openstack".to_owned(),
                name: "web".to_owned(),
                interface: "tapweb".to_owned(),
                ifindex: 7,
                policy_set: 3,
                state: "up".to_owned(),
                addresses: vec!["10.0.0.1/32".to_owned(), "10.9.0.0/16".to_owned()],
                ..EndpointReport::default()
            }],
            policy_sets: Arc::new(vec![PolicySetReport {
                id: 3,
                ingress,
                ..PolicySetReport::default()
            }]),
            ..AgentReport::default()
        })
    }

    fn ingress(tiers: Vec<TierReport>, cell: Cell) -> Decision {
        policies(tiers).decision(Direction::Ingress, 7, cell)
    }

    #[test]
    fn the_deciding_rule_is_told_by_tier_policy_and_index() {
        let tiers = vec![tier(
            "default",
            "deny",
            vec![rule(0, "allow", 5), rule(1, "deny", 6)],
        )];
        let decision = ingress(tiers, Cell::new(false, false, 6));
        assert_eq!(decision.by(), "default/of-default ingress[1] (deny any packet)");
        assert_eq!(
            (decision.endpoint.as_str(), decision.verdict),
            ("openstack/web", "deny")
        );
    }

    #[test]
    fn a_packet_that_no_rule_decided_ends_at_the_first_tier_that_denies() {
        let tiers = vec![
            tier("security", "pass", vec![rule(0, "deny", 4)]),
            tier("default", "deny", vec![rule(0, "allow", 5)]),
            tier("profiles", "deny", vec![rule(0, "allow", 6)]),
        ];
        let decision = ingress(tiers, Cell::DENY);
        assert_eq!(decision.at_end_of, ["end of tier default"]);
    }

    #[test]
    fn a_pass_leaves_the_choice_between_ends() {
        let tiers = vec![
            tier("default", "deny", vec![rule(0, "pass", 0)]),
            tier("profiles", "deny", vec![rule(0, "allow", 6)]),
        ];
        let decision = ingress(tiers, Cell::DENY);
        assert_eq!(decision.at_end_of, ["end of tier default", "end of policy"]);
    }

    #[test]
    fn log_rules_before_the_decision_are_told() {
        let tiers = vec![
            tier("security", "pass", vec![rule(0, "log", 0), rule(1, "deny", 4)]),
            tier(
                "default",
                "deny",
                vec![rule(0, "log", 0), rule(1, "allow", 5), rule(2, "log", 0)],
            ),
        ];
        let first = ingress(tiers.clone(), Cell::new(false, true, 4));
        assert_eq!(first.logged(), "security/of-security ingress[0]");
        let second = ingress(tiers.clone(), Cell::new(true, true, 5));
        assert_eq!(
            second.logged(),
            "one or more of security/of-security ingress[0], default/of-default ingress[0]"
        );
        assert_eq!(ingress(tiers, Cell::new(true, false, 5)).logged_by, []);
    }

    #[test]
    fn a_rule_that_the_report_lacks_is_told_by_its_number() {
        let decision = ingress(Vec::new(), Cell::new(true, false, 99));
        assert_eq!(decision.by(), "rule number 99, which the report does not have");
    }

    #[test]
    fn endpoints_are_found_by_address_and_prefix() {
        let policies = policies(Vec::new());
        let at = |text: &str| policies.at_address(text.parse().unwrap()).map(full_name);
        assert_eq!(at("10.0.0.1").as_deref(), Some("openstack/web"));
        assert_eq!(at("10.9.4.4").as_deref(), Some("openstack/web"));
        assert_eq!(at("10.0.0.2"), None);
    }
}
