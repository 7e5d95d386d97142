//! Protocols and ports, in every spelling that drivers and operators use.

use serde_json::Value;

use super::field::{Fault, Field};
use crate::model::rule::{PortMatch, Protocol};

/// Names by IANA and Neutron, in lower case.
const NAMES: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ggp", 3),
    ("ipip", 4),
    ("ipencap", 4),
    ("ipv4", 4),
    ("st", 5),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("pup", 12),
    ("udp", 17),
    ("hmp", 20),
    ("xns-idp", 22),
    ("rdp", 27),
    ("iso-tp4", 29),
    ("dccp", 33),
    ("xtp", 36),
    ("ddp", 37),
    ("idpr-cmtp", 38),
    ("ipv6", 41),
    ("ipv6-encap", 41),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("idrp", 45),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ipsec-esp", 50),
    ("ah", 51),
    ("ipsec-ah", 51),
    ("skip", 57),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("icmp6", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("rspf", 73),
    ("vmtp", 81),
    ("eigrp", 88),
    ("ospf", 89),
    ("ospfigp", 89),
    ("ax.25", 93),
    ("etherip", 97),
    ("encap", 98),
    ("pim", 103),
    ("ipcomp", 108),
    ("vrrp", 112),
    ("pgm", 113),
    ("l2tp", 115),
    ("isis", 124),
    ("sctp", 132),
    ("fc", 133),
    ("mobility-header", 135),
    ("udplite", 136),
    ("mpls-in-ip", 137),
    ("manet", 138),
    ("hip", 139),
    ("shim6", 140),
    ("wesp", 141),
    ("rohc", 142),
    ("ethernet", 143),
];

/// TCP, UDP, DCCP, SCTP, UDP-Lite: the header starts with source and destination port.
const WITH_PORTS: &[u8] = &[6, 17, 33, 132, 136];

const EXPECTED: &str =
    "a protocol from 1 to 255 or a name such as TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, ESP";
const EXPECTED_PORT: &str = "a port from 1 to 65535, a range such as \"8000:8080\" or the name of a port";
/// Longest name of a port, in bytes.
const MAX_PORT_NAME: usize = 128;

/// Returns whether packets of this protocol have ports.
pub(super) fn has_ports(protocol: Protocol) -> bool {
    WITH_PORTS.contains(&protocol.0)
}

/// Reads a number, a number as text, or a name in any case. 0 is refused: Neutron's drivers mean "any" by it, the
/// packet field means IPv6 hop-by-hop options, and Felix refuses it.
pub(super) fn read_protocol(field: &Field<'_>) -> Result<Protocol, Fault> {
    let number = match field.value() {
        Value::Number(number) => number.as_u64().and_then(|number| u8::try_from(number).ok()),
        Value::String(text) => protocol_by_text(text.trim()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number
        .filter(|number| *number != 0)
        .map(Protocol)
        .ok_or_else(|| field.fault(EXPECTED))
}

fn protocol_by_text(text: &str) -> Option<u8> {
    if !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) {
        return text.parse().ok();
    }
    NAMES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, number)| *number)
}

/// Reads one entry of a list of ports.
pub(super) fn read_port_match(field: &Field<'_>) -> Result<PortMatch, Fault> {
    let ports = match field.value() {
        Value::Number(number) => number
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .map(|port| PortMatch::Range(port, port)),
        Value::String(text) => port_by_text(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    match ports {
        Some(PortMatch::Range(first, last)) if first == 0 || first > last => Err(field.fault(EXPECTED_PORT)),
        Some(ports) => Ok(ports),
        None => Err(field.fault(EXPECTED_PORT)),
    }
}

fn port_by_text(text: &str) -> Option<PortMatch> {
    let number = |text: &str| -> Option<u16> {
        text.bytes()
            .all(|digit| digit.is_ascii_digit())
            .then(|| text.parse().ok())
            .flatten()
    };
    if let Some((first, last)) = text.split_once(':') {
        return Some(PortMatch::Range(number(first)?, number(last)?));
    }
    if text.starts_with(|letter: char| letter.is_ascii_digit())
        && text.bytes().all(|digit| digit.is_ascii_digit())
    {
        return number(text).map(|port| PortMatch::Range(port, port));
    }
    let is_name = !text.is_empty()
        && text.len() <= MAX_PORT_NAME
        && text
            .bytes()
            .all(|letter| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter));
    is_name.then(|| PortMatch::Named(text.to_owned()))
}

/// Reads a single port number.
pub(super) fn read_port(field: &Field<'_>) -> Result<u16, Fault> {
    let port = field
        .value()
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0);
    port.ok_or_else(|| field.fault("a port from 1 to 65535"))
}
