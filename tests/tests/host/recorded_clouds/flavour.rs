//! What is inside a probe: a protocol with what policy sees of it. Made of a rule as it was written, without the
//! agent's own reading of it.

use std::net::{IpAddr, SocketAddr};

use calico_ebpf_tests::packets::{Packet, Path};
use calico_ebpf_tests::recording::GroupRule;
use calico_ebpf_userspace::calc::effective::PacketFacts;
use serde_json::Value;

/// Protocols by the names that Neutron knows.
const NAMES: [(&str, u8); 18] = [
    ("HOPOPT", 0),
    ("IP", 0),
    ("ICMP", 1),
    ("IGMP", 2),
    ("IPIP", 4),
    ("TCP", 6),
    ("EGP", 8),
    ("UDP", 17),
    ("DCCP", 33),
    ("RSVP", 46),
    ("GRE", 47),
    ("ESP", 50),
    ("AH", 51),
    ("ICMPV6", 58),
    ("IPV6-ICMP", 58),
    ("OSPF", 89),
    ("VRRP", 112),
    ("SCTP", 132),
];
const UDPLITE: (&str, u8) = ("UDPLITE", 136);

/// A port that no rule of a recording names.
const OTHER_PORT: u16 = 20_001;
/// Protocols from here on have been given to nobody (100 of them), and no rule of a recording names one.
const FIRST_UNASSIGNED: u8 = 150;

/// A protocol and what policy can see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// A protocol with ports, and the port it goes to.
    Ports(u8, u16),
    /// ICMP of either family: protocol, type and code.
    Icmp(u8, u8, u8),
    /// Any other protocol.
    Plain(u8),
}

impl Flavour {
    /// Returns what policy sees. `id` is the port it comes from, or the identifier of an ICMP query.
    pub(super) fn facts(self, source: IpAddr, destination: IpAddr, id: u16) -> PacketFacts {
        let nothing = PacketFacts {
            source,
            destination,
            protocol: 0,
            source_port: 0,
            destination_port: 0,
            icmp: None,
        };
        match self {
            Self::Ports(protocol, port) => PacketFacts {
                protocol,
                source_port: id,
                destination_port: port,
                ..nothing
            },
            Self::Icmp(protocol, kind, code) => PacketFacts {
                protocol,
                icmp: Some((kind, code)),
                ..nothing
            },
            Self::Plain(protocol) => PacketFacts { protocol, ..nothing },
        }
    }

    /// Returns the packet, with `token` in it.
    pub(super) fn packet(self, source: IpAddr, destination: IpAddr, id: u16, token: &[u8]) -> Packet {
        let path = |port| Path {
            source: SocketAddr::new(source, id),
            target: SocketAddr::new(destination, port),
        };
        match self {
            Self::Ports(6, port) => path(port).tcp_with("S", token),
            Self::Ports(17, port) => path(port).udp_with(token),
            Self::Ports(protocol, port) => {
                // SCTP, DCCP and UDPLite begin with both ports; the longest of their headers has twelve bytes.
                let mut payload = [id.to_be_bytes(), port.to_be_bytes()].concat();
                payload.extend([0; 8]);
                payload.extend(token);
                path(0).protocol(protocol, &payload)
            }
            Self::Icmp(_, kind, code) => path(0).icmp(kind, code, id, token),
            Self::Plain(protocol) => path(0).protocol(protocol, token),
        }
    }
}

/// What a rule can say about packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Allows packets of these flavours.
    Allows(Vec<Flavour>),
    /// Allows nothing, whatever its author meant by it; a packet that he may have meant.
    Never(Flavour),
    /// Is about answers only, which conntrack decides about before policy.
    Answers(Flavour),
}

