//! `counters`: packets by what became of them.

use clap::Args;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure};
use super::output::{OutputArguments, Page, Tone, grouped, plain};
use crate::observe::pinned::{CounterValue, Counters, PinnedMaps};

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf counters
  calico-ebpf counters --all
      Reasons without a packet, too
  calico-ebpf counters -o json | jq '.dropped[] | select(.packets > 0)'

The user guide says what each drop reason means and what to do about it.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Shows reasons without a packet, too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    let counters = PinnedMaps::under(&config.bpf_pin_dir).counters()?;
    arguments
        .output
        .show(&counters, |page| put_on(page, &counters, arguments.all))?;
    Ok(Ending::Good)
}

fn put_on(page: &mut Page, counters: &Counters, all: bool) {
    page.heading("Passed");
    table(page, &counters.passed, Tone::Plain, all);
    page.heading("Dropped");
    table(page, &counters.dropped, Tone::Attention, all);
}

fn table(page: &mut Page, values: &[CounterValue], tone: Tone, all: bool) {
    let shown: Vec<&CounterValue> = values.iter().filter(|value| all || value.packets > 0).collect();
    if shown.is_empty() {
        page.toned(Tone::Quiet, "nothing");
        return;
    }
    let row = |value: &&CounterValue| {
        vec![
            (tone, value.reason.to_owned()),
            plain(grouped(value.packets)),
            plain(grouped(value.bytes)),
        ]
    };
    page.table(&["REASON", "PACKETS", "BYTES"], shown.iter().map(row).collect());
}

#[cfg(test)]
mod tests {
    use calico_ebpf_common::verdict::DropReason;

    use super::*;

    #[test]
    fn reasons_without_a_packet_are_shown_only_when_asked_for() {
        let counters = Counters {
            dropped: vec![
                CounterValue {
                    reason: "malformed",
                    packets: 1200,
                    bytes: 72_000,
                },
                CounterValue {
                    reason: "vlan",
                    packets: 0,
                    bytes: 0,
                },
            ],
            passed: vec![],
        };
        let mut page = Page::plain();
        put_on(&mut page, &counters, false);
        assert!(
            page.text().contains("malformed  1,200    72,000"),
            "{}",
            page.text()
        );
        assert!(!page.text().contains("vlan"));
        let mut page = Page::plain();
        put_on(&mut page, &counters, true);
        assert!(page.text().contains("vlan"));
    }

    #[test]
    fn the_user_guide_says_of_every_drop_reason_what_to_do() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/user-guide.md");
        let guide = std::fs::read_to_string(path).unwrap();
        for reason in DropReason::ALL {
            assert!(
                guide.contains(&format!("\n| `{}` |", reason.name())),
                "{} is not in the guide",
                reason.name()
            );
        }
    }
}
