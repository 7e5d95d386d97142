//! What holds for any text of a manifest: for random tests and fuzzing.

use std::path::Path;

use super::manifest::Manifest;
use crate::model::problem::{Place, Problem};

/// Checks a text as a YAML and as a JSON manifest: every object and problem has a line in it, and what is in force
/// outlives a syntax error.
///
/// # Panics
///
/// When something else is true.
pub fn check(text: &str) {
    let yaml = check_manifest("a.yaml", text);
    check_manifest("a.json", text);
    if yaml.faults.is_empty() {
        let broken = Manifest::parse(Path::new("a.yaml"), &format!("{text}\n---\n}}\n"));
        assert!(!broken.faults.is_empty(), "a lone brace is no YAML");
        assert_eq!(broken.after(&yaml).objects, yaml.objects);
    }
}

fn check_manifest(name: &str, text: &str) -> Manifest {
    let path = Path::new(name);
    let manifest = Manifest::parse(path, text);
    let lines = u64::try_from(text.matches(['\n', '\r']).count()).unwrap_or(u64::MAX) + 1;
    let check_place = |place: &Place| {
        assert_eq!(place.file, name);
        assert!(
            (1..=lines).contains(&place.line),
            "line {} of {lines}",
            place.line
        );
    };
    for object in &manifest.objects {
        check_place(&object.place);
    }
    for problems in [&manifest.problems, &manifest.faults] {
        assert!(problems.len() <= super::manifest::MAX_PROBLEMS + 1);
        for problem in problems {
            check_place(problem.place.as_ref().expect("a problem has a place"));
            check_message(problem);
        }
    }
    assert_eq!(manifest.clone().after(&manifest).objects, manifest.objects);
    manifest
}

fn check_message(problem: &Problem) {
    let message = problem.to_string();
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(message.len() < 8192, "{message}");
    assert!(
        !problem.found.is_empty() && !problem.expected.is_empty(),
        "{message}"
    );
}
