//! `tests/scenarios.toml`: what must happen, and for which packets that has to be shown.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::workspace;

/// From the workspace's root.
pub(super) const FILE: &str = "tests/scenarios.toml";

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    #[serde(rename = "group")]
    pub(super) groups: Vec<Group>,
    #[serde(rename = "exception", default)]
    pub(super) exceptions: Vec<Exception>,
}

/// Scenarios about one thing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) title: String,
    #[serde(rename = "scenario")]
    pub(super) scenarios: Vec<Scenario>,
}

/// Something that must happen to packets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    pub(super) number: u8,
    pub(super) must: String,
    pub(super) families: Families,
    /// Why it is left for later.
    pub(super) later: Option<String>,
    /// What of it is left for later.
    pub(super) partly: Option<String>,
    pub(super) kernel: Option<Kernel>,
}

/// What a scenario needs of the kernel beyond what everything needs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kernel {
    /// `6.2`.
    pub(super) from: String,
    pub(super) what: String,
}

/// A test that has packets of fewer families than its scenarios.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exception {
    /// `program icmp::scenario_64_and_65_...`.
    pub(super) test: String,
    pub(super) families: Families,
    pub(super) why: String,
}

/// The packets that have to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Families {
    Both,
    Ipv4,
    Ipv6,
    /// Any frame will do.
    None,
}

/// A family of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

impl Families {
    /// Returns each family that is asked for.
    pub(super) fn each(self) -> &'static [Family] {
        match self {
            Self::Both => &[Family::Ipv4, Family::Ipv6],
            Self::Ipv4 => &[Family::Ipv4],
            Self::Ipv6 => &[Family::Ipv6],
            Self::None => &[],
        }
    }

    /// Returns the words of the table.
    pub(super) fn shown(self) -> &'static str {
        match self {
            Self::Both => "IPv4, IPv6",
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::None => "",
        }
    }
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}

impl List {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or is not as it has to be.
    pub(super) fn read() -> Result<Self> {
        let text = fs::read_to_string(workspace::root().join(FILE)).context(FILE)?;
        Self::parse(&text).context(FILE)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let list: Self = toml_edit::de::from_str(text)?;
        let mut numbers = BTreeSet::new();
        for scenario in list.scenarios() {
            let number = scenario.number;
            ensure!(numbers.insert(number), "scenario {number} is there twice");
            if scenario.later.is_some() && (scenario.partly.is_some() || scenario.kernel.is_some()) {
                bail!("scenario {number} is left for later as a whole: `partly` and `kernel` say nothing");
            }
            if let Some(kernel) = &scenario.kernel {
                version(&kernel.from)
                    .with_context(|| format!("scenario {number}: kernel {:?}", kernel.from))?;
            }
        }
        Ok(list)
    }

    pub(super) fn scenarios(&self) -> impl Iterator<Item = &Scenario> {
        self.groups.iter().flat_map(|group| &group.scenarios)
    }
}

/// Reads `6.2`, `6.18.44-x`: major and minor.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-']).map(str::parse);
    match (parts.next()?, parts.next()?) {
        (Ok(major), Ok(minor)) => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(scenarios: &str) -> Result<List> {
        List::parse(&format!("[[group]]\ntitle = \"x\"\nscenario = [{scenarios}]"))
    }

    #[test]
    fn a_number_is_used_once_and_what_is_left_for_later_is_left_as_a_whole() {
        let one = r#"{ number = 1, must = "m", families = "both" }"#;
        assert_eq!(of(one).expect("a list").scenarios().count(), 1);
        assert!(of(&format!("{one}, {one}")).is_err());
        assert!(of(r#"{ number = 1, must = "m", families = "both", later = "l", partly = "p" }"#).is_err());
        assert!(of(r#"{ number = 1, must = "m", families = "ipv5" }"#).is_err());
        let kernel = |from: &str| {
            of(&format!(
                r#"{{ number = 1, must = "m", families = "none", kernel = {{ from = "{from}", what = "w" }} }}"#
            ))
        };
        assert!(kernel("6.2").is_ok());
        assert!(kernel("six").is_err());
    }

    #[test]
    fn versions_are_read_as_kernels_tell_them() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("6.2"), Some((6, 2)));
        assert_eq!(version("6"), None);
        assert!(version("6.18") > version("6.2"));
    }
}
