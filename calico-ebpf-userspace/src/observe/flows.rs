//! Conntrack entries in words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_ebpf_common::flow::{
    FLOW_ORIGIN_LOW, Flow, FlowKey4, FlowKey6, NOT_TRANSLATED, ORIGIN, RESPONDER, STATE_ESTABLISHED,
    STATE_FIN_ORIGIN, STATE_FIN_RESPONDER, STATE_REPLIED, STATE_RESET, TRANSLATED,
};
use calico_ebpf_common::moved_port::moved_port;
use calico_ebpf_common::port::protocol;
use serde::Serialize;

use super::clock::Clock;
use super::rule_names::RuleNames;
use super::translations::Translations;

/// Key of either table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKey {
    V4(FlowKey4),
    V6(FlowKey6),
}

/// Two sides of a flow: address and port.
pub type Side = (IpAddr, u16);

/// One flow, told from its originator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowView {
    /// Protocol name, or its number.
    pub protocol: String,
    pub source: IpAddr,
    /// 0 for protocols without ports and for ICMP.
    pub source_port: u16,
    pub destination: IpAddr,
    pub destination_port: u16,
    /// Whether the destination is what its originator's packets were translated to.
    pub translated: bool,
    /// Address and port that the originator sends to, if they are translated and the translation is still there.
    pub opened_to: Option<(IpAddr, u16)>,
    /// The port that the destination sees the originator at, if that is not its own (contract 3.5).
    pub port_moved_to: Option<u16>,
    /// Type and identifier of an ICMP query.
    pub icmp: Option<IcmpQuery>,
    /// `new`, `replied`, `established`, `closing`, `closed`, `reset`.
    pub state: &'static str,
    /// Seconds since the first packet; `None` where the kernel does not tell its clock.
    pub age_secs: Option<u64>,
    /// Seconds since the last packet.
    pub idle_secs: Option<u64>,
    /// Rule that let it out of the source, if the source is local and a rule decided.
    pub egress_rule: Option<String>,
    /// Rule that let it into the destination, if that is local and a rule decided.
    pub ingress_rule: Option<String>,
    /// Endpoint slots of source and destination; 0 is not local.
    pub slots: [u16; 2],
    /// Policy generations of source and destination under which it was judged.
    pub generations: [u32; 2],
}

/// An ICMP query and its answer are one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IcmpQuery {
    pub kind: u8,
    pub identifier: u16,
}

impl FlowKey {
    /// Returns the key of a packet's flow; both directions have the same. `None` for ends of two families.
    pub fn of(protocol: u8, source: Side, destination: Side, translated: bool) -> Option<Self> {
        let [low, high] = if source <= destination {
            [source, destination]
        } else {
            [destination, source]
        };
        let translation = if translated { TRANSLATED } else { NOT_TRANSLATED };
        let [low_port, high_port] = [low.1.to_be_bytes(), high.1.to_be_bytes()];
        match (low.0, high.0) {
            (IpAddr::V4(low_address), IpAddr::V4(high_address)) => Some(Self::V4(FlowKey4 {
                low_address: low_address.octets(),
                high_address: high_address.octets(),
                low_port,
                high_port,
                protocol,
                translation,
                reserved: [0; 2],
            })),
            (IpAddr::V6(low_address), IpAddr::V6(high_address)) => Some(Self::V6(FlowKey6 {
                low_address: low_address.octets(),
                high_address: high_address.octets(),
                low_port,
                high_port,
                protocol,
                translation,
                reserved: [0; 2],
            })),
            _ => None,
        }
    }

    /// Returns the IANA protocol number.
    pub fn protocol(&self) -> u8 {
        match self {
            Self::V4(key) => key.protocol,
            Self::V6(key) => key.protocol,
        }
    }

    /// Returns whether the key is of a translated flow.
    pub fn is_translated(&self) -> bool {
        let translation = match self {
            Self::V4(key) => key.translation,
            Self::V6(key) => key.translation,
        };
        translation == TRANSLATED
    }

    /// Returns both sides, the originator first.
    pub fn sides(&self, flow: &Flow) -> [Side; 2] {
        let (low, high) = match self {
            Self::V4(key) => (
                (
                    IpAddr::from(Ipv4Addr::from(key.low_address)),
                    u16::from_be_bytes(key.low_port),
                ),
                (
                    IpAddr::from(Ipv4Addr::from(key.high_address)),
                    u16::from_be_bytes(key.high_port),
                ),
            ),
            Self::V6(key) => (
                (
                    IpAddr::from(Ipv6Addr::from(key.low_address)),
                    u16::from_be_bytes(key.low_port),
                ),
                (
                    IpAddr::from(Ipv6Addr::from(key.high_address)),
                    u16::from_be_bytes(key.high_port),
                ),
            ),
        };
        if flow.flags & FLOW_ORIGIN_LOW == 0 {
            [high, low]
        } else {
            [low, high]
        }
    }
}

