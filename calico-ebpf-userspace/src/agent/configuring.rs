//! The configuration in force: what the host says, and on top of it what the datastore says at the moment.

use std::collections::BTreeSet;

use crate::config::{
    Config, ConfigError, DatastoreLayers, Layers, Resolved, Warning, datastore_layers, resolve,
};
use crate::logging::LogControl;
use crate::model::resource::Snapshot;

/// The configuration and how it came about.
pub(super) struct Configuring {
    layers: Layers,
    resolved: Resolved,
    /// Why the datastore's parameters are not followed, when they are not.
    refused: Option<Warning>,
    /// What is the matter and was logged.
    told: BTreeSet<Warning>,
    log: LogControl,
}

impl Configuring {
    /// Begins with what the host says, about which its warnings were logged.
    ///
    /// # Errors
    /// As [`resolve`].
    pub(super) fn new(layers: Layers, log: LogControl) -> Result<Self, ConfigError> {
        let resolved = resolve(&layers)?;
        let told = resolved.warnings.iter().cloned().collect();
        Ok(Self {
            layers,
            resolved,
            refused: None,
            told,
            log,
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.resolved.config
    }

    pub(super) fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Returns everything that is the matter with settings now.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.resolved.warnings.iter().chain(&self.refused)
    }

    /// Takes what the datastore says when work begins.
    ///
    /// # Errors
    /// When a value must not be guessed and is none.
    pub(super) fn begin(&mut self, snapshot: &Snapshot) -> Result<(), ConfigError> {
        let datastore = datastore_layers(snapshot, &self.config().felix_hostname);
        self.take(datastore)
    }

    /// Follows what the datastore says now. A value that must not be guessed and is none leaves everything as it was.
    /// Returns whether there is anything to tell.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) -> bool {
        let datastore = datastore_layers(snapshot, &self.config().felix_hostname);
        if datastore == self.layers.datastore && self.refused.is_none() {
            return false;
        }
        if let Err(error) = self.take(datastore) {
            self.refused = Warning::refused(&error);
            self.log_news();
        }
        true
    }

    fn take(&mut self, datastore: DatastoreLayers) -> Result<(), ConfigError> {
        let layers = Layers {
            datastore,
            ..self.layers.clone()
        };
        let resolved = resolve(&layers)?;
        let pairs = self.resolved.values.iter().zip(&resolved.values);
        let differ = pairs.filter(|(before, now)| before.value != now.value);
        let changed: Vec<_> = differ
            .map(|(_, now)| format!("{}={}", now.name, now.value))
            .collect();
        self.resolved = resolved;
        self.layers = layers;
        self.refused = None;
        self.log.apply(&self.resolved.config);
        if !changed.is_empty() {
            tracing::info!(?changed, "parameters taken from the datastore");
        }
        self.log_news();
        Ok(())
    }

    /// Logs each thing that is the matter once, until it is mended.
    fn log_news(&mut self) {
        let now: BTreeSet<Warning> = self.warnings().cloned().collect();
        for warning in now.difference(&self.told) {
            tracing::warn!(
                parameter = warning.name,
                place = warning.place,
                trouble = warning.trouble.name(),
                "{}",
                warning.text
            );
        }
        self.told = now;
    }
}
