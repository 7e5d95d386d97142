//! `validate`: manifests, without a kernel.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Ending, Failure};
use super::output::OutputArguments;

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf validate /etc/calico/manifests
  calico-ebpf validate ./manifests -o json

Ends with 1 when a document or a part of one would be left out. Needs no rights and changes nothing.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Directory of YAML or JSON manifests
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let _ = (&arguments.directory, arguments.output);
    Err(anyhow::anyhow!("the file datastore is not part of this build").into())
}
