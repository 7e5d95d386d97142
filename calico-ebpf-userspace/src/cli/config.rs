//! `config`: parameters and where their values came from.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure};
use super::output::{OutputArguments, Page, Tone, plain};
use crate::config::parameters::{self, Handling};
use crate::config::{Resolved, Source};

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf config show
      What differs from the defaults, and where it was set
  calico-ebpf config show --all
  calico-ebpf config default
      Every parameter with its values, default and meaning

Values come from, low to high: default, datastore, /etc/calico/felix.cfg, FELIX_<Name>, command line.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Shows the values in force and where they came from, as this host sets them
    #[command(after_long_help = AFTER_HELP)]
    Show {
        /// Shows defaults, too
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        config: ConfigArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Lists every parameter with its values, default and meaning
    #[command(after_long_help = AFTER_HELP)]
    Default {
        #[command(flatten)]
        output: OutputArguments,
    },
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    match &arguments.command {
        ConfigCommand::Show { all, config, output } => {
            let resolved = config.resolve()?;
            let shown = ShownConfig::new(&resolved, *all);
            output.show(&shown, |page| shown.put_on(page))?;
        }
        ConfigCommand::Default { output } => {
            let rows: Vec<DefaultRow> = parameters::all().map(DefaultRow::of).collect();
            output.show(&rows, |page| put_defaults_on(page, &rows))?;
        }
    }
    Ok(Ending::Good)
}

#[derive(Debug, Serialize)]
struct ShownConfig<'a> {
    parameters: Vec<&'a crate::config::ParameterValue>,
    warnings: &'a [crate::config::Warning],
    #[serde(skip)]
    hidden: usize,
}

impl<'a> ShownConfig<'a> {
    fn new(resolved: &'a Resolved, all: bool) -> Self {
        let is_shown = |value: &&crate::config::ParameterValue| all || value.source != Source::Default;
        let parameters: Vec<_> = resolved.values.iter().filter(is_shown).collect();
        let hidden = resolved.values.len() - parameters.len();
        Self {
            parameters,
            warnings: &resolved.warnings,
            hidden,
        }
    }

    fn put_on(&self, page: &mut Page) {
        let row = |value: &&crate::config::ParameterValue| {
            let tone = if value.without_effect.is_empty() {
                Tone::Plain
            } else {
                Tone::Quiet
            };
            let origin = if value.source == Source::Default {
                "default".to_owned()
            } else {
                format!("{}: {}", value.source, value.place)
            };
            vec![
                (tone, value.name.to_owned()),
                (tone, value.value.clone()),
                (tone, origin),
                (Tone::Quiet, value.without_effect.clone()),
            ]
        };
        if !self.parameters.is_empty() {
            let rows = self.parameters.iter().map(row).collect();
            page.table(&["PARAMETER", "VALUE", "SET BY", "WITHOUT EFFECT"], rows);
        }
        if self.hidden > 0 {
            page.toned(
                Tone::Quiet,
                &format!(
                    "{} parameters have their defaults; --all shows them.",
                    self.hidden
                ),
            );
        }
        for warning in self.warnings {
            page.toned(
                Tone::Attention,
                &format!("{}: {}: {}", warning.place, warning.name, warning.text),
            );
        }
    }
}

#[derive(Debug, Serialize)]
struct DefaultRow {
    name: &'static str,
    values: String,
    default: &'static str,
    doc: String,
    /// `acted`, `ignored`.
    handling: &'static str,
    local_only: bool,
}

impl DefaultRow {
    fn of(parameter: &parameters::Parameter) -> Self {
        let (handling, doc) = match parameter.handling {
            Handling::Acted => ("acted", parameter.doc.to_owned()),
            Handling::Ignored(reason) => ("ignored", format!("Without effect: {reason}.")),
        };
        Self {
            name: parameter.name,
            values: parameter.kind.describe(),
            default: parameter.default,
            doc,
            handling,
            local_only: parameter.local_only,
        }
    }
}

fn put_defaults_on(page: &mut Page, rows: &[DefaultRow]) {
    let row = |row: &DefaultRow| {
        let tone = if row.handling == "acted" {
            Tone::Plain
        } else {
            Tone::Quiet
        };
        let default = row.default.to_owned();
        vec![
            (tone, row.name.to_owned()),
            plain(default),
            (tone, row.values.clone()),
            (tone, row.doc.clone()),
        ]
    };
    page.table(
        &["PARAMETER", "DEFAULT", "VALUES", "MEANING"],
        rows.iter().map(row).collect(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_set_is_shown_with_its_origin() {
        let arguments = ConfigArguments {
            hostname: Some("h1".to_owned()),
            settings: vec!["HealthPort=1234".to_owned(), "ChainInsertMode=append".to_owned()],
            ..ConfigArguments::default()
        };
        let resolved = arguments.resolve().unwrap();
        let mut page = Page::plain();
        ShownConfig::new(&resolved, false).put_on(&mut page);
        assert!(page.text().contains("HealthPort"), "{}", page.text());
        assert!(
            page.text().contains("command line: --set HealthPort"),
            "{}",
            page.text()
        );
        assert!(
            page.text().contains("there are no iptables rules"),
            "{}",
            page.text()
        );
        assert!(!page.text().contains("HealthHost"), "{}", page.text());
    }
}
