//! From everything that was set to one valid configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::layers::{Layers, Setting, Source};
use super::parameters::{self, Handling, Kind, Parameter};
use super::values::Config;
use super::warning::{Trouble, Warning};

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} is no INI file of lines `Name = value`", path.display())]
    Syntax { path: PathBuf, source: ini::ParseError },
    #[error("{place}: {name} is {value:?}, expected {expected}")]
    BadValue {
        name: &'static str,
        value: String,
        place: String,
        expected: String,
    },
    #[error(
        "this host has no usable name: {hostname:?}; give the one that Nova uses with --hostname or FelixHostname"
    )]
    NoHostname { hostname: String },
}

/// One parameter after resolution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParameterValue {
    pub name: &'static str,
    /// Text of the value in force.
    pub value: String,
    pub source: Source,
    /// Where exactly it was set; empty for a default.
    pub place: String,
    pub default: String,
    /// Why it has no effect; empty when it has.
    pub without_effect: String,
}

/// The configuration in force and how it came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    pub config: Config,
    /// Every known parameter, in order of the documentation.
    pub values: Vec<ParameterValue>,
    pub warnings: Vec<Warning>,
}

/// Resolves `layers`: of several settings of one parameter the one with the highest source counts, and of several in
/// one source the last. A bad value gives way to the default with a warning.
///
/// # Errors
/// Fails for a bad value of a parameter that must not be guessed, and without a usable host name.
pub fn resolve(layers: &Layers) -> Result<Resolved, ConfigError> {
    let mut warnings = Vec::new();
    let chosen = choose(layers, &mut warnings);
    let mut config = Config::default();
    let mut values = Vec::new();
    for parameter in parameters::all() {
        values.push(value_of(
            parameter,
            chosen.get(parameter.name),
            layers,
            &mut config,
            &mut warnings,
        )?);
    }
    if text_of(&values, "EtcdEndpoints").is_empty() {
        let (scheme, address) = (text_of(&values, "EtcdScheme"), text_of(&values, "EtcdAddr"));
        config.etcd_endpoints = vec![format!("{}://{address}", scheme.to_ascii_lowercase())];
    }
    config.openstack = is_openstack(text_of(&values, "ClusterType"), &config);
    Ok(Resolved {
        config,
        values,
        warnings,
    })
}

/// Returns whether this is a host of OpenStack (contract 3): the cluster says so, or parameters that only OpenStack needs
/// are set.
fn is_openstack(cluster_type: &str, config: &Config) -> bool {
    let default = Config::default();
    cluster_type.to_ascii_lowercase().contains("openstack")
        || config.interface_prefixes.iter().any(|prefix| prefix == "tap")
        || config.metadata_addr != default.metadata_addr
        || config.metadata_port != default.metadata_port
}

/// Returns the setting that counts, by parameter name.
fn choose(layers: &Layers, warnings: &mut Vec<Warning>) -> BTreeMap<&'static str, (Source, Setting)> {
    let mut chosen = BTreeMap::new();
    let mut unknown = BTreeSet::new();
    for (source, setting) in layers.ascending() {
        let Some(parameter) = parameters::find(&setting.name) else {
            if unknown.insert(setting.name.to_ascii_lowercase()) {
                let text = "no such parameter; `calico-ebpf config default` lists them".to_owned();
                warnings.push(Warning::of(Trouble::Unknown, &setting.name, &setting, text));
            }
            continue;
        };
        if parameter.local_only && source.is_datastore() {
            let text = "only taken from flags, environment and file; left out".to_owned();
            warnings.push(Warning::of(Trouble::LocalOnly, parameter.name, &setting, text));
            continue;
        }
        // calicoctl writes `bpfLogLevel: ""` into a FelixConfiguration that says nothing about it.
        if matches!(parameter.kind, Kind::Choice(..)) && setting.value.trim().is_empty() {
            continue;
        }
        chosen.insert(parameter.name, (source, setting));
    }
    chosen
}

