//! `adopt`: takes a live host over from Felix.

use clap::Args;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure, NOT_PERMITTED};
use super::output::{OutputArguments, Page, Tone};
use crate::changeover::adopt::{Adopted, Wish, adopt};
use crate::changeover::flows::HandedOver;
use crate::observe::ObserveError;

const AFTER_HELP: &str = "\
Examples:
  systemctl disable --now calico-felix    Felix's rules stay, and enforce
  systemctl enable --now calico-ebpf      both enforce
  calico-ebpf adopt --dry-run             what would be removed?
  calico-ebpf adopt                       only ours enforce

Removes Felix's chains (cali-*), the rules that lead to them and its sets (cali40*, cali60*) from both families and both
back ends of iptables, and nothing else; before that, connections that Felix's rules had let pass are handed over. It
refuses, and changes nothing, unless the agent runs in sync, both programs are first on every tap, every endpoint is up
with its routes, and Felix is stopped. Every run does what is left to do. `calico-ebpf release --help` is the way back.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    wish: WishArguments,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Flags of both change-overs.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct WishArguments {
    /// Look at everything, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Go on in spite of reasons that say that this is possible
    #[arg(long)]
    force: bool,
}

impl WishArguments {
    /// Returns what is asked for.
    pub(super) fn wish(self) -> Wish {
        Wish {
            dry_run: self.dry_run,
            force: self.force,
        }
    }
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    require_root()?;
    let wish = arguments.wish.wish();
    let adopted = runtime()?.block_on(adopt(&config, wish)).map_err(failure_of)?;
    arguments.output.show(&adopted, |page| put_on(page, &adopted))?;
    end(&adopted.left, "adopt")
}

/// Refuses anybody but root.
pub(super) fn require_root() -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let error = anyhow::anyhow!("not root: rules, maps and connection tracking are root's to change");
    Err(Failure::new(error, NOT_PERMITTED, "Run it as root."))
}

/// Makes what awaits the kernel's answers.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// Gives errors about missing reports and maps their cure.
pub(super) fn failure_of(error: anyhow::Error) -> Failure {
    match error.downcast::<ObserveError>() {
        Ok(error) => error.into(),
        Err(error) => error.into(),
    }
}

/// Returns how a change-over ends that left something.
pub(super) fn end(left: &[String], command: &str) -> Result<Ending, Failure> {
    if left.is_empty() {
        return Ok(Ending::Good);
    }
    Err(anyhow::anyhow!("{} things are left, run {command} again", left.len()).into())
}

fn put_on(page: &mut Page, adopted: &Adopted) {
    let verb = if adopted.dry_run {
        "would remove"
    } else {
        "removed"
    };
    for table in &adopted.tables {
        page.line(&format!(
            "{verb} {} {}: {} hooks, {} chains with {} rules",
            table.backend,
            table.table,
            table.hooks.len(),
            table.chains.len(),
            table.rules
        ));
    }
    if !adopted.ip_sets.is_empty() {
        page.line(&format!("{verb} {} sets", adopted.ip_sets.len()));
    }
    if adopted.tables.is_empty() && adopted.ip_sets.is_empty() && adopted.left.is_empty() {
        page.toned(Tone::Good, "nothing of Felix is here");
    }
    put_connections(page, adopted.connections);
    put_notes(page, &adopted.notes, &adopted.left);
    if !adopted.dry_run && adopted.left.is_empty() {
        page.toned(Tone::Good, "calico-ebpf alone enforces policy on this host");
    }
}

/// Tells how many connections were handed over.
pub(super) fn put_connections(page: &mut Page, handed: HandedOver) {
    if handed.flows > 0 {
        page.line(&format!("handed over {} connections", handed.flows));
    }
    if handed.failed > 0 {
        page.toned(
            Tone::Attention,
            &format!("{} connections could not be handed over", handed.failed),
        );
    }
}

/// Tells what to know, and what is left.
pub(super) fn put_notes(page: &mut Page, notes: &[String], left: &[String]) {
    for note in notes {
        page.toned(Tone::Attention, &format!("note: {note}"));
    }
    for left in left {
        page.toned(Tone::Bad, &format!("left: {left}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changeover::adopt::RemovedTable;

    #[test]
    fn what_was_removed_is_told_by_table_and_what_is_left_with_its_reason() {
        let adopted = Adopted {
            tables: vec![RemovedTable {
                backend: "iptables-nft".to_owned(),
                table: "filter".to_owned(),
                hooks: vec!["-A FORWARD -j cali-FORWARD".to_owned()],
                chains: vec!["cali-FORWARD".to_owned()],
                rules: 7,
            }],
            left: vec!["set cali40x: in use".to_owned()],
            ..Adopted::default()
        };
        let mut page = Page::plain();
        put_on(&mut page, &adopted);
        assert_eq!(
            page.text(),
            "removed iptables-nft filter: 1 hooks, 1 chains with 7 rules\nleft: set cali40x: in use\n"
        );
    }
}
