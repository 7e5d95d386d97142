//! The allowed directions of `use` between the agent's modules, and what the pure ones may not name.

use super::Finding;
use super::paths::{self, NamedPath};

/// A module of the agent and the modules that it may name.
struct Module {
    name: &'static str,
    may_name: &'static [&'static str],
    purity: Purity,
}

/// What else a module may name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purity {
    /// Nothing that touches the world: same input, same output.
    Pure,
    /// Anything.
    Effects,
}

/// `datastore -> model -> calc -> compile -> dataplane`, the agent above them, the readers beside. `report` is the words
/// in which the others tell the readers what there is.
const MODULES: &[Module] = &[
    Module {
        name: "model",
        may_name: &[],
        purity: Purity::Pure,
    },
    Module {
        name: "calc",
        may_name: &["model"],
        purity: Purity::Pure,
    },
    Module {
        name: "compile",
        may_name: &["calc", "model", "report"],
        purity: Purity::Pure,
    },
    Module {
        name: "report",
        may_name: &[],
        purity: Purity::Pure,
    },
    Module {
        name: "config",
        may_name: &["model"],
        purity: Purity::Effects,
    },
    Module {
        name: "logging",
        may_name: &["config"],
        purity: Purity::Effects,
    },
    Module {
        name: "etcd",
        may_name: &["config"],
        purity: Purity::Effects,
    },
    Module {
        name: "datastore",
        may_name: &["etcd", "model"],
        purity: Purity::Effects,
    },
    Module {
        name: "status",
        may_name: &["config", "etcd", "report"],
        purity: Purity::Effects,
    },
    Module {
        name: "dataplane",
        may_name: &["calc", "compile", "config", "model", "report"],
        purity: Purity::Effects,
    },
    Module {
        name: "observe",
        may_name: &["config", "dataplane", "report"],
        purity: Purity::Effects,
    },
    Module {
        name: "changeover",
        may_name: &["config", "dataplane", "observe", "report"],
        purity: Purity::Effects,
    },
    Module {
        name: "metrics",
        may_name: &[
            "calc",
            "compile",
            "config",
            "dataplane",
            "etcd",
            "model",
            "observe",
            "report",
        ],
        purity: Purity::Effects,
    },
    Module {
        name: "agent",
        may_name: &[
            "calc",
            "compile",
            "config",
            "dataplane",
            "datastore",
            "etcd",
            "logging",
            "metrics",
            "model",
            "report",
            "status",
        ],
        purity: Purity::Effects,
    },
    Module {
        name: "cli",
        may_name: &[
            "agent",
            "calc",
            "changeover",
            "compile",
            "config",
            "dataplane",
            "datastore",
            "logging",
            "metrics",
            "model",
            "observe",
            "report",
        ],
        purity: Purity::Effects,
    },
];

