//! What is told of settings that are not followed as they are written.

use serde::Serialize;

use super::layers::Setting;
use super::resolve::ConfigError;

/// What is the matter with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// No value of this parameter: the default is used.
    BadValue,
    /// There is no such parameter.
    Unknown,
    /// Not taken from the datastore.
    LocalOnly,
    /// Known from Felix, and asks for something that is not done here.
    WithoutEffect,
    /// The datastore has a value that must not be guessed: the configuration before it stays in force.
    Refused,
}

impl Trouble {
    /// Every one.
    pub const ALL: &'static [Self] = &[
        Self::BadValue,
        Self::Unknown,
        Self::LocalOnly,
        Self::WithoutEffect,
        Self::Refused,
    ];

    /// Returns the name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadValue => "bad-value",
            Self::Unknown => "unknown",
            Self::LocalOnly => "local-only",
            Self::WithoutEffect => "without-effect",
            Self::Refused => "refused",
        }
    }
}

/// Something about the settings that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Warning {
    pub trouble: Trouble,
    pub name: String,
    pub place: String,
    pub text: String,
}

impl Warning {
    pub(super) fn of(trouble: Trouble, name: &str, setting: &Setting, text: String) -> Self {
        Self {
            trouble,
            name: name.to_owned(),
            place: setting.place.clone(),
            text,
        }
    }

    /// Returns what is told of settings in the datastore that cannot be resolved at all, so that what was in force
    /// before stays. `None` for an error that has nothing to do with a parameter.
    pub fn refused(error: &ConfigError) -> Option<Self> {
        let ConfigError::BadValue {
            name,
            value,
            place,
            expected,
        } = error
        else {
            return None;
        };
        Some(Self {
            trouble: Trouble::Refused,
            name: (*name).to_owned(),
            place: place.clone(),
            text: format!("found {value:?}, expected {expected}; the configuration before it stays in force"),
        })
    }
}
