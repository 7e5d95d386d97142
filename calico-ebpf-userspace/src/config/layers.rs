//! What was set, where, before it is known what it means.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use ini::{Ini, ParseOption};
use serde::Serialize;

use super::resolve::ConfigError;

/// Where a value came from; a later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Default,
    /// `FelixConfiguration` `default`, and `ClusterInformation`.
    DatastoreGlobal,
    /// `FelixConfiguration` with a `nodeSelector` that selects this host.
    DatastoreSelector,
    /// `FelixConfiguration` `node.<FelixHostname>`.
    DatastoreHost,
    /// `ETCD_*` and `CALICO_ETCD_*`, which Calico's tools share.
    SharedEnvironment,
    File,
    /// `FELIX_*`.
    Environment,
    CommandLine,
}

impl Source {
    /// Every one, lowest precedence first.
    pub const ALL: &'static [Self] = &[
        Self::Default,
        Self::DatastoreGlobal,
        Self::DatastoreSelector,
        Self::DatastoreHost,
        Self::SharedEnvironment,
        Self::File,
        Self::Environment,
        Self::CommandLine,
    ];

    /// Returns the name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::DatastoreGlobal => "datastore-global",
            Self::DatastoreSelector => "datastore-selector",
            Self::DatastoreHost => "datastore-host",
            Self::SharedEnvironment => "shared-environment",
            Self::File => "file",
            Self::Environment => "environment",
            Self::CommandLine => "command-line",
        }
    }

    /// Returns whether the value came out of the datastore.
    pub fn is_datastore(self) -> bool {
        matches!(
            self,
            Self::DatastoreGlobal | Self::DatastoreSelector | Self::DatastoreHost
        )
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Default => "default",
            Self::DatastoreGlobal => "datastore",
            Self::DatastoreSelector => "datastore, by selector",
            Self::DatastoreHost => "datastore, for this host",
            Self::SharedEnvironment | Self::Environment => "environment",
            Self::File => "file",
            Self::CommandLine => "command line",
        })
    }
}

/// One name and text as set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    pub name: String,
    pub value: String,
    /// Where exactly: `/etc/calico/felix.cfg:3`, `FELIX_IPV6SUPPORT`, `--hostname`,
    /// `FelixConfiguration(default): spec.healthPort`.
    pub place: String,
}

/// What the datastore says. Within a layer a later setting wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatastoreLayers {
    /// `FelixConfiguration` `default`, and `ClusterInformation`.
    pub global: Vec<Setting>,
    /// Those with a selector for this host, in order of their names.
    pub selector: Vec<Setting>,
    /// `node.<FelixHostname>`.
    pub host: Vec<Setting>,
}

/// Everything that was set, by source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Name of this host as the system has it: default of `FelixHostname`.
    pub system_hostname: String,
    pub datastore: DatastoreLayers,
    pub shared_environment: Vec<Setting>,
    pub file: Vec<Setting>,
    pub environment: Vec<Setting>,
    pub command_line: Vec<Setting>,
}

/// Where `felix.cfg` is looked for when no flag names it. It may be absent.
pub const DEFAULT_FILE: &str = "/etc/calico/felix.cfg";

impl Layers {
    /// Collects what this host says: its name, the file (`None`: [`DEFAULT_FILE`], which may be absent), the
    /// environment of this process, and the settings of the command line.
    ///
    /// # Errors
    /// Fails when the file cannot be read or is no INI file.
    pub fn gather(file: Option<&Path>, command_line: Vec<Setting>) -> Result<Self, ConfigError> {
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Ok(Self {
            system_hostname: hostname.trim().to_owned(),
            datastore: DatastoreLayers::default(),
            shared_environment: from_shared_environment(&environment),
            file: read_file(file)?,
            environment: from_environment(&environment),
            command_line,
        })
    }

    /// Returns every setting with its source, lowest precedence first.
    pub fn ascending(&self) -> Vec<(Source, Setting)> {
        let layers = [
            (Source::DatastoreGlobal, &self.datastore.global),
            (Source::DatastoreSelector, &self.datastore.selector),
            (Source::DatastoreHost, &self.datastore.host),
            (Source::SharedEnvironment, &self.shared_environment),
            (Source::File, &self.file),
            (Source::Environment, &self.environment),
            (Source::CommandLine, &self.command_line),
        ];
        let of_layer = |(source, settings): (Source, &Vec<Setting>)| -> Vec<_> {
            settings.iter().map(|setting| (source, setting.clone())).collect()
        };
        layers.into_iter().flat_map(of_layer).collect()
    }
}

