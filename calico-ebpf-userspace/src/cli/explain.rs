//! `explain`: what would become of a packet, and who decides about it.

mod ends;

use std::net::IpAddr;

use calico_ebpf_common::port::protocol;
use clap::Args;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure, NOT_PERMITTED, NOTHING_THERE, USAGE};
use super::output::{OutputArguments, Page, Tone};
use crate::dataplane::dry_run::{DryRunError, KnownFlows};
use crate::dataplane::pins::Pins;
use crate::observe::decisions::Policies;
use crate::observe::explain::{AnsweredBy, Explanation, Question, explain};
use crate::observe::flows::protocol_number;
use crate::observe::made_packet::{MadePacket, TcpPacket, Transport};
use crate::observe::pinned::PinnedMaps;
use crate::observe::read_report;
use ends::Ends;

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf explain --from tap8dfa1418-d5 --to 10.65.0.17 --protocol tcp --port 22
      May this VM open a connection there?
  calico-ebpf explain --from 198.51.100.7 --to tap8dfa1418-d5 --protocol icmp
      May somebody outside ping this VM?
  calico-ebpf explain --from 10.65.0.17 --to 10.65.0.18 --protocol tcp --port 5432 --source-port 40112
      The next packet of a connection that is open; with --new, a new one with the same ports
  calico-ebpf explain --from tap8dfa1418-d5 --source-address 10.65.0.99 --to 10.65.0.18 --protocol udp --port 53
      What if it sent from an address that is not its own?

The programs of this host are asked, with the tables, the flows and the settings that are in force now. They write
nothing: no flow is opened, nothing is counted, no packet is sent.

Without --source-port, a port is taken that no flow has, so that the packet opens one. With it, the packet goes on with
the flow that has these ends, if there is one.

Exit status: 0 the packet is let pass, 1 it is dropped, or nothing could be asked (standard error says why then).
2 the question is wrong, 3 no agent has run here, 4 not permitted.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Who sends: the tap, address or name of an endpoint of this host, or any other address; the host's own are the host
    #[arg(long, value_name = "TAP|ADDRESS|ENDPOINT")]
    from: String,
    /// Who is to receive it: as for --from
    #[arg(long, value_name = "TAP|ADDRESS|ENDPOINT")]
    to: String,
    /// tcp, udp, icmp, icmpv6, sctp, udplite, dccp, or a number up to 255; icmp is icmpv6 between IPv6 addresses
    #[arg(short, long, visible_alias = "proto", value_name = "PROTOCOL")]
    protocol: String,
    /// Destination port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Source port; of ICMP, the identifier
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
    /// Type of an ICMP query [default: echo request]
    #[arg(long, value_name = "TYPE")]
    icmp_type: Option<u8>,
    /// Code of an ICMP query
    #[arg(long, default_value_t = 0, value_name = "CODE")]
    icmp_code: u8,
    /// Sends from this address in place of the sender's own
    #[arg(long, value_name = "ADDRESS")]
    source_address: Option<IpAddr>,
    /// Sends from this MAC address in place of the sender's own
    #[arg(long, value_name = "MAC")]
    source_mac: Option<String>,
    /// Between endpoints that have addresses of both families, takes IPv6
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Judges the packet as the first of a flow, whatever flows are live
    #[arg(long)]
    new: bool,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    let policies = Policies::of(read_report(&config.run_dir)?);
    let maps = PinnedMaps::under(&config.bpf_pin_dir);
    let number = number_of_protocol(&arguments.protocol)?;
    let ends = Ends::find(arguments, number, &policies)?;
    let mut packet = MadePacket {
        source_mac: ends.source_mac,
        destination_mac: ends.destination_mac,
        source: ends.source,
        destination: ends.destination,
        protocol: icmp_of_family(number, ends.source),
        transport: Transport::None,
        tcp: TcpPacket::First,
    };
    packet.transport = transport(arguments, packet.protocol)?;
    if arguments.source_port.is_none() && !arguments.new {
        take_free_port(&mut packet, &ends, &maps)?;
    }
    let question = Question {
        sender: ends.sender,
        packet,
        receiver: ends.receiver,
        flows: if arguments.new {
            KnownFlows::None
        } else {
            KnownFlows::Live
        },
    };
    let explanation =
        explain(&question, &policies, &Pins::below(&config.bpf_pin_dir), &maps).map_err(failure)?;
    arguments
        .output
        .show(&explanation, |page| put_on(page, &explanation))?;
    Ok(if explanation.allowed {
        Ending::Good
    } else {
        Ending::Bad
    })
}

