//! `FelixConfiguration`: from the fields of `spec` to the names and texts that `felix.cfg` uses.

use std::collections::BTreeMap;

use serde_json::Value;

use super::field::{Fault, Field, Notes};
use super::object::Object;
use super::rule::read_selector;
use crate::model::resource::{FelixConfiguration, ParameterText};
use crate::model::selector::Selector;

/// Name of the object for all hosts.
const GLOBAL_NAME: &str = "default";
/// How the name of an object for one host begins.
const HOST_PREFIX: &str = "node.";
/// The field that is no parameter: which hosts an object is for.
const NODE_SELECTOR: &str = "nodeSelector";
/// Annotations with this prefix name a parameter as it is and win over `spec`.
const ANNOTATION_PREFIX: &str = "config.projectcalico.org/";

/// Fields whose parameter is not just the same name with another case.
const RENAMED: &[(&str, &str)] = &[
    ("endpointReportingDelay", "EndpointReportingDelaySecs"),
    ("externalNodesList", "ExternalNodesCIDRList"),
    ("ipipEnabled", "IpInIpEnabled"),
    ("ipipMTU", "IpInIpMtu"),
    ("iptablesLockProbeInterval", "IptablesLockProbeIntervalMillis"),
    ("iptablesLockTimeout", "IptablesLockTimeoutSecs"),
    (
        "iptablesPostWriteCheckInterval",
        "IptablesPostWriteCheckIntervalSecs",
    ),
    ("ipv6Support", "Ipv6Support"),
    ("netlinkTimeout", "NetlinkTimeoutSecs"),
    ("reportingInterval", "ReportingIntervalSecs"),
    ("reportingTTL", "ReportingTTLSecs"),
    ("usageReportingInitialDelay", "UsageReportingInitialDelaySecs"),
    ("usageReportingInterval", "UsageReportingIntervalSecs"),
];

/// Words that parameters write in capitals although fields start with them in lower case. Longer ones first.
const ACRONYMS: &[(&str, &str)] = &[
    ("vxlan", "VXLAN"),
    ("ipv4", "IPv4"),
    ("ipv6", "IPv6"),
    ("ipF", "IPF"),
    ("aws", "AWS"),
    ("bpf", "BPF"),
    ("mtu", "MTU"),
    ("nat", "NAT"),
    ("xdp", "XDP"),
];

/// Ends of the names of fields that hold a duration such as `1m30s`.
const DURATION_ENDS: &[&str] = &[
    "Interval", "Delay", "TTL", "Timeout", "Time", "Grace", "Period", "Duration",
];

/// Reads which hosts it is for, and every parameter as text.
pub(super) fn felix_configuration(
    object: &Object<'_>,
    notes: &mut Notes,
) -> Result<FelixConfiguration, Fault> {
    let node_selector = node_selector(object, notes)?;
    let mut parameters = BTreeMap::new();
    let fields = object.spec.entries().filter(|(name, _)| *name != NODE_SELECTOR);
    for (name, field) in fields {
        if let Some(value) = notes.or_skip_field(parameter_text(name, &field)) {
            let field = field.path().to_owned();
            parameters.insert(parameter_name(name), ParameterText { value, field });
        }
    }
    let annotations = match &object.metadata {
        Some(metadata) => metadata.get_map("annotations")?,
        None => None,
    };
    for (name, field) in annotations.iter().flat_map(Field::entries) {
        let Some(parameter) = name.strip_prefix(ANNOTATION_PREFIX) else {
            continue;
        };
        if let Some(text) = notes.or_skip_field(field.text()) {
            parameters.retain(|name, _| !name.eq_ignore_ascii_case(parameter));
            let text = ParameterText {
                value: text.to_owned(),
                field: field.path().to_owned(),
            };
            parameters.insert(parameter.to_owned(), text);
        }
    }
    Ok(FelixConfiguration {
        node_selector,
        parameters,
    })
}