/// Beginnings of paths that a pure module may not name.
const EFFECTS: &[&[&str]] = &[
    &["aya"],
    &["libc"],
    &["nix"],
    &["notify"],
    &["rtnetlink"],
    &["tokio"],
    &["std", "env"],
    &["std", "fs"],
    &["std", "io"],
    &["std", "net", "TcpListener"],
    &["std", "net", "TcpStream"],
    &["std", "net", "UdpSocket"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
];

/// Returns what is wrong in one file of the agent. `file` is its path from the workspace's root, `inside` from the
/// crate's `src`.
pub(super) fn check(file: &str, inside: &str, text: &str) -> Vec<Finding> {
    let finding = |line, rule| Finding {
        file: file.to_owned(),
        line,
        rule,
    };
    let (name, depth) = place(inside);
    // `tests.rs` is the body of a `#[cfg(test)] mod tests;`, which the arrows leave out like one with braces.
    if matches!(name, "lib" | "main") || inside.split('/').any(|part| matches!(part, "tests" | "tests.rs")) {
        return Vec::new();
    }
    let Some(module) = MODULES.iter().find(|module| module.name == name) else {
        return vec![finding(
            1,
            format!("module `{name}` has no arrows: say in xtask/src/lint/arrows.rs what it may name"),
        )];
    };
    let paths = match paths::of(text) {
        Ok(paths) => paths,
        Err(error) => return vec![finding(error.span().start().line, format!("not Rust: {error}"))],
    };
    let rules = paths
        .iter()
        .filter_map(|path| Some(finding(path.line, rule_against(module, depth, path)?)));
    rules.collect()
}

/// Returns the module that a file belongs to and how many modules are above its own content, the crate not counted.
fn place(inside: &str) -> (&str, usize) {
    let stem = inside.strip_suffix(".rs").unwrap_or(inside);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    (stem.split('/').next().unwrap_or(stem), stem.split('/').count())
}

fn rule_against(module: &Module, depth: usize, path: &NamedPath) -> Option<String> {
    let parts: Vec<&str> = path.parts.iter().map(String::as_str).collect();
    let supers = parts.iter().take_while(|part| **part == "super").count();
    let target = match parts.as_slice() {
        ["crate", target, ..] => Some(*target),
        parts if supers == depth => parts.get(supers).copied(),
        _ => None,
    };
    if let Some(target) = target {
        let is_module = MODULES.iter().any(|other| other.name == target);
        let is_allowed = target == module.name || module.may_name.contains(&target);
        let allowed = if module.may_name.is_empty() {
            "no other module".to_owned()
        } else {
            module.may_name.join(", ")
        };
        return (is_module && !is_allowed).then(|| {
            format!(
                "`{}` may not name `{target}` (it may name {allowed})",
                module.name
            )
        });
    }
    let effect = EFFECTS.iter().find(|effect| is_about(&parts, effect))?;
    (module.purity == Purity::Pure && parts.len() > 1).then(|| {
        format!(
            "`{}` is pure and may not name `{}`",
            module.name,
            effect.join("::")
        )
    })
}

/// Tells whether the path leads to `effect` or below, or imports the module around it, through which it could be named.
fn is_about(parts: &[&str], effect: &[&str]) -> bool {
    let parts = parts.strip_suffix(&["self"]).unwrap_or(parts);
    parts.starts_with(effect) || (parts.len() > 1 && effect.starts_with(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(inside: &str, text: &str) -> Vec<String> {
        check(inside, inside, text)
            .into_iter()
            .map(|finding| format!("{}: {}", finding.line, finding.rule))
            .collect()
    }

    #[test]
    fn each_arrow_goes_one_way() {
        assert_eq!(
            rules(
                "compile/cells.rs",
                "use crate::{calc, model::Name};\nuse crate::compile::table;\n"
            ),
            [""; 0]
        );
        assert_eq!(
            rules("calc/resolve.rs", "\nuse crate::{compile, model};\n"),
            ["2: `calc` may not name `compile` (it may name model)"]
        );
        assert_eq!(
            rules("model/mod.rs", "fn a() { crate::config::read() }"),
            ["1: `model` may not name `config` (it may name no other module)"]
        );
    }

    #[test]
    fn nothing_but_the_agent_reads_from_metrics_and_nothing_at_all_from_the_command_line() {
        assert_eq!(rules("agent.rs", "use crate::metrics::Registry;"), [""; 0]);
        assert_eq!(
            rules("dataplane/maps.rs", "use crate::metrics::Registry;").len(),
            1
        );
        assert_eq!(rules("agent.rs", "use crate::cli::Output;").len(), 1);
    }

    #[test]
    fn a_path_upwards_is_the_same_as_one_from_the_root() {
        assert_eq!(
            rules("calc/resolve.rs", "use super::super::dataplane::Maps;").len(),
            1
        );
        assert_eq!(rules("calc/resolve.rs", "use super::effective::Tier;"), [""; 0]);
        assert_eq!(rules("calc/mod.rs", "use super::dataplane::Maps;").len(), 1);
    }

    #[test]
    fn pure_modules_name_no_effects_and_no_module_that_contains_one() {
        let effects =
            "use std::{fs, time::Instant};\nuse tokio::sync::mpsc;\nuse std::time;\nuse std::net::{self};\n";
        let lines: Vec<_> = check("a", "compile/mod.rs", effects)
            .into_iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(lines, [1, 1, 2, 3, 4]);
        let fine =
            "use std::net::{IpAddr, Ipv4Addr};\nuse std::time::Duration;\nuse std::collections::BTreeMap;\n";
        assert_eq!(rules("compile/mod.rs", fine), [""; 0]);
        assert_eq!(rules("dataplane/mod.rs", effects), [""; 0]);
    }

    #[test]
    fn tests_in_a_file_of_their_own_are_left_out_like_those_beside_the_code() {
        assert_eq!(rules("calc/resolve/tests.rs", "use std::time::Instant;"), [""; 0]);
        assert_eq!(
            rules("calc/resolve/contests.rs", "use std::time::Instant;").len(),
            1
        );
    }

    #[test]
    fn a_new_module_must_say_its_arrows() {
        assert_eq!(rules("stranger.rs", "").len(), 1);
        assert_eq!(rules("lib.rs", "pub use crate::cli;"), [""; 0]);
    }
}
