//! `docs/scenarios.md`: the table scenario -> tests.

use std::fmt::{Arguments, Write as _};

use super::list::List;
use super::named::Named;

/// Returns the page.
pub(super) fn page(list: &List, named: &[Named]) -> String {
    let mut page = String::from(
        "# Scenarios\n\n\
         What must happen to packets, and the tests that show it with real packets: in the ring `program` by programs \
         and maps in the kernel, in the ring `host` on namespaces, taps and guests with the agent.\n\n\
         `cargo xtask test` checks after a run of all tests that each scenario has a test that passed, and that each of \
         these tests sent packets of the families that the table tells. `cargo xtask test NAME` runs one.\n\n\
         This page is made by `cargo xtask scenarios --write` from `tests/scenarios.toml` and the names of the tests.\n",
    );
    for group in &list.groups {
        push(
            &mut page,
            format_args!(
                "\n## {}\n\n| | what must happen | packets | tests |\n|---|---|---|---|\n",
                group.title
            ),
        );
        for scenario in &group.scenarios {
            let tests: Vec<String> = named
                .iter()
                .filter(|test| test.scenarios.contains(&scenario.number))
                .map(|test| format!("`{}`", test.name))
                .collect();
            let shown = match &scenario.later {
                Some(why) => format!("not yet: {why}"),
                None => tests.join("<br>"),
            };
            let partly = scenario.partly.as_ref();
            let partly = partly.map_or_else(String::new, |what| format!(" Not yet: {what}."));
            push(
                &mut page,
                format_args!(
                    "| {} | {}{partly} | {} | {shown} |\n",
                    scenario.number,
                    scenario.must,
                    scenario.families.shown()
                ),
            );
        }
    }
    let mut by_kernel = list
        .scenarios()
        .filter_map(|scenario| Some((scenario.number, scenario.kernel.as_ref()?)))
        .peekable();
    if by_kernel.peek().is_some() {
        page += "\n## What an older kernel cannot do\n\n| scenario | needs Linux | for |\n|---|---|---|\n";
        for (number, kernel) in by_kernel {
            push(
                &mut page,
                format_args!("| {number} | {} | {} |\n", kernel.from, kernel.what),
            );
        }
    }
    if !list.exceptions.is_empty() {
        page += "\n## Tests with packets of fewer families\n\n| test | packets | why |\n|---|---|---|\n";
        for exception in &list.exceptions {
            push(
                &mut page,
                format_args!(
                    "| `{}` | {} | {} |\n",
                    exception.test,
                    exception.families.shown(),
                    exception.why
                ),
            );
        }
    }
    page
}

fn push(page: &mut String, arguments: Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = page.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_row_for_each_scenario() {
        let list = List::parse(
            r#"
            [[group]]
            title = "Frames"
            scenario = [
                { number = 1, must = "One.", families = "both", partly = "half of it" },
                { number = 2, must = "Two.", families = "none", later = "no time" },
                { number = 3, must = "Three.", families = "ipv4", kernel = { from = "6.6", what = "tcx" } },
            ]
            [[exception]]
            test = "host m::scenario_01_b"
            families = "ipv6"
            why = "only there"
            "#,
        )
        .expect("a list");
        let named =
            ["m::scenario_01_and_03_a", "m::scenario_01_b"].map(|path| Named::of("host", path).expect("one"));
        let page = page(&list, &named);
        for row in [
            "## Frames\n",
            "| 1 | One. Not yet: half of it. | IPv4, IPv6 | `host m::scenario_01_and_03_a`<br>`host m::scenario_01_b` |\n",
            "| 2 | Two. |  | not yet: no time |\n",
            "| 3 | Three. | IPv4 | `host m::scenario_01_and_03_a` |\n",
            "| 3 | 6.6 | tcx |\n",
            "| `host m::scenario_01_b` | IPv6 | only there |\n",
        ] {
            assert!(page.contains(row), "{row}\n{page}");
        }
    }
}
