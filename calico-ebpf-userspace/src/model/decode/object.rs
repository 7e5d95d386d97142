//! What every object has: `apiVersion`, `kind`, `metadata`.

use serde_json::Value;

use super::field::{Fault, Field, Notes, quote_text};
use super::{cluster, endpoint, felix, policy};
use crate::model::labels::{Labels, NAMESPACE_LABEL_PREFIX, SERVICE_ACCOUNT_LABEL_PREFIX};
use crate::model::name::{Kind, MAX_NAME, ResourceKey};
use crate::model::resource::Resource;

const API_VERSION: &str = "projectcalico.org/v3";
/// Namespace of an object of a namespaced kind that names none, as calicoctl does.
const DEFAULT_NAMESPACE: &str = "default";
/// An object with its identity known.
pub(super) struct Object<'a> {
    pub(super) key: ResourceKey,
    pub(super) metadata: Option<Field<'a>>,
    pub(super) spec: Field<'a>,
}

/// Reads the whole object. An error means that it is treated as absent.
pub(super) fn read(value: &Value, hint: Option<&ResourceKey>, notes: &mut Notes) -> Result<Resource, Fault> {
    let root = Field::root(value);
    if !value.is_object() {
        return Err(root.fault(format!("an object with apiVersion {API_VERSION} and kind")));
    }
    let metadata = root.get_map("metadata");
    if let (Some(kind), Ok(Some(metadata))) = (kind_if_known(&root, hint), &metadata)
        && let Ok(key) = read_key(kind, metadata, hint)
    {
        notes.identify(key);
    }
    let kind = read_kind(&root)?;
    match root.get_text("apiVersion")? {
        Some(API_VERSION) => {}
        Some(_) => return Err(root.get("apiVersion").unwrap_or(root).fault(API_VERSION)),
        None => return Err(root.missing("apiVersion", API_VERSION)),
    }
    if let Some(hint) = hint
        && hint.kind != kind
    {
        let found = format!("\"{}\"", kind.as_str());
        return Err(root
            .get("kind")
            .unwrap_or(root)
            .fault_found(found, hint.kind.as_str()));
    }
    let metadata = metadata?;
    let key = match (&metadata, hint) {
        (Some(metadata), _) => read_key(kind, metadata, hint)?,
        (None, Some(hint)) => hint.clone(),
        (None, None) => return Err(root.missing("metadata.name", "a name")),
    };
    if let (Some(hint), Some(metadata)) = (hint, &metadata) {
        note_other_name(hint, metadata, notes);
    }
    notes.identify(key.clone());
    let empty = Value::Null;
    let spec = match root.get_map("spec")? {
        Some(spec) => spec,
        None => Field::root(&empty),
    };
    read_spec(&Object { key, metadata, spec }, notes)
}

fn read_spec(object: &Object<'_>, notes: &mut Notes) -> Result<Resource, Fault> {
    match object.key.kind {
        Kind::WorkloadEndpoint => endpoint::workload_endpoint(object, notes).map(Resource::WorkloadEndpoint),
        Kind::HostEndpoint => endpoint::host_endpoint(object, notes).map(Resource::HostEndpoint),
        Kind::NetworkPolicy | Kind::GlobalNetworkPolicy => {
            policy::policy(object, notes).map(Resource::Policy)
        }
        Kind::Tier => policy::tier(object, notes).map(Resource::Tier),
        Kind::Profile => policy::profile(object, notes).map(Resource::Profile),
        Kind::NetworkSet | Kind::GlobalNetworkSet => {
            endpoint::network_set(object, notes).map(Resource::NetworkSet)
        }
        Kind::IPPool => cluster::ip_pool(object, notes).map(Resource::IpPool),
        Kind::Node => cluster::node(object, notes).map(Resource::Node),
        Kind::LiveMigration => cluster::live_migration(object).map(Resource::LiveMigration),
        Kind::FelixConfiguration => {
            felix::felix_configuration(object, notes).map(Resource::FelixConfiguration)
        }
        Kind::ClusterInformation => cluster::cluster_information(object).map(Resource::ClusterInformation),
    }
}