fn failure(error: anyhow::Error) -> Failure {
    match error.downcast_ref::<DryRunError>() {
        Some(DryRunError::NoPrograms(_)) => Failure::new(
            error,
            NOTHING_THERE,
            "No agent has run here. Start it with `calico-ebpf run`; if it runs with another BPFPinDir, give the same with \
             --set BPFPinDir=DIR.",
        ),
        Some(DryRunError::NotPermitted(_)) => Failure::new(
            error,
            NOT_PERMITTED,
            "The dataplane's programs are root's: run the command as root.",
        ),
        Some(DryRunError::OtherBuild) => Failure::new(
            error,
            1,
            "Use the binary that the agent runs from, or restart the agent: only the same programs can be asked.",
        ),
        Some(DryRunError::Other(_)) | None => Failure::new(error, 1, ""),
    }
}

fn number_of_protocol(text: &str) -> Result<u8, Failure> {
    protocol_number(text).ok_or_else(|| {
        let error = anyhow::anyhow!("--protocol {text}: no such protocol");
        let cure = "Give tcp, udp, icmp, icmpv6, sctp, udplite, dccp or a number up to 255.";
        Failure::new(error, USAGE, cure)
    })
}

/// ICMP is another protocol in IPv6.
fn icmp_of_family(number: u8, address: IpAddr) -> u8 {
    match (number, address) {
        (protocol::ICMP, IpAddr::V6(_)) => protocol::ICMPV6,
        (number, _) => number,
    }
}

/// Source ports and identifiers begin here when none is given: the first of the dynamic ones (RFC 6335).
const FIRST_PORT: u16 = 49_152;

fn transport(arguments: &Arguments, number: u8) -> Result<Transport, Failure> {
    let source = arguments.source_port.unwrap_or(FIRST_PORT);
    if MadePacket::needs_ports(number) {
        let Some(destination) = arguments.port else {
            let error = anyhow::anyhow!("--protocol {} needs --port", arguments.protocol);
            return Err(Failure::new(error, USAGE, "Example: --protocol tcp --port 443"));
        };
        return Ok(Transport::Ports { source, destination });
    }
    if let Some(port) = arguments.port {
        let error = anyhow::anyhow!("--port {port}: protocol {} has no ports", arguments.protocol);
        return Err(Failure::new(
            error,
            USAGE,
            "ICMP has --icmp-type and --icmp-code.",
        ));
    }
    let queries: &[u8] = match number {
        protocol::ICMP => &[8, 13, 15, 17],
        protocol::ICMPV6 => &[128],
        _ => return Ok(Transport::None),
    };
    let kind = arguments.icmp_type.unwrap_or(queries[0]);
    let is_error = match number {
        protocol::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12 | 0 | 14 | 16 | 18),
        _ => matches!(kind, 1..=4 | 129..=137 | 143),
    };
    if is_error {
        let error = anyhow::anyhow!("--icmp-type {kind}: an answer, an error or neighbour discovery");
        let cure = "Answers and errors pass by the flow that they belong to: explain that one. Neighbour discovery and MLD \
                    are no matter of policy.";
        return Err(Failure::new(error, USAGE, cure));
    }
    Ok(Transport::Icmp {
        kind,
        code: arguments.icmp_code,
        identifier: source,
    })
}

