//! Rules of policies and profiles.

use super::field::{Fault, Field, Notes};
use super::network::read_net;
use super::protocol::{has_ports, read_port_match, read_protocol};
use crate::model::labels::NAMESPACE_LABEL;
use crate::model::rule::{Action, Entity, IcmpMatch, IpVersion, PortMatch, Protocol, Rule};
use crate::model::selector::Selector;

/// Label that carries the name of an endpoint's service account.
const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";

const RULE_FIELDS: &[&str] = &[
    "action",
    "ipVersion",
    "protocol",
    "notProtocol",
    "icmp",
    "notICMP",
    "source",
    "destination",
    "http",
    "metadata",
];

const ENTITY_FIELDS: &[&str] = &[
    "nets",
    "notNets",
    "selector",
    "notSelector",
    "namespaceSelector",
    "ports",
    "notPorts",
    "serviceAccounts",
    "services",
];

/// Reads the list of rules `name`. A rule that is wrong is left out alone: it never matches. `namespace` is that of a
/// NetworkPolicy; rule selectors without a namespace selector are confined to it.
pub(super) fn read_rules(
    spec: &Field<'_>,
    name: &str,
    namespace: Option<&str>,
    notes: &mut Notes,
) -> Result<Vec<Rule>, Fault> {
    let items = spec.get_list(name)?;
    let mut rules = Vec::with_capacity(items.len());
    for (item, index) in items.iter().zip(0_u32..) {
        match read_rule(item, index, namespace, notes) {
            Ok(rule) => rules.push(rule),
            Err(fault) => notes.rule_skipped(fault),
        }
    }
    Ok(rules)
}

fn read_rule(
    item: &Field<'_>,
    index: u32,
    namespace: Option<&str>,
    notes: &mut Notes,
) -> Result<Rule, Fault> {
    if !item.value().is_object() {
        return Err(item.fault("a rule with at least an action"));
    }
    note_unknown_fields(item, RULE_FIELDS, notes);
    if let Some(http) = item.get("http") {
        return Err(http.fault("a rule for addresses, protocols and ports only"));
    }
    let action = read_action(item)?;
    let protocol = item
        .get("protocol")
        .map(|field| read_protocol(&field))
        .transpose()?;
    let icmp = read_icmp(item, "icmp", protocol)?;
    let not_icmp = read_icmp(item, "notICMP", protocol)?;
    Ok(Rule {
        action,
        ip_version: read_ip_version(item)?,
        protocol,
        not_protocol: item
            .get("notProtocol")
            .map(|field| read_protocol(&field))
            .transpose()?,
        icmp,
        not_icmp,
        source: read_entity(item, "source", namespace, protocol, notes)?,
        destination: read_entity(item, "destination", namespace, protocol, notes)?,
        index,
    })
}

fn read_action(item: &Field<'_>) -> Result<Action, Fault> {
    const EXPECTED: &str = "Allow, Deny, Log or Pass";
    let Some(field) = item.get("action") else {
        return Err(item.missing("action", EXPECTED));
    };
    match field.text()?.to_ascii_lowercase().as_str() {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        "log" => Ok(Action::Log),
        "pass" | "next-tier" => Ok(Action::Pass),
        _ => Err(field.fault(EXPECTED)),
    }
}

fn read_ip_version(item: &Field<'_>) -> Result<Option<IpVersion>, Fault> {
    let Some(field) = item.get("ipVersion") else {
        return Ok(None);
    };
    match field.value().as_u64() {
        Some(4) => Ok(Some(IpVersion::V4)),
        Some(6) => Ok(Some(IpVersion::V6)),
        _ => Err(field.fault("4 or 6")),
    }
}

fn read_icmp(item: &Field<'_>, name: &str, protocol: Option<Protocol>) -> Result<Option<IcmpMatch>, Fault> {
    let Some(field) = item.get_map(name)? else {
        return Ok(None);
    };
    let kind = read_byte(&field, "type", 254)?;
    let code = read_byte(&field, "code", 255)?;
    let Some(kind) = kind else {
        return if code.is_none() {
            Ok(None)
        } else {
            Err(field.missing("type", "a type beside the code"))
        };
    };
    if !matches!(protocol, Some(Protocol(1 | 58))) {
        return Err(item.get("protocol").map_or_else(
            || item.missing("protocol", format!("ICMP or ICMPv6 beside {name}")),
            |field| field.fault(format!("ICMP or ICMPv6 beside {name}")),
        ));
    }
    Ok(Some(IcmpMatch { kind, code }))
}

fn read_byte(parent: &Field<'_>, name: &str, highest: u8) -> Result<Option<u8>, Fault> {
    let Some(field) = parent.get(name) else {
        return Ok(None);
    };
    let byte = field
        .value()
        .as_u64()
        .and_then(|number| u8::try_from(number).ok())
        .filter(|byte| *byte <= highest);
    byte.map(Some)
        .ok_or_else(|| field.fault(format!("a number from 0 to {highest}")))
}

