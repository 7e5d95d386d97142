use std::time::{Duration, Instant};

use super::{labels, selector};
use crate::model::selector::Selector;

#[test]
fn labels_end_at_512_characters() {
    let longest = "x".repeat(512);
    assert_eq!(
        selector(&format!("has({longest})")),
        Selector::has(longest.clone())
    );
    let equal = selector(&format!("{longest} == 'y'"));
    assert_eq!(selector(&equal.to_string()), equal);
    for (text, column) in [
        (format!("{longest}x == 'y'"), 1),
        (format!("has(a) && has({longest}x)"), 15),
        (format!("{longest}x"), 1),
    ] {
        let error = Selector::parse(&text).unwrap_err();
        assert_eq!(
            (error.column, error.expected),
            (column, "a label of at most 512 characters")
        );
    }
}

#[test]
fn deep_parentheses_are_an_error_and_not_a_crash() {
    let nested = |depth: usize| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(selector(&nested(64)), Selector::has("a"));
    for text in [
        nested(65),
        nested(100_000),
        "(".repeat(100_000),
        "(\t".repeat(100_000),
        format!("{}has(a)", "(has(b) && ".repeat(100_000)),
    ] {
        let error = Selector::parse(&text).unwrap_err();
        assert_eq!(error.expected, "at most 64 nested parentheses");
    }
    let error = Selector::parse(&"!(".repeat(100_000)).unwrap_err();
    assert_eq!(
        (error.column, error.found.as_str()),
        (130, "`(!(!(!(!(!(!(!(!(!(!...`")
    );
}

#[test]
fn the_deepest_structure_is_told_and_evaluated_like_any_other() {
    let mut text = "has(a)".to_owned();
    for depth in 0..64 {
        let operator = if depth % 2 == 0 { "||" } else { "&&" };
        text = format!("!(has(b) {operator} {text})");
    }
    let deepest = selector(&text);
    assert_eq!(selector(&deepest.to_string()), deepest);
    assert_eq!(
        deepest.negated().matches(&labels("a=b")),
        !deepest.matches(&labels("a=b"))
    );
    assert!(Selector::parse(&format!("({text})")).is_err());
}

#[test]
fn any_number_of_negations_is_one_or_none() {
    assert_eq!(
        selector(&format!("{}has(a)", "!".repeat(100_000))).to_string(),
        "has(a)"
    );
    assert_eq!(
        selector(&format!("{}has(a)", "! ".repeat(100_001))).to_string(),
        "!has(a)"
    );
    assert_eq!(Selector::parse(&"!".repeat(100_000)).unwrap_err().column, 100_001);
}

/// Quadratic time would take hours.
#[test]
fn megabytes_are_parsed_in_the_time_that_reading_them_takes() {
    const REPEATS: usize = 400_000;
    let started = Instant::now();
    let values = |index: usize| format!("'{index}'");
    let set: Vec<_> = (0..REPEATS).map(values).collect();
    for text in [
        vec!["has(a)"; REPEATS].join("&&"),
        vec!["!has(a)"; REPEATS].join(" || "),
        format!("a in {{{}}}", set.join(",")),
        format!("a == '{}'", "x".repeat(10 * REPEATS)),
        format!("{}has(a){}", " ".repeat(10 * REPEATS), "\t".repeat(10 * REPEATS)),
        vec!["((has(a)))"; REPEATS].join("||"),
    ] {
        let parsed = selector(&text);
        assert_eq!(selector(&parsed.to_string()), parsed);
    }
    for text in [
        format!("has(a) {}", "x".repeat(10 * REPEATS)),
        "x".repeat(10 * REPEATS),
        format!("a == '{}", "\u{fc}".repeat(10 * REPEATS)),
        "has(a) && ".repeat(REPEATS),
        "\0".repeat(10 * REPEATS),
    ] {
        assert!(Selector::parse(&text).unwrap_err().to_string().len() < 300);
    }
    assert!(
        started.elapsed() < Duration::from_mins(1),
        "{:?}",
        started.elapsed()
    );
}
