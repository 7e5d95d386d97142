//! `completion`: what a shell needs to complete the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::CommandLine;
use super::failure::Ending;

const AFTER_HELP: &str = "\
Examples:
  source <(calico-ebpf completion bash)
  calico-ebpf completion zsh > \"${fpath[1]}/_calico-ebpf\"

The packages install it for bash, zsh and fish.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn execute(arguments: &Arguments) -> Ending {
    let mut command = CommandLine::command();
    clap_complete::generate(
        arguments.shell,
        &mut command,
        "calico-ebpf",
        &mut std::io::stdout().lock(),
    );
    Ending::Good
}
