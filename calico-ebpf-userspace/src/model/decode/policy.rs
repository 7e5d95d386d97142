//! Policies, tiers and profiles.

use super::field::{Fault, Field, Notes};
use super::object::{Object, read_labels};
use super::rule::{read_rules, read_selector};
use crate::model::name::Kind;
use crate::model::resource::{Policy, Profile, Tier};
use crate::model::selector::Selector;

const DEFAULT_TIER: &str = "default";

/// Reads a NetworkPolicy or `GlobalNetworkPolicy` with its effective selector (contract 4.2).
pub(super) fn policy(object: &Object<'_>, notes: &mut Notes) -> Result<Policy, Fault> {
    let spec = &object.spec;
    let namespace = (object.key.kind == Kind::NetworkPolicy).then_some(object.key.namespace.as_str());
    let mut selector = read_selector(spec, "selector")?.unwrap_or_else(Selector::all);
    if let Some(namespace) = namespace {
        selector = selector.within_namespace(namespace);
    } else if let Some(namespaces) = read_selector(spec, "namespaceSelector")? {
        selector = selector.and(&namespaces.of_namespaces());
    }
    if let Some(accounts) = read_selector(spec, "serviceAccountSelector")? {
        selector = selector.and(&accounts.of_service_accounts());
    }
    let types = read_types(spec, notes)?;
    Ok(Policy {
        tier: spec.get_text("tier")?.unwrap_or(DEFAULT_TIER).to_owned(),
        order: spec.get_number("order")?,
        selector,
        ingress_enabled: types.ingress,
        egress_enabled: types.egress,
        ingress: read_rules(spec, "ingress", namespace, notes)?,
        egress: read_rules(spec, "egress", namespace, notes)?,
        host_endpoints_only: read_host_endpoints_only(spec, notes)?,
    })
}

struct Types {
    ingress: bool,
    egress: bool,
}

/// Reads `types`. No types at all, or none that is known, means both: the narrower reading for a default of deny.
fn read_types(spec: &Field<'_>, notes: &mut Notes) -> Result<Types, Fault> {
    let mut types = Types {
        ingress: false,
        egress: false,
    };
    for item in spec.get_list("types")? {
        match item.text()? {
            text if text.eq_ignore_ascii_case("ingress") => types.ingress = true,
            text if text.eq_ignore_ascii_case("egress") => types.egress = true,
            _ => notes.field_skipped(item.fault("Ingress or Egress")),
        }
    }
    if !types.ingress && !types.egress {
        types = Types {
            ingress: true,
            egress: true,
        };
    }
    Ok(types)
}

fn read_host_endpoints_only(spec: &Field<'_>, notes: &mut Notes) -> Result<bool, Fault> {
    let mut only = false;
    for name in ["doNotTrack", "preDNAT"] {
        if spec.get_bool(name)? == Some(true) {
            only = true;
            if let Some(field) = spec.get(name) {
                notes.not_enforced(field.fault("a policy for workloads (host endpoints are not enforced)"));
            }
        }
    }
    spec.get_bool("applyOnForward")?;
    Ok(only)
}

/// Reads a tier.
pub(super) fn tier(object: &Object<'_>, notes: &mut Notes) -> Result<Tier, Fault> {
    let spec = &object.spec;
    let default_pass = match spec.get_text("defaultAction")? {
        None => false,
        Some(text) if text.eq_ignore_ascii_case("deny") => false,
        Some(text) if text.eq_ignore_ascii_case("pass") => true,
        Some(_) => {
            if let Some(field) = spec.get("defaultAction") {
                notes.reinterpreted(field.fault("Deny or Pass (read as Deny)"));
            }
            false
        }
    };
    Ok(Tier {
        order: spec.get_number("order")?,
        default_pass,
    })
}

/// Reads a profile.
pub(super) fn profile(object: &Object<'_>, notes: &mut Notes) -> Result<Profile, Fault> {
    let spec = &object.spec;
    Ok(Profile {
        labels_to_apply: read_labels(Some(spec), "labelsToApply", notes),
        ingress: read_rules(spec, "ingress", None, notes)?,
        egress: read_rules(spec, "egress", None, notes)?,
    })
}
