//! Does a run show every scenario, with packets of its families?

use std::collections::{BTreeMap, BTreeSet};

use super::list::{Families, Family, List, Scenario, version};
use super::named::Named;

/// A run of the tests, as far as scenarios are concerned.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Tests that passed, `program icmp::...`, with what they sent.
    pub(super) passed: BTreeMap<String, Sent>,
    /// Tests that failed.
    pub(super) failed: BTreeSet<String>,
    /// Kernel, as it tells its version.
    pub(super) kernel: String,
}

/// What a test sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) families: BTreeSet<Family>,
    /// Any frame at all.
    pub(super) anything: bool,
}

/// Returns what list and source say that does not fit together, with the cure. No run is needed.
pub(super) fn of_source(list: &List, named: &[Named]) -> Vec<String> {
    let mut findings = Vec::new();
    let of = |number: u8| named.iter().filter(move |test| test.scenarios.contains(&number));
    for scenario in list.scenarios() {
        let number = scenario.number;
        match (&scenario.later, of(number).next()) {
            (None, None) => findings.push(format!(
                "scenario {number} has no test: write one whose name begins with `scenario_{number:02}_` ({})",
                scenario.must
            )),
            (Some(_), Some(test)) => findings.push(format!(
                "scenario {number} is left for later, and `{}` names it: remove `later` from the scenario",
                test.name
            )),
            _ => {}
        }
    }
    for test in named {
        for number in &test.scenarios {
            if !list.scenarios().any(|scenario| scenario.number == *number) {
                findings.push(format!(
                    "`{}` names scenario {number}, which does not exist: name another, or add it to the list",
                    test.name
                ));
            }
        }
    }
    for exception in &list.exceptions {
        if !named.iter().any(|test| test.name == exception.test) {
            findings.push(format!(
                "there is no test `{}`: remove the exception or give it the test's new name",
                exception.test
            ));
        }
    }
    findings
}

/// Returns what a run of all tests does not show, with the cure. A run of some tests is held only against what those
/// should have sent.
pub(super) fn of_run(list: &List, named: &[Named], run: &Run, whole: bool) -> Vec<String> {
    let mut findings = Vec::new();
    for test in named {
        let asked = asked_of(list, test, &run.kernel);
        let Some(sent) = run.passed.get(&test.name) else {
            // The runner has told who failed.
            if whole && !asked.is_empty() && !run.failed.contains(&test.name) {
                findings.push(format!(
                    "`{}` did not run: whatever leaves it out (`#[ignore]`, a filter, `cfg`) has to go",
                    test.name
                ));
            }
            continue;
        };
        let excepted = list
            .exceptions
            .iter()
            .find(|exception| exception.test == test.name);
        let mut missing: BTreeMap<Family, Vec<u8>> = BTreeMap::new();
        for scenario in &asked {
            let families = excepted.map_or(scenario.families, |exception| exception.families);
            for family in families
                .each()
                .iter()
                .filter(|family| !sent.families.contains(family))
            {
                missing.entry(*family).or_default().push(scenario.number);
            }
            if families == Families::None && !sent.anything {
                findings.push(format!(
                    "scenario {}: `{}` sent no packet: name it otherwise",
                    scenario.number, test.name
                ));
            }
        }
        for (family, numbers) in missing {
            findings.push(format!(
                "scenario {}: `{}` sent no {} packet: let it send one, or give it an `[[exception]]` with the reason \
                 and let another test of the scenario do it",
                shown(&numbers),
                test.name,
                family.name()
            ));
        }
    }
    if whole {
        findings.extend(
            list.scenarios()
                .filter_map(|scenario| unshown(scenario, named, run)),
        );
    }
    findings
}

/// Returns the scenarios that a test has to show on a kernel.
fn asked_of<'list>(list: &'list List, test: &Named, kernel: &str) -> Vec<&'list Scenario> {
    list.scenarios()
        .filter(|scenario| test.scenarios.contains(&scenario.number) && is_possible(scenario, kernel))
        .collect()
}

