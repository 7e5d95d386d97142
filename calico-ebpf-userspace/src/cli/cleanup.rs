//! `cleanup`: removes everything that is ours.

use clap::Args;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure, NOT_PERMITTED};
use super::output::{OutputArguments, Page, Tone};
use crate::dataplane::cleanup::{Removed, cleanup};

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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let removed = runtime.block_on(cleanup(&config))?;
    arguments.output.show(&removed, |page| show(page, &removed))?;
    if removed.left.is_empty() {
        return Ok(Ending::Good);
    }
    Err(anyhow::anyhow!("{} things are left, run cleanup again", removed.left.len()).into())
}

fn show(page: &mut Page, removed: &Removed) {
    let count = |number: usize| (Tone::Plain, number.to_string());
    let facts = [
        ("links", count(removed.links)),
        ("filters", count(removed.filters)),
        ("qdiscs", count(removed.qdiscs)),
        ("maps and programs", count(removed.pins)),
        ("routes", count(removed.routes)),
        ("neighbours", count(removed.neighbors)),
    ];
    let facts = facts.map(|(name, (tone, text))| (name, tone, text));
    page.facts(&facts);
    if removed.settings {
        page.line("settings are as before the first run");
    }
    if removed.unmounted {
        page.line("bpffs unmounted");
    }
    for left in &removed.left {
        page.toned(Tone::Bad, &format!("left: {left}"));
    }
}
