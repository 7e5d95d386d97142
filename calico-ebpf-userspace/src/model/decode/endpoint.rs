//! Endpoints and network sets.

use std::net::IpAddr;

use ipnet::IpNet;

use super::field::{Fault, Field, Notes};
use super::network::{read_address, read_mac, read_net, read_nets, read_optional_address};
use super::object::{Object, read_own_labels};
use super::protocol::{read_port, read_protocol};
use crate::model::labels::NAMESPACE_LABEL;
use crate::model::name::Kind;
use crate::model::resource::{HostEndpoint, IpNat, NamedPort, NetworkSet, WorkloadEndpoint};

const ORCHESTRATOR_LABEL: &str = "projectcalico.org/orchestrator";
const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";
/// Orchestrator of an endpoint that names none.
const DEFAULT_ORCHESTRATOR: &str = "openstack";
/// Longest interface name: `IFNAMSIZ` without the closing zero.
const MAX_INTERFACE_NAME: usize = 15;

/// Reads a VM's port. What `spec` leaves out of host, orchestrator, workload and port is taken from the name.
pub(super) fn workload_endpoint(object: &Object<'_>, notes: &mut Notes) -> Result<WorkloadEndpoint, Fault> {
    let spec = &object.spec;
    let [node, orchestrator, workload, endpoint] = split_name(&object.key.name).unwrap_or_default();
    let part = |name: &str, from_name: String| -> Result<String, Fault> {
        Ok(spec.get_text(name)?.map_or(from_name, str::to_owned))
    };
    let node = part("node", node)?;
    if node.is_empty() {
        return Err(missing(spec, "node", "the name of the host"));
    }
    let orchestrator = part("orchestrator", orchestrator)?;
    let orchestrator = if orchestrator.is_empty() {
        DEFAULT_ORCHESTRATOR.to_owned()
    } else {
        orchestrator
    };
    let workload = part("workload", workload)?;
    let endpoint = part("endpoint", endpoint)?;
    let endpoint = if endpoint.is_empty() {
        object.key.name.clone()
    } else {
        endpoint
    };
    let interface_name = read_interface_name(spec)?;
    let mac = spec.get("mac").filter(|field| field.value().as_str() != Some(""));
    let mac = mac.map(|field| read_mac(&field)).transpose()?;
    let ip_networks = read_ip_networks(spec, notes)?;
    let mut labels = read_own_labels(object, notes);
    labels.insert(NAMESPACE_LABEL.to_owned(), object.key.namespace.clone());
    labels
        .entry(ORCHESTRATOR_LABEL.to_owned())
        .or_insert_with(|| orchestrator.clone());
    if let Some(account) = spec.get_text("serviceAccountName")? {
        labels.insert(SERVICE_ACCOUNT_LABEL.to_owned(), account.to_owned());
    }
    let qos = spec
        .get("qosControls")
        .filter(|field| field.entries().next().is_some());
    if let Some(field) = &qos {
        notes.not_enforced(field.fault("no rate limits (they are not enforced)"));
    }
    Ok(WorkloadEndpoint {
        node,
        orchestrator,
        workload,
        endpoint,
        interface_name,
        mac,
        allowed_ips: read_allowed_ips(spec, &ip_networks, notes),
        ip_networks,
        ipv4_gateway: read_optional_address(spec, "ipv4Gateway", "an IPv4 address", notes),
        ipv6_gateway: read_optional_address(spec, "ipv6Gateway", "an IPv6 address", notes),
        ip_nats: read_ip_nats(spec, notes),
        labels,
        profiles: read_texts(spec, "profiles", notes),
        ports: read_named_ports(spec, notes),
        allow_spoofed_source_prefixes: read_nets(spec, "allowSpoofedSourcePrefixes", notes),
        has_qos_controls: qos.is_some(),
    })
}

/// Reads an interface of a host: read, not enforced.
pub(super) fn host_endpoint(object: &Object<'_>, notes: &mut Notes) -> Result<HostEndpoint, Fault> {
    let spec = &object.spec;
    let node = spec
        .get_text("node")?
        .ok_or_else(|| missing(spec, "node", "the name of the host"))?;
    let mut expected_ips = Vec::new();
    for item in spec.get_list("expectedIPs")? {
        expected_ips.extend(notes.or_skip_field(read_address::<IpAddr>(&item, "an address")));
    }
    let endpoint = HostEndpoint {
        node: node.to_owned(),
        interface_name: spec.get_text("interfaceName")?.unwrap_or_default().to_owned(),
        expected_ips,
        labels: read_own_labels(object, notes),
        profiles: read_texts(spec, "profiles", notes),
        ports: read_named_ports(spec, notes),
    };
    notes.not_enforced(Fault {
        path: String::new(),
        found: "a host endpoint".to_owned(),
        expected: "policy for workloads only (host endpoints are not enforced)".to_owned(),
    });
    Ok(endpoint)
}

/// Reads a `NetworkSet` or `GlobalNetworkSet`.
pub(super) fn network_set(object: &Object<'_>, notes: &mut Notes) -> Result<NetworkSet, Fault> {
    object.spec.get_list("nets")?;
    let nets = read_nets(&object.spec, "nets", notes);
    let mut labels = read_own_labels(object, notes);
    let mut profiles = Vec::new();
    if object.key.kind == Kind::NetworkSet {
        labels.insert(NAMESPACE_LABEL.to_owned(), object.key.namespace.clone());
        profiles.push(format!("kns.{}", object.key.namespace));
    }
    Ok(NetworkSet {
        nets,
        labels,
        profiles,
    })
}

