//! Label selectors (contract 4.1).

use std::fmt;

use serde::{Serialize, Serializer};

use super::labels::Labels;

/// A parsed selector. Its `Display` is canonical text: equal meaning by structure, equal text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    text: String,
}

impl Selector {
    /// Returns whether something with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        let _ = labels;
        false
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