fn read_entity(
    item: &Field<'_>,
    name: &str,
    namespace: Option<&str>,
    protocol: Option<Protocol>,
    notes: &mut Notes,
) -> Result<Entity, Fault> {
    let Some(field) = item.get_map(name)? else {
        return Ok(Entity::default());
    };
    note_unknown_fields(&field, ENTITY_FIELDS, notes);
    if let Some(services) = field.get("services") {
        return Err(services.fault("no Kubernetes services"));
    }
    let not_selector = read_selector(&field, "notSelector")?;
    let ports = read_ports(&field, "ports", protocol)?;
    Ok(Entity {
        nets: read_rule_nets(&field, notes)?,
        not_nets: read_excepted_nets(&field, notes)?,
        selector: read_effective_selector(&field, namespace, not_selector.is_some())?,
        not_selector,
        ports: (!ports.is_empty()).then_some(ports),
        not_ports: read_ports(&field, "notPorts", protocol)?,
    })
}

/// Reads `nets`. An empty list is no condition, as it is to Felix; a list with only bad elements never matches.
fn read_rule_nets(entity: &Field<'_>, notes: &mut Notes) -> Result<Option<Vec<ipnet::IpNet>>, Fault> {
    let items = entity.get_list("nets")?;
    if items.is_empty() {
        return Ok(None);
    }
    let mut nets = Vec::with_capacity(items.len());
    for item in items {
        let net = read_net(&item, notes);
        nets.extend(notes.or_skip_field(net));
    }
    Ok(Some(nets))
}

/// Reads `notNets`. A bad element is an error: without it the rule would match more than was written.
fn read_excepted_nets(entity: &Field<'_>, notes: &mut Notes) -> Result<Vec<ipnet::IpNet>, Fault> {
    entity
        .get_list("notNets")?
        .iter()
        .map(|item| read_net(item, notes))
        .collect()
}

fn read_ports(entity: &Field<'_>, name: &str, protocol: Option<Protocol>) -> Result<Vec<PortMatch>, Fault> {
    const EXPECTED: &str = "a protocol with ports (TCP, UDP, SCTP, UDPLite or DCCP)";
    let items = entity.get_list(name)?;
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let ports = items.iter().map(read_port_match).collect::<Result<Vec<_>, _>>()?;
    match protocol {
        Some(protocol) if has_ports(protocol) => Ok(ports),
        Some(Protocol(number)) => {
            let field = entity.get(name).unwrap_or_else(|| entity.clone());
            Err(field.fault_found(format!("ports with protocol {number}"), EXPECTED))
        }
        None => {
            let field = entity.get(name).unwrap_or_else(|| entity.clone());
            Err(field.fault_found("ports without protocol", EXPECTED))
        }
    }
}

/// Returns an entity's selector with the namespaces that it speaks about (contract 4.2). `has_not_selector` confines
/// to the namespace, too, although `notSelector` itself stays as written.
fn read_effective_selector(
    entity: &Field<'_>,
    namespace: Option<&str>,
    has_not_selector: bool,
) -> Result<Option<Selector>, Fault> {
    let of_namespaces = read_selector(entity, "namespaceSelector")?.map(|selector| selector.of_namespaces());
    let of_accounts = read_service_accounts(entity)?;
    let own = read_selector(entity, "selector")?;
    let named = match (of_accounts, own) {
        (Some(accounts), Some(own)) => Some(accounts.and(&own)),
        (accounts, own) => accounts.or(own),
    };
    let scope = of_namespaces.or_else(|| {
        let confined = named.is_some() || has_not_selector;
        namespace
            .filter(|_| confined)
            .map(|namespace| Selector::equals(NAMESPACE_LABEL, namespace))
    });
    Ok(match (scope, named) {
        (Some(scope), Some(named)) => Some(scope.and(&named)),
        (scope, named) => scope.or(named),
    })
}

fn read_service_accounts(entity: &Field<'_>) -> Result<Option<Selector>, Fault> {
    let Some(accounts) = entity.get_map("serviceAccounts")? else {
        return Ok(None);
    };
    let selector = read_selector(&accounts, "selector")?.map(|selector| selector.of_service_accounts());
    let names = accounts.get_list("names")?;
    if names.is_empty() {
        return Ok(selector);
    }
    let names = names
        .iter()
        .map(|name| name.text().map(str::to_owned))
        .collect::<Result<Vec<_>, _>>()?;
    let by_name = Selector::is_in(SERVICE_ACCOUNT_LABEL, names);
    Ok(Some(selector.map_or_else(
        || by_name.clone(),
        |selector| by_name.and(&selector),
    )))
}

/// Reads the selector `name`; empty text counts as absent.
pub(super) fn read_selector(parent: &Field<'_>, name: &str) -> Result<Option<Selector>, Fault> {
    let Some(field) = parent.get(name) else {
        return Ok(None);
    };
    let text = field.text()?;
    if text.trim_matches([' ', '\t']).is_empty() {
        return Ok(None);
    }
    Selector::parse(text).map(Some).map_err(|error| {
        field.fault_found(
            format!("{} at column {}", error.found, error.column),
            error.expected,
        )
    })
}

/// Notes misspelt conditions: without them the rule matches more than its author meant.
fn note_unknown_fields(field: &Field<'_>, known: &[&str], notes: &mut Notes) {
    for (name, unknown) in field.entries() {
        if !known.contains(&name) {
            notes.field_skipped(
                unknown.fault_found("an unknown field", format!("one of {}", known.join(", "))),
            );
        }
    }
}