/// Returns host, orchestrator, workload and endpoint of a name whose parts are joined by single dashes and whose own
/// dashes are doubled; `None` for a name of another shape.
fn split_name(name: &str) -> Option<[String; 4]> {
    let mut parts = vec![String::new()];
    let mut letters = name.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '-' && letters.next_if_eq(&'-').is_none() {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(letter);
        }
    }
    parts
        .try_into()
        .ok()
        .filter(|parts: &[String; 4]| parts.iter().all(|part| !part.is_empty()))
}

fn read_interface_name(spec: &Field<'_>) -> Result<String, Fault> {
    const EXPECTED: &str = "the name of an interface, at most 15 characters without `/` and spaces";
    let name = spec
        .get_text("interfaceName")?
        .ok_or_else(|| missing(spec, "interfaceName", EXPECTED))?;
    let fits = name.len() <= MAX_INTERFACE_NAME
        && name != "."
        && name != ".."
        && name
            .chars()
            .all(|letter| letter.is_ascii_graphic() && letter != '/' && letter != ':');
    if fits {
        Ok(name.to_owned())
    } else {
        Err(spec
            .get("interfaceName")
            .unwrap_or_else(|| spec.clone())
            .fault(EXPECTED))
    }
}

/// Reads `ipNetworks`. An endpoint without any address is as absent, to Felix, too. A prefix of length 0 is left out:
/// its route would take the host's default route away.
fn read_ip_networks(spec: &Field<'_>, notes: &mut Notes) -> Result<Vec<IpNet>, Fault> {
    const EXPECTED: &str = "at least one address";
    let items = spec.get_list("ipNetworks")?;
    let mut networks = Vec::with_capacity(items.len());
    for item in &items {
        let net = read_net(item, notes).and_then(|net| {
            if net.prefix_len() == 0 {
                Err(item.fault("an address or prefix longer than /0"))
            } else {
                Ok(net)
            }
        });
        networks.extend(notes.or_skip_field(net));
    }
    networks.dedup();
    if networks.is_empty() {
        return Err(match spec.get("ipNetworks") {
            Some(field) if !items.is_empty() => field.fault_found("no valid address", EXPECTED),
            Some(field) => field.fault_found("an empty list", EXPECTED),
            None => missing(spec, "ipNetworks", EXPECTED),
        });
    }
    Ok(networks)
}

/// Reads `allowedIps`; only what is also in `ipNetworks` counts.
fn read_allowed_ips(spec: &Field<'_>, networks: &[IpNet], notes: &mut Notes) -> Vec<IpNet> {
    let mut allowed = Vec::new();
    for item in notes
        .or_skip_field(spec.get_list("allowedIps"))
        .unwrap_or_default()
    {
        let net = read_net(&item, notes).and_then(|net| {
            if networks.contains(&net) {
                Ok(net)
            } else {
                Err(item.fault("an address that is in ipNetworks, too"))
            }
        });
        allowed.extend(notes.or_skip_field(net));
    }
    allowed
}

fn read_ip_nats(spec: &Field<'_>, notes: &mut Notes) -> Vec<IpNat> {
    let items = notes.or_skip_field(spec.get_list("ipNATs")).unwrap_or_default();
    let read = |item: &Field<'_>| {
        let address = |name: &str| {
            let field = item.get(name).ok_or_else(|| item.missing(name, "an address"))?;
            read_address::<IpAddr>(&field, "an address")
        };
        let nat = IpNat {
            internal: address("internalIP")?,
            external: address("externalIP")?,
        };
        let same_family = nat.internal.is_ipv4() == nat.external.is_ipv4();
        if same_family {
            Ok(nat)
        } else {
            Err(item.fault("two addresses of one IP version"))
        }
    };
    items
        .iter()
        .filter_map(|item| notes.or_skip_field(read(item)))
        .collect()
}

fn read_named_ports(spec: &Field<'_>, notes: &mut Notes) -> Vec<NamedPort> {
    let items = notes.or_skip_field(spec.get_list("ports")).unwrap_or_default();
    let read = |item: &Field<'_>| {
        let name = item
            .get_text("name")?
            .ok_or_else(|| item.missing("name", "a name"))?;
        let protocol = item
            .get("protocol")
            .ok_or_else(|| item.missing("protocol", "a protocol"))?;
        let port = item.get("port").ok_or_else(|| item.missing("port", "a port"))?;
        Ok(NamedPort {
            name: name.to_owned(),
            protocol: read_protocol(&protocol)?,
            port: read_port(&port)?,
        })
    };
    items
        .iter()
        .filter_map(|item| notes.or_skip_field(read(item)))
        .collect()
}

/// Reads a list of names; what is not text is left out.
fn read_texts(spec: &Field<'_>, name: &str, notes: &mut Notes) -> Vec<String> {
    let items = notes.or_skip_field(spec.get_list(name)).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| notes.or_skip_field(item.text().map(str::to_owned)))
        .collect()
}

/// Returns the fault that a field of `spec` is absent, also when there is no `spec`.
fn missing(spec: &Field<'_>, name: &str, expected: &str) -> Fault {
    let mut fault = spec.missing(name, expected);
    fault.path = format!("spec.{name}");
    fault
}
