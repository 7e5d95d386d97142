//! Events in words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_ebpf_common::event::{Event, HAS_ADDRESSES, HAS_TRANSPORT, REASON_NONE};
use calico_ebpf_common::policy::Cell;
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;
use serde::Serialize;

use super::decisions::{Decision, Direction, Policies, full_name};
use super::flows::{protocol_name, side};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The packet was dropped. A `Log` rule may have matched before.
    Drop,
    /// The packet went on, and a `Log` rule matched.
    Log,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventView {
    /// RFC 3339, in UTC.
    pub time: String,
    pub kind: Kind,
    /// Why it was dropped; `null` for `log`.
    pub reason: Option<&'static str>,
    /// `from-workload` or `to-workload`: at which hook of the tap.
    pub hook: &'static str,
    /// The tap at which it was judged; its number when it has no endpoint.
    pub interface: String,
    /// The tap's endpoint, `namespace/name`; empty for none.
    pub endpoint: String,
    pub packet: PacketView,
    /// What the policies of both ends decided, the originator's egress first. Empty when policy was not asked.
    pub decisions: Vec<Decision>,
}

/// The packet as it was when the event was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PacketView {
    /// `ipv4`, `ipv6`, `arp`, or the ethertype.
    pub family: String,
    /// Protocol name, or its number; empty behind other families.
    pub protocol: String,
    /// Source address, or the sender in ARP.
    pub source: Option<IpAddr>,
    /// Destination address, or the target in ARP.
    pub destination: Option<IpAddr>,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
    pub source_mac: String,
    /// From the Ethernet header on.
    pub bytes: u32,
}

impl EventView {
    /// Puts an event in words. `time` is when it happened, as text.
    pub fn new(event: &Event, time: String, policies: &Policies) -> Self {
        let endpoint = policies.at_interface(event.ifindex);
        let reason = DropReason::of_number(event.reason.into());
        let from_workload = event.ingress_ifindex == event.ifindex;
        Self {
            time,
            kind: if event.reason == REASON_NONE {
                Kind::Log
            } else {
                Kind::Drop
            },
            reason: reason.map(DropReason::name),
            hook: if from_workload {
                "from-workload"
            } else {
                "to-workload"
            },
            interface: match endpoint {
                Some(endpoint) => endpoint.interface.clone(),
                None => format!("interface number {}", event.ifindex),
            },
            endpoint: endpoint.map(full_name).unwrap_or_default(),
            packet: PacketView::new(event),
            decisions: decisions(event, reason, policies),
        }
    }

    /// Returns whether a `Log` rule matched.
    pub fn is_logged(&self) -> bool {
        self.kind == Kind::Log
            || self
                .decisions
                .iter()
                .any(|decision| !decision.logged_by.is_empty())
    }

    /// Returns the decision that the event is about: the one that denied, or the first that was logged.
    pub fn deciding(&self) -> Option<&Decision> {
        let denied = self.decisions.iter().find(|decision| decision.verdict == "deny");
        denied.filter(|_| self.kind == Kind::Drop).or_else(|| {
            self.decisions
                .iter()
                .find(|decision| !decision.logged_by.is_empty())
        })
    }
}

/// Returns what both ends decided, as far as they were asked.
fn decisions(event: &Event, reason: Option<DropReason>, policies: &Policies) -> Vec<Decision> {
    let mut decisions = Vec::new();
    for (index, direction) in [Direction::Egress, Direction::Ingress].into_iter().enumerate() {
        if event.ends[index] != 0 {
            decisions.push(policies.decision(direction, event.ends[index], Cell(event.cells[index])));
        }
        if direction == Direction::Egress && reason == Some(DropReason::EgressPolicy) {
            break;
        }
    }
    decisions
}

impl PacketView {
    fn new(event: &Event) -> Self {
        let family = match event.ethertype {
            0x0800 => "ipv4".to_owned(),
            0x86dd => "ipv6".to_owned(),
            0x0806 => "arp".to_owned(),
            0x8035 => "rarp".to_owned(),
            other => format!("ethertype {other:#06x}"),
        };
        let is_ip = matches!(event.ethertype, 0x0800 | 0x86dd);
        let has_addresses = event.flags & HAS_ADDRESSES != 0;
        let address = |bytes: [u8; 16]| has_addresses.then(|| address_of(event.ethertype, bytes));
        let transport = Some(event.transport).filter(|_| is_ip && event.flags & HAS_TRANSPORT != 0);
        let ports = transport.filter(|_| has_ports(event.protocol));
        let icmp = transport.filter(|_| is_icmp(event.ethertype, event.protocol));
        let port = |[first, second]: [u8; 2]| u16::from_be_bytes([first, second]);
        let mac: Vec<String> = event
            .source_mac
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self {
            family,
            protocol: if is_ip {
                protocol_name(event.protocol)
            } else {
                String::new()
            },
            source: address(event.source),
            destination: address(event.destination),
            source_port: ports.map(|[a, b, _, _]| port([a, b])),
            destination_port: ports.map(|[_, _, c, d]| port([c, d])),
            icmp_type: icmp.map(|[kind, ..]| kind),
            icmp_code: icmp.map(|[_, code, ..]| code),
            source_mac: mac.join(":"),
            bytes: event.bytes,
        }
    }

