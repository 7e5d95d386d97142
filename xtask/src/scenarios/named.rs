//! Tests whose names say a scenario, as the source has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::workspace;

/// The rings whose tests send packets, as folders of `tests/tests`.
const RINGS: &[&str] = &["program", "host"];

/// A test and its scenarios.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    /// `program icmp::scenario_64_and_65_...`.
    pub(super) name: String,
    pub(super) scenarios: BTreeSet<u8>,
}

impl Named {
    /// Returns a test of a name that says scenarios.
    pub(super) fn of(ring: &str, path: &str) -> Option<Self> {
        let (_, function) = path.rsplit_once("::").unwrap_or(("", path));
        let scenarios = scenarios(function)?;
        Some(Self {
            name: format!("{ring} {path}"),
            scenarios,
        })
    }
}

/// Returns the tests of the source, in alphabetical order.
///
/// # Errors
/// A folder or file cannot be read.
pub(super) fn in_source() -> Result<Vec<Named>> {
    let mut tests = Vec::new();
    for ring in RINGS {
        let folder = workspace::root().join("tests/tests").join(ring);
        walk(&folder, ring, &mut Vec::new(), &mut tests)?;
    }
    tests.sort();
    Ok(tests)
}

fn walk(folder: &Path, ring: &str, modules: &mut Vec<String>, tests: &mut Vec<Named>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            modules.push(stem);
            walk(&path, ring, modules, tests)?;
            modules.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let is_its_folders = ["main", "mod"].contains(&stem.as_str());
            let file = (!is_its_folders).then_some(stem);
            let module: Vec<&str> = modules.iter().chain(&file).map(String::as_str).collect();
            let path = |function| [&module[..], &[function]].concat().join("::");
            tests.extend(functions(&text).filter_map(|function| Named::of(ring, &path(function))));
        }
    }
    Ok(())
}

/// Returns the names of the functions of a file; rustfmt puts each at the beginning of a line.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("fn ")?.split_once('('));
    names.map(|(name, _)| name)
}

/// Reads `scenario_64_and_65_what_happens`.
fn scenarios(function: &str) -> Option<BTreeSet<u8>> {
    let mut rest = function.strip_prefix("scenario_")?;
    let mut numbers = BTreeSet::new();
    loop {
        let (number, after) = rest.split_at_checked(2)?;
        numbers.insert(number.parse().ok()?);
        match after.strip_prefix("_and_") {
            Some(next) if next.starts_with(|first: char| first.is_ascii_digit()) => rest = next,
            _ => return after.starts_with('_').then_some(numbers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_one_scenario_or_several() {
        let of = |name| scenarios(name).map(|numbers| numbers.into_iter().collect::<Vec<_>>());
        assert_eq!(of("scenario_07_a_tag_is_dropped"), Some(vec![7]));
        assert_eq!(of("scenario_64_and_65_cut"), Some(vec![64, 65]));
        assert_eq!(of("scenario_64_and_nothing"), Some(vec![64]));
        for other in [
            "scenario_7_x",
            "scenario_",
            "scenario_é",
            "scenario_07",
            "s07_x",
            "a_scenario_07_x",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn tests_of_the_source_have_the_names_that_the_runner_gives_them() {
        let text = "#[test]\nfn scenario_01_x() {\n    fn scenario_02_inner() {}\n}\n\nfn other() {}\n";
        assert_eq!(functions(text).collect::<Vec<_>>(), ["scenario_01_x", "other"]);
        let source = in_source().expect("the workspace's tests");
        let parsing = source
            .iter()
            .find(|test| test.name.starts_with("program parsing::scenario_01_"));
        assert_eq!(parsing.expect("it is there").scenarios, BTreeSet::from([1]));
    }
}
