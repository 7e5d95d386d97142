use proptest::prelude::*;

use super::*;

/// Selector, labels that it selects, labels that it does not.
type MatchCase = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Labels are written `key=value`, separated by commas; `""` is no label at all.
const MATCHES: &[MatchCase] = &[
    ("", &["", "a=b"], &[]),
    (" \t ", &["", "a=b"], &[]),
    ("all()", &["", "a=b"], &[]),
    ("all( \t)", &["", "a=b"], &[]),
    ("global()", &["", "a=b"], &[]),
    ("!all()", &[], &["", "a=b"]),
    ("!!all()", &["", "a=b"], &[]),
    ("has(a)", &["a=b", "a=", "a=b,c=d"], &["", "b=a", "A=b", "aa=b"]),
    ("has( a\t)", &["a=b"], &["b=a"]),
    ("!has(a)", &["", "b=a"], &["a=", "a=b"]),
    ("! ! has(a)", &["a="], &[""]),
    ("!!!has(a)", &[""], &["a="]),
    (
        "has(projectcalico.org/namespace)",
        &["projectcalico.org/namespace=openstack"],
        &["namespace=openstack"],
    ),
    (
        "has(sg.projectcalico.org/openstack-33)",
        &["sg.projectcalico.org/openstack-33="],
        &["sg.projectcalico.org/openstack-3="],
    ),
    (
        "a == \"b\"",
        &["a=b", "a=b,c=d"],
        &["", "a=", "a=B", "a=bb", "b=a"],
    ),
    ("a=='b'", &["a=b"], &["a=c"]),
    ("a == ''", &["a="], &["", "a=b"]),
    ("a == \"it's\"", &["a=it's"], &["a=its"]),
    ("a == 'say \"b\"'", &["a=say \"b\""], &["a=say b"]),
    ("a == ' b '", &["a= b "], &["a=b"]),
    ("a == 'b\\'", &["a=b\\"], &["a=b"]),
    ("a == 'ü'", &["a=ü"], &["a=u"]),
    ("a == '&& || ! ( ) { } ,'", &["a=&& || ! ( ) { } ,"], &[""]),
    ("!a == \"b\"", &["", "a=c"], &["a=b"]),
    ("a != \"b\"", &["", "a=", "a=c"], &["a=b"]),
    ("a!='b'", &["a=c"], &["a=b"]),
    ("!a != \"b\"", &["a=b"], &["", "a=c"]),
    ("a contains 'b'", &["a=b", "a=abc"], &["", "a=", "a=ac", "b=b"]),
    ("a contains''", &["a=", "a=x"], &[""]),
    ("acontains contains 'b'", &["acontains=b"], &["a=b"]),
    ("!a contains 'b'", &["", "a=c"], &["a=abc"]),
    ("a starts with 'b'", &["a=b", "a=bc"], &["", "a=cb", "a="]),
    ("a startswith 'b'", &["a=b"], &["a=cb"]),
    ("a starts \t with 'b'", &["a=bc"], &[""]),
    ("a starts with ''", &["a=", "a=x"], &[""]),
    ("a ends with 'b'", &["a=b", "a=cb"], &["", "a=bc", "a="]),
    ("a endswith 'b'", &["a=cb"], &["a=bc"]),
    ("a ends with ''", &["a=", "a=x"], &[""]),
    ("!a ends with 'b'", &["", "a=bc"], &["a=cb"]),
    ("a in {'b'}", &["a=b"], &["", "a=c", "a="]),
    ("a in{'b','c'}", &["a=b", "a=c"], &["a=bc", "a=d"]),
    ("a in { \"b\" , 'c', }", &["a=b", "a=c"], &["a="]),
    ("a in {}", &[], &["", "a=", "a=b"]),
    ("a in {''}", &["a="], &["", "a=b"]),
    ("!a in {'x'}", &["", "a=y"], &["a=x"]),
    ("a not in {'b'}", &["", "a=c", "a="], &["a=b"]),
    ("a notin {'b'}", &["a=c"], &["a=b"]),
    ("a not\tin {'b', 'c'}", &["", "a=d"], &["a=b", "a=c"]),
    ("a not in {}", &["", "a=", "a=b"], &[]),
    ("!a not in {'b'}", &["a=b"], &["", "a=c"]),
    ("in in {'in'}", &["in=in"], &["", "in=out"]),
    ("has == 'has'", &["has=has"], &["has=x"]),
    ("all != 'x'", &["", "all=y"], &["all=x"]),
    ("global contains 'x'", &["global=x"], &[""]),
    ("not not in {'x'}", &["", "not=y"], &["not=x"]),
    ("contains contains 'x'", &["contains=x"], &[""]),
    ("starts starts with 'x'", &["starts=xy"], &[""]),
    ("has(has)", &["has="], &[""]),
    ("a/b.c-d_e == 'f'", &["a/b.c-d_e=f"], &["a=f"]),
    ("9 == '9'", &["9=9"], &[""]),
    ("-a == 'b'", &["-a=b"], &["a=b"]),
    ("/ == 'b'", &["/=b"], &[""]),
    (
        "a == 'b' && c == 'd'",
        &["a=b,c=d"],
        &["", "a=b", "c=d", "a=b,c=e"],
    ),
    ("a == 'b'&&c == 'd'", &["a=b,c=d"], &["a=b"]),
    ("a == 'b' || c == 'd'", &["a=b", "c=d", "a=x,c=d"], &["", "a=d"]),
    ("a == 'b'||c == 'd'", &["c=d"], &[""]),
    (
        "has(a) || has(b) && has(c)",
        &["a=", "b=,c=", "a=,c="],
        &["b=", "c=", ""],
    ),
    (
        "(has(a) || has(b)) && has(c)",
        &["a=,c=", "b=,c="],
        &["a=", "b=", "c=", ""],
    ),
    ("has(a) && has(b) || has(c)", &["a=,b=", "c="], &["a=", "b=", ""]),
    ("!(has(a) || has(b))", &["", "c="], &["a=", "b="]),
    ("!(has(a) && has(b))", &["", "a=", "b="], &["a=,b="]),
    ("!has(a) && has(b)", &["b="], &["a=,b=", ""]),
    ("!(!(!has(a)))", &[""], &["a="]),
    ("((((has(a)))))", &["a="], &[""]),
    ("( has(a) )", &["a="], &[""]),
    (
        "has(a) && has(b) && has(c) && has(d)",
        &["a=,b=,c=,d="],
        &["a=,b=,c=", ""],
    ),
    ("has(a) || has(b) || has(c) || has(d)", &["d=", "b=,c="], &["e="]),
    (
        "has(a) && (has(b) || !has(c))",
        &["a=", "a=,b=,c="],
        &["a=,c=", ""],
    ),
    ("  has(a)\t&& has(b)  ", &["a=,b="], &["a="]),
    ("all() && has(a)", &["a="], &[""]),
    ("all() || has(a)", &["", "a="], &[]),
    ("global() && has(a)", &["a="], &[""]),
    (
        "role in {\"web\", \"db\"} && tier != 'dev' && !has(quarantine)",
        &["role=web", "role=db,tier=prod"],
        &["role=web,tier=dev", "role=db,quarantine=", "tier=prod"],
    ),
];

