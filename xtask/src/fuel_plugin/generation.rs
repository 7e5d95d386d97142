//! The two packages: one for the releases of Fuel that have stages, one for those that have a graph.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace;

/// The plugin's name: section of the settings, key in hiera, beginning of the package's name.
pub(super) const NAME: &str = "fuel-plugin-calico";

/// A package of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generation {
    /// Package version 2.0.0, for Fuel 6.1 and 7.0.
    V2,
    /// Package version 4.0.0, for Fuel 8.0 to 9.2.
    V4,
}

impl Generation {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::V2, Self::V4];

    /// Returns the name of the folder with what only this package has, and of its stage.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V4 => "v4",
        }
    }

    /// Returns the plugin's version, from the metadata.
    ///
    /// # Errors
    /// The metadata cannot be read, or have no version of three parts.
    pub(super) fn version(self) -> Result<String> {
        let path = source().join(self.folder()).join("metadata.yaml");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let version = text.lines().find_map(|line| line.strip_prefix("version: "));
        let version = version.map(|version| version.trim_matches('"').to_owned());
        version
            .filter(|version| version.split('.').count() == 3)
            .with_context(|| format!("{}: no line `version: \"X.Y.Z\"`", path.display()))
    }

    /// Returns the name that the package has, with the first two parts of its version.
    ///
    /// # Errors
    /// As for [`Self::version`].
    pub(super) fn package_name(self) -> Result<String> {
        let version = self.version()?;
        let major_and_minor = version.rsplit_once('.').map_or("", |(start, _)| start);
        Ok(format!("{NAME}-{major_and_minor}"))
    }

    /// Returns the name of the package's file, as fuel-plugin-builder makes it.
    ///
    /// # Errors
    /// As for [`Self::version`].
    pub(super) fn file_name(self) -> Result<String> {
        Ok(format!(
            "{}-{}-1.noarch.rpm",
            self.package_name()?,
            self.version()?
        ))
    }
}

/// Returns the folder of the plugin's sources.
pub(super) fn source() -> PathBuf {
    workspace::root().join("fuel-plugin")
}

/// Returns where everything is made.
///
/// # Errors
/// `CARGO_TARGET_DIR` makes no sense.
pub(super) fn target() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("fuel-plugin"))
}

/// Returns a path as it is from the workspace's root, for messages.
pub(super) fn shown(path: &Path) -> String {
    path.strip_prefix(workspace::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
