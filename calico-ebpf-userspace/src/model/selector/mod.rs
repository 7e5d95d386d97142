//! Label selectors (contract 4.1).

mod display;
mod parse;
#[cfg(any(test, feature = "test-generators"))]
pub mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

pub use self::parse::SelectorError;
use super::labels::{Labels, NAMESPACE_LABEL, NAMESPACE_LABEL_PREFIX, SERVICE_ACCOUNT_LABEL_PREFIX};

/// A parsed selector, cheap to clone. Its `Display` is canonical text: equal structure, equal text, and parsing
/// that text gives an equal selector again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    root: Arc<Expression>,
}

/// What a selector says. Label keys and values are kept as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expression {
    /// `all()`, and the empty selector.
    All,
    /// `global()`: holds always; only a namespace selector gives it a meaning of its own.
    Global,
    /// `has(label)`: presence, whatever the value.
    Has(String),
    Equal(String, String),
    /// Holds for a missing label, too.
    NotEqual(String, String),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    In(String, BTreeSet<String>),
    /// Holds for a missing label, too.
    NotIn(String, BTreeSet<String>),
    /// Never directly around another `Not`.
    Not(Box<Expression>),
    /// Two or more; none of them is an `And`.
    And(Vec<Expression>),
    /// Two or more; none of them is an `Or`.
    Or(Vec<Expression>),
}

impl Selector {
    /// Parses the whole selector language.
    ///
    /// # Errors
    ///
    /// Tells the column, what is there and what was expected; also when parentheses nest deeper than 64.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::parse_selector(text).map(Self::from)
    }

    /// Returns the selector of everything.
    pub fn all() -> Self {
        Expression::All.into()
    }

    /// Returns `has(label)`.
    pub fn has(label: impl Into<String>) -> Self {
        Expression::Has(label.into()).into()
    }

    /// Returns `label == "value"`. The text form needs a value without either `"` or `'`.
    pub fn equals(label: impl Into<String>, value: impl Into<String>) -> Self {
        Expression::Equal(label.into(), value.into()).into()
    }

    /// Returns `label in {values}`. The text form needs values without either `"` or `'`.
    pub fn is_in(label: impl Into<String>, values: impl IntoIterator<Item = String>) -> Self {
        Expression::In(label.into(), values.into_iter().collect()).into()
    }

    /// Returns the selector of what both select.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (self.expression(), other.expression()) {
            (Expression::All, _) => other.clone(),
            (_, Expression::All) => self.clone(),
            (left, right) => Expression::and(vec![left.clone(), right.clone()]).into(),
        }
    }

    /// Returns the selector of what this one does not select.
    #[must_use]
    pub fn negated(&self) -> Self {
        Expression::negated(self.expression().clone()).into()
    }

    /// Returns a policy's selector as it holds within a namespace: it and the namespace label (contract 4.2).
    #[must_use]
    pub fn within_namespace(&self, namespace: &str) -> Self {
        self.and(&Self::equals(NAMESPACE_LABEL, namespace))
    }

    /// Returns a namespace selector as a selector of endpoints and sets: labels prefixed `pcns.`, `all()` is anything
    /// in a namespace and `global()` anything in none (contract 4.2).
    #[must_use]
    pub fn of_namespaces(&self) -> Self {
        let anywhere = Expression::Has(NAMESPACE_LABEL.to_owned());
        let prefixed = self.expression().map_leaves(&|leaf| {
            if *leaf == Expression::All {
                anywhere.clone()
            } else if *leaf == Expression::Global {
                Expression::negated(anywhere.clone())
            } else {
                leaf.with_label_prefix(NAMESPACE_LABEL_PREFIX)
            }
        });
        prefixed.into()
    }

    /// Returns a service account selector as a selector of endpoints: labels prefixed `pcsa.` (contract 4.2).
    #[must_use]
    pub fn of_service_accounts(&self) -> Self {
        self.expression()
            .map_leaves(&|leaf| leaf.with_label_prefix(SERVICE_ACCOUNT_LABEL_PREFIX))
            .into()
    }

    /// Returns whether something with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.root.matches(labels)
    }

    /// Returns the structure, for indexes over selectors.
    pub fn expression(&self) -> &Expression {
        &self.root
    }
}

impl From<Expression> for Selector {
    fn from(root: Expression) -> Self {
        Self { root: Arc::new(root) }
    }
}

impl Expression {
    /// Returns the conjunction, flattened. `parts` has at least one element.
    fn and(parts: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            if let Self::And(inner) = part {
                flat.extend(inner);
            } else {
                flat.push(part);
            }
        }
        if flat.len() == 1 {
            flat.swap_remove(0)
        } else {
            Self::And(flat)
        }
    }

    /// Returns the disjunction, flattened. `parts` has at least one element.
    fn or(parts: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            if let Self::Or(inner) = part {
                flat.extend(inner);
            } else {
                flat.push(part);
            }
        }
        if flat.len() == 1 {
            flat.swap_remove(0)
        } else {
            Self::Or(flat)
        }
    }

    fn negated(inner: Self) -> Self {
        if let Self::Not(twice) = inner {
            *twice
        } else {
            Self::Not(Box::new(inner))
        }
    }

    fn matches(&self, labels: &Labels) -> bool {
        let holds = |label: &String, test: &dyn Fn(&String) -> bool| labels.get(label).is_some_and(test);
        match self {
            Self::All | Self::Global => true,
            Self::Has(label) => labels.contains_key(label),
            Self::Equal(label, value) => holds(label, &|there| there == value),
            Self::NotEqual(label, value) => !holds(label, &|there| there == value),
            Self::Contains(label, value) => holds(label, &|there| there.contains(value.as_str())),
            Self::StartsWith(label, value) => holds(label, &|there| there.starts_with(value.as_str())),
            Self::EndsWith(label, value) => holds(label, &|there| there.ends_with(value.as_str())),
            Self::In(label, values) => holds(label, &|there| values.contains(there)),
            Self::NotIn(label, values) => !holds(label, &|there| values.contains(there)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(labels)),
        }
    }

    /// Returns the same structure with every leaf replaced, normal form restored.
    fn map_leaves(&self, change: &impl Fn(&Self) -> Self) -> Self {
        match self {
            Self::Not(inner) => Self::negated(inner.map_leaves(change)),
            Self::And(parts) => Self::and(parts.iter().map(|part| part.map_leaves(change)).collect()),
            Self::Or(parts) => Self::or(parts.iter().map(|part| part.map_leaves(change)).collect()),
            Self::All
            | Self::Global
            | Self::Has(_)
            | Self::Equal(..)
            | Self::NotEqual(..)
            | Self::Contains(..)
            | Self::StartsWith(..)
            | Self::EndsWith(..)
            | Self::In(..)
            | Self::NotIn(..) => change(self),
        }
    }

    /// Returns a leaf with `prefix` before its label; anything else as it is.
    fn with_label_prefix(&self, prefix: &str) -> Self {
        let mut changed = self.clone();
        match &mut changed {
            Self::Has(label)
            | Self::Equal(label, _)
            | Self::NotEqual(label, _)
            | Self::Contains(label, _)
            | Self::StartsWith(label, _)
            | Self::EndsWith(label, _)
            | Self::In(label, _)
            | Self::NotIn(label, _) => label.insert_str(0, prefix),
            Self::All | Self::Global | Self::Not(_) | Self::And(_) | Self::Or(_) => {}
        }
        changed
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(formatter)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
