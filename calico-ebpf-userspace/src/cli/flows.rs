//! `flows`: live flows.

use std::net::IpAddr;

use clap::Args;
use ipnet::IpNet;
use serde::Serialize;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure, USAGE};
use super::output::{OutputArguments, Page, Tone, plain, span};
use crate::observe::clock::Clock;
use crate::observe::flows::{FlowKey, FlowView, protocol_number};
use crate::observe::pinned::PinnedMaps;
use crate::observe::read_report;
use crate::observe::rule_names::RuleNames;
use crate::observe::translations::Translations;
use crate::report::AgentReport;

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf flows
  calico-ebpf flows --proto tcp --address 10.65.0.17 --port 22
  calico-ebpf flows --address 10.65.0.0/24 --limit 0 -o json
      Without a limit

Flows are told from the side that opened them; behind => is what the destination is translated to. AGE and IDLE count from the first and the last packet; RULES are those
that let the flow out of its source and into its destination, for ends on this host.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Only this protocol, by name or number
    #[arg(short, long, value_name = "PROTOCOL")]
    proto: Option<String>,
    /// Only flows with an end in this address or prefix
    #[arg(short, long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Only flows with this port at either end
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Most flows to show; 0 for all
    #[arg(short, long, default_value_t = 100, value_name = "COUNT")]
    limit: usize,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// What flows are wanted.
#[derive(Clone, Copy, Debug, Default)]
struct Filter {
    protocol: Option<u8>,
    net: Option<IpNet>,
    port: Option<u16>,
}

#[derive(Debug, Serialize)]
struct Flows {
    flows: Vec<FlowView>,
    /// Whether the limit left some out.
    more: bool,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    let filter = Filter::parse(arguments)?;
    let limit = if arguments.limit == 0 {
        usize::MAX
    } else {
        arguments.limit
    };
    let maps = PinnedMaps::under(&config.bpf_pin_dir);
    let mut entries = maps.flows(limit.saturating_add(1), |key, flow| {
        filter.takes(key, key.sides(flow))
    })?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    // Rule names are an extra: flows outlive the report.
    let report = read_report(&config.run_dir).unwrap_or_else(|_| AgentReport::default());
    let (clock, rules) = (Clock::read(), RuleNames::of(&report));
    let translations = Translations::of(&report);
    let flows = entries
        .iter()
        .map(|(key, flow)| FlowView::new(key, flow, clock, &rules, &translations))
        .collect();
    let flows = Flows { flows, more };
    arguments.output.show(&flows, |page| flows.put_on(page))?;
    Ok(Ending::Good)
}

impl Filter {
    fn parse(arguments: &Arguments) -> Result<Self, Failure> {
        let protocol = match &arguments.proto {
            None => None,
            Some(text) => Some(protocol_number(text).ok_or_else(|| {
                let error = anyhow::anyhow!("--proto {text}: no such protocol");
                Failure::new(
                    error,
                    USAGE,
                    "Give tcp, udp, icmp, icmpv6, sctp, udplite, dccp or a number up to 255.",
                )
            })?),
        };
        let net = match &arguments.address {
            None => None,
            Some(text) => Some(net(text).ok_or_else(|| {
                let error = anyhow::anyhow!("--address {text}: no address and no prefix");
                Failure::new(error, USAGE, "Examples: 10.65.0.17, 10.65.0.0/24, fd00::/64")
            })?),
        };
        Ok(Self {
            protocol,
            net,
            port: arguments.port,
        })
    }

    fn takes(&self, key: &FlowKey, sides: [(IpAddr, u16); 2]) -> bool {
        self.protocol.is_none_or(|protocol| protocol == key.protocol())
            && self
                .net
                .is_none_or(|net| sides.iter().any(|(address, _)| net.contains(address)))
            && self
                .port
                .is_none_or(|port| sides.iter().any(|(_, found)| *found == port))
    }
}

fn net(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl Flows {
    fn put_on(&self, page: &mut Page) {
        if self.flows.is_empty() {
            page.toned(Tone::Quiet, "no flow");
            return;
        }
        let row = |flow: &FlowView| {
            let tone = match flow.state {
                "established" | "replied" => Tone::Good,
                "new" => Tone::Attention,
                _ => Tone::Quiet,
            };
            let time = |seconds: Option<u64>| plain(seconds.map_or_else(|| "-".to_owned(), span));
            let rules: Vec<&str> = [&flow.egress_rule, &flow.ingress_rule]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            vec![
                plain(&flow.protocol),
                plain(flow.tuple()),
                (tone, flow.state.to_owned()),
                time(flow.age_secs),
                time(flow.idle_secs),
                plain(rules.join(", ")),
            ]
        };
        page.table(
            &["PROTO", "FLOW", "STATE", "AGE", "IDLE", "RULES"],
            self.flows.iter().map(row).collect(),
        );
        if self.more {
            page.toned(Tone::Quiet, "There are more; --limit 0 shows all.");
        }
    }
}

#[cfg(test)]
mod tests {
    use calico_ebpf_common::flow::FlowKey4;

    use super::*;

    fn sides() -> [(IpAddr, u16); 2] {
        [
            ("10.0.0.1".parse().unwrap(), 4000),
            ("10.0.0.2".parse().unwrap(), 80),
        ]
    }

    #[test]
    fn filters_look_at_either_end() {
        let key = FlowKey::V4(FlowKey4 {
            protocol: 6,
            ..FlowKey4::default()
        });
        let by_net = |text: &str| {
            Filter {
                net: net(text),
                ..Filter::default()
            }
            .takes(&key, sides())
        };
        assert!(by_net("10.0.0.2") && by_net("10.0.0.0/30") && !by_net("10.1.0.0/16"));
        let by_port = |port: u16| {
            Filter {
                port: Some(port),
                ..Filter::default()
            }
            .takes(&key, sides())
        };
        assert!(by_port(80) && by_port(4000) && !by_port(443));
        assert!(
            !Filter {
                protocol: Some(17),
                ..Filter::default()
            }
            .takes(&key, sides())
        );
    }

    #[test]
    fn the_end_of_the_list_says_that_there_is_more() {
        let flow = FlowView {
            protocol: "tcp".to_owned(),
            source: sides()[0].0,
            source_port: 4000,
            destination: sides()[1].0,
            destination_port: 80,
            translated: false,
            opened_to: None,
            port_moved_to: None,
            icmp: None,
            state: "established",
            age_secs: Some(75),
            idle_secs: None,
            egress_rule: Some("default/all egress[0]".to_owned()),
            ingress_rule: None,
            slots: [1, 2],
            generations: [3, 4],
        };
        let mut page = Page::plain();
        Flows {
            flows: vec![flow],
            more: true,
        }
        .put_on(&mut page);
        insta::assert_snapshot!(page.text());
    }
}