/// Selector that is refused, column, and a part of what was expected.
const REFUSED: &[(&str, usize, &str)] = &[
    ("a", 2, "`==`"),
    ("has", 4, "after the label"),
    ("a b", 3, "after the label"),
    ("a == b", 6, "a string"),
    ("a == ", 6, "a string"),
    ("a ==", 5, "a string"),
    ("a == 5", 6, "a string"),
    ("\"a\" == 'b'", 1, "a label"),
    ("'a'", 1, "a label"),
    ("a == 'b", 6, "closing quote"),
    ("a == \"b'", 6, "closing quote"),
    ("a = 'b'", 3, "`==`"),
    ("a === 'b'", 5, "a string"),
    ("a =! 'b'", 3, "`==`"),
    ("a ! 'b'", 3, "`!=`"),
    ("!= 'b'", 2, "a label"),
    ("(has(a)", 8, "`)`"),
    ("has(a))", 7, "the end"),
    (")", 1, "a label"),
    ("()", 2, "a label"),
    ("( )", 3, "a label"),
    ("has(a", 6, "`)`"),
    ("has(", 5, "a label"),
    ("has()", 5, "a label"),
    ("has(a b)", 7, "`)`"),
    ("has('a')", 5, "a label"),
    ("has (a)", 5, "after the label"),
    ("all", 4, "after the label"),
    ("all ()", 5, "after the label"),
    ("all(a)", 5, "`)`"),
    ("all(", 5, "`)`"),
    ("global(x)", 8, "`)`"),
    ("global ()", 8, "after the label"),
    ("xhas(a)", 5, "after the label"),
    ("HAS(a)", 4, "after the label"),
    ("has(a) &", 8, "`&&`"),
    ("has(a) & has(b)", 8, "`&&`"),
    ("has(a) | has(b)", 8, "`||`"),
    ("has(a) &&", 10, "a label"),
    ("has(a) ||", 10, "a label"),
    ("&& has(a)", 1, "a label"),
    ("|| has(a)", 1, "a label"),
    ("has(a) && || has(b)", 11, "a label"),
    ("has(a) has(b)", 8, "the end"),
    ("has(a) and has(b)", 8, "the end"),
    ("!", 2, "a label"),
    ("!!", 3, "a label"),
    ("has(a) !", 8, "the end"),
    ("a in", 5, "a set"),
    ("a in 'b'", 6, "a set"),
    ("a in {", 7, "a string"),
    ("a in {'b'", 10, "`,` or `}`"),
    ("a in {b}", 7, "a string"),
    ("a in {,}", 7, "a string"),
    ("a in {'b',,}", 11, "a string"),
    ("a in {'b' 'c'}", 11, "`,` or `}`"),
    ("a in ('b')", 6, "a set"),
    ("a not 'b'", 7, "`in`"),
    ("a not", 6, "`in`"),
    ("a starts 'b'", 10, "`with`"),
    ("a ends", 7, "`with`"),
    ("a contains b", 12, "a string"),
    ("a contains", 11, "a string"),
    ("a CONTAINS 'b'", 3, "after the label"),
    ("a == 'b' c", 10, "the end"),
    ("a == 'b'\n", 9, "the end"),
    ("a\u{a0}== 'b'", 2, "after the label"),
    ("ü == 'b'", 1, "a label"),
    ("a == 'ü' ü", 10, "the end"),
    ("a@b == 'c'", 2, "after the label"),
    ("{}", 1, "a label"),
    ("#", 1, "a label"),
    ("a > 'b'", 3, "after the label"),
];

