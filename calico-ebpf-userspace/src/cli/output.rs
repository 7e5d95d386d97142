//! What commands print: one JSON document, or text for people with tables; colour on a terminal only.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anstyle::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::failure::Failure;

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Text and tables for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// Flags of every command that prints.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct OutputArguments {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    pub(super) output: Format,
}

impl OutputArguments {
    /// Prints `value` as JSON, or what `text` puts on a page.
    ///
    /// # Errors
    /// Fails when standard output does; a reader that went away is no error.
    pub(super) fn show<T: Serialize>(self, value: &T, text: impl FnOnce(&mut Page)) -> Result<(), Failure> {
        let written = match self.output {
            Format::Json => {
                let mut json = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
                json.push('\n');
                io::stdout().write_all(json.as_bytes())
            }
            Format::Table => {
                let mut page = Page::for_standard_output();
                text(&mut page);
                anstream::stdout().write_all(page.text.as_bytes())
            }
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other.map_err(anyhow::Error::from)?),
        }
    }
}

/// How good something is; its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Attention,
    Bad,
    Quiet,
}

/// Text that is being put together.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    text: String,
    is_coloured: bool,
}

impl Page {
    /// Makes a page for standard output: coloured on a terminal, unless `NO_COLOR` is set.
    pub(super) fn for_standard_output() -> Self {
        let choice = anstream::AutoStream::choice(&io::stdout());
        Self {
            text: String::new(),
            is_coloured: choice != anstream::ColorChoice::Never,
        }
    }

    /// Makes a page without colour.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self::default()
    }

    /// Returns the text so far.
    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Writes what is on the page to standard output, at once.
    ///
    /// # Errors
    /// Fails when standard output does.
    pub(super) fn print(&self) -> io::Result<()> {
        let mut output = anstream::stdout();
        output.write_all(self.text.as_bytes())?;
        output.flush()
    }

    /// Adds text in the colour of `tone`, without ending the line.
    pub(super) fn part(&mut self, tone: Tone, text: &str) {
        self.painted(style_of(tone), text);
    }

    /// Adds a heading, after an empty line unless it is the first.
    pub(super) fn heading(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let style = Style::new().bold();
        self.painted(style, text);
        self.text.push('\n');
    }

    /// Adds a line.
    pub(super) fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Adds a line in the colour of `tone`.
    pub(super) fn toned(&mut self, tone: Tone, text: &str) {
        self.painted(style_of(tone), text);
        self.text.push('\n');
    }

    /// Adds labels and what they say, one to a line.
    pub(super) fn facts(&mut self, facts: &[(&str, Tone, String)]) {
        let width = facts.iter().map(|(label, ..)| label.len()).max().unwrap_or(0);
        for (label, tone, value) in facts {
            write!(self.text, "{label:width$}  ").unwrap_or_default();
            self.toned(*tone, value);
        }
    }

    /// Adds a table.
    pub(super) fn table(&mut self, header: &[&str], rows: Vec<Vec<(Tone, String)>>) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.is_coloured {
            table
                .enforce_styling()
                .set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.force_no_tty();
        }
        let bold = |text: &&str| Cell::new(*text).add_attribute(comfy_table::Attribute::Bold);
        table.set_header(header.iter().map(bold).collect::<Vec<_>>());
        for row in rows {
            table.add_row(
                row.into_iter()
                    .map(|(tone, text)| cell(tone, &text))
                    .collect::<Vec<_>>(),
            );
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.line(line.trim_end());
        }
    }

    fn painted(&mut self, style: Style, text: &str) {
        if self.is_coloured {
            write!(self.text, "{style}{text}{style:#}").unwrap_or_default();
        } else {
            self.text.push_str(text);
        }
    }
}

/// Returns a cell without colour.
pub(super) fn plain(text: impl Into<String>) -> (Tone, String) {
    (Tone::Plain, text.into())
}

fn style_of(tone: Tone) -> Style {
    let colour = match tone {
        Tone::Plain => return Style::new(),
        Tone::Good => AnsiColor::Green,
        Tone::Attention => AnsiColor::Yellow,
        Tone::Bad => AnsiColor::Red,
        Tone::Quiet => AnsiColor::BrightBlack,
    };
    Style::new().fg_color(Some(colour.into()))
}

fn cell(tone: Tone, text: &str) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Attention => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Quiet => cell.fg(Color::DarkGrey),
    }
}

/// Returns a count with a comma between thousands: `12,500`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a span of time in its two largest units: `2d 3h`, `41s`.
pub(super) fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units
        .iter()
        .position(|(length, _)| seconds >= *length)
        .unwrap_or(3);
    let (length, name) = units[first];
    let mut text = format!("{}{name}", seconds / length);
    if let Some((next, name)) = units.get(first + 1).filter(|(next, _)| seconds % length >= *next) {
        write!(text, " {}{name}", seconds % length / next).unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_page_has_no_escape_sequences() {
        let mut page = Page::plain();
        page.heading("Drops");
        page.toned(Tone::Bad, "all of them");
        page.table(
            &["reason", "packets"],
            vec![vec![(Tone::Bad, "malformed".to_owned()), plain("3")]],
        );
        assert_eq!(
            page.text(),
            "Drops\nall of them\nreason     packets\nmalformed  3\n"
        );
    }

    #[test]
    fn a_coloured_page_has_them() {
        let mut page = Page {
            text: String::new(),
            is_coloured: true,
        };
        page.toned(Tone::Bad, "no");
        assert_eq!(page.text(), "\u{1b}[31mno\u{1b}[0m\n");
    }

    #[test]
    fn numbers_are_grouped_and_spans_have_two_units() {
        assert_eq!(
            [grouped(0), grouped(999), grouped(1000), grouped(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [span(0), span(61), span(3600), span(90_061)],
            ["0s", "1m 1s", "1h", "1d 1h"]
        );
    }
}