impl FlowView {
    /// Puts an entry in words. Without a clock there are no ages.
    pub fn new(
        key: &FlowKey,
        flow: &Flow,
        clock: Option<Clock>,
        rules: &RuleNames,
        translations: &Translations,
    ) -> Self {
        let number = key.protocol();
        let [source, destination] = key.sides(flow);
        let is_icmp = matches!(number, protocol::ICMP | protocol::ICMPV6);
        let icmp = is_icmp.then(|| IcmpQuery {
            kind: u8::try_from(destination.1 & 0xff).unwrap_or(0),
            identifier: source.1,
        });
        let port = |port: u16| if is_icmp { 0 } else { port };
        let translated = key.is_translated();
        let moved_place = flow.moved_place().filter(|_| translated);
        let opened_to = translated.then(|| translations.opened_to(flow, destination));
        let own_port = moved_place.map_or(source.1, |place| moved_port(source.1, place));
        let rule = |end: usize| rules.get(flow.rule[end]).map(str::to_owned);
        Self {
            protocol: protocol_name(number),
            source: source.0,
            source_port: port(own_port),
            destination: destination.0,
            destination_port: port(destination.1),
            translated,
            opened_to: opened_to
                .flatten()
                .map(|(address, number)| (address, port(number))),
            port_moved_to: moved_place.map(|_| source.1),
            icmp,
            state: state_name(number, flow),
            age_secs: clock.map(|clock| clock.seconds_since(flow.created)),
            idle_secs: clock.map(|clock| clock.seconds_since(flow.last_seen)),
            egress_rule: rule(ORIGIN),
            ingress_rule: rule(RESPONDER),
            slots: flow.slot,
            generations: flow.generation,
        }
    }

    /// Returns the flow as `source:port -> destination:port`, or with type and identifier of an ICMP query. What is
    /// translated reads `source:port -> destination:port => translated:port`, and `from port` with another source port.
    pub fn tuple(&self) -> String {
        let Some((address, port)) = self.opened_to else {
            let note = if self.translated { " (translated)" } else { "" };
            return format!("{}{note}", self.tuple_to(self.destination, self.destination_port));
        };
        let translated = match self.destination_port {
            0 => self.destination.to_string(),
            number => side(self.destination, number),
        };
        let moved = match self.port_moved_to {
            Some(port) => format!(" from port {port}"),
            None => String::new(),
        };
        format!("{} => {translated}{moved}", self.tuple_to(address, port))
    }

    fn tuple_to(&self, address: IpAddr, port: u16) -> String {
        match self.icmp {
            Some(query) => {
                format!(
                    "{} -> {address} type {} id {}",
                    self.source, query.kind, query.identifier
                )
            }
            None if self.source_port == 0 && port == 0 => {
                format!("{} -> {address}", self.source)
            }
            None => {
                format!(
                    "{} -> {}",
                    side(self.source, self.source_port),
                    side(address, port)
                )
            }
        }
    }
}

pub(super) fn side(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

/// Returns the name of a protocol, or its number as text.
pub fn protocol_name(number: u8) -> String {
    match number {
        protocol::ICMP => "icmp".to_owned(),
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::DCCP => "dccp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        protocol::SCTP => "sctp".to_owned(),
        protocol::UDPLITE => "udplite".to_owned(),
        other => other.to_string(),
    }
}

/// Returns the number of a protocol by its name or number.
pub fn protocol_number(text: &str) -> Option<u8> {
    let by_name = (0..=u8::MAX).find(|number| protocol_name(*number).eq_ignore_ascii_case(text));
    by_name.or_else(|| text.parse().ok())
}

fn state_name(protocol: u8, flow: &Flow) -> &'static str {
    let has = |bits: u8| flow.state & bits != 0;
    if protocol != protocol::TCP {
        return if has(STATE_REPLIED) { "replied" } else { "new" };
    }
    if has(STATE_RESET) {
        "reset"
    } else if flow.is_closed() {
        "closed"
    } else if has(STATE_FIN_ORIGIN | STATE_FIN_RESPONDER) {
        "closing"
    } else if has(STATE_ESTABLISHED) {
        "established"
    } else if has(STATE_REPLIED) {
        "replied"
    } else {
        "new"
    }
}

#[cfg(test)]
mod tests {
    use calico_ebpf_common::flow::{ICMP_PORT, NAT_METADATA};
    use calico_ebpf_common::moved_port::{NAT_PORT_ONLY, moved_flags};
    use calico_ebpf_common::nat::{halves, tag_of};

    use super::*;
    use crate::report::{AgentReport, EndpointReport, FloatingReport};

    fn key(protocol: u8, low_port: u16, high_port: u16) -> FlowKey {
        FlowKey::V4(FlowKey4 {
            low_address: [10, 0, 0, 1],
            high_address: [10, 0, 0, 2],
            low_port: low_port.to_be_bytes(),
            high_port: high_port.to_be_bytes(),
            protocol,
            translation: 0,
            reserved: [0; 2],
        })
    }

    fn view(key: &FlowKey, flow: &Flow) -> FlowView {
        FlowView::new(
            key,
            flow,
            Some(Clock {
                jiffies: 5000,
                rate: 250,
            }),
            &RuleNames::default(),
            &Translations::of(&report()),
        )
    }

