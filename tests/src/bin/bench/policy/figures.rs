//! What was measured, and whether it is good enough.

use std::io::Write;

use serde::Serialize;

use crate::report::{Machine, median};

/// Everything that was measured in one run.
#[derive(Serialize)]
pub(super) struct Figures {
    /// Small sizes and few rounds: the figures mean nothing.
    pub(super) quick: bool,
    pub(super) rounds: usize,
    pub(super) machine: Machine,
    pub(super) rows: Vec<Figure>,
}

/// One figure beside its baseline; both are medians of the rounds.
#[derive(Serialize)]
pub(super) struct Figure {
    pub(super) name: String,
    /// What the figure is of.
    pub(super) what: String,
    pub(super) unit: &'static str,
    pub(super) value: f64,
    /// What the baseline is of.
    pub(super) baseline: String,
    pub(super) baseline_value: f64,
    /// `value / baseline_value`.
    pub(super) ratio: f64,
    /// `None`: told for comparison.
    pub(super) goal: Option<Goal>,
    /// Whether goal and checks are met; `None` without any.
    pub(super) met: Option<bool>,
    /// What else must be true.
    pub(super) checks: Vec<Check>,
    /// Each round: figure and baseline.
    pub(super) rounds: Vec<[f64; 2]>,
}

/// What a figure must reach.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Goal {
    /// The ratio must not be above.
    RatioAtMost(f64),
    /// The ratio must not be below.
    RatioAtLeast(f64),
    /// The figure itself must not be above.
    ValueAtMost(f64),
}

/// Something that is true or not.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    pub(super) what: String,
    pub(super) holds: bool,
}

impl Figure {
    /// Makes a figure in nanoseconds from its rounds.
    pub(super) fn new(name: &str, what: &str, baseline: &str, rounds: Vec<[f64; 2]>) -> Self {
        let value = median(rounds.iter().map(|round| round[0]));
        let baseline_value = median(rounds.iter().map(|round| round[1]));
        Self {
            name: name.to_owned(),
            what: what.to_owned(),
            unit: "ns",
            value,
            baseline: baseline.to_owned(),
            baseline_value,
            ratio: value / baseline_value,
            goal: None,
            met: None,
            checks: Vec::new(),
            rounds,
        }
    }

    pub(super) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self.judged()
    }

    /// Says what the figures are counted in, instead of nanoseconds.
    pub(super) fn in_unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    pub(super) fn check(mut self, what: impl Into<String>, holds: bool) -> Self {
        self.checks.push(Check {
            what: what.into(),
            holds,
        });
        self.judged()
    }

    fn judged(mut self) -> Self {
        let reached = self.goal.map(|goal| match goal {
            Goal::RatioAtMost(most) => self.ratio <= most,
            Goal::RatioAtLeast(least) => self.ratio >= least,
            Goal::ValueAtMost(most) => self.value <= most,
        });
        let hold = self.checks.iter().all(|check| check.holds);
        self.met = if self.goal.is_none() && self.checks.is_empty() {
            None
        } else {
            Some(reached.unwrap_or(true) && hold)
        };
        self
    }

    /// Returns the goal as text.
    pub(super) fn goal_text(&self) -> String {
        match self.goal {
            Some(Goal::RatioAtMost(most)) => format!("<= {most}"),
            Some(Goal::RatioAtLeast(least)) => format!(">= {least}"),
            Some(Goal::ValueAtMost(most)) => format!("<= {most} {}", self.unit),
            None => String::new(),
        }
    }

    /// Returns whether the figure is good enough, as a word; nothing without a goal.
    pub(super) fn word(&self) -> &'static str {
        match self.met {
            Some(true) if self.goal.is_some() => "met",
            Some(false) => "missed",
            Some(true) | None => "",
        }
    }
}

impl Figures {
    pub(super) fn new(rows: Vec<Figure>, quick: bool, rounds: usize) -> Self {
        Self {
            quick,
            rounds,
            machine: Machine::this(),
            rows,
        }
    }

    /// Writes the table for people.
    pub(super) fn write_table(&self, output: &mut impl Write) -> std::io::Result<()> {
        let Machine { kernel, cpu, cpus } = &self.machine;
        writeln!(output, "{kernel} on {cpu} ({cpus} CPUs), {} rounds", self.rounds)?;
        writeln!(
            output,
            "{:<44} {:>11} {:>11} {:<4} {:>8} {:>10}         baseline",
            "row", "figure", "baseline", "", "ratio", "goal"
        )?;
        for row in &self.rows {
            let colour = match row.met {
                Some(true) => anstyle::AnsiColor::Green,
                Some(false) => anstyle::AnsiColor::Red,
                None => anstyle::AnsiColor::White,
            };
            let style = anstyle::Style::new().fg_color(Some(colour.into()));
            writeln!(
                output,
                "{:<44} {:>11.1} {:>11.1} {:<4} {:>8} {:>10} {style}{:<6}{style:#}  {}",
                row.name,
                row.value,
                row.baseline_value,
                row.unit,
                ratio_text(row.ratio),
                row.goal_text(),
                row.word(),
                row.baseline
            )?;
            for check in &row.checks {
                let holds = if check.holds { "yes" } else { "NO" };
                writeln!(output, "    {}: {holds}", check.what)?;
            }
        }
        if self.quick {
            writeln!(output, "A quick run: the figures mean nothing.")?;
        }
        Ok(())
    }
}

/// Returns a ratio with three digits that count.
pub(super) fn ratio_text(ratio: f64) -> String {
    if ratio >= 99.95 {
        format!("{ratio:.0}")
    } else if ratio >= 9.995 {
        format!("{ratio:.1}")
    } else if ratio >= 0.1 {
        format!("{ratio:.2}")
    } else {
        format!("{ratio:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(rounds: &[[f64; 2]]) -> Figure {
        Figure::new("row", "", "baseline", rounds.to_vec())
    }

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let figure = figure(&[[9.0, 1.0], [2.0, 4.0], [3.0, 100.0]]);
        assert!((figure.value - 3.0).abs() < 1e-9);
        assert!((figure.baseline_value - 4.0).abs() < 1e-9);
        assert!((figure.ratio - 0.75).abs() < 1e-9);
    }

    #[test]
    fn a_goal_is_met_from_its_own_side() {
        let met = |goal| figure(&[[8.0, 4.0]]).goal(goal).met;
        assert_eq!(met(Goal::RatioAtMost(2.0)), Some(true));
        assert_eq!(met(Goal::RatioAtMost(1.9)), Some(false));
        assert_eq!(met(Goal::RatioAtLeast(2.1)), Some(false));
        assert_eq!(met(Goal::ValueAtMost(8.0)), Some(true));
        assert_eq!(met(Goal::ValueAtMost(7.0)), Some(false));
    }

    #[test]
    fn a_good_figure_with_a_check_that_fails_is_missed() {
        let figure = figure(&[[1.0, 1.0]]);
        assert_eq!(figure.met, None);
        let figure = figure.goal(Goal::RatioAtMost(1.0)).check("delivered", false);
        assert_eq!((figure.met, figure.word()), (Some(false), "missed"));
    }
}
