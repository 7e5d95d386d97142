//! Which rule a counter number stands for.

use std::collections::BTreeMap;

use crate::report::{AgentReport, TierReport};

/// Rules of every policy set by the number of their counter.
#[derive(Clone, Debug, Default)]
pub struct RuleNames {
    names: BTreeMap<u32, String>,
}

impl RuleNames {
    /// Collects the rules of a report. The name is tier, policy, direction and index: `default/web ingress[0]`.
    pub fn of(report: &AgentReport) -> Self {
        let mut names = BTreeMap::new();
        for set in report.policy_sets.iter() {
            collect(&mut names, "egress", &set.egress);
            collect(&mut names, "ingress", &set.ingress);
        }
        Self { names }
    }

    /// Returns the name of the rule with counter `number`; `None` for 0 and for rules that are no more.
    pub fn get(&self, number: u32) -> Option<&str> {
        self.names.get(&number).map(String::as_str)
    }
}

fn collect(names: &mut BTreeMap<u32, String>, direction: &str, tiers: &[TierReport]) {
    for tier in tiers {
        for policy in &tier.policies {
            for rule in policy.rules.iter().filter(|rule| rule.counter != 0) {
                names.insert(
                    rule.counter,
                    format!("{}/{} {direction}[{}]", tier.tier, policy.name, rule.index),
                );
            }
        }
    }
}
