//! What was wrong with an object: data, not an error of the agent.

use std::fmt;

use serde::Serialize;

use super::name::ResourceKey;

/// What the agent did about it, gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consequence {
    /// The whole object is treated as absent.
    ObjectSkipped,
    /// One rule never matches.
    RuleSkipped,
    /// One address, label or port is left out.
    FieldSkipped,
    /// Read as something else than written.
    Reinterpreted,
    /// Read, but not enforced.
    NotEnforced,
    /// What was last read without this problem stays in force.
    LastGoodKept,
}

impl Consequence {
    /// Every consequence.
    pub const ALL: &'static [Self] = &[
        Self::ObjectSkipped,
        Self::RuleSkipped,
        Self::FieldSkipped,
        Self::Reinterpreted,
        Self::NotEnforced,
        Self::LastGoodKept,
    ];

    /// Returns the name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ObjectSkipped => "object-skipped",
            Self::RuleSkipped => "rule-skipped",
            Self::FieldSkipped => "field-skipped",
            Self::Reinterpreted => "reinterpreted",
            Self::NotEnforced => "not-enforced",
            Self::LastGoodKept => "last-good-kept",
        }
    }
}

/// One thing wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object, when it was readable so far.
    pub object: Option<ResourceKey>,
    /// Path to the field, such as `spec.ingress[2].source.nets[0]`; empty for the whole object.
    pub field: String,
    /// What is there.
    pub found: String,
    /// What was expected.
    pub expected: String,
    pub consequence: Consequence,
    /// File and line, for manifests.
    pub place: Option<Place>,
}

/// A place in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    pub file: String,
    /// Counted from 1.
    pub line: u64,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(formatter, "{}:{}: ", place.file, place.line)?;
        }
        if let Some(object) = &self.object {
            write!(formatter, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(formatter, "{}: ", self.field)?;
        }
        write!(formatter, "found {}, expected {}", self.found, self.expected)
    }
}