    /// Returns the packet on one line: `tcp 10.0.0.1:4000 -> 10.0.0.2:80`.
    pub fn line(&self) -> String {
        let what = if self.protocol.is_empty() {
            &self.family
        } else {
            &self.protocol
        };
        let (Some(source), Some(destination)) = (self.source, self.destination) else {
            return format!("{what} from {}, {} bytes", self.source_mac, self.bytes);
        };
        let end = |address: IpAddr, port: Option<u16>| match port {
            Some(port) => side(address, port),
            None => address.to_string(),
        };
        let icmp = match (self.icmp_type, self.icmp_code) {
            (Some(kind), Some(code)) => format!(" type {kind} code {code}"),
            _ => String::new(),
        };
        format!(
            "{what} {} -> {}{icmp}",
            end(source, self.source_port),
            end(destination, self.destination_port)
        )
    }
}

fn address_of(ethertype: u16, bytes: [u8; 16]) -> IpAddr {
    if ethertype == 0x86dd {
        Ipv6Addr::from(bytes).into()
    } else {
        let [a, b, c, d, ..] = bytes;
        Ipv4Addr::new(a, b, c, d).into()
    }
}

/// Returns whether a protocol begins with two ports.
pub fn has_ports(number: u8) -> bool {
    matches!(
        number,
        protocol::TCP | protocol::UDP | protocol::DCCP | protocol::SCTP | protocol::UDPLITE
    )
}

fn is_icmp(ethertype: u16, number: u8) -> bool {
    match ethertype {
        0x0800 => number == protocol::ICMP,
        _ => number == protocol::ICMPV6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let mut event = Event {
            ethertype: 0x0800,
            protocol: 6,
            flags: HAS_ADDRESSES | HAS_TRANSPORT,
            transport: [0x0f, 0xa0, 0, 80],
            ifindex: 4,
            ingress_ifindex: 4,
            source_mac: [0xfa, 0x16, 0x3e, 0, 0, 1],
            bytes: 74,
            ..Event::default()
        };
        event.source[..4].copy_from_slice(&[10, 0, 0, 1]);
        event.destination[..4].copy_from_slice(&[10, 0, 0, 2]);
        event
    }

    fn view(event: &Event) -> EventView {
        EventView::new(event, String::new(), &Policies::default())
    }

    #[test]
    fn ports_types_and_addresses_are_told_as_far_as_the_packet_has_them() {
        let line = |event: &Event| view(event).packet.line();
        assert_eq!(line(&event()), "tcp 10.0.0.1:4000 -> 10.0.0.2:80");
        let icmp = Event {
            protocol: 1,
            transport: [8, 0, 0, 0],
            ..event()
        };
        assert_eq!(line(&icmp), "icmp 10.0.0.1 -> 10.0.0.2 type 8 code 0");
        let fragment = Event {
            flags: HAS_ADDRESSES,
            ..event()
        };
        assert_eq!(line(&fragment), "tcp 10.0.0.1 -> 10.0.0.2");
        let arp = Event {
            ethertype: 0x0806,
            flags: HAS_ADDRESSES,
            ..event()
        };
        assert_eq!(line(&arp), "arp 10.0.0.1 -> 10.0.0.2");
        let strange = Event {
            ethertype: 0x88cc,
            flags: 0,
            ..event()
        };
        assert_eq!(
            line(&strange),
            "ethertype 0x88cc from fa:16:3e:00:00:01, 74 bytes"
        );
    }

    #[test]
    fn the_responder_has_no_say_about_what_the_originators_policy_denied() {
        let denied = Event {
            reason: 16,
            ends: [4, 5],
            cells: [0, Cell::new(true, false, 3).0],
            ..event()
        };
        let view = view(&denied);
        assert_eq!(view.reason, Some("egress-policy"));
        assert_eq!(view.decisions.len(), 1);
    }

    #[test]
    fn the_hook_is_told_by_where_the_packet_came_in() {
        assert_eq!(view(&event()).hook, "from-workload");
        let from_host = Event {
            ingress_ifindex: 0,
            ..event()
        };
        assert_eq!(view(&from_host).hook, "to-workload");
    }
}
