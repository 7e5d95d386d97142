mod accepted;
mod limits;
mod matched;
mod random;
mod refused;

use self::accepted::ACCEPTED;
use self::matched::MATCHED;
use self::refused::REFUSED;
use super::*;

fn labels(text: &str) -> Labels {
    text.split(';')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn no_case_of_the_tables_is_missing_or_there_twice() {
    let distinct = |texts: &mut dyn Iterator<Item = &'static str>| texts.collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(&mut ACCEPTED.iter().map(|(text, _)| *text)), 41);
    assert_eq!(distinct(&mut REFUSED.iter().map(|(text, ..)| *text)), 156);
    assert_eq!(distinct(&mut MATCHED.iter().map(|(text, ..)| *text)), 152);
    assert_eq!(ACCEPTED.len() + REFUSED.len() + MATCHED.len(), 349);
}

#[test]
fn every_selector_of_the_table_matches_what_it_should() {
    for (text, selected, others) in MATCHED {
        let parsed = selector(text);
        for case in *selected {
            assert!(parsed.matches(&labels(case)), "{text} should match {case:?}");
        }
        for case in *others {
            assert!(!parsed.matches(&labels(case)), "{text} should not match {case:?}");
        }
    }
}

#[test]
fn every_selector_of_the_table_survives_its_canonical_text() {
    for (text, ..) in MATCHED {
        let parsed = selector(text);
        assert_eq!(selector(&parsed.to_string()), parsed, "{text} -> {parsed}");
    }
}

#[test]
fn every_bad_selector_is_refused_where_it_goes_wrong() {
    for (text, column, expected) in REFUSED {
        let error = Selector::parse(text).expect_err(text);
        assert_eq!(error.column, *column, "{text}: {error}");
        assert!(error.expected.contains(expected), "{text}: {error}");
    }
}

#[test]
fn an_error_reads_as_one_line() {
    let error = Selector::parse("role == web").unwrap_err();
    assert_eq!(
        error.to_string(),
        "column 9: found `web`, expected a string in quotes"
    );
    let error = Selector::parse("a == 'b' and something that goes on").unwrap_err();
    assert_eq!(error.found, "`and something that g...`");
    assert_eq!(Selector::parse("a == 'b'\nx").unwrap_err().found, "`\\nx`");
}

#[test]
fn canonical_text_has_one_spelling() {
    for (text, canonical) in ACCEPTED {
        assert_eq!(selector(text).to_string(), *canonical, "{text}");
        assert_eq!(selector(canonical), selector(text), "{text}");
    }
}

#[test]
fn a_policy_selector_is_confined_to_its_namespace() {
    let confined = selector("has(a) || has(b)").within_namespace("openstack");
    assert_eq!(
        confined.to_string(),
        "(has(a) || has(b)) && projectcalico.org/namespace == \"openstack\""
    );
    let alone = Selector::all().within_namespace("openstack");
    assert_eq!(alone, Selector::equals(NAMESPACE_LABEL, "openstack"));
    assert_eq!(Selector::all().and(&Selector::all()), Selector::all());
}

#[test]
fn namespace_selectors_select_by_labels_of_the_namespace() {
    for (text, rewritten) in [
        ("all()", "has(projectcalico.org/namespace)"),
        ("", "has(projectcalico.org/namespace)"),
        ("global()", "!has(projectcalico.org/namespace)"),
        ("!global()", "has(projectcalico.org/namespace)"),
        (
            "global() || a == 'b'",
            "!has(projectcalico.org/namespace) || pcns.a == \"b\"",
        ),
        (
            "all() && !has(a)",
            "has(projectcalico.org/namespace) && !has(pcns.a)",
        ),
        (
            "a in {'b'} && !c not in {}",
            "pcns.a in {\"b\"} && !pcns.c not in {}",
        ),
        (
            "a starts with 'b' && (c != 'd' || e ends with 'f')",
            "pcns.a starts with \"b\" && (pcns.c != \"d\" || pcns.e ends with \"f\")",
        ),
    ] {
        assert_eq!(selector(text).of_namespaces().to_string(), rewritten);
    }
    assert_eq!(
        selector("a contains 'b' && all()")
            .of_service_accounts()
            .to_string(),
        "pcsa.a contains \"b\" && all()"
    );
}

#[test]
fn negating_twice_changes_nothing() {
    let parsed = selector("has(a) && has(b)");
    assert_eq!(parsed.negated().to_string(), "!(has(a) && has(b))");
    assert_eq!(parsed.negated().negated(), parsed);
}

#[test]
fn a_selector_serializes_as_its_text() {
    let json = serde_json::to_string(&Selector::is_in("a", ["c".to_owned(), "b".to_owned()])).unwrap();
    assert_eq!(json, r#""a in {\"b\", \"c\"}""#);
}