/// Returns what a rule says (contract 1.3). `turn` varies what the rule leaves open, so that probes do not share flows.
pub(super) fn meaning(rule: &GroupRule, turn: usize) -> Meaning {
    let value = &rule.value;
    let is_v4 = value["ipVersion"] == 4;
    let ports = ports(rule);
    let Some(protocol) = protocol(&value["protocol"]) else {
        assert_eq!(ports, None, "the driver writes no ports without a protocol");
        return Meaning::Allows(vec![unassigned(turn)]);
    };
    let byte = |field: &str| {
        let number = value["icmp"][field].as_u64();
        number.map(|number| u8::try_from(number).expect("a byte"))
    };
    match (protocol, ports) {
        (0, _) => Meaning::Never(Flavour::Plain(0)),
        // The driver's way to write type and code of a protocol that it does not know to be ICMP.
        (1 | 58, Some((kind, code))) => {
            let byte = |number: u16| u8::try_from(number).expect("a byte");
            Meaning::Never(Flavour::Icmp(protocol, byte(kind), byte(code)))
        }
        (_, Some((first, last))) => Meaning::Allows(vec![
            Flavour::Ports(protocol, first),
            Flavour::Ports(protocol, last),
        ]),
        (1 | 58, None) => icmp_meaning(protocol, is_v4, byte("type"), byte("code")),
        (6 | 17 | 33 | 132 | 136, None) => Meaning::Allows(vec![Flavour::Ports(protocol, OTHER_PORT)]),
        (_, None) => Meaning::Allows(vec![Flavour::Plain(protocol)]),
    }
}

fn icmp_meaning(protocol: u8, is_v4: bool, kind: Option<u8>, code: Option<u8>) -> Meaning {
    assert_eq!(protocol == 1, is_v4, "ICMP is of its rule's family");
    let flavour = |kind, code| Flavour::Icmp(protocol, kind, code);
    match (protocol, kind) {
        (1, Some(0 | 3 | 4 | 5 | 11 | 12)) | (58, Some(1..=4 | 129)) => {
            Meaning::Answers(flavour(kind.unwrap_or_default(), code.unwrap_or_default()))
        }
        (_, Some(kind)) => Meaning::Allows(vec![flavour(kind, code.unwrap_or_default())]),
        // A timestamp request, and a type that nobody has been given: allowed by nothing but such a rule.
        (1, None) => Meaning::Allows(vec![flavour(13, 0)]),
        (_, None) => Meaning::Allows(vec![flavour(180, 0)]),
    }
}

/// Returns flavours beside the rule: like what it allows, and not allowed by it.
pub(super) fn beside(rule: &GroupRule, flavour: Flavour, turn: usize) -> Vec<Flavour> {
    let mut others = Vec::new();
    match flavour {
        Flavour::Ports(protocol, _) => {
            if let Some((first, last)) = ports(rule) {
                others.extend([last + 1, first - 1].map(|port| Flavour::Ports(protocol, port)));
            }
        }
        Flavour::Icmp(protocol, kind, code) => {
            if !rule.value["icmp"]["code"].is_null() {
                others.push(Flavour::Icmp(protocol, kind, code + 1));
            }
            if !rule.value["icmp"].is_null() {
                others.push(Flavour::Icmp(protocol, 181, 0));
            }
        }
        Flavour::Plain(_) => {}
    }
    if !rule.value["protocol"].is_null() {
        others.extend([
            unassigned(turn),
            Flavour::Ports(17, OTHER_PORT),
            Flavour::Ports(6, OTHER_PORT),
        ]);
    }
    others.retain(|other| *other != flavour);
    others
}

/// Returns a protocol that nobody uses.
fn unassigned(turn: usize) -> Flavour {
    Flavour::Plain(FIRST_UNASSIGNED + u8::try_from(turn % 100).expect("below 100"))
}

fn protocol(value: &Value) -> Option<u8> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.to_ascii_uppercase(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let by_name = NAMES.iter().chain([&UDPLITE]).find(|(name, _)| *name == text);
    let number = by_name.map(|(_, number)| *number).or_else(|| text.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{text} is a protocol that this test does not know")))
}

/// Returns first and last port, as written.
fn ports(rule: &GroupRule) -> Option<(u16, u16)> {
    let entries = rule.value["destination"]["ports"].as_array()?;
    assert_eq!(entries.len(), 1, "the driver writes one entry");
    let text = entries[0]
        .as_str()
        .map_or_else(|| entries[0].to_string(), str::to_owned);
    let (first, last) = text.split_once(':').unwrap_or((&text, &text));
    let number = |text: &str| text.parse().expect("a port");
    Some((number(first), number(last)))
}
