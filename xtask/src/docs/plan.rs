//! Reads the cases of the test plan out of its page: the page is what people agree on.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Begins the cell that says why a person has to run a case.
const BY_HAND: &str = "By hand: ";

/// A case of the test plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// Its heading.
    pub(super) id: String,
    /// What shows in a run that it holds; all of it is needed.
    pub(super) evidence: Vec<Evidence>,
    /// Why (a part of) it cannot be run without a person.
    pub(super) by_hand: Option<String>,
}

/// Cases of automatic runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Name of the report.
    pub(super) run: String,
    /// Name of the case in it; `*`: every case of the run, and a `*` at the end: every case that begins so.
    pub(super) case: String,
}

/// Reads the page.
///
/// # Errors
/// The page cannot be read, or a case has no row "Evidence".
pub(super) fn read(page: &Path) -> Result<Vec<Case>> {
    let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    parse(&text).with_context(|| page.display().to_string())
}

fn parse(text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    let mut heading = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            if let Some(id) = heading.replace(title.trim()) {
                bail!("{id} has no row \"Evidence\"");
            }
        } else if let Some(cell) = line.strip_prefix("| **Evidence** |") {
            let id = heading
                .take()
                .with_context(|| format!("a row without a case: {line}"))?;
            let (evidence, by_hand) = evidence(cell.trim().trim_end_matches('|').trim());
            ensure!(
                !evidence.is_empty() || by_hand.is_some(),
                "{id}: expected `run` `case`; ... or \"{BY_HAND}why\", not \"{cell}\""
            );
            cases.push(Case {
                id: id.to_owned(),
                evidence,
                by_hand,
            });
        }
    }
    if let Some(id) = heading {
        bail!("{id} has no row \"Evidence\"");
    }
    Ok(cases)
}

/// Reads `` `run` `case`; `run` `case`; By hand: why ``.
fn evidence(cell: &str) -> (Vec<Evidence>, Option<String>) {
    let (automatic, by_hand) = match cell.split_once(BY_HAND) {
        Some((automatic, why)) => (automatic, Some(why.trim().to_owned())),
        None => (cell, None),
    };
    let mut evidence = Vec::new();
    for item in automatic.split(';') {
        let mut quoted = item.split('`').skip(1).step_by(2);
        if let (Some(run), Some(case)) = (quoted.next(), quoted.next()) {
            evidence.push(Evidence {
                run: run.to_owned(),
                case: case.to_owned(),
            });
        }
    }
    (evidence, by_hand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read_with_what_shows_them() {
        let text = "# Plan\n\n### one\n\n| | |\n|---|---|\n| **Steps** | do |\n\
                    | **Evidence** | `tests` `a::host x::y`; `package` `*` |\n\n### two\n\n\
                    | **Evidence** | `tests` `b`; By hand: needs a Fuel master |\n";
        let cases = parse(text).expect("a plan");
        let ids: Vec<_> = cases.iter().map(|case| case.id.as_str()).collect();
        assert_eq!(ids, ["one", "two"]);
        assert_eq!(cases[0].evidence[1].run, "package");
        assert_eq!(cases[0].evidence[0].case, "a::host x::y");
        assert_eq!(cases[1].evidence.len(), 1);
        assert_eq!(cases[1].by_hand.as_deref(), Some("needs a Fuel master"));
    }

    #[test]
    fn a_case_that_nothing_shows_is_refused() {
        for text in [
            "### one\n",
            "### one\n### two\n",
            "### one\n| **Evidence** | perhaps |\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
