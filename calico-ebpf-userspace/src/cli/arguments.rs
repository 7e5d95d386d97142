//! Flags that say where the configuration is and override parts of it.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Failure, USAGE};
use crate::config::{Config, Layers, Resolved, Setting, resolve};

/// Flags that every command takes, so that all of them look at the same agent.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct ConfigArguments {
    /// Configuration file in Felix's form [default: /etc/calico/felix.cfg, which may be absent]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where the objects come from: file or etcdv3 (`DatastoreType`)
    #[arg(long, value_name = "TYPE")]
    pub(super) datastore_type: Option<String>,
    /// Directory of manifests of the file datastore (`DatastoreDir`)
    #[arg(long, value_name = "DIR")]
    pub(super) datastore_dir: Option<String>,
    /// Addresses of etcd, separated by commas (`EtcdEndpoints`)
    #[arg(long, value_name = "URLS")]
    pub(super) etcd_endpoints: Option<String>,
    /// Name of this host, equal to Nova's host (`FelixHostname`)
    #[arg(long, value_name = "NAME")]
    pub(super) hostname: Option<String>,
    /// Sets any parameter; may be repeated, and beats everything else
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(super) settings: Vec<String>,
}

impl ConfigArguments {
    /// Collects what flags, environment and file say.
    ///
    /// # Errors
    /// Fails for an unreadable file and for a `--set` without `=`.
    pub(super) fn layers(&self) -> Result<Layers, Failure> {
        Ok(Layers::gather(self.config.as_deref(), self.command_line()?)?)
    }

    /// Resolves what flags, environment and file say.
    ///
    /// # Errors
    /// Fails as [`Self::layers`] and [`resolve`] do.
    pub(super) fn resolve(&self) -> Result<Resolved, Failure> {
        Ok(resolve(&self.layers()?)?)
    }

    /// As [`Self::resolve`], without the origins.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub(super) fn config(&self) -> Result<Config, Failure> {
        Ok(self.resolve()?.config)
    }

    fn command_line(&self) -> Result<Vec<Setting>, Failure> {
        let flags = [
            ("DatastoreType", "--datastore-type", &self.datastore_type),
            ("DatastoreDir", "--datastore-dir", &self.datastore_dir),
            ("EtcdEndpoints", "--etcd-endpoints", &self.etcd_endpoints),
            ("FelixHostname", "--hostname", &self.hostname),
        ];
        let mut settings = Vec::new();
        for setting in &self.settings {
            let Some((name, value)) = setting.split_once('=') else {
                let error = anyhow::anyhow!("--set {setting}: expected NAME=VALUE");
                return Err(Failure::new(error, USAGE, "Example: --set HealthEnabled=true"));
            };
            let place = format!("--set {name}");
            settings.push(Setting {
                name: name.to_owned(),
                value: value.to_owned(),
                place,
            });
        }
        for (name, flag, value) in flags {
            if let Some(value) = value {
                settings.push(Setting {
                    name: name.to_owned(),
                    value: value.clone(),
                    place: flag.to_owned(),
                });
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_settings_become_parameters() {
        let arguments = ConfigArguments {
            hostname: Some("compute-7".to_owned()),
            settings: vec!["Ipv6Support=false".to_owned(), "RunDir=/tmp/a=b".to_owned()],
            ..ConfigArguments::default()
        };
        let config = arguments.config().unwrap();
        assert_eq!(config.felix_hostname, "compute-7");
        assert!(!config.ipv6_support);
        assert_eq!(config.run_dir, PathBuf::from("/tmp/a=b"));
    }

    #[test]
    fn a_setting_without_a_value_is_refused_with_an_example() {
        let arguments = ConfigArguments {
            settings: vec!["Ipv6Support".to_owned()],
            ..ConfigArguments::default()
        };
        let failure = arguments.config().unwrap_err();
        assert_eq!(failure.status, USAGE);
        assert!(failure.to_string().contains("NAME=VALUE"), "{failure}");
    }
}
