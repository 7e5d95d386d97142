//! Addresses and prefixes.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::field::{Fault, Field, Notes};
use crate::model::resource::MacAddress;

/// Reads a prefix or an address, host bits masked. `A/n/32` and `A/n/128`, which networking-calico makes of an
/// address pair given as a prefix, are read as `A/n`.
pub(super) fn read_net(field: &Field<'_>, notes: &mut Notes) -> Result<IpNet, Fault> {
    let text = field.text()?;
    if let Some(net) = parse_net(text) {
        return Ok(net);
    }
    let doubled = text.rsplit_once('/').and_then(|(head, tail)| {
        let net = if head.contains('/') {
            parse_net(head)?
        } else {
            return None;
        };
        (tail == net.max_prefix_len().to_string()).then_some(net)
    });
    let net = doubled.ok_or_else(|| field.fault("an address or prefix such as 10.65.0.0/24"))?;
    notes.reinterpreted(field.fault(format!("one prefix length (read as {net})")));
    Ok(net)
}

/// Reads the list `name`; a bad element is left out alone.
pub(super) fn read_nets(parent: &Field<'_>, name: &str, notes: &mut Notes) -> Vec<IpNet> {
    let items = notes.or_skip_field(parent.get_list(name)).unwrap_or_default();
    let mut nets = Vec::with_capacity(items.len());
    for item in items {
        let net = read_net(&item, notes);
        nets.extend(notes.or_skip_field(net));
    }
    nets
}

/// Reads an address without a prefix length.
pub(super) fn read_address<A: FromStr>(field: &Field<'_>, expected: &str) -> Result<A, Fault> {
    field.text()?.parse().ok().ok_or_else(|| field.fault(expected))
}

/// Reads the address `name`; a bad one is left out.
pub(super) fn read_optional_address<A: FromStr>(
    parent: &Field<'_>,
    name: &str,
    expected: &str,
    notes: &mut Notes,
) -> Option<A> {
    let field = parent
        .get(name)
        .filter(|field| field.value().as_str() != Some(""))?;
    notes.or_skip_field(read_address(&field, expected))
}

/// Reads a unicast MAC address: six hexadecimal bytes with `:` or `-` between them.
pub(super) fn read_mac(field: &Field<'_>) -> Result<MacAddress, Fault> {
    let text = field.text()?;
    parse_mac(text).ok_or_else(|| field.fault("a unicast MAC address such as fa:16:3e:87:b5:03"))
}

fn parse_net(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(address));
    }
    text.parse::<IpNet>().ok().map(|net| net.trunc())
}

fn parse_mac(text: &str) -> Option<MacAddress> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut bytes = [0_u8; 6];
    let mut parts = text.split(separator);
    for byte in &mut bytes {
        let part = parts
            .next()
            .filter(|part| part.len() == 2 && part.chars().all(|digit| digit.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    let is_multicast = bytes[0] & 1 == 1;
    (parts.next().is_none() && !is_multicast && bytes != [0; 6]).then_some(MacAddress(bytes))
}
