//! Keys of objects (contract 1.1).

use crate::model::name::{Kind, MAX_NAME, ResourceKey};

const ROOT: &str = "/calico/resources/v3/projectcalico.org/";

/// Returns what the keys of a kind begin with. No shorter prefix is ever read: a user may have rights on just these.
pub(super) fn prefix(kind: Kind) -> String {
    format!("{ROOT}{}/", plural(kind))
}

/// Returns the object that a key names; `None` when it is no key of this kind.
pub(super) fn parse(kind: Kind, key: &[u8]) -> Option<ResourceKey> {
    let path = std::str::from_utf8(key).ok()?.strip_prefix(&prefix(kind))?;
    let (namespace, name) = if kind.is_namespaced() {
        path.split_once('/')?
    } else {
        ("", path)
    };
    let is_name = |text: &str| {
        (1..=MAX_NAME).contains(&text.len())
            && !text.contains(|letter: char| letter == '/' || letter.is_control() || letter.is_whitespace())
    };
    let is_key = is_name(name) && (is_name(namespace) || !kind.is_namespaced());
    is_key.then(|| ResourceKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// Returns what a key of this kind looks like, for messages.
pub(super) fn pattern(kind: Kind) -> String {
    let path = if kind.is_namespaced() {
        "<namespace>/<name>"
    } else {
        "<name>"
    };
    format!("{}{path}", prefix(kind))
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::WorkloadEndpoint => "workloadendpoints",
        Kind::HostEndpoint => "hostendpoints",
        Kind::NetworkPolicy => "networkpolicies",
        Kind::GlobalNetworkPolicy => "globalnetworkpolicies",
        Kind::Tier => "tiers",
        Kind::Profile => "profiles",
        Kind::NetworkSet => "networksets",
        Kind::GlobalNetworkSet => "globalnetworksets",
        Kind::IPPool => "ippools",
        Kind::Node => "nodes",
        Kind::LiveMigration => "livemigrations",
        Kind::FelixConfiguration => "felixconfigurations",
        Kind::ClusterInformation => "clusterinformations",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(kind: Kind, path: &str) -> Option<(String, String)> {
        let key = format!("{}{path}", prefix(kind));
        parse(kind, key.as_bytes()).map(|key| (key.namespace, key.name))
    }

    #[test]
    fn keys_name_objects() {
        let name = |namespace: &str, name: &str| Some((namespace.to_owned(), name.to_owned()));
        assert_eq!(
            prefix(Kind::NetworkPolicy),
            "/calico/resources/v3/projectcalico.org/networkpolicies/"
        );
        assert_eq!(
            name_of(Kind::NetworkPolicy, "openstack/ossg.default.2815ad88"),
            name("openstack", "ossg.default.2815ad88")
        );
        assert_eq!(name_of(Kind::Tier, "default"), name("", "default"));
    }

    #[test]
    fn what_is_no_key_names_nothing() {
        for path in ["", "a/", "/a", "a/b/c", "a", "a/b c", "a/\u{1b}[31m"] {
            assert_eq!(name_of(Kind::WorkloadEndpoint, path), None, "{path:?}");
        }
        assert_eq!(name_of(Kind::Tier, "a/b"), None);
        assert!(name_of(Kind::Tier, &"a".repeat(1024)).is_some());
        assert_eq!(name_of(Kind::Tier, &"a".repeat(1025)), None);
        assert_eq!(
            parse(Kind::Tier, b"/calico/resources/v3/projectcalico.org/tiers/\xff"),
            None
        );
        assert_eq!(parse(Kind::Tier, b"/elsewhere/tiers/a"), None);
    }
}
