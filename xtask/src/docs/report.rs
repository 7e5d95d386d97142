//! The test report: the last runs, and what they say about each case of the test plan.

use std::fmt::Write as _;

use super::plan::{Case, Evidence};
use crate::test_report::{Reason, TestReport};

/// Runs that exist, by the name of their report, and what starts them: one that left nothing is told as not run.
const RUNS: &[(&str, &str)] = &[
    ("tests", "cargo xtask test"),
    ("package", "cargo xtask package check"),
    ("fuel-plugin-check", "cargo xtask fuel-plugin check"),
    ("fuel-plugin-build", "cargo xtask fuel-plugin build"),
    ("fuel-plugin", "cargo xtask test fuel-plugin"),
    ("fuel-kernel", "cargo xtask test fuel-kernel"),
    ("hostile", "cargo xtask test hostile"),
];

/// What the last runs say about a case of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed(String),
    NotRun(String),
}

/// Returns the page in Markdown.
pub(super) fn page(plan: &[Case], runs: &[TestReport]) -> String {
    let verdicts: Vec<(&Case, Verdict)> = plan.iter().map(|case| (case, judge(case, runs))).collect();
    let count = |wanted: fn(&Verdict) -> bool| verdicts.iter().filter(|(_, verdict)| wanted(verdict)).count();
    let mut page = String::from(
        "# Test report\n\nMade by `cargo xtask docs` from what the last run of each kind of test left. \
         A case counts as passed when everything that the [test plan](test-plan.md) names as its evidence passed.\n\n",
    );
    push(
        &mut page,
        format_args!("## Cases of the test plan\n\n| passed | failed | not run | all |\n|---|---|---|---|\n"),
    );
    push(
        &mut page,
        format_args!(
            "| {} | {} | {} | {} |\n\n| case | result | |\n|---|---|---|\n",
            count(|verdict| *verdict == Verdict::Passed),
            count(|verdict| matches!(verdict, Verdict::Failed(_))),
            count(|verdict| matches!(verdict, Verdict::NotRun(_))),
            plan.len()
        ),
    );
    for (case, verdict) in &verdicts {
        let (result, why) = match verdict {
            Verdict::Passed => (
                "passed",
                case.by_hand.as_deref().map_or_else(String::new, not_by_hand),
            ),
            Verdict::Failed(why) => ("**failed**", why.clone()),
            Verdict::NotRun(why) => ("not run", why.clone()),
        };
        push(
            &mut page,
            format_args!("| `{}` | {result} | {} |\n", case.id, cell(&why)),
        );
    }
    page += "\n## Runs\n\n| run | started (UTC) | seconds | passed | failed | skipped |\n|---|---|---|---|---|---|\n";
    for run in runs {
        push(
            &mut page,
            format_args!(
                "| `{}` | {} | {} | {} | {} | {} |\n",
                run.name,
                run.started,
                run.seconds,
                run.passed.len(),
                run.failed.len(),
                run.skipped.len()
            ),
        );
    }
    for (name, command) in RUNS {
        if !runs.iter().any(|run| run.name == *name) {
            push(
                &mut page,
                format_args!("| `{name}` | not run: `{command}` | | | | |\n"),
            );
        }
    }
    for run in runs {
        put_run(&mut page, run);
    }
    page
}

fn not_by_hand(why: &str) -> String {
    format!("the automatic part; by hand, not done: {why}")
}

/// Puts versions, failures and what was not run.
fn put_run(page: &mut String, run: &TestReport) {
    push(
        page,
        format_args!("\n### Run {}\n\n| | version |\n|---|---|\n", run.name),
    );
    for (of, version) in &run.versions {
        push(page, format_args!("| {} | {} |\n", cell(of), cell(version)));
    }
    for (title, reasons) in [("Failed", &run.failed), ("Not run, and why", &run.skipped)] {
        if !reasons.is_empty() {
            push(page, format_args!("\n{title}:\n\n"));
            for Reason { case, why } in reasons {
                push(page, format_args!("- `{case}`: {}\n", cell(why)));
            }
        }
    }
}

fn judge(case: &Case, runs: &[TestReport]) -> Verdict {
    let mut missing = None;
    for evidence in &case.evidence {
        match judge_evidence(evidence, runs) {
            Verdict::Passed => {}
            Verdict::NotRun(why) => missing = missing.or(Some(why)),
            failed @ Verdict::Failed(_) => return failed,
        }
    }
    match (missing, &case.by_hand) {
        (Some(why), _) => Verdict::NotRun(why),
        (None, Some(why)) if case.evidence.is_empty() => Verdict::NotRun(why.clone()),
        (None, _) => Verdict::Passed,
    }
}