/// Stores the value of one parameter in `config` and returns it in words.
fn value_of(
    parameter: &'static Parameter,
    chosen: Option<&(Source, Setting)>,
    layers: &Layers,
    config: &mut Config,
    warnings: &mut Vec<Warning>,
) -> Result<ParameterValue, ConfigError> {
    let default = default_of(parameter, layers);
    let without_effect = match parameter.handling {
        Handling::Acted => String::new(),
        Handling::Ignored(reason) => reason.to_owned(),
    };
    let mut value = ParameterValue {
        name: parameter.name,
        value: default.clone(),
        source: Source::Default,
        place: String::new(),
        default: shown(parameter, &default),
        without_effect,
    };
    if let Some((source, setting)) = chosen {
        match parameter.kind.apply(&setting.value, config) {
            Ok(()) => {
                warn_without_effect(parameter, setting, &default, warnings);
                setting.value.trim().clone_into(&mut value.value);
                value.source = *source;
                setting.place.clone_into(&mut value.place);
                value.value = shown(parameter, &value.value);
                return Ok(value);
            }
            Err(bad) if parameter.fatal => {
                let (name, place, expected) = (parameter.name, setting.place.clone(), bad.expected);
                return Err(ConfigError::BadValue {
                    name,
                    value: setting.value.clone(),
                    place,
                    expected,
                });
            }
            Err(bad) => {
                let found = shown(parameter, &setting.value);
                let text = format!(
                    "found {found:?}, expected {}; the default {default:?} is used",
                    bad.expected
                );
                warnings.push(Warning::of(Trouble::BadValue, parameter.name, setting, text));
            }
        }
    }
    let applied = parameter.kind.apply(&default, config);
    debug_assert!(
        applied.is_ok() || parameter.name == "FelixHostname",
        "default of {}",
        parameter.name
    );
    match applied {
        Ok(()) => Ok(value),
        Err(_) if parameter.name == "FelixHostname" => Err(ConfigError::NoHostname { hostname: default }),
        Err(bad) => Err(ConfigError::BadValue {
            name: parameter.name,
            value: default,
            place: "default".to_owned(),
            expected: bad.expected,
        }),
    }
}

fn default_of(parameter: &Parameter, layers: &Layers) -> String {
    if parameter.name == "FelixHostname" {
        layers.system_hostname.clone()
    } else {
        parameter.default.to_owned()
    }
}

/// Warns about a setting other than the default that has no effect.
fn warn_without_effect(parameter: &Parameter, setting: &Setting, default: &str, warnings: &mut Vec<Warning>) {
    let reason = match parameter.handling {
        Handling::Ignored(reason) => format!("accepted without effect: {reason}"),
        Handling::Acted => return,
    };
    if !setting.value.trim().eq_ignore_ascii_case(default) {
        warnings.push(Warning::of(
            Trouble::WithoutEffect,
            parameter.name,
            setting,
            reason,
        ));
    }
}

fn shown(parameter: &Parameter, value: &str) -> String {
    if parameter.secret && !value.is_empty() {
        "(not shown)".to_owned()
    } else {
        value.to_owned()
    }
}

