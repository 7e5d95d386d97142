//! Rules of policies and profiles as written, validated.

use ipnet::IpNet;
use serde::Serialize;

use super::selector::Selector;

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Action {
    Allow,
    Deny,
    /// Notes the packet and goes on with the next rule.
    Log,
    /// Goes on with the next tier, or with the profiles after the last tier.
    Pass,
}

/// Version of the internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum IpVersion {
    V4,
    V6,
}

/// IANA protocol number, 1 to 255. 0 never occurs: a rule with it is skipped (contract 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Protocol(pub u8);

/// ICMP type, and code when given. Type 0 and code 0 are values, not "unset".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct IcmpMatch {
    pub kind: u8,
    pub code: Option<u8>,
}

/// One entry of a list of ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PortMatch {
    /// First and last port, both included.
    Range(u16, u16),
    /// Named port of the endpoints that the rule's entity selects.
    Named(String),
}

/// Source or destination of a rule. All parts given must hold; a part that is absent holds always.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Entity {
    /// `None`: no `nets` given. `Some(vec![])` never matches.
    pub nets: Option<Vec<IpNet>>,
    /// Matches nothing in any of these.
    pub not_nets: Vec<IpNet>,
    /// Effective selector after the namespace rewriting of contract 4.2.
    pub selector: Option<Selector>,
    /// As written: not rewritten (contract 4.2).
    pub not_selector: Option<Selector>,
    /// `None`: no `ports` given. `Some(vec![])` never matches.
    pub ports: Option<Vec<PortMatch>>,
    pub not_ports: Vec<PortMatch>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    pub action: Action,
    pub ip_version: Option<IpVersion>,
    pub protocol: Option<Protocol>,
    pub not_protocol: Option<Protocol>,
    pub icmp: Option<IcmpMatch>,
    pub not_icmp: Option<IcmpMatch>,
    pub source: Entity,
    pub destination: Entity,
    /// Position in the list as written, counted from 0: a skipped rule leaves a gap.
    pub index: u32,
}