/// Returns whether a kernel can do what a scenario asks for.
pub(super) fn is_possible(scenario: &Scenario, kernel: &str) -> bool {
    let wanted = scenario.kernel.as_ref().and_then(|kernel| version(&kernel.from));
    wanted.is_none_or(|wanted| version(kernel) >= Some(wanted))
}

/// Returns the families of a scenario of which no test that passed sent a packet: exceptions of its tests change
/// nothing about that.
fn unshown(scenario: &Scenario, named: &[Named], run: &Run) -> Option<String> {
    let number = scenario.number;
    if scenario.later.is_some() || !is_possible(scenario, &run.kernel) {
        return None;
    }
    let passed: Vec<&Sent> = named
        .iter()
        .filter(|test| test.scenarios.contains(&number))
        .filter_map(|test| run.passed.get(&test.name))
        .collect();
    if passed.is_empty() {
        return Some(format!(
            "scenario {number}: no test of it passed ({})",
            scenario.must
        ));
    }
    let missing: Vec<&str> = scenario
        .families
        .each()
        .iter()
        .filter(|family| !passed.iter().any(|sent| sent.families.contains(family)))
        .map(|family| family.name())
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "scenario {number}: none of its tests sent a packet of {}: write one that does",
            missing.join(" and ")
        )
    })
}