    fn report() -> AgentReport {
        let floating = FloatingReport {
            external: "172.24.4.2".parse().unwrap(),
            internal: "10.0.0.2".parse().unwrap(),
        };
        AgentReport {
            endpoints: vec![EndpointReport {
                floating: vec![floating],
                ..EndpointReport::default()
            }],
            ..AgentReport::default()
        }
    }

    #[test]
    fn a_translated_flow_tells_both_addresses() {
        let translated = |protocol, low_port, high_port| {
            let FlowKey::V4(key) = key(protocol, low_port, high_port) else {
                unreachable!()
            };
            FlowKey::V4(FlowKey4 {
                translation: TRANSLATED,
                ..key
            })
        };
        let flow = |nat| Flow {
            flags: FLOW_ORIGIN_LOW,
            nat,
            ..Flow::default()
        };
        let moved = |nat| Flow {
            flags: FLOW_ORIGIN_LOW | moved_flags(1),
            ..flow(nat)
        };
        let tag = tag_of(halves("172.24.4.2".parse().unwrap()));
        for (key, nat, expected) in [
            (
                translated(6, 4000, 80),
                tag,
                "10.0.0.1:4000 -> 172.24.4.2:80 => 10.0.0.2:80",
            ),
            (
                translated(1, 7, ICMP_PORT | 8),
                tag,
                "10.0.0.1 -> 172.24.4.2 type 8 id 7 => 10.0.0.2",
            ),
            (
                translated(6, 4000, 8775),
                NAT_METADATA,
                "10.0.0.1:4000 -> 169.254.169.254:80 => 10.0.0.2:8775",
            ),
            (
                translated(6, 4000, 80),
                tag ^ 1,
                "10.0.0.1:4000 -> 10.0.0.2:80 (translated)",
            ),
        ] {
            assert_eq!(view(&key, &flow(nat)).tuple(), expected);
        }
        let port = moved_port(4000, 1);
        for (nat, asked) in [(tag, "172.24.4.2"), (NAT_PORT_ONLY, "10.0.0.2")] {
            assert_eq!(
                view(&translated(6, port, 80), &moved(nat)).tuple(),
                format!("10.0.0.1:4000 -> {asked}:80 => 10.0.0.2:80 from port {port}")
            );
        }
    }

    #[test]
    fn the_originator_comes_first_whichever_side_of_the_key_it_is() {
        let from_low = Flow {
            flags: FLOW_ORIGIN_LOW,
            ..Flow::default()
        };
        assert_eq!(
            view(&key(6, 4000, 80), &from_low).tuple(),
            "10.0.0.1:4000 -> 10.0.0.2:80"
        );
        assert_eq!(
            view(&key(6, 80, 4000), &Flow::default()).tuple(),
            "10.0.0.2:4000 -> 10.0.0.1:80"
        );
    }

    #[test]
    fn an_icmp_query_is_told_by_type_and_identifier() {
        let flow = Flow {
            flags: FLOW_ORIGIN_LOW,
            state: STATE_REPLIED,
            ..Flow::default()
        };
        let ping = view(&key(1, 77, ICMP_PORT | 8), &flow);
        assert_eq!(ping.tuple(), "10.0.0.1 -> 10.0.0.2 type 8 id 77");
        assert_eq!(ping.state, "replied");
    }

    #[test]
    fn protocols_without_ports_are_told_by_addresses() {
        assert_eq!(
            view(&key(47, 0, 0), &Flow::default()).tuple(),
            "10.0.0.2 -> 10.0.0.1"
        );
        assert_eq!(view(&key(47, 0, 0), &Flow::default()).protocol, "47");
    }

    #[test]
    fn tcp_has_a_word_for_each_stage_of_a_connection() {
        let stage = |state: u8| {
            view(
                &key(6, 1, 2),
                &Flow {
                    state,
                    ..Flow::default()
                },
            )
            .state
        };
        assert_eq!(stage(0), "new");
        assert_eq!(stage(STATE_REPLIED), "replied");
        assert_eq!(stage(STATE_REPLIED | STATE_ESTABLISHED), "established");
        assert_eq!(stage(STATE_ESTABLISHED | STATE_FIN_ORIGIN), "closing");
        assert_eq!(
            stage(STATE_ESTABLISHED | STATE_FIN_ORIGIN | STATE_FIN_RESPONDER),
            "closed"
        );
        assert_eq!(stage(STATE_ESTABLISHED | STATE_RESET), "reset");
    }

    #[test]
    fn ages_are_in_seconds() {
        let flow = Flow {
            created: 2500,
            last_seen: 4750,
            ..Flow::default()
        };
        let seen = view(&key(17, 1, 2), &flow);
        assert_eq!((seen.age_secs, seen.idle_secs), (Some(10), Some(1)));
    }

    #[test]
    fn protocols_are_found_by_name_and_number() {
        assert_eq!(protocol_number("TCP"), Some(6));
        assert_eq!(protocol_number("47"), Some(47));
        assert_eq!(protocol_number("256"), None);
    }
}
