//! `config`: parameters and where their values came from.

mod default;
mod show;

use clap::{Args, Subcommand};

use self::default::{DefaultRow, put_defaults_on};
use self::show::ShownConfig;
use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure};
use super::output::{Format, OutputArguments};
use crate::config::{Config, parameters};
use crate::observe::{ObserveError, is_running, read_report};
use crate::report::AgentReport;

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf config show
      What differs from the defaults in the running agent, and where it was set
  calico-ebpf config show --offline
      What the next start would take from flags, environment and file
  calico-ebpf config show -o json | jq '.parameters[] | select(.source | startswith(\"datastore\"))'
  calico-ebpf config default
      Every parameter with its values, default and meaning

Values come from, low to high: default, datastore, /etc/calico/felix.cfg, FELIX_<Name>, command line.
`show` tells the values of the agent that runs with this RunDir, with what it took from the datastore. Without one, it
tells what flags, environment and file say here, and says so.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Shows the values in force in the running agent and where they came from
    #[command(after_long_help = AFTER_HELP)]
    Show {
        /// Shows defaults, too; JSON always has them
        #[arg(short, long)]
        all: bool,
        /// Shows what flags, environment and file say here, also when an agent runs
        #[arg(long)]
        offline: bool,
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
        ConfigCommand::Show {
            all,
            offline,
            config,
            output,
        } => {
            let resolved = config.resolve()?;
            // What reads JSON picks for itself.
            let all = *all || output.output == Format::Json;
            let shown = match running_agent(&resolved.config, *offline)? {
                Some(report) => ShownConfig::of_agent(&report, all),
                None => ShownConfig::of_host(&resolved, all, *offline),
            };
            output.show(&shown, |page| shown.put_on(page))?;
        }
        ConfigCommand::Default { output } => {
            let rows: Vec<DefaultRow> = parameters::all().map(DefaultRow::of).collect();
            output.show(&rows, |page| put_defaults_on(page, &rows))?;
        }
    }
    Ok(Ending::Good)
}

/// Returns the report of the agent that runs with this `RunDir`.
fn running_agent(config: &Config, offline: bool) -> Result<Option<AgentReport>, ObserveError> {
    if offline {
        return Ok(None);
    }
    match read_report(&config.run_dir) {
        Ok(report) => Ok(is_running(&report).then_some(report)),
        Err(ObserveError::NoReport { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