/// Reads the hosts that an object is for. Its name says it, or its selector: the object for all hosts, and one for a
/// single host, have none, and any other must have one.
fn node_selector(object: &Object<'_>, notes: &mut Notes) -> Result<Option<Selector>, Fault> {
    let name = &object.key.name;
    if name == GLOBAL_NAME || name.starts_with(HOST_PREFIX) {
        if let Some(field) = object.spec.get(NODE_SELECTOR) {
            notes.field_skipped(field.fault(format!("no nodeSelector, as the name {name} says the hosts")));
        }
        return Ok(None);
    }
    let selector = read_selector(&object.spec, NODE_SELECTOR)?;
    selector.map(Some).ok_or_else(|| {
        object.spec.missing(
            NODE_SELECTOR,
            "a selector of hosts; without one, the name is default or node.<host>",
        )
    })
}

fn parameter_name(field: &str) -> String {
    if let Some((_, name)) = RENAMED.iter().find(|(renamed, _)| *renamed == field) {
        return (*name).to_owned();
    }
    for (start, capitals) in ACRONYMS {
        if let Some(rest) = field.strip_prefix(start) {
            return format!("{capitals}{rest}");
        }
    }
    let mut letters = field.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn parameter_text(name: &str, field: &Field<'_>) -> Result<String, Fault> {
    match field.value() {
        Value::Bool(_) | Value::Number(_) => Ok(field.value().to_string()),
        Value::String(text) if DURATION_ENDS.iter().any(|end| name.ends_with(end)) => {
            let unit = if parameter_name(name).ends_with("Millis") {
                1_000_000
            } else {
                1_000_000_000
            };
            Ok(duration_nanos(text).map_or_else(|| text.clone(), |nanos| in_units(nanos, unit)))
        }
        Value::String(text) => Ok(text.clone()),
        Value::Array(items) if items.is_empty() => Ok("none".to_owned()),
        Value::Array(items) => {
            let texts = items.iter().map(element_text).collect::<Option<Vec<_>>>();
            texts
                .map(|texts| texts.join(","))
                .ok_or_else(|| field.fault("a list of texts, numbers or ports"))
        }
        Value::Object(map) => {
            let pair = |(name, value): (&String, &Value)| Some(format!("{name}={}", scalar_text(value)?));
            let pairs = map
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(pair)
                .collect::<Option<Vec<_>>>();
            pairs
                .map(|pairs| pairs.join(","))
                .ok_or_else(|| field.fault("a map of texts and numbers"))
        }
        Value::Null => Err(field.fault("a value")),
    }
}

/// Returns a list's element as text: a scalar, a port `{protocol, net, port}` as `protocol:net:port`, or a range
/// `{min, max}` as `min-max`.
fn element_text(element: &Value) -> Option<String> {
    if let Some(text) = scalar_text(element) {
        return Some(text);
    }
    let part = |name: &str| {
        element
            .get(name)
            .and_then(scalar_text)
            .filter(|text| !text.is_empty())
    };
    if let (Some(min), Some(max)) = (part("min"), part("max")) {
        return Some(format!("{min}-{max}"));
    }
    let number = part("port")?;
    let protocol = part("protocol")
        .unwrap_or_else(|| "tcp".to_owned())
        .to_lowercase();
    Some(match part("net") {
        Some(net) => format!("{protocol}:{net}:{number}"),
        None => format!("{protocol}:{number}"),
    })
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns the nanoseconds of a Go duration such as `1m30s`, `1.5h` or `100ms`; `None` for other text, also for a
/// number without unit.
fn duration_nanos(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = if whole.is_empty() && !fraction.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total = total.checked_add(whole.checked_mul(scale)?)?;
        let mut place = scale;
        for digit in fraction.chars() {
            place /= 10;
            total = total.checked_add(u64::from(digit.to_digit(10)?) * place)?;
        }
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Returns nanoseconds as a decimal number of `unit`s, without trailing zeros.
fn in_units(nanos: u64, unit: u64) -> String {
    let (whole, rest) = (nanos / unit, nanos % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    format!("{whole}.{rest:0digits$}")
        .trim_end_matches('0')
        .to_owned()
}
