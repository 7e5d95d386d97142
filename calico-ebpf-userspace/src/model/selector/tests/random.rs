use proptest::prelude::*;

use crate::model::labels::Labels;
use crate::model::selector::{Expression, Selector, properties};

fn any_label() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a".to_owned()),
        Just("in".to_owned()),
        Just("has".to_owned()),
        Just("not".to_owned()),
        "[A-Za-z0-9_./-]{1,12}",
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![Just("b".to_owned()), "[^']{0,8}", "[^\"]{0,8}"]
}

fn any_expression() -> impl Strategy<Value = Expression> {
    let set = || prop::collection::btree_set(any_value(), 0..4);
    let leaf = prop_oneof![
        Just(Expression::All),
        Just(Expression::Global),
        any_label().prop_map(Expression::Has),
        (any_label(), any_value()).prop_map(|(label, value)| Expression::Equal(label, value)),
        (any_label(), any_value()).prop_map(|(label, value)| Expression::NotEqual(label, value)),
        (any_label(), any_value()).prop_map(|(label, value)| Expression::Contains(label, value)),
        (any_label(), any_value()).prop_map(|(label, value)| Expression::StartsWith(label, value)),
        (any_label(), any_value()).prop_map(|(label, value)| Expression::EndsWith(label, value)),
        (any_label(), set()).prop_map(|(label, values)| Expression::In(label, values)),
        (any_label(), set()).prop_map(|(label, values)| Expression::NotIn(label, values)),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(Expression::negated),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Expression::and),
            prop::collection::vec(inner, 1..4).prop_map(Expression::or),
        ]
    })
}

proptest! {
    #[test]
    fn text_of_any_selector_parses_to_the_same_selector(expression in any_expression()) {
        let built = Selector::from(expression);
        let text = built.to_string();
        let parsed = Selector::parse(&text);
        prop_assert_eq!(parsed, Ok(built), "{}", text);
    }

    #[test]
    fn any_text_is_parsed_or_refused(
        text in "(has\\(|all\\(\\)|a|in|not|starts|with|==|!=|!|&&|\\|\\||[(){},'\" ]|'b'|\\PC){0,30}",
    ) {
        properties::check(&text);
    }

    #[test]
    fn any_characters_are_parsed_or_refused(text in ".{0,40}") {
        properties::check(&text);
    }

    #[test]
    fn any_selector_keeps_its_meaning_in_its_text(expression in any_expression()) {
        properties::check(&Selector::from(expression).to_string());
    }

    #[test]
    fn rewriting_prefixes_every_label(expression in any_expression(), present in any_label(), value in any_value()) {
        let built = Selector::from(expression);
        let plain = Labels::from([(present.clone(), value.clone())]);
        let prefixed = Labels::from([(format!("pcsa.{present}"), value)]);
        prop_assert_eq!(built.of_service_accounts().matches(&prefixed), built.matches(&plain));
    }
}
