//! `cleanup`: removes everything that is ours.

use clap::Args;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure, NOT_PERMITTED};
use super::output::OutputArguments;

const AFTER_HELP: &str = "\
Examples:
  systemctl stop calico-ebpf && calico-ebpf cleanup
  calico-ebpf cleanup --set BPFPinDir=/sys/fs/bpf/second --set RunDir=/run/second

Removes programs, links, maps, routes, neighbour entries and sysctl changes that the agent made, and nothing else.
Afterwards no policy is enforced on this host's taps. The agent must not run.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    if !nix::unistd::geteuid().is_root() {
        let error = anyhow::anyhow!("not root: programs, maps and routes are root's to remove");
        return Err(Failure::new(error, NOT_PERMITTED, "Run it as root."));
    }
    let _ = (config, arguments.output);
    Err(anyhow::anyhow!("the dataplane is not part of this build").into())
}
