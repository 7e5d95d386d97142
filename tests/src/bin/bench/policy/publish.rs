//! Figures and plot for the documentation.

use std::fmt::Write as _;
use std::fs;

use anyhow::Context;

use super::figures::{Figures, ratio_text};
use super::plot;

/// Paths from the workspace's root, where `cargo xtask bench` runs this.
const PAGE: &str = "docs/performance.md";
const PLOT: &str = "docs/new-flow-cost.svg";
/// Between these lines stands what was measured last.
const BEGIN: &str = "<!-- figures of `cargo xtask bench policy --write-docs`: begin -->";
const END: &str = "<!-- figures of `cargo xtask bench policy --write-docs`: end -->";

/// Writes both.
pub(super) fn write(figures: &Figures) -> anyhow::Result<()> {
    let svg = plot::draw(figures).context("the figures for the plot were not measured")?;
    let page = fs::read_to_string(PAGE).with_context(|| format!("{PAGE}: run `cargo xtask bench`"))?;
    let page = with_figures(&page, &markdown(figures)?)?;
    fs::write(PLOT, svg).context(PLOT)?;
    fs::write(PAGE, page).context(PAGE)
}

fn with_figures(page: &str, figures: &str) -> anyhow::Result<String> {
    let (before, rest) = page
        .split_once(BEGIN)
        .with_context(|| format!("{PAGE} has no line {BEGIN}"))?;
    let (_, behind) = rest
        .split_once(END)
        .with_context(|| format!("{PAGE} has no line {END}"))?;
    Ok(format!("{before}{BEGIN}\n\n{figures}\n{END}{behind}"))
}

fn markdown(figures: &Figures) -> Result<String, std::fmt::Error> {
    let machine = &figures.machine;
    let mut text = String::new();
    writeln!(
        text,
        "Linux {} on {} ({} CPUs), medians of {} rounds and more.\n",
        machine.kernel, machine.cpu, machine.cpus, figures.rounds
    )?;
    writeln!(
        text,
        "| row | figure | baseline | ratio | goal | |\n|---|---|---|---|---|---|"
    )?;
    for row in &figures.rows {
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} |",
            row.name,
            value_text(row.value, row.unit),
            value_text(row.baseline_value, row.unit),
            ratio_text(row.ratio),
            row.goal_text(),
            row.word()
        )?;
    }
    let mut told = Vec::new();
    writeln!(text, "\n| rows | figure | baseline |\n|---|---|---|")?;
    for row in &figures.rows {
        let group: Vec<&str> = row
            .name
            .split('/')
            .filter(|part| !part.starts_with(char::is_numeric))
            .collect();
        let group = group.join("/");
        if told.contains(&group) {
            continue;
        }
        let checks: Vec<String> = row
            .checks
            .iter()
            .map(|check| format!("; {}: {}", check.what, if check.holds { "yes" } else { "no" }))
            .collect();
        writeln!(
            text,
            "| `{group}` | {}{} | {} |",
            row.what,
            checks.concat(),
            row.baseline
        )?;
        told.push(group);
    }
    Ok(text)
}

/// Returns a figure with three digits that count; nanoseconds in the unit that keeps them short.
fn value_text(value: f64, unit: &str) -> String {
    let (value, unit) = match unit {
        "ns" if value >= 1e6 => (value / 1e6, "ms"),
        "ns" if value >= 1e4 => (value / 1e3, "µs"),
        _ => (value, unit),
    };
    let digits = if value < 9.995 {
        2
    } else {
        usize::from(value < 99.95)
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = format!("before\n{BEGIN}\n\nold\n\n{END}\nbehind\n");
        let once = with_figures(&page, "new\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\n\nnew\n\n{END}\nbehind\n"));
        assert_eq!(with_figures(&once, "new\n").unwrap(), once);
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(value_text(6_774_137.0, "ns"), "6.77 ms");
        assert_eq!(value_text(27_541.1, "ns"), "27.5 µs");
        assert_eq!(value_text(1011.7, "ns"), "1012 ns");
        assert_eq!(value_text(61.7, "ms"), "61.7 ms");
        assert_eq!(value_text(5.42, "MiB"), "5.42 MiB");
    }

    #[test]
    fn a_page_without_marks_is_refused() {
        assert!(with_figures("no marks", "new").is_err());
    }
}
