//! The command line: one file to a subcommand.
//!
//! Exit status: 0 good; 1 the work failed, or its result is bad (`check`, `validate`, `status`); 2 wrong command line
//! or configuration; 3 nothing there to look at (no agent has run); 4 not permitted.

mod adopt;
mod arguments;
mod check;
mod cleanup;
mod completion;
mod config;
mod counters;
mod endpoints;
mod explain;
mod failure;
mod flows;
mod manual;
mod output;
mod policy;
mod release;
mod routes;
mod run;
mod status;
mod validate;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::{Ending, Failure};

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf check
      What this kernel and host offer, before anything is changed
  calico-ebpf run --datastore-type file --datastore-dir /etc/calico/manifests --hostname compute-1
      Enforce a directory of manifests on this host's taps
  calico-ebpf status
      Is it in force, and what was left out?
  calico-ebpf policy --iface tap8dfa1418-d5
      The rules of one tap in order, with their hits
  calico-ebpf -h, calico-ebpf COMMAND --help
      Short help, and help with examples for each command

Exit status:
  0 good   1 failed, or the result is bad   2 wrong command line or configuration
  3 nothing there: no agent has run   4 not permitted";

/// Calico's host agent for OpenStack with a TC eBPF dataplane.
///
/// Judges and routes the packets of VMs on their tap interfaces by Calico v3 policy. Parameters keep Felix's names.
#[derive(Debug, Parser)]
#[command(name = "calico-ebpf", version, after_long_help = AFTER_HELP, max_term_width = 110)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent in the foreground
    Run(run::Arguments),
    /// Tells what this kernel and host offer, requirement by requirement
    Check(check::Arguments),
    /// Tells whether policy is in force, and what was left out
    Status(status::Arguments),
    /// Lists this host's endpoints with the state of their taps
    Endpoints(endpoints::Arguments),
    /// Shows the rules that judge an endpoint, in order, with their hits
    Policy(policy::Arguments),
    /// Lists live flows (conntrack)
    Flows(flows::Arguments),
    /// Compares the kernel's routes with what endpoints need
    Routes(routes::Arguments),
    /// Counts packets by what became of them
    Counters(counters::Arguments),
    /// Shows drops, and packets that `Log` rules match, as they happen
    Watch(watch::Arguments),
    /// Asks the programs what would become of a packet, and who decides about it
    Explain(Box<explain::Arguments>),
    /// Checks a directory of manifests, without a kernel
    Validate(validate::Arguments),
    /// Shows parameters: their values and where they came from, or their defaults
    Config(config::Arguments),
    /// Takes a live host over from Felix: removes its rules once ours enforce everything
    Adopt(adopt::Arguments),
    /// Gives a live host to Felix: detaches our programs once its rules judge every tap
    Release(release::Arguments),
    /// Removes programs, maps, routes and settings of the agent; policy is off afterwards
    Cleanup(cleanup::Arguments),
    /// Prints what a shell needs to complete this command line
    Completion(completion::Arguments),
    /// Writes the manual's pages
    #[command(hide = true)]
    Manual(manual::Arguments),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    match command_line.command.execute() {
        Ok(ending) => ending.into(),
        Err(failure) => {
            let style = anstyle::Style::new()
                .bold()
                .fg_color(Some(anstyle::AnsiColor::Red.into()));
            anstream::eprintln!("{style}error:{style:#} {failure}");
            ExitCode::from(failure.status)
        }
    }
}

impl Command {
    fn execute(&self) -> Result<Ending, Failure> {
        match self {
            Self::Run(arguments) => run::execute(arguments),
            Self::Check(arguments) => check::execute(arguments),
            Self::Status(arguments) => status::execute(arguments),
            Self::Endpoints(arguments) => endpoints::execute(arguments),
            Self::Policy(arguments) => policy::execute(arguments),
            Self::Flows(arguments) => flows::execute(arguments),
            Self::Routes(arguments) => routes::execute(arguments),
            Self::Counters(arguments) => counters::execute(arguments),
            Self::Watch(arguments) => watch::execute(arguments),
            Self::Explain(arguments) => explain::execute(arguments),
            Self::Validate(arguments) => validate::execute(arguments),
            Self::Config(arguments) => config::execute(arguments),
            Self::Adopt(arguments) => adopt::execute(arguments),
            Self::Release(arguments) => release::execute(arguments),
            Self::Cleanup(arguments) => cleanup::execute(arguments),
            Self::Completion(arguments) => Ok(completion::execute(arguments)),
            Self::Manual(arguments) => manual::execute(arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_that_prints_takes_output_json() {
        for name in [
            "check",
            "status",
            "endpoints",
            "policy",
            "flows",
            "routes",
            "counters",
            "watch",
            "adopt",
            "release",
        ] {
            CommandLine::try_parse_from(["calico-ebpf", name, "-o", "json"]).unwrap();
        }
        CommandLine::try_parse_from(["calico-ebpf", "validate", "/tmp", "-o", "json"]).unwrap();
        CommandLine::try_parse_from(["calico-ebpf", "config", "show", "--output", "json"]).unwrap();
    }

    #[test]
    fn every_command_has_examples_in_its_long_help() {
        for command in CommandLine::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }
}
