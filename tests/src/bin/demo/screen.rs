//! What people see. Colours only on a terminal; with `--json` nothing but the document.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::matrix::Matrix;
use crate::speed::Comparison;
use crate::story::Cell;

const TITLE: Style = AnsiColor::Cyan.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const QUIET: Style = Style::new().dimmed();
const BAD: Style = AnsiColor::Red.on_default().bold();
/// Width of a column of the matrix.
const COLUMN: usize = 14;

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    json: bool,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn title(self, number: usize, title: &str, explanation: &str) {
        self.line("");
        self.line(&format!("{TITLE}{number}. {title}{TITLE:#}"));
        self.note(explanation);
    }

    pub(crate) fn note(self, text: &str) {
        if !text.is_empty() {
            self.line(&format!("   {QUIET}{text}{QUIET:#}"));
        }
    }

    /// How long a change took.
    pub(crate) fn in_force(self, time: Duration) {
        self.note(&format!("in force after {} ms", time.as_millis()));
    }

    pub(crate) fn matrix(self, matrix: &Matrix) {
        let columns: String = Matrix::columns().map(|column| pad(&column)).collect();
        self.line(&format!("   {}{columns}", pad("from \\ to")));
        for (from, answers) in matrix.rows() {
            let row: String = answers.iter().map(|(text, good)| answer(text, *good)).collect();
            self.line(&format!("   {}{row}", pad(from)));
        }
    }

    pub(crate) fn cell(self, cell: &Cell) {
        let Cell {
            from,
            to,
            what,
            expected,
            seen,
        } = cell;
        let direction = if from == to {
            from.clone()
        } else {
            format!("{from} -> {to}")
        };
        let verdict = if cell.is_as_expected() {
            format!("{GOOD}{seen}{GOOD:#}")
        } else {
            format!("{BAD}{seen}, expected {expected}{BAD:#}")
        };
        self.line(&format!("   {direction:<16} {what:<52} {verdict}"));
    }

    pub(crate) fn comparison(self, comparison: &Comparison) {
        self.line(&format!(
            "   {:<26}{:>14}{:>18}",
            "", "TCP Gbit/s", "UDP packets/s"
        ));
        for (name, speed) in [
            ("calico-ebpf", &comparison.ebpf),
            (comparison.rules.as_str(), &comparison.iptables),
        ] {
            self.line(&format!(
                "   {name:<26}{:>14.2}{:>18.0}",
                speed.tcp_gbit_per_s, speed.udp_packets_per_s
            ));
        }
        self.note(comparison.note);
    }

    pub(crate) fn failure(error: &str) {
        anstream::eprintln!("{BAD}{error}{BAD:#}");
    }

    /// The end: a sentence for people, the document for machines.
    pub(crate) fn end(self, document: &impl Serialize, cells: usize, wrong: usize) {
        if self.json {
            let text = serde_json::to_string_pretty(document).expect("plain data");
            anstream::println!("{text}");
            return;
        }
        self.line("");
        if wrong == 0 {
            self.line(&format!("{GOOD}{cells} answers, all as expected{GOOD:#}"));
        } else {
            self.line(&format!(
                "{BAD}{wrong} of {cells} answers were not as expected{BAD:#}"
            ));
        }
    }

    fn line(self, text: &str) {
        if !self.json {
            anstream::println!("{text}");
        }
    }
}

fn pad(text: &str) -> String {
    format!("{text:<COLUMN$}")
}

fn answer(text: &str, good: bool) -> String {
    let style = match (good, text) {
        (false, _) => BAD,
        (true, "open") => GOOD,
        (true, _) => QUIET,
    };
    format!("{style}{}{style:#}", pad(text))
}
