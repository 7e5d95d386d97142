//! `policy`: the rules that judge an endpoint, in order, with their hits.

use std::collections::BTreeMap;

use calico_ebpf_common::maps::Counter;
use clap::Args;
use serde::Serialize;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure};
use super::output::{OutputArguments, Page, Tone, grouped, plain};
use crate::observe::pinned::PinnedMaps;
use crate::observe::read_report;
use crate::report::{AgentReport, PolicySetReport, TierReport};

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf policy
      Every policy set of this host and who shares it
  calico-ebpf policy --iface tap8dfa1418-d5
      What judges one tap
  calico-ebpf policy --iface tap8dfa1418-d5 -o json

Rules are read from top to bottom; the first that matches decides. A tier in which no rule matched ends with its
default action; behind the last tier come the profiles, and then everything is denied.
PACKETS and BYTES count what a rule decided about, since this run of the agent: what it denied, and each packet, in both
directions, of the flows that it let pass. A packet between two VMs of this host counts at one rule of each. - is for
what is not counted: log and pass decide nothing, and no rule stands at the end of a tier. `watch` shows packets that
log rules match.

Behind each direction stands the engine that judges it: `cells`, worked out beforehand, or `fall-back`, rule by rule
in bit vectors, where rules tell too much apart for cells. Both say the same. `over budget` denies everything: there
is no room for the rules (BPFPolicyTableLines).";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Only the policy of the endpoint on this interface
    #[arg(short, long, value_name = "NAME")]
    iface: Option<String>,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Serialize)]
struct SetView {
    id: u32,
    rows: u32,
    columns: u32,
    endpoints: Vec<String>,
    /// `cells`, `fall-back` or `over budget`.
    egress_engine: String,
    ingress_engine: String,
    egress: Vec<RuleView>,
    ingress: Vec<RuleView>,
}

#[derive(Debug, Serialize)]
struct RuleView {
    tier: String,
    policy: String,
    index: Option<u32>,
    action: String,
    rule: String,
    /// Packets that the rule decided about; `null` when the maps cannot be read, for `log` and `pass`, and for the end
    /// of a tier.
    packets: Option<u64>,
    /// Their bytes, from the Ethernet header on.
    bytes: Option<u64>,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    let report = read_report(&config.run_dir)?;
    let sets = wanted_sets(&report, arguments.iface.as_deref())?;
    let numbers = counter_numbers(&sets);
    let hits = PinnedMaps::under(&config.bpf_pin_dir).rule_hits(&numbers);
    let (hits, unread) = match hits {
        Ok(counters) => (numbers.into_iter().zip(counters).collect(), None),
        Err(error) => (BTreeMap::new(), Some(error)),
    };
    let views: Vec<SetView> = sets.iter().map(|set| SetView::new(set, &hits)).collect();
    arguments.output.show(&views, |page| {
        for view in &views {
            view.put_on(page);
        }
        if let Some(error) = &unread {
            page.toned(Tone::Attention, &format!("Hits are not known: {error}"));
        }
    })?;
    Ok(Ending::Good)
}

fn wanted_sets<'a>(
    report: &'a AgentReport,
    iface: Option<&str>,
) -> Result<Vec<&'a PolicySetReport>, Failure> {
    let Some(iface) = iface else {
        return Ok(report.policy_sets.iter().collect());
    };
    let Some(endpoint) = report
        .endpoints
        .iter()
        .find(|endpoint| endpoint.interface == iface)
    else {
        let error = anyhow::anyhow!("no endpoint of this host has the interface {iface}");
        return Err(Failure::new(
            error,
            1,
            "`calico-ebpf endpoints` lists them. Without an endpoint, every packet of a tap is dropped.",
        ));
    };
    Ok(report
        .policy_sets
        .iter()
        .filter(|set| set.id == endpoint.policy_set)
        .collect())
}