fn shown(numbers: &[u8]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u8::to_string).collect();
    numbers.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"
        [[group]]
        title = "x"
        scenario = [
            { number = 1, must = "one", families = "both" },
            { number = 2, must = "two", families = "ipv6" },
            { number = 3, must = "three", families = "none" },
            { number = 4, must = "four", families = "both", later = "not now" },
            { number = 5, must = "five", families = "ipv4", kernel = { from = "6.6", what = "w" } },
        ]
    "#;

    const NAMES: &[&str] = &[
        "scenario_01_a",
        "scenario_01_and_02_b",
        "scenario_03_c",
        "scenario_05_d",
    ];

    fn list() -> List {
        List::parse(LIST).expect("a list")
    }

    fn named(names: &[&str]) -> Vec<Named> {
        let test = |name: &&str| Named::of("program", &format!("m::{name}")).expect("a scenario");
        names.iter().map(test).collect()
    }

    /// Each test with the families that it sent.
    fn run(tests: &[(&str, &[Family])]) -> Run {
        let passed = tests.iter().map(|(name, families)| {
            let sent = Sent {
                families: families.iter().copied().collect(),
                anything: true,
            };
            (format!("program m::{name}"), sent)
        });
        Run {
            passed: passed.collect(),
            kernel: "6.18.1".to_owned(),
            ..Run::default()
        }
    }

    const BOTH: &[Family] = &[Family::Ipv4, Family::Ipv6];

    fn good() -> Run {
        run(&[
            ("scenario_01_a", BOTH),
            ("scenario_01_and_02_b", BOTH),
            ("scenario_03_c", &[]),
            ("scenario_05_d", &[Family::Ipv4]),
        ])
    }

    #[track_caller]
    fn expect_one(findings: &[String], words: &[&str]) {
        assert_eq!(findings.len(), 1, "{findings:?}");
        for word in words {
            assert!(findings[0].contains(word), "{word}: {findings:?}");
        }
    }

    #[test]
    fn a_run_that_shows_everything_has_no_findings() {
        assert_eq!(of_source(&list(), &named(NAMES)), [""; 0]);
        assert_eq!(of_run(&list(), &named(NAMES), &good(), true), [""; 0]);
    }

    #[test]
    fn a_scenario_without_a_test_is_found() {
        let without = named(&NAMES[..2]);
        let findings = of_source(&list(), &without);
        assert_eq!(findings.len(), 2);
        expect_one(
            &findings[..1],
            &["scenario 3 has no test", "`scenario_03_`", "three"],
        );
        assert_eq!(of_run(&list(), &without, &good(), true).len(), 2);
    }

    #[test]
    fn a_test_that_sent_no_packet_of_a_family_is_found() {
        let mut run = good();
        let sent = run.passed.get_mut("program m::scenario_01_a").expect("it passed");
        sent.families.remove(&Family::Ipv6);
        for whole in [true, false] {
            expect_one(
                &of_run(&list(), &named(NAMES), &run, whole),
                &[
                    "scenario 1",
                    "`program m::scenario_01_a`",
                    "no IPv6 packet",
                    "let it send one",
                ],
            );
        }
        // The family is missing once, for both of its scenarios.
        let sent = run
            .passed
            .get_mut("program m::scenario_01_and_02_b")
            .expect("it passed");
        sent.families.clear();
        let findings = of_run(&list(), &named(NAMES), &run, false);
        assert!(
            findings.iter().any(|text| text.starts_with("scenario 1 and 2: ")),
            "{findings:?}"
        );
    }

    #[test]
    fn a_test_that_sent_nothing_shows_nothing() {
        let mut run = good();
        run.passed
            .insert("program m::scenario_03_c".to_owned(), Sent::default());
        expect_one(
            &of_run(&list(), &named(NAMES), &run, true),
            &["scenario 3", "sent no packet"],
        );
    }

    #[test]
    fn an_exception_excuses_a_test_and_not_its_scenario() {
        let mut list = list();
        let exception = |test: &str, families| super::super::list::Exception {
            test: format!("program m::{test}"),
            families,
            why: "w".to_owned(),
        };
        list.exceptions = vec![exception("scenario_01_a", Families::Ipv4)];
        let mut run = good();
        let four = BTreeSet::from([Family::Ipv4]);
        run.passed
            .get_mut("program m::scenario_01_a")
            .expect("it passed")
            .families = four.clone();
        assert_eq!(of_run(&list, &named(NAMES), &run, true), [""; 0]);
        list.exceptions
            .push(exception("scenario_01_and_02_b", Families::Ipv4));
        run.passed
            .get_mut("program m::scenario_01_and_02_b")
            .expect("it passed")
            .families = four;
        let findings = of_run(&list, &named(NAMES), &run, true);
        assert_eq!(findings.len(), 2, "{findings:?}");
        expect_one(&findings[..1], &["scenario 1: none", "IPv6"]);
        list.exceptions
            .push(exception("scenario_01_gone", Families::Ipv4));
        expect_one(
            &of_source(&list, &named(NAMES)),
            &["no test `program m::scenario_01_gone`"],
        );
    }

    #[test]
    fn a_test_that_did_not_run_is_found_in_a_whole_run_only() {
        let mut run = good();
        run.passed.remove("program m::scenario_01_a");
        expect_one(
            &of_run(&list(), &named(NAMES), &run, true),
            &["did not run", "#[ignore]"],
        );
        assert_eq!(of_run(&list(), &named(NAMES), &run, false), [""; 0]);
        // The runner tells by itself who failed; a scenario without any test that passed is told here.
        run.failed.insert("program m::scenario_01_a".to_owned());
        assert_eq!(of_run(&list(), &named(NAMES), &run, true), [""; 0]);
        run.passed.remove("program m::scenario_03_c");
        run.failed.insert("program m::scenario_03_c".to_owned());
        expect_one(
            &of_run(&list(), &named(NAMES), &run, true),
            &["scenario 3: no test of it passed"],
        );
    }

    #[test]
    fn what_is_left_for_later_has_no_test_and_numbers_exist() {
        let mut names = NAMES.to_vec();
        names.extend(["scenario_04_e", "scenario_77_f"]);
        let findings = of_source(&list(), &named(&names));
        assert_eq!(findings.len(), 2, "{findings:?}");
        expect_one(
            &findings[..1],
            &["scenario 4 is left for later", "remove `later`"],
        );
        expect_one(&findings[1..], &["scenario 77", "does not exist"]);
    }

    #[test]
    fn what_the_kernel_cannot_do_is_not_asked_for() {
        let mut run = good();
        run.passed.remove("program m::scenario_05_d");
        assert_eq!(of_run(&list(), &named(NAMES), &run, true).len(), 2);
        run.kernel = "6.1.0-17-amd64".to_owned();
        assert_eq!(of_run(&list(), &named(NAMES), &run, true), [""; 0]);
    }
}
