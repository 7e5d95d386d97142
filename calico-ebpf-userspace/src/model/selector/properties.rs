//! What holds for any text at all: for random tests and fuzzing.

use super::{Expression, Selector, SelectorError};
use crate::model::labels::Labels;

/// Longest message of an error, in bytes.
const MAX_MESSAGE: usize = 300;
/// So many labels are tried: the time of a check stays linear.
const MAX_PAIRS: usize = 64;

/// Checks a text: it is a selector with a canonical text that keeps its meaning, or is refused with a place in it.
///
/// # Panics
///
/// When something else is true.
pub fn check(text: &str) {
    match Selector::parse(text) {
        Ok(selector) => check_selector(&selector),
        Err(error) => check_error(text, &error),
    }
}

fn check_selector(selector: &Selector) {
    let canonical = selector.to_string();
    assert_eq!(Selector::parse(&canonical).as_ref(), Ok(selector), "{canonical}");
    let negated = selector.negated();
    assert_eq!(negated.negated(), *selector, "{canonical}");
    let of_accounts = selector.of_service_accounts();
    let confined = selector.within_namespace("openstack");
    let of_namespaces = selector.of_namespaces();
    for labels in telling_labels(selector.expression()) {
        let matches = selector.matches(&labels);
        assert_ne!(negated.matches(&labels), matches, "{canonical}: {labels:?}");
        assert!(!confined.matches(&labels) || matches, "{canonical}: {labels:?}");
        let prefixed = labels
            .into_iter()
            .map(|(label, value)| (format!("pcsa.{label}"), value));
        assert_eq!(of_accounts.matches(&prefixed.collect()), matches, "{canonical}");
        of_namespaces.matches(&Labels::new());
    }
}

fn check_error(text: &str, error: &SelectorError) {
    let letters = text.chars().count();
    assert!((1..=letters + 1).contains(&error.column), "{text:?}: {error}");
    let message = error.to_string();
    assert!(message.len() < MAX_MESSAGE, "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
}

/// Returns sets of labels under which parts of the selector differ: none, each label with a value that is compared with
/// it, and all of these together.
fn telling_labels(expression: &Expression) -> Vec<Labels> {
    let mut pairs = Vec::new();
    collect(expression, &mut pairs);
    let all: Labels = pairs.iter().cloned().collect();
    let each = pairs.into_iter().map(|pair| Labels::from([pair]));
    each.chain([all, Labels::new()]).collect()
}

fn collect(expression: &Expression, pairs: &mut Vec<(String, String)>) {
    if pairs.len() >= MAX_PAIRS {
        return;
    }
    let mut add = |label: &String, value: &str| pairs.push((label.clone(), value.to_owned()));
    match expression {
        Expression::All | Expression::Global => {}
        Expression::Has(label) => add(label, ""),
        Expression::Equal(label, value)
        | Expression::NotEqual(label, value)
        | Expression::Contains(label, value)
        | Expression::StartsWith(label, value)
        | Expression::EndsWith(label, value) => add(label, value),
        Expression::In(label, values) | Expression::NotIn(label, values) => {
            for value in values.iter().take(2) {
                add(label, value);
            }
        }
        Expression::Not(inner) => collect(inner, pairs),
        Expression::And(parts) | Expression::Or(parts) => {
            for part in parts {
                collect(part, pairs);
            }
        }
    }
}