fn counter_numbers(sets: &[&PolicySetReport]) -> Vec<u32> {
    let tiers = sets.iter().flat_map(|set| set.egress.iter().chain(&set.ingress));
    let rules = tiers
        .flat_map(|tier| &tier.policies)
        .flat_map(|policy| &policy.rules);
    let mut numbers: Vec<u32> = rules
        .map(|rule| rule.counter)
        .filter(|number| *number != 0)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

impl SetView {
    fn new(set: &PolicySetReport, hits: &BTreeMap<u32, Counter>) -> Self {
        Self {
            id: set.id,
            rows: set.rows,
            columns: set.columns,
            endpoints: set.endpoints.clone(),
            egress_engine: set.egress_engine.clone(),
            ingress_engine: set.ingress_engine.clone(),
            egress: rules_of(&set.egress, hits),
            ingress: rules_of(&set.ingress, hits),
        }
    }

    fn put_on(&self, page: &mut Page) {
        page.heading(&format!("Policy set {}", self.id));
        page.toned(Tone::Quiet, &format!("shared by {}", self.endpoints.join(", ")));
        for (title, engine, rules) in [
            ("From the workload (egress)", &self.egress_engine, &self.egress),
            ("To the workload (ingress)", &self.ingress_engine, &self.ingress),
        ] {
            page.heading(&format!("{title}: {engine}"));
            let rows = rules.iter().map(RuleView::row).collect();
            page.table(
                &["TIER", "POLICY", "RULE", "ACTION", "WHAT", "PACKETS", "BYTES"],
                rows,
            );
        }
    }
}

/// Returns rules and ends of tiers in order of evaluation.
fn rules_of(tiers: &[TierReport], hits: &BTreeMap<u32, Counter>) -> Vec<RuleView> {
    let mut views = Vec::new();
    for tier in tiers {
        for policy in &tier.policies {
            views.extend(policy.rules.iter().map(|rule| RuleView {
                tier: tier.tier.clone(),
                policy: policy.name.clone(),
                index: Some(rule.index),
                action: rule.action.clone(),
                rule: rule.text.clone(),
                packets: hits.get(&rule.counter).map(|counter| counter.packets),
                bytes: hits.get(&rule.counter).map(|counter| counter.bytes),
            }));
        }
        if tier.tier != "profiles" {
            views.push(end(&tier.tier, &tier.default_action, "end of the tier"));
        }
    }
    views.push(end("", "deny", "end of policy"));
    views
}

fn end(tier: &str, action: &str, what: &str) -> RuleView {
    RuleView {
        tier: tier.to_owned(),
        policy: String::new(),
        index: None,
        action: action.to_owned(),
        rule: what.to_owned(),
        packets: None,
        bytes: None,
    }
}

/// Returns a count, or a dash for what is not counted.
fn count(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), grouped)
}

impl RuleView {
    fn row(&self) -> Vec<(Tone, String)> {
        let tone = match self.action.to_ascii_lowercase().as_str() {
            "allow" => Tone::Good,
            "deny" => Tone::Bad,
            _ => Tone::Attention,
        };
        let body = if self.index.is_none() {
            Tone::Quiet
        } else {
            Tone::Plain
        };
        vec![
            plain(&self.tier),
            plain(&self.policy),
            plain(self.index.map_or_else(String::new, |index| index.to_string())),
            (tone, self.action.clone()),
            (body, self.rule.clone()),
            plain(count(self.packets)),
            plain(count(self.bytes)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::report::{EndpointReport, PolicyReport, RuleReport};

    fn report() -> AgentReport {
        let rule = RuleReport {
            counter: 9,
            index: 1,
            action: "allow".to_owned(),
            text: "tcp to ports 80".to_owned(),
        };
        let log = RuleReport {
            counter: 0,
            index: 0,
            action: "log".to_owned(),
            text: "any packet".to_owned(),
        };
        let tier = TierReport {
            tier: "default".to_owned(),
            default_action: "deny".to_owned(),
            policies: vec![PolicyReport {
                name: "openstack/web".to_owned(),
                rules: vec![log, rule],
            }],
        };
        AgentReport {
            endpoints: vec![EndpointReport {
                interface: "tapweb".to_owned(),
                policy_set: 3,
                ..EndpointReport::default()
            }],
            policy_sets: Arc::new(vec![
                PolicySetReport {
                    id: 3,
                    endpoints: vec!["web".to_owned()],
                    egress_engine: "cells".to_owned(),
                    ingress_engine: "fall-back".to_owned(),
                    ingress: vec![tier],
                    ..PolicySetReport::default()
                },
                PolicySetReport {
                    id: 4,
                    ..PolicySetReport::default()
                },
            ]),
            ..AgentReport::default()
        }
    }

    #[test]
    fn the_policy_of_a_tap_is_told_in_order_with_hits_and_ends() {
        let report = report();
        let sets = wanted_sets(&report, Some("tapweb")).unwrap();
        assert_eq!(counter_numbers(&sets), [9]);
        let view = SetView::new(
            sets[0],
            &BTreeMap::from([(
                9,
                Counter {
                    packets: 1500,
                    bytes: 96_000,
                },
            )]),
        );
        let mut page = Page::plain();
        view.put_on(&mut page);
        insta::assert_snapshot!(page.text());
    }

    #[test]
    fn a_tap_without_an_endpoint_is_an_error_that_says_what_that_means() {
        let failure = wanted_sets(&report(), Some("tapnone")).unwrap_err();
        assert!(
            failure.to_string().contains("every packet of a tap is dropped"),
            "{failure}"
        );
    }
}