fn text_of<'a>(values: &'a [ParameterValue], name: &str) -> &'a str {
    let text = values
        .iter()
        .find(|value| value.name == name)
        .map_or("", |value| value.value.as_str());
    if text.eq_ignore_ascii_case("none") {
        ""
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::values::DatastoreType;

    fn setting(name: &str, value: &str) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            place: format!("place of {name}"),
        }
    }

    fn on_host() -> Layers {
        Layers {
            system_hostname: "compute-1".to_owned(),
            ..Layers::default()
        }
    }

    fn health_port(layers: &Layers) -> (u16, Source) {
        let resolved = resolve(layers).unwrap();
        let value = resolved
            .values
            .iter()
            .find(|value| value.name == "HealthPort")
            .unwrap();
        (resolved.config.health_port, value.source)
    }

    #[test]
    fn each_source_beats_the_ones_below_it() {
        let mut layers = on_host();
        assert_eq!(health_port(&layers), (9099, Source::Default));
        layers.datastore.global.push(setting("HealthPort", "1"));
        assert_eq!(health_port(&layers), (1, Source::DatastoreGlobal));
        layers.datastore.selector.push(setting("healthPort", "2"));
        assert_eq!(health_port(&layers), (2, Source::DatastoreSelector));
        layers.datastore.host.push(setting("HealthPort", "3"));
        assert_eq!(health_port(&layers), (3, Source::DatastoreHost));
        layers.shared_environment.push(setting("HealthPort", "4"));
        assert_eq!(health_port(&layers), (4, Source::SharedEnvironment));
        layers.file.push(setting("HEALTHPORT", "5"));
        assert_eq!(health_port(&layers), (5, Source::File));
        layers.environment.push(setting("healthport", "6"));
        assert_eq!(health_port(&layers), (6, Source::Environment));
        layers.command_line.push(setting("HealthPort", "7"));
        assert_eq!(health_port(&layers), (7, Source::CommandLine));
    }

    #[test]
    fn without_any_setting_the_default_configuration_is_in_force() {
        let resolved = resolve(&on_host()).unwrap();
        let expected = Config {
            felix_hostname: "compute-1".to_owned(),
            ..Config::default()
        };
        assert_eq!(resolved.config, expected);
        assert_eq!(resolved.warnings, vec![]);
    }

    #[test]
    fn a_bad_value_gives_way_to_the_default_with_a_warning() {
        let mut layers = on_host();
        layers.datastore.global.push(setting("HealthPort", "1"));
        layers.file.push(setting("HealthPort", "ninety"));
        let resolved = resolve(&layers).unwrap();
        assert_eq!(resolved.config.health_port, 9099);
        assert_eq!(resolved.warnings.len(), 1);
        assert!(
            resolved.warnings[0].text.contains("expected a port"),
            "{:?}",
            resolved.warnings
        );
    }

    #[test]
    fn a_bad_value_that_must_not_be_guessed_is_an_error_with_its_place() {
        let mut layers = on_host();
        layers.command_line.push(setting("DatastoreType", "kubernetes"));
        let error = resolve(&layers).unwrap_err().to_string();
        assert!(
            error.contains("place of DatastoreType") && error.contains("file, etcdv3"),
            "{error}"
        );
        let mut layers = on_host();
        layers.file.push(setting("FelixHostname", "none"));
        assert!(matches!(
            resolve(&layers),
            Err(ConfigError::BadValue {
                name: "FelixHostname",
                ..
            })
        ));
    }

    #[test]
    fn a_host_without_a_name_is_an_error() {
        assert!(matches!(
            resolve(&Layers::default()),
            Err(ConfigError::NoHostname { .. })
        ));
    }

    #[test]
    fn unknown_names_are_told_once() {
        let mut layers = on_host();
        layers.file.push(setting("NoSuchThing", "1"));
        layers.environment.push(setting("NOSUCHTHING", "2"));
        assert_eq!(resolve(&layers).unwrap().warnings.len(), 1);
    }

    #[test]
    fn local_parameters_are_not_taken_from_the_datastore() {
        let mut layers = on_host();
        layers.datastore.global.push(setting("DatastoreType", "file"));
        let resolved = resolve(&layers).unwrap();
        assert_eq!(resolved.config.datastore_type, DatastoreType::Etcdv3);
        assert_eq!(resolved.warnings.len(), 1);
    }

    #[test]
    fn ignored_parameters_warn_only_when_they_ask_for_something_else() {
        let mut layers = on_host();
        layers.file.push(setting("ChainInsertMode", "insert"));
        assert_eq!(resolve(&layers).unwrap().warnings, vec![]);
        layers.file.push(setting("ChainInsertMode", "append"));
        let warnings = resolve(&layers).unwrap().warnings;
        assert!(warnings[0].text.contains("no iptables"), "{warnings:?}");
    }

    #[test]
    fn etcd_endpoints_are_made_of_scheme_and_address_when_not_given() {
        let mut layers = on_host();
        layers.file.push(setting("EtcdAddr", "10.0.0.5:4001"));
        layers.file.push(setting("EtcdScheme", "https"));
        assert_eq!(
            resolve(&layers).unwrap().config.etcd_endpoints,
            ["https://10.0.0.5:4001"]
        );
        layers
            .file
            .push(setting("EtcdEndpoints", "http://a:1,http://b:2"));
        assert_eq!(
            resolve(&layers).unwrap().config.etcd_endpoints,
            ["http://a:1", "http://b:2"]
        );
    }

    #[test]
    fn spec_durations_are_taken_for_seconds() {
        let mut layers = on_host();
        layers
            .datastore
            .global
            .push(setting("ReportingInterval", "1m30s"));
        assert_eq!(
            resolve(&layers).unwrap().config.reporting_interval,
            Duration::from_secs(90)
        );
    }

    #[test]
    fn a_host_is_openstacks_when_the_cluster_or_a_parameter_of_openstack_says_so() {
        let is_openstack = |settings: &[(&str, &str)]| {
            let mut layers = on_host();
            let settings = settings.iter().map(|(name, value)| setting(name, value));
            layers.datastore.global.extend(settings);
            resolve(&layers).unwrap().config.openstack
        };
        assert!(is_openstack(&[]), "InterfacePrefix is tap by default");
        let prefix = ("InterfacePrefix", "cali");
        assert!(!is_openstack(&[prefix]));
        assert!(!is_openstack(&[prefix, ("ClusterType", "k8s,bgp")]));
        assert!(is_openstack(&[prefix, ("ClusterType", "k8s,OpenStack")]));
        assert!(is_openstack(&[("InterfacePrefix", "cali,tap")]));
        assert!(is_openstack(&[prefix, ("MetadataAddr", "169.254.169.254")]));
        assert!(is_openstack(&[prefix, ("MetadataPort", "80")]));
    }

    #[test]
    fn what_the_cluster_is_called_warns_of_nothing_and_starts_nothing_anew() {
        let mut layers = on_host();
        let before = resolve(&layers).unwrap();
        for (name, value) in [
            ("ClusterType", "k8s,openstack"),
            ("ClusterGUID", "a18f42"),
            ("CalicoVersion", "v3.32.0"),
        ] {
            layers.datastore.global.push(setting(name, value));
        }
        let after = resolve(&layers).unwrap();
        assert_eq!(after.warnings, vec![]);
        assert_eq!(after.config, before.config);
        let of_cluster = |value: &&ParameterValue| value.source == Source::DatastoreGlobal;
        assert_eq!(after.values.iter().filter(of_cluster).count(), 3);
    }

    #[test]
    fn each_trouble_is_told_with_its_kind_and_place() {
        let mut layers = on_host();
        layers.datastore.global = [
            ("HealthPort", "ninety"),
            ("NoSuchThing", "1"),
            ("EtcdPassword", "s3cret"),
            ("ChainInsertMode", "append"),
        ]
        .map(|(name, value)| setting(name, value))
        .into();
        let mut warnings = resolve(&layers).unwrap().warnings;
        warnings.sort();
        let told: Vec<_> = warnings
            .iter()
            .map(|warning| (warning.trouble, warning.place.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (Trouble::BadValue, "place of HealthPort"),
                (Trouble::Unknown, "place of NoSuchThing"),
                (Trouble::LocalOnly, "place of EtcdPassword"),
                (Trouble::WithoutEffect, "place of ChainInsertMode"),
            ]
        );
        assert!(!format!("{warnings:?}").contains("s3cret"));
        layers.datastore.global = vec![setting("MetadataPort", "0")];
        let warning = Warning::refused(&resolve(&layers).unwrap_err()).unwrap();
        assert_eq!(
            (warning.trouble, warning.name.as_str()),
            (Trouble::Refused, "MetadataPort")
        );
    }

    #[test]
    fn an_empty_choice_is_as_if_nobody_had_made_it() {
        let mut layers = on_host();
        layers.datastore.global.push(setting("BPFLogLevel", "Debug"));
        layers.datastore.host.push(setting("BPFLogLevel", ""));
        let resolved = resolve(&layers).unwrap();
        assert!(resolved.config.bpf_log);
        assert_eq!(resolved.warnings, vec![]);
    }

    #[test]
    fn a_password_is_in_no_output() {
        let mut layers = on_host();
        layers.environment.push(setting("EtcdPassword", "s3cret"));
        let resolved = resolve(&layers).unwrap();
        assert_eq!(resolved.config.etcd_password.as_deref(), Some("s3cret"));
        assert!(!serde_json::to_string(&resolved).unwrap().contains("s3cret"));
    }
}
