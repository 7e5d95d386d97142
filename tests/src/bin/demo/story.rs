//! What was expected and what was seen, step by step.

use serde::Serialize;

use crate::screen::Screen;
use crate::speed::Comparison;

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cell {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) what: String,
    pub(crate) expected: String,
    pub(crate) seen: String,
}

impl Cell {
    pub(crate) fn new(from: &str, to: &str, what: &str, expected: &str, seen: impl Into<String>) -> Self {
        let [from, to, what, expected] = [from, to, what, expected].map(str::to_owned);
        Self {
            from,
            to,
            what,
            expected,
            seen: seen.into(),
        }
    }

    pub(crate) fn is_as_expected(&self) -> bool {
        self.expected == self.seen
    }
}

/// A step and its cells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    pub(crate) step: String,
    pub(crate) cells: Vec<Cell>,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    ok: bool,
    steps: &'a [Step],
    #[serde(skip_serializing_if = "Option::is_none")]
    throughput: Option<&'a Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Collects the steps and shows them as they happen.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) screen: Screen,
    steps: Vec<Step>,
    throughput: Option<Comparison>,
    error: Option<String>,
}

impl Story {
    pub(crate) fn new(screen: Screen) -> Self {
        Self {
            screen,
            steps: Vec::new(),
            throughput: None,
            error: None,
        }
    }

    /// Begins a step.
    pub(crate) fn begin(&mut self, title: &str, explanation: &str) {
        self.screen.title(self.steps.len() + 1, title, explanation);
        self.steps.push(Step {
            step: title.to_owned(),
            cells: Vec::new(),
        });
    }

    /// Adds cells to the current step without showing them.
    pub(crate) fn record(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.steps
            .last_mut()
            .expect("a step was begun")
            .cells
            .extend(cells);
    }

    /// Adds one cell to the current step and shows it.
    pub(crate) fn tell(&mut self, cell: Cell) {
        self.screen.cell(&cell);
        self.record([cell]);
    }

    pub(crate) fn compare(&mut self, comparison: Comparison) {
        self.screen.comparison(&comparison);
        self.throughput = Some(comparison);
    }

    /// Notes why the story ends early.
    pub(crate) fn fail(&mut self, error: &str) {
        Screen::failure(error);
        self.error = Some(error.to_owned());
    }

    /// Shows the end and returns whether every cell was as expected.
    pub(crate) fn finish(&self) -> bool {
        let cells = || self.steps.iter().flat_map(|step| &step.cells);
        let wrong = cells().filter(|cell| !cell.is_as_expected()).count();
        let ok = wrong == 0 && self.error.is_none() && cells().next().is_some();
        let document = Document {
            ok,
            steps: &self.steps,
            throughput: self.throughput.as_ref(),
            error: self.error.as_deref(),
        };
        self.screen.end(&document, cells().count(), wrong);
        ok
    }
}
