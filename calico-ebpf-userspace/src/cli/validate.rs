//! `validate`: manifests, without a kernel.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Ending, Failure, NOTHING_THERE};
use super::output::{OutputArguments, Page, Tone};
use crate::datastore::file::{ValidateReport, validate};
use crate::model::problem::Consequence;

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf validate /etc/calico/manifests
  calico-ebpf validate ./manifests/web.yaml
  calico-ebpf validate ./manifests -o json | jq .problems

Ends with 1 when something would be left out or read as something else. Needs no rights and changes nothing.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Directory of YAML or JSON manifests, or one manifest
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    if !arguments.directory.exists() {
        let error = anyhow::anyhow!("there is no {}", arguments.directory.display());
        return Err(Failure::new(
            error,
            NOTHING_THERE,
            "Give the directory of manifests (`DatastoreDir`), or one manifest.",
        ));
    }
    let report = validate(&arguments.directory);
    arguments.output.show(&report, |page| put_on(page, &report))?;
    Ok(if report.problems.is_empty() {
        Ending::Good
    } else {
        Ending::Bad
    })
}

fn put_on(page: &mut Page, report: &ValidateReport) {
    for problem in &report.problems {
        let (tone, consequence) = match problem.consequence {
            Consequence::ObjectSkipped => (Tone::Bad, "the object is left out"),
            Consequence::RuleSkipped => (Tone::Bad, "the rule never matches"),
            Consequence::FieldSkipped => (Tone::Attention, "this part is left out"),
            Consequence::Reinterpreted => (Tone::Attention, "read as expected"),
            Consequence::NotEnforced => (Tone::Attention, "read, but not enforced"),
            Consequence::LastGoodKept => (Tone::Bad, "a running agent keeps the last good version"),
        };
        page.toned(tone, &format!("{problem}; {consequence}"));
    }
    let kinds: Vec<String> = report
        .objects
        .iter()
        .map(|(kind, count)| format!("{count} {}", kind.as_str()))
        .collect();
    let objects = if kinds.is_empty() {
        "no objects".to_owned()
    } else {
        kinds.join(", ")
    };
    let (tone, verdict) = match report.problems.len() {
        0 => (Tone::Good, "no problems".to_owned()),
        1 => (Tone::Bad, "1 problem".to_owned()),
        count => (Tone::Bad, format!("{count} problems")),
    };
    page.toned(tone, &format!("{verdict}; valid: {objects}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_manifest_is_told_with_file_line_and_consequence() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: outside}\n\
                        spec:\n  nets: [192.0.2.0/24, nonsense]\n";
        std::fs::write(directory.path().join("sets.yaml"), manifest).unwrap();
        let report = validate(directory.path());
        let mut page = Page::plain();
        put_on(&mut page, &report);
        let text = page.text();
        assert!(text.contains("sets.yaml:5"), "{text}");
        assert!(
            text.contains("nonsense") && text.contains("this part is left out"),
            "{text}"
        );
        assert!(text.ends_with("1 problem; valid: 1 GlobalNetworkSet\n"), "{text}");
    }
}