fn labels(text: &str) -> Labels {
    text.split(',')
        .filter(|pair| !pair.is_empty() && pair.contains('='))
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// One label whose value may hold commas.
fn labels_of_case(text: &str) -> Labels {
    if text.ends_with(" ,") {
        let (key, value) = text.split_once('=').unwrap();
        return Labels::from([(key.to_owned(), value.to_owned())]);
    }
    labels(text)
}

fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn every_selector_of_the_table_matches_what_it_should() {
    for (text, selected, others) in MATCHES {
        let parsed = selector(text);
        for case in *selected {
            assert!(
                parsed.matches(&labels_of_case(case)),
                "{text} should match {case:?}"
            );
        }
        for case in *others {
            assert!(
                !parsed.matches(&labels_of_case(case)),
                "{text} should not match {case:?}"
            );
        }
    }
}

#[test]
fn every_selector_of_the_table_survives_its_canonical_text() {
    for (text, ..) in MATCHES {
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
    for (text, canonical) in [
        ("", "all()"),
        ("a=='b'", "a == \"b\""),
        ("a == 'say \"b\"'", "a == 'say \"b\"'"),
        ("a in {'c', 'b', 'c',}", "a in {\"b\", \"c\"}"),
        ("a notin{}", "a not in {}"),
        ("a startswith 'b'", "a starts with \"b\""),
        ("((has(a)) && (has(b) && has(c)))", "has(a) && has(b) && has(c)"),
        ("(has(a) && has(b)) || has(c)", "has(a) && has(b) || has(c)"),
        ("has(a) && (has(b) || has(c))", "has(a) && (has(b) || has(c))"),
        ("!!has(a)", "has(a)"),
        ("!(has(a)||has(b))", "!(has(a) || has(b))"),
        ("!(a in {'b'})", "!a in {\"b\"}"),
    ] {
        assert_eq!(selector(text).to_string(), canonical);
    }
}

#[test]
fn labels_end_at_512_characters() {
    let longest = "x".repeat(512);
    assert_eq!(
        selector(&format!("has({longest})")),
        Selector::has(longest.clone())
    );
    let error = Selector::parse(&format!("{longest}x == 'y'")).unwrap_err();
    assert_eq!(
        (error.column, error.expected),
        (1, "a label of at most 512 characters")
    );
}

#[test]
fn deep_parentheses_are_an_error_and_not_a_crash() {
    let nested = |depth: usize| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(selector(&nested(64)), Selector::has("a"));
    let error = Selector::parse(&nested(65)).unwrap_err();
    assert_eq!(
        (error.column, error.expected),
        (65, "at most 64 nested parentheses")
    );
    assert!(Selector::parse(&"(".repeat(1_000_000)).is_err());
    assert!(Selector::parse(&"!(".repeat(1_000_000)).is_err());
}

#[test]
fn long_selectors_without_nesting_are_fine() {
    assert_eq!(
        selector(&format!("{}has(a)", "!".repeat(1_000_001))).to_string(),
        "!has(a)"
    );
    let wide = vec!["has(a)"; 10_000].join(" && ");
    assert!(selector(&wide).matches(&labels("a=b")));
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
    fn any_text_is_parsed_or_refused(text in "(has\\(|all\\(\\)|a|in|not|==|!=|!|&&|\\|\\||[(){},'\" ]|'b'|\\PC){0,30}") {
        if let Ok(parsed) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&parsed.to_string()), Ok(parsed));
        }
    }

    #[test]
    fn rewriting_prefixes_every_label(expression in any_expression(), present in any_label(), value in any_value()) {
        let built = Selector::from(expression);
        let plain = Labels::from([(present.clone(), value.clone())]);
        let prefixed = Labels::from([(format!("pcsa.{present}"), value)]);
        prop_assert_eq!(built.of_service_accounts().matches(&prefixed), built.matches(&plain));
    }
}