fn judge_evidence(evidence: &Evidence, runs: &[TestReport]) -> Verdict {
    let Evidence { run: name, case } = evidence;
    // Rings that were run one by one count for the whole.
    let of_that_name =
        |run: &&TestReport| run.name == *name || run.name.starts_with(&format!("{name}-")) && name == "tests";
    let mut found = false;
    for run in runs.iter().filter(of_that_name) {
        if let Some(failed) = run.failed.iter().find(|failed| matches(&failed.case, case)) {
            return Verdict::Failed(format!("{name}, {}: {}", failed.case, failed.why));
        }
        found |= run.passed.iter().any(|passed| matches(passed, case));
    }
    if found {
        return Verdict::Passed;
    }
    let mut skipped = runs.iter().filter(of_that_name).flat_map(|run| &run.skipped);
    if let Some(skipped) = skipped.find(|skipped| matches(&skipped.case, case)) {
        return Verdict::NotRun(skipped.why.clone());
    }
    if !runs.iter().any(|run| of_that_name(&run)) {
        return Verdict::NotRun(format!("no run of `{name}`"));
    }
    Verdict::NotRun(format!("the last run of `{name}` has no result of \"{case}\""))
}

fn matches(case: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => case.starts_with(beginning),
        None => case == pattern,
    }
}

/// Returns text for a cell of a table.
fn cell(text: &str) -> String {
    let mut shown: String = text.chars().take(300).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
        .replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('*', "\\*")
}

fn push(page: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = page.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, passed: &[&str], failed: &[&str], skipped: &[&str]) -> TestReport {
        let mut report = TestReport::start(name);
        for case in passed {
            report.passed(case);
        }
        for case in failed {
            report.failed(case, "it | broke");
        }
        for case in skipped {
            report.skipped(case, "no way");
        }
        report
    }

    fn case(evidence: &[(&str, &str)], by_hand: Option<&str>) -> Case {
        let evidence = evidence.iter().map(|(run, case)| Evidence {
            run: (*run).to_owned(),
            case: (*case).to_owned(),
        });
        Case {
            id: "c".to_owned(),
            evidence: evidence.collect(),
            by_hand: by_hand.map(str::to_owned),
        }
    }

    #[test]
    fn a_case_passes_only_with_all_of_its_evidence() {
        let runs = [
            run("tests", &["a", "b"], &[], &["c"]),
            run("package", &["p1"], &["p2"], &[]),
        ];
        let judged = |evidence: &[(&str, &str)]| judge(&case(evidence, None), &runs);
        assert_eq!(judged(&[("tests", "a"), ("tests", "b")]), Verdict::Passed);
        assert_eq!(
            judged(&[("tests", "c"), ("tests", "a")]),
            Verdict::NotRun("no way".to_owned())
        );
        assert!(matches!(judged(&[("tests", "d")]), Verdict::NotRun(_)));
        assert!(matches!(
            judged(&[("tests", "d"), ("package", "*")]),
            Verdict::Failed(_)
        ));
        assert!(matches!(judged(&[("nothing", "*")]), Verdict::NotRun(_)));
    }

    #[test]
    fn what_only_a_person_can_run_is_not_run() {
        let by_hand = case(&[], Some("needs a Fuel master"));
        assert_eq!(
            judge(&by_hand, &[]),
            Verdict::NotRun("needs a Fuel master".to_owned())
        );
        let partly = case(&[("tests", "a")], Some("a real cloud"));
        assert_eq!(
            judge(&partly, &[run("tests-host", &["a"], &[], &[])]),
            Verdict::Passed
        );
        let page = page(&[partly], &[run("tests-host", &["a"], &[], &[])]);
        assert!(page.contains("by hand, not done: a real cloud"), "{page}");
    }

    #[test]
    fn failures_are_told_with_their_reason_and_missing_runs_by_name() {
        let page = page(
            &[case(&[("package", "p2")], None)],
            &[run("package", &[], &["p2"], &["s"])],
        );
        assert!(page.contains("| 0 | 1 | 0 | 1 |"), "{page}");
        assert!(page.contains(r"it \| broke"), "{page}");
        assert!(page.contains("not run: `cargo xtask test fuel-kernel`"), "{page}");
        assert!(page.contains("- `s`: no way"), "{page}");
    }
}
