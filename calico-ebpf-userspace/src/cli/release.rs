//! `release`: gives a live host to Felix.

use clap::Args;

use super::adopt::{WishArguments, end, failure_of, put_connections, put_notes, require_root, runtime};
use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure};
use super::output::{OutputArguments, Page, Tone};
use crate::changeover::release::{Released, hand_over_flows, release};

const AFTER_HELP: &str = "\
Examples:
  systemctl disable --now calico-ebpf     our policy stays in force
  calico-ebpf release --flows-only        nf_conntrack learns of our flows
  systemctl enable --now calico-felix     both enforce
  calico-ebpf release                     only Felix enforces

Detaches our programs and removes our maps, as `cleanup` does, but leaves routes, neighbours and the settings of taps,
which Felix wants as we do. It refuses, and changes nothing, unless Felix's rules are hooked in for both families and
judge every tap that has our programs, Felix runs, and our agent does not.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Only tell the kernel's connection tracking of our flows: before Felix is started
    #[arg(long, conflicts_with_all = ["dry_run", "force"])]
    flows_only: bool,
    #[command(flatten)]
    wish: WishArguments,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    require_root()?;
    let released = if arguments.flows_only {
        hand_over_flows(&config)
    } else {
        runtime()?.block_on(release(&config, arguments.wish.wish()))
    };
    let released = released.map_err(failure_of)?;
    arguments.output.show(&released, |page| {
        put_on(page, &released, arguments.flows_only);
    })?;
    end(&released.removed.left, "release")
}

fn put_on(page: &mut Page, released: &Released, flows_only: bool) {
    put_connections(page, released.connections);
    if flows_only {
        page.line("our programs enforce as before");
        return;
    }
    if released.dry_run {
        page.line(&format!(
            "would detach from {} taps: Felix's rules judge them",
            released.taps.len()
        ));
    } else {
        page.line(&format!("detached from {} taps", released.taps.len()));
    }
    put_notes(page, &released.notes, &released.removed.left);
    if !released.dry_run && released.removed.left.is_empty() {
        page.toned(Tone::Good, "Felix alone enforces policy on this host");
    }
}
