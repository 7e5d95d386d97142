//! The table in `docs/configuration.md` is made from the parameter table; this test tells when it is stale.

use std::fmt::Write as _;
use std::path::Path;

use super::{Handling, Parameter, all};

const BEGIN: &str = "<!-- begin of the parameter table: UPDATE_DOCS=1 rewrites it -->\n";
const END: &str = "<!-- end of the parameter table -->\n";

#[test]
fn the_documented_parameters_are_those_of_the_agent() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("begin mark");
    let (_, after) = rest.split_once(END).expect("end mark");
    let expected = format!("{before}{BEGIN}{}{END}{after}", tables());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(
        page == expected,
        "docs/configuration.md is stale: run the tests once with UPDATE_DOCS=1"
    );
}

fn tables() -> String {
    let mut text = String::from(
        "\n## Parameters with effect\n\n| Name | Values | Default | What it does |\n|---|---|---|---|\n",
    );
    for parameter in all().filter(|parameter| parameter.handling == Handling::Acted) {
        row(&mut text, parameter, parameter.doc);
    }
    text.push_str("\n## Parameters without effect\n\nKnown from Felix and accepted, with a warning when they ask for something else than the default.\n\n");
    text.push_str("| Name | Values | Felix's default | Why |\n|---|---|---|---|\n");
    for parameter in all() {
        if let Handling::Ignored(reason) = parameter.handling {
            row(&mut text, parameter, reason);
        }
    }
    text.push('\n');
    text
}

fn row(text: &mut String, parameter: &Parameter, doc: &str) {
    let local = if parameter.local_only { " (local)" } else { "" };
    let default = if parameter.default.is_empty() {
        String::new()
    } else {
        format!("`{}`", parameter.default)
    };
    let (name, values) = (parameter.name, parameter.kind.describe());
    writeln!(text, "| `{name}`{local} | {values} | {default} | {doc} |").unwrap();
}
