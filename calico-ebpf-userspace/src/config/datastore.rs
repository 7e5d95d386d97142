//! What the objects of a datastore say about the parameters of one host.

use std::sync::Arc;

use super::layers::{DatastoreLayers, Setting};
use crate::model::labels::Labels;
use crate::model::name::{Kind, ResourceKey};
use crate::model::resource::{ClusterInformation, FelixConfiguration, ParameterText, Resource, Snapshot};

/// Name of the objects that are for all hosts.
const GLOBAL_NAME: &str = "default";

/// Returns the settings in the datastore for the host `hostname`. A `FelixConfiguration` with a selector is held against
/// the labels of the host's `Node`; a host without one has no labels. Of several that select the host, the one whose name
/// sorts last counts.
pub fn datastore_layers(snapshot: &Snapshot, hostname: &str) -> DatastoreLayers {
    let nobody = Labels::new();
    let labels = match get(snapshot, Kind::Node, hostname) {
        Some(Resource::Node(node)) => &node.labels,
        _ => &nobody,
    };
    let own_name = format!("node.{hostname}");
    let mut layers = DatastoreLayers::default();
    for (key, resource) in of_kind(snapshot, Kind::FelixConfiguration) {
        let Resource::FelixConfiguration(configuration) = &**resource else {
            continue;
        };
        let layer = match &configuration.node_selector {
            Some(selector) if selector.matches(labels) => &mut layers.selector,
            None if key.name == GLOBAL_NAME => &mut layers.global,
            None if key.name == own_name => &mut layers.host,
            _ => continue,
        };
        layer.extend(settings_of(key, configuration));
    }
    if let Some(Resource::ClusterInformation(facts)) = get(snapshot, Kind::ClusterInformation, GLOBAL_NAME) {
        layers.global.extend(facts_as_settings(facts));
    }
    layers
}

/// Returns whether a change of this object may change the parameters of the host `hostname`.
pub fn concerns_parameters(key: &ResourceKey, hostname: &str) -> bool {
    match key.kind {
        Kind::FelixConfiguration | Kind::ClusterInformation => true,
        Kind::Node => key.name == hostname,
        Kind::WorkloadEndpoint
        | Kind::HostEndpoint
        | Kind::NetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::Tier
        | Kind::Profile
        | Kind::NetworkSet
        | Kind::GlobalNetworkSet
        | Kind::IPPool
        | Kind::LiveMigration => false,
    }
}

fn settings_of(key: &ResourceKey, configuration: &FelixConfiguration) -> Vec<Setting> {
    let setting = |(name, text): (&String, &ParameterText)| Setting {
        name: name.clone(),
        value: text.value.clone(),
        place: format!("{key}: {}", text.field),
    };
    configuration.parameters.iter().map(setting).collect()
}

/// Returns what the cluster says about itself under the names of parameters; what it does not say is not set.
fn facts_as_settings(facts: &ClusterInformation) -> Vec<Setting> {
    let facts = [
        ("ClusterType", &facts.cluster_type, "clusterType"),
        ("ClusterGUID", &facts.cluster_guid, "clusterGUID"),
        ("CalicoVersion", &facts.calico_version, "calicoVersion"),
    ];
    let setting = |(name, value, field): &(&str, &String, &str)| Setting {
        name: (*name).to_owned(),
        value: (*value).clone(),
        place: format!("ClusterInformation({GLOBAL_NAME}): spec.{field}"),
    };
    let is_said = |(_, value, _): &&(&str, &String, &str)| !value.is_empty();
    facts.iter().filter(is_said).map(setting).collect()
}

fn get<'a>(snapshot: &'a Snapshot, kind: Kind, name: &str) -> Option<&'a Resource> {
    snapshot.get(&key_of(kind, name)).map(|resource| &**resource)
}

/// Returns the objects of a kind without namespaces, in order of their names, at their cost alone.
fn of_kind(snapshot: &Snapshot, kind: Kind) -> impl Iterator<Item = (&ResourceKey, &Arc<Resource>)> {
    let objects = snapshot.range(key_of(kind, "")..);
    objects.take_while(move |(key, _)| key.kind == kind)
}