/// Returns the settings among environment variables `FELIX_<Name>`, in any case.
pub fn from_environment(variables: &[(String, String)]) -> Vec<Setting> {
    let setting = |(variable, value): &(String, String)| {
        let prefix = variable.get(..6)?;
        let is_ours = prefix.eq_ignore_ascii_case("FELIX_");
        is_ours.then(|| Setting {
            name: variable[6..].to_owned(),
            value: value.clone(),
            place: variable.clone(),
        })
    };
    variables.iter().filter_map(setting).collect()
}

/// Returns the settings among the etcd variables that Calico's tools share. Those with `CALICO_` win.
pub fn from_shared_environment(variables: &[(String, String)]) -> Vec<Setting> {
    const NAMES: [(&str, &str); 6] = [
        ("ETCD_ENDPOINTS", "EtcdEndpoints"),
        ("ETCD_CA_CERT_FILE", "EtcdCaFile"),
        ("ETCD_CERT_FILE", "EtcdCertFile"),
        ("ETCD_KEY_FILE", "EtcdKeyFile"),
        ("ETCD_USERNAME", "EtcdUsername"),
        ("ETCD_PASSWORD", "EtcdPassword"),
    ];
    let mut settings = Vec::new();
    for prefix in ["", "CALICO_"] {
        for (suffix, name) in NAMES {
            let wanted = format!("{prefix}{suffix}");
            if let Some((_, value)) = variables.iter().find(|(variable, _)| *variable == wanted) {
                settings.push(Setting {
                    name: name.to_owned(),
                    value: value.clone(),
                    place: wanted,
                });
            }
        }
    }
    settings
}

fn read_file(file: Option<&Path>) -> Result<Vec<Setting>, ConfigError> {
    let path = file.map_or_else(|| PathBuf::from(DEFAULT_FILE), Path::to_path_buf);
    match std::fs::read_to_string(&path) {
        Ok(text) => from_file(&path, &text),
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(ConfigError::Unreadable { path, source }),
    }
}

/// Returns the settings in the text of a configuration file: INI, section names without meaning.
///
/// # Errors
/// Fails when the text is no INI file.
pub fn from_file(path: &Path, text: &str) -> Result<Vec<Setting>, ConfigError> {
    let options = ParseOption {
        enabled_escape: false,
        ..ParseOption::default()
    };
    let parsed = Ini::load_from_str_opt(text, options).map_err(|source| ConfigError::Syntax {
        path: path.to_owned(),
        source,
    })?;
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    for (line, number) in text.lines().zip(1..) {
        if let Some(name) = line.split(['=', ':']).next() {
            lines.entry(name.trim()).or_insert(number);
        }
    }
    let mut settings = Vec::new();
    for (_, properties) in &parsed {
        for (name, value) in properties {
            let place = format!("{}:{}", path.display(), lines.get(name).unwrap_or(&1));
            settings.push(Setting {
                name: name.to_owned(),
                value: value.to_owned(),
                place,
            });
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn variables_of_felix_are_found_in_any_case() {
        let found = from_environment(&variables(&[
            ("FELIX_Ipv6Support", "false"),
            ("felix_HEALTHPORT", "1"),
            ("HOME", "/"),
            ("FÉLIX_", ""),
        ]));
        let names: Vec<&str> = found.iter().map(|setting| setting.name.as_str()).collect();
        assert_eq!(names, ["Ipv6Support", "HEALTHPORT"]);
    }

    #[test]
    fn the_variable_with_calico_in_front_comes_later_and_so_wins() {
        let found = from_shared_environment(&variables(&[
            ("CALICO_ETCD_ENDPOINTS", "http://a:1"),
            ("ETCD_ENDPOINTS", "http://b:1"),
        ]));
        assert_eq!(
            found.last().map(|setting| setting.value.as_str()),
            Some("http://a:1")
        );
    }

    #[test]
    fn sections_have_no_meaning_and_places_have_lines() {
        let text = "# comment\n[global]\nEtcdAddr = etcd:2379\n\n[log]\nLogFilePath = C:\\x\n";
        let found = from_file(Path::new("felix.cfg"), text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].place, "felix.cfg:3");
        assert_eq!(found[0].value, "etcd:2379");
        assert_eq!(found[1].value, "C:\\x");
    }

    #[test]
    fn a_long_file_is_read_in_the_time_that_its_length_takes() {
        let lines: Vec<_> = (0..50_000)
            .map(|index| format!("Name{index} = {index}"))
            .collect();
        let text = lines.join("\n");
        let found = from_file(Path::new("felix.cfg"), &text).unwrap();
        assert_eq!(found.len(), 50_000);
        assert_eq!(found[49_999].place, "felix.cfg:50000");
    }

    #[test]
    fn a_file_that_is_no_ini_file_is_refused_with_its_name() {
        let error = from_file(Path::new("felix.cfg"), "[global\nx").unwrap_err();
        assert!(error.to_string().contains("felix.cfg"), "{error}");
    }
}
