//! `check`: what this kernel and host offer.

use clap::Args;
use serde::Serialize;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure};
use super::output::{OutputArguments, Page, Tone, plain};
use crate::dataplane::check::{Finding, Need, Outcome, check};

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf check
  calico-ebpf check -o json | jq '.findings[] | select(.outcome != \"present\")'

Features are tried, not told from the kernel's version number. Nothing is changed: what is tried is taken back.
Ends with 1 when something required is missing.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Serialize)]
struct Verdict {
    /// Whether everything required is there.
    ok: bool,
    kernel: String,
    findings: Vec<Finding>,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    let findings = check(&config);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned();
    let ok = !findings.iter().any(Finding::is_missing_and_required);
    let verdict = Verdict { ok, kernel, findings };
    arguments.output.show(&verdict, |page| verdict.put_on(page))?;
    Ok(if ok { Ending::Good } else { Ending::Bad })
}

impl Verdict {
    fn put_on(&self, page: &mut Page) {
        let row = |finding: &Finding| {
            let (tone, word) = match (finding.outcome, finding.need) {
                (Outcome::Present, _) => (Tone::Good, "ok"),
                (Outcome::Missing, Need::Required) => (Tone::Bad, "MISSING"),
                (Outcome::Missing, Need::Optional) => (Tone::Attention, "absent"),
                (Outcome::Unknown, _) => (Tone::Attention, "unknown"),
            };
            let need = match finding.need {
                Need::Required => "required",
                Need::Optional => "optional",
            };
            vec![
                (tone, word.to_owned()),
                plain(finding.feature),
                (Tone::Quiet, need.to_owned()),
                (Tone::Quiet, finding.since.to_owned()),
                plain(&finding.detail),
            ]
        };
        let rows = self.findings.iter().map(row).collect();
        page.table(&["RESULT", "FEATURE", "NEED", "SINCE", "DETAIL"], rows);
        page.line("");
        if self.ok {
            page.toned(
                Tone::Good,
                &format!("This host can run calico-ebpf (kernel {}).", self.kernel),
            );
            return;
        }
        page.toned(
            Tone::Bad,
            &format!("This host cannot run calico-ebpf (kernel {}):", self.kernel),
        );
        for finding in self
            .findings
            .iter()
            .filter(|finding| finding.is_missing_and_required())
        {
            page.toned(Tone::Bad, &format!("  {}: {}", finding.feature, finding.detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_again_at_the_end() {
        let finding = |feature, outcome| Finding {
            feature,
            need: Need::Required,
            outcome,
            detail: "of course".to_owned(),
            since: "5.10",
            was_refused: false,
        };
        let verdict = Verdict {
            ok: false,
            kernel: "4.19.0".to_owned(),
            findings: vec![
                finding("root", Outcome::Present),
                finding("batch map reads", Outcome::Missing),
            ],
        };
        let mut page = Page::plain();
        verdict.put_on(&mut page);
        insta::assert_snapshot!(page.text());
    }
}
