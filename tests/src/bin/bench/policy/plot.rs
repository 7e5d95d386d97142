//! New-flow cost against rules, as an SVG.

use std::fmt::Write as _;

use super::figures::Figures;

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 470.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 600.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 400.0;

/// A line: what it is called, its colour, and the rows it is made of, around the number of rules.
struct Series {
    name: &'static str,
    colour: &'static str,
    rows: [&'static str; 2],
}

const SERIES: [Series; 4] = [
    Series {
        name: "iptables-nft",
        colour: "#8c564b",
        rows: ["path_vs_iptables/nft/", "_rules/new"],
    },
    Series {
        name: "iptables-legacy",
        colour: "#d62728",
        rows: ["path_vs_iptables/legacy/", "_rules/new"],
    },
    Series {
        name: "linear walk (eBPF)",
        colour: "#ff7f0e",
        rows: ["path_new_flow/linear_walk/", "_rules"],
    },
    Series {
        name: "calico-ebpf",
        colour: "#1f77b4",
        rows: ["path_new_flow/", "_rules"],
    },
];

/// Rules and nanoseconds.
type Point = (f64, f64);

impl Series {
    fn points(&self, figures: &Figures) -> Vec<Point> {
        let [before, behind] = self.rows;
        let points = figures.rows.iter().filter_map(|row| {
            let rules = row.name.strip_prefix(before)?.strip_suffix(behind)?;
            Some((rules.parse().ok()?, row.value))
        });
        points.collect()
    }
}

/// Where a number stands on a logarithmic axis.
struct Axis {
    from: [f64; 2],
    to: [f64; 2],
}

impl Axis {
    /// Reaches over whole powers of ten.
    fn over(values: impl Iterator<Item = f64>, to: [f64; 2]) -> Self {
        let (mut low, mut high) = (f64::MAX, f64::MIN);
        for value in values {
            (low, high) = (low.min(value.log10().floor()), high.max(value.log10().ceil()));
        }
        Self {
            from: [low, high.max(low + 1.0)],
            to,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.log10() - self.from[0]) / (self.from[1] - self.from[0]);
        self.to[0] + share * (self.to[1] - self.to[0])
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        let [mut power, last] = self.from;
        std::iter::from_fn(move || {
            let value = 10_f64.powf(power);
            power += 1.0;
            (power <= last + 1.5).then_some(value)
        })
    }
}

/// Returns the picture; `None` when the figures for it were not measured.
pub(super) fn draw(figures: &Figures) -> Option<String> {
    let lines: Vec<(&Series, Vec<Point>)> = SERIES
        .iter()
        .map(|series| (series, series.points(figures)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let redirect = figures
        .rows
        .iter()
        .find(|row| row.baseline == "bare redirect")?
        .baseline_value;
    let points = || lines.iter().flat_map(|(_, points)| points);
    let x = Axis::over(points().map(|point| point.0), [LEFT, RIGHT]);
    let y = Axis::over(points().map(|point| point.1).chain([redirect]), [BOTTOM, TOP]);
    Some(svg(&lines, redirect, &x, &y).unwrap_or_default())
}

fn svg(
    lines: &[(&Series, Vec<Point>)],
    redirect: f64,
    x: &Axis,
    y: &Axis,
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">"#
    )?;
    writeln!(text, r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>"##)?;
    writeln!(
        text,
        r#"<text x="{LEFT}" y="28" font-size="16">What a packet of a new flow costs, tap to tap, by number of rules</text>"#
    )?;
    for power in x.powers() {
        let at = x.at(power);
        writeln!(text, r##"<path d="M{at:.1} {TOP}V{BOTTOM}" stroke="#ddd"/>"##)?;
        writeln!(
            text,
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{power}</text>"#,
            BOTTOM + 20.0
        )?;
    }
    for power in y.powers() {
        let at = y.at(power);
        writeln!(text, r##"<path d="M{LEFT} {at:.1}H{RIGHT}" stroke="#ddd"/>"##)?;
        writeln!(
            text,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            LEFT - 8.0,
            at + 4.0,
            time_text(power)
        )?;
    }
    writeln!(
        text,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">rules (both axes are logarithmic)</text>"#,
        LEFT.midpoint(RIGHT),
        BOTTOM + 45.0
    )?;
    let at = y.at(redirect);
    writeln!(
        text,
        r##"<path d="M{LEFT} {at:.1}H{RIGHT}" stroke="#555" stroke-dasharray="5 4"/>"##
    )?;
    write_label(&mut text, at + 10.0, "#555", "bare redirect", redirect)?;
    for (series, points) in lines {
        let colour = series.colour;
        let places: Vec<String> = points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x.at(point.0), y.at(point.1)))
            .collect();
        writeln!(
            text,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            places.join(" ")
        )?;
        for point in points {
            writeln!(
                text,
                r#"<circle cx="{:.1}" cy="{:.1}" r="3.5" fill="{colour}"/>"#,
                x.at(point.0),
                y.at(point.1)
            )?;
        }
        if let Some(last) = points.last() {
            // Above what lies on the same height.
            let raised = if series.name == "calico-ebpf" { -6.0 } else { 4.0 };
            let name = if x.at(last.0) < RIGHT - 1.0 {
                format!("{} ({} rules)", series.name, last.0)
            } else {
                series.name.to_owned()
            };
            write_label(&mut text, y.at(last.1) + raised, colour, &name, last.1)?;
        }
    }
    writeln!(text, "</svg>")?;
    Ok(text)
}

fn write_label(text: &mut String, at: f64, colour: &str, name: &str, nanoseconds: f64) -> std::fmt::Result {
    let time = time_text(nanoseconds);
    writeln!(
        text,
        r#"<text x="{:.1}" y="{at:.1}" fill="{colour}">{name}: {time}</text>"#,
        RIGHT + 8.0
    )
}

fn time_text(nanoseconds: f64) -> String {
    let (value, unit) = if nanoseconds >= 999_500.0 {
        (nanoseconds / 1e6, "ms")
    } else if nanoseconds >= 999.5 {
        (nanoseconds / 1e3, "µs")
    } else {
        (nanoseconds, "ns")
    };
    let digits = usize::from(value < 9.95 && value.fract() > 0.05);
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::figures::Figure;

    fn figures(rows: &[(&str, f64)]) -> Figures {
        let row = |(name, value): &(&str, f64)| Figure::new(name, "", "bare redirect", vec![[*value, 400.0]]);
        Figures::new(rows.iter().map(row).collect(), false, 9)
    }

    #[test]
    fn each_dataplane_that_was_measured_is_a_line() {
        let svg = draw(&figures(&[
            ("path_new_flow/1_rules", 900.0),
            ("path_new_flow/100_rules", 905.0),
            ("path_new_flow/linear_walk/100_rules", 9000.0),
            ("path_vs_iptables/legacy/100_rules/new", 22_000.0),
            ("path_vs_iptables/legacy/100_rules/established", 1700.0),
        ]))
        .unwrap();
        assert_eq!(svg.matches("<polyline").count(), 3);
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains("iptables-legacy: 22 µs"));
        assert!(svg.contains("calico-ebpf: 905 ns"));
    }

    #[test]
    fn ten_times_as_much_is_one_step_up() {
        let axis = Axis::over([300.0, 20_000.0].into_iter(), [400.0, 100.0]);
        assert!((axis.at(100.0) - 400.0).abs() < 1e-6);
        assert!((axis.at(100_000.0) - 100.0).abs() < 1e-6);
        assert!((axis.at(1000.0) - 300.0).abs() < 1e-6);
        assert_eq!(axis.powers().count(), 4);
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert!(draw(&figures(&[])).is_none());
    }

    #[test]
    fn times_have_the_unit_that_keeps_them_short() {
        assert_eq!(time_text(940.4), "940 ns");
        assert_eq!(time_text(1000.0), "1 µs");
        assert_eq!(time_text(2345.0), "2.3 µs");
        assert_eq!(time_text(1_900_000.0), "1.9 ms");
    }
}