/// Takes a source port, or identifier, that no flow between the ends has.
fn take_free_port(packet: &mut MadePacket, ends: &Ends<'_>, maps: &PinnedMaps) -> Result<(), Failure> {
    if packet.transport == Transport::None {
        return Ok(());
    }
    let internal = ends.internal();
    for port in FIRST_PORT..=u16::MAX {
        match &mut packet.transport {
            Transport::Ports { source, .. } => *source = port,
            Transport::Icmp { identifier, .. } => *identifier = port,
            Transport::None => {}
        }
        let plain = maps.flow(&packet.flow_key(None)?)?;
        let translated = maps.flow(&packet.flow_key(Some(internal))?)?;
        if plain.is_none() && translated.is_none() {
            return Ok(());
        }
    }
    let error = anyhow::anyhow!("all dynamic ports between these ends are in use");
    Err(Failure::new(error, 1, "Give --source-port, or --new."))
}

fn put_on(page: &mut Page, explanation: &Explanation) {
    let (tone, verdict) = if explanation.allowed {
        (Tone::Good, "allowed")
    } else {
        (Tone::Bad, "dropped")
    };
    let to = explanation
        .to_interface
        .as_ref()
        .map_or_else(String::new, |tap| format!(" to {tap}"));
    page.toned(tone, &format!("{verdict}: {}{to}", explanation.reason));
    let by = match explanation.answered_by {
        AnsweredBy::Policy => "policy",
        AnsweredBy::LiveFlow => "a live flow, judged before",
        AnsweredBy::Check => "a check around policy; the user guide says what the reason means",
        AnsweredBy::AlwaysAllowed => "what passes whatever policy says",
    };
    let hooks: Vec<String> = explanation
        .hooks
        .iter()
        .map(|hook| format!("{} at {}", hook.hook, hook.interface))
        .collect();
    let mut facts = vec![
        ("packet", Tone::Plain, explanation.packet.line()),
        ("asked", Tone::Plain, hooks.join(", then ")),
        ("answered by", Tone::Plain, by.to_owned()),
    ];
    if let Some((address, port)) = explanation.translated_to {
        let to = if port == 0 {
            address.to_string()
        } else {
            std::net::SocketAddr::new(address, port).to_string()
        };
        facts.push(("translated to", Tone::Plain, to));
    }
    for decision in &explanation.decisions {
        let tone = if decision.verdict == "allow" {
            Tone::Good
        } else {
            Tone::Bad
        };
        let text = format!(
            "{} by {}: {}",
            decision.verdict,
            decision.interface,
            decision.by()
        );
        facts.push((decision.direction.name(), tone, text));
        if !decision.logged_by.is_empty() {
            facts.push(("logged by", Tone::Attention, decision.logged()));
        }
    }
    if let Some(flow) = &explanation.flow {
        let state = format!("{} {} ({})", flow.protocol, flow.tuple(), flow.state);
        facts.push(("flow", Tone::Plain, state));
    }
    page.facts(&facts);
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(rest: &[&str]) -> Arguments {
        let line = ["explain", "--from", "tapa", "--to", "tapb"];
        Line::try_parse_from(line.iter().chain(rest)).unwrap().arguments
    }

    fn complaint(rest: &[&str], number: u8) -> String {
        transport(&arguments(rest), number).unwrap_err().to_string()
    }

    #[test]
    fn protocols_with_ports_need_one_and_others_have_none() {
        assert!(complaint(&["-p", "tcp"], 6).contains("needs --port"));
        assert!(complaint(&["-p", "icmp", "--port", "1"], 1).contains("has no ports"));
        let other = transport(&arguments(&["-p", "47"]), 47).unwrap();
        assert_eq!(other, Transport::None);
    }

    #[test]
    fn icmp_is_an_echo_request_unless_said_and_never_an_error() {
        let Transport::Icmp { kind, .. } = transport(&arguments(&["-p", "icmp"]), 58).unwrap() else {
            panic!("no ICMP");
        };
        assert_eq!(kind, 128);
        assert!(complaint(&["-p", "icmp", "--icmp-type", "3"], 1).contains("explain that one"));
    }

    #[test]
    fn icmp_goes_by_the_family_of_the_ends() {
        assert_eq!(icmp_of_family(1, "fd00::1".parse().unwrap()), 58);
        assert_eq!(icmp_of_family(1, "10.0.0.1".parse().unwrap()), 1);
        assert_eq!(icmp_of_family(17, "fd00::1".parse().unwrap()), 17);
    }
}