fn key_of(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey {
        kind,
        namespace: String::new(),
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Layers, Source, resolve};
    use crate::model::decode::decode;

    const HOST: &str = "compute-1";

    fn object(kind: &str, name: &str, metadata: &Value, spec: &Value) -> Value {
        let mut object = json!({
            "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec,
        });
        object["metadata"]["name"] = name.into();
        object
    }

    fn configuration(name: &str, spec: &Value) -> Value {
        object("FelixConfiguration", name, &json!({}), spec)
    }

    fn node(labels: &Value) -> Value {
        object("Node", HOST, &json!({"labels": labels}), &json!({}))
    }

    fn snapshot(objects: &[Value]) -> Snapshot {
        let decoded = objects.iter().map(|object| decode(object, None));
        let valid = decoded.filter_map(|decoded| Some((decoded.key?, Arc::new(decoded.resource?))));
        valid.collect()
    }

    /// Value, source and place of `HealthPort`.
    fn health_port(objects: &[Value]) -> (String, Source, String) {
        let layers = Layers {
            system_hostname: HOST.to_owned(),
            datastore: datastore_layers(&snapshot(objects), HOST),
            ..Layers::default()
        };
        let resolved = resolve(&layers).unwrap();
        let value = resolved
            .values
            .into_iter()
            .find(|value| value.name == "HealthPort");
        let value = value.unwrap();
        (value.value, value.source, value.place)
    }

    #[test]
    fn objects_for_all_for_a_selected_and_for_one_host_win_in_this_order() {
        let mut objects = vec![node(&json!({"rack": "a"}))];
        assert_eq!(health_port(&objects).1, Source::Default);
        objects.push(configuration("default", &json!({"healthPort": 1})));
        let place = "FelixConfiguration(default): spec.healthPort".to_owned();
        assert_eq!(
            health_port(&objects),
            ("1".to_owned(), Source::DatastoreGlobal, place)
        );
        let selected = json!({"healthPort": 2, "nodeSelector": "rack == 'a'"});
        objects.push(configuration("rack-a", &selected));
        let place = "FelixConfiguration(rack-a): spec.healthPort".to_owned();
        assert_eq!(
            health_port(&objects),
            ("2".to_owned(), Source::DatastoreSelector, place)
        );
        objects.push(configuration("node.compute-2", &json!({"healthPort": 4})));
        assert_eq!(health_port(&objects).1, Source::DatastoreSelector);
        objects.push(configuration("node.compute-1", &json!({"healthPort": 3})));
        assert_eq!(health_port(&objects).1, Source::DatastoreHost);
    }

    #[test]
    fn of_several_selectors_that_hold_the_object_whose_name_sorts_last_counts() {
        let of = |name: &str, port: u16, selector: &str| {
            configuration(name, &json!({"healthPort": port, "nodeSelector": selector}))
        };
        let mut objects = vec![
            node(&json!({"rack": "a", "gpu": ""})),
            of("b", 2, "has(gpu)"),
            of("a", 1, "rack == 'a'"),
            of("c", 3, "rack == 'b'"),
        ];
        assert_eq!(health_port(&objects).0, "2");
        objects.reverse();
        assert_eq!(health_port(&objects).0, "2");
    }

    #[test]
    fn other_labels_of_the_host_select_another_object_and_without_a_node_there_are_none() {
        let of = |selector: &str| configuration("x", &json!({"healthPort": 1, "nodeSelector": selector}));
        let default = "9099";
        assert_eq!(
            health_port(&[node(&json!({"rack": "b"})), of("rack == 'a'")]).0,
            default
        );
        assert_eq!(
            health_port(&[node(&json!({"rack": "a"})), of("rack == 'a'")]).0,
            "1"
        );
        assert_eq!(health_port(&[of("has(rack)")]).0, default);
        assert_eq!(health_port(&[of("all()")]).0, "1");
        assert_eq!(
            health_port(&[of("rack ==")]).0,
            default,
            "a selector that is none"
        );
        assert_eq!(
            health_port(&[configuration("x", &json!({"healthPort": 1}))]).0,
            default,
            "no selector"
        );
    }

    #[test]
    fn an_annotation_beats_the_field_of_its_own_object_and_not_of_a_higher_one() {
        let annotated = |name: &str, port: &str, spec: &Value| {
            let annotations = json!({"annotations": {"config.projectcalico.org/HealthPort": port}});
            object("FelixConfiguration", name, &annotations, spec)
        };
        let mut objects = vec![annotated("default", "5", &json!({"healthPort": 1}))];
        let place = "FelixConfiguration(default): metadata.annotations.config.projectcalico.org/HealthPort"
            .to_owned();
        assert_eq!(
            health_port(&objects),
            ("5".to_owned(), Source::DatastoreGlobal, place)
        );
        objects.push(configuration("node.compute-1", &json!({"healthPort": 3})));
        assert_eq!(health_port(&objects).0, "3");
    }

    #[test]
    fn what_the_cluster_says_about_itself_is_of_all_hosts() {
        let facts = json!({"clusterType": "k8s,openstack", "clusterGUID": "a18f42", "datastoreReady": true});
        let facts = object("ClusterInformation", "default", &json!({}), &facts);
        let layers = datastore_layers(&snapshot(&[facts]), HOST);
        let told: Vec<_> = layers
            .global
            .iter()
            .map(|setting| {
                (
                    setting.name.as_str(),
                    setting.value.as_str(),
                    setting.place.as_str(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (
                    "ClusterType",
                    "k8s,openstack",
                    "ClusterInformation(default): spec.clusterType"
                ),
                (
                    "ClusterGUID",
                    "a18f42",
                    "ClusterInformation(default): spec.clusterGUID"
                ),
            ]
        );
    }

    #[test]
    fn only_this_hosts_node_concerns_its_parameters() {
        for (kind, name, expected) in [
            (Kind::Node, HOST, true),
            (Kind::Node, "compute-2", false),
            (Kind::FelixConfiguration, "x", true),
            (Kind::ClusterInformation, "default", true),
            (Kind::Tier, "default", false),
        ] {
            assert_eq!(
                concerns_parameters(&key_of(kind, name), HOST),
                expected,
                "{kind:?} {name}"
            );
        }
    }
}
