//! Labels of endpoints and sets.

use std::collections::BTreeMap;

/// Label key to value. Values may be empty; a missing label is not an empty one.
pub type Labels = BTreeMap<String, String>;

/// The label that Calico gives to everything in a namespace.
pub const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

/// Prefix of labels that stand for labels of the namespace.
pub const NAMESPACE_LABEL_PREFIX: &str = "pcns.";

/// Prefix of labels that stand for labels of the service account.
pub const SERVICE_ACCOUNT_LABEL_PREFIX: &str = "pcsa.";