fn read_kind(root: &Field<'_>) -> Result<Kind, Fault> {
    let expected = || {
        format!(
            "one of {}",
            Kind::ALL
                .iter()
                .map(|kind| kind.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let Some(field) = root.get("kind") else {
        return Err(root.missing("kind", expected()));
    };
    Kind::from_name(field.text()?).ok_or_else(|| field.fault(expected()))
}

fn kind_if_known(root: &Field<'_>, hint: Option<&ResourceKey>) -> Option<Kind> {
    hint.map(|hint| hint.kind).or_else(|| read_kind(root).ok())
}

/// Returns the identity: `hint`, or what `metadata` says.
fn read_key(kind: Kind, metadata: &Field<'_>, hint: Option<&ResourceKey>) -> Result<ResourceKey, Fault> {
    if let Some(hint) = hint {
        return Ok(hint.clone());
    }
    let name = metadata
        .get_text("name")?
        .ok_or_else(|| metadata.missing("name", "a name"))?;
    check_name(metadata, "name", name)?;
    let namespace = if kind.is_namespaced() {
        let namespace = metadata.get_text("namespace")?.unwrap_or(DEFAULT_NAMESPACE);
        check_name(metadata, "namespace", namespace)?;
        namespace
    } else {
        ""
    };
    Ok(ResourceKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

fn check_name(metadata: &Field<'_>, field: &str, name: &str) -> Result<(), Fault> {
    let fits = name.len() <= MAX_NAME
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "-_.:%@+=".contains(letter));
    if fits {
        Ok(())
    } else {
        Err(metadata
            .get(field)
            .unwrap_or_else(|| metadata.clone())
            .fault("a name of letters, digits, `-`, `_` and `.`"))
    }
}

/// Notes that `metadata` says another name than the datastore's key: the key counts.
fn note_other_name(hint: &ResourceKey, metadata: &Field<'_>, notes: &mut Notes) {
    for (name, wanted) in [("name", &hint.name), ("namespace", &hint.namespace)] {
        if let Some(field) = metadata.get(name)
            && !wanted.is_empty()
            && field.value().as_str() != Some(wanted)
        {
            notes.reinterpreted(field.fault(format!("{wanted}, as in the key")));
        }
    }
}

/// Reads a map of labels. A number or truth value is read as its text.
pub(super) fn read_labels(parent: Option<&Field<'_>>, name: &str, notes: &mut Notes) -> Labels {
    let field = parent.and_then(|parent| notes.or_skip_field(parent.get_map(name)).flatten());
    let mut labels = Labels::new();
    let Some(field) = field else { return labels };
    for (label, field) in field.entries() {
        let text = match field.value() {
            Value::String(text) => text.clone(),
            scalar @ (Value::Bool(_) | Value::Number(_)) => {
                notes.reinterpreted(field.fault("a string in quotes"));
                scalar.to_string()
            }
            Value::Null | Value::Array(_) | Value::Object(_) => {
                notes.field_skipped(field.fault("a string"));
                continue;
            }
        };
        labels.insert(label.to_owned(), text);
    }
    labels
}

/// Reads the labels of an endpoint or set, without those that only a profile may give: they would forge the identity
/// of a namespace or service account.
pub(super) fn read_own_labels(object: &Object<'_>, notes: &mut Notes) -> Labels {
    let mut labels = read_labels(object.metadata.as_ref(), "labels", notes);
    labels.retain(|label, _| {
        let reserved =
            label.starts_with(NAMESPACE_LABEL_PREFIX) || label.starts_with(SERVICE_ACCOUNT_LABEL_PREFIX);
        if reserved {
            notes.field_skipped(Fault {
                path: "metadata.labels".to_owned(),
                found: format!("label {}", quote_text(label)),
                expected: "no label that starts with pcns. or pcsa.".to_owned(),
            });
        }
        !reserved
    });
    labels
}
