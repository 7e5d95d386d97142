//! `watch`: drops and `Log` rules as they happen.

mod names;

use std::io::{self, Write as _};
use std::time::{Duration, Instant, SystemTime};

use calico_ebpf_common::event::{EVENTS_A_SECOND, Event};
use calico_ebpf_common::verdict::DropReason;
use clap::Args;
use clap::builder::PossibleValuesParser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::arguments::ConfigArguments;
use super::failure::{Ending, Failure, NOTHING_THERE, USAGE};
use super::output::{Format, OutputArguments, Page, Tone, grouped};
use crate::observe::event_view::{EventView, Kind};
use crate::observe::events::{EventReader, Missed, WatchError, time_of};
use crate::observe::pinned::PinnedMaps;
use names::Names;

const AFTER_HELP: &str = "\
Examples:
  calico-ebpf watch
      Every drop and every packet that a Log rule matches, until Ctrl-C
  calico-ebpf watch --iface tap8dfa1418-d5 --drops
      Drops at one tap, and drops elsewhere by the policy of its endpoint
  calico-ebpf watch --reason source-address --reason source-mac --count 1
      Until the first spoofed packet
  calico-ebpf watch --for 10 -o json | jq 'select(.kind == \"drop\") | .decisions[-1].decided_by'

A line has the time (UTC), what happened (drop or log), the reason, the tap at which the packet was judged, the packet,
and for what policy decided: whose policy, the tier, the policy, and the rule with its place in it.

Log rules are told when a packet is judged: for the packet that opens a flow, and those that are judged again, not for
each packet of a flow. The programs know that a Log rule matched, not which: with several Log rules before the rule that
decided, all of them are named.

Each endpoint tells at most 100 events a second; how many more there were is told, too, and `counters` counts all.
Events cost nothing while nobody watches. One process can watch at a time.";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Only packets judged at this interface, or by the policy of its endpoint
    #[arg(short, long, value_name = "NAME")]
    iface: Option<String>,
    /// Only drops
    #[arg(long, conflicts_with = "logs")]
    drops: bool,
    /// Only packets that a `Log` rule matched, dropped or not
    #[arg(long)]
    logs: bool,
    /// Only drops for this reason; may be repeated
    #[arg(long, value_name = "REASON", conflicts_with = "logs", hide_possible_values = true,
          value_parser = PossibleValuesParser::new(DropReason::ALL.iter().map(|reason| reason.name())))]
    reason: Vec<String>,
    /// Ends after so many events
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Ends after so many seconds
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// How often the deadline is put off and what was missed is told.
const TURN: Duration = Duration::from_secs(1);

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let config = arguments.config.config()?;
    let names = Names::read(config.run_dir.clone())?;
    if let Some(iface) = &arguments.iface
        && !names.knows(iface)
    {
        let error = anyhow::anyhow!("no endpoint of this host has the interface {iface}");
        return Err(Failure::new(error, USAGE, "`calico-ebpf endpoints` lists them."));
    }
    let reader = EventReader::begin(&config.run_dir, &PinnedMaps::under(&config.bpf_pin_dir))?;
    let mut watch = Watch {
        arguments,
        reader,
        names,
        shown: 0,
        missed: Missed::default(),
    };
    let signals = signals()?;
    // What was missed before is of another watch.
    watch.tell_missed()?;
    anstream::eprintln!("Watching; Ctrl-C ends it.");
    match watch.run(&signals) {
        Err(failure) if is_closed_output(&failure) => {}
        result => result?,
    }
    watch.tell_end();
    Ok(Ending::Good)
}

fn is_closed_output(failure: &Failure) -> bool {
    let error = failure.error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

struct Watch<'a> {
    arguments: &'a Arguments,
    reader: EventReader,
    names: Names,
    shown: u64,
    missed: Missed,
}

/// What one endpoint did not tell, as a document.
#[derive(Debug, Serialize)]
struct MissedView<'a> {
    time: String,
    kind: &'static str,
    interface: &'a str,
    suppressed: u32,
    lost: u32,
}

impl Watch<'_> {
    fn run(&mut self, signals: &SignalFd) -> Result<(), Failure> {
        let end = self
            .arguments
            .seconds
            .map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut turn = Instant::now() + TURN;
        loop {
            let now = Instant::now();
            if now >= turn {
                turn = now + TURN;
                if !self.reader.renew()? {
                    anstream::eprintln!(
                        "This command was held up for some seconds, in which nothing was told."
                    );
                }
                self.tell_missed()?;
                if !self.reader.is_in_force() {
                    let error =
                        anyhow::anyhow!("the dataplane was removed, or replaced by another version's");
                    return Err(Failure::new(
                        error,
                        NOTHING_THERE,
                        "Watch again once an agent runs.",
                    ));
                }
            }
            let next = end.map_or(turn, |end| end.min(turn));
            let (readable, ended) = wait(&self.reader, signals, next.saturating_duration_since(now))?;
            if readable && self.show_events()? {
                return self.tell_missed();
            }
            if ended || end.is_some_and(|end| Instant::now() >= end) {
                return self.tell_missed();
            }
        }
    }

    /// Shows the events that are there. Returns whether that were enough.
    fn show_events(&mut self) -> Result<bool, Failure> {
        self.names.refresh();
        while let Some(event) = self.reader.take() {
            let view = EventView::new(&event, text_of(time_of(event.at_ns)?), &self.names.policies);
            if !self.takes(&view, &event) {
                continue;
            }
            self.show(&view)?;
            self.shown += 1;
            if self.arguments.count.is_some_and(|count| self.shown >= count) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn takes(&self, view: &EventView, event: &Event) -> bool {
        let Arguments {
            iface,
            drops,
            logs,
            reason,
            ..
        } = self.arguments;
        let concerns = |name: &String| {
            view.interface == *name
                || self.names.number_of(name) == Some(event.ifindex)
                || view.decisions.iter().any(|decision| decision.interface == *name)
        };
        let kind_fits = match (*drops || !reason.is_empty(), *logs) {
            (true, _) => view.kind == Kind::Drop,
            (_, true) => view.is_logged(),
            (false, false) => true,
        };
        let told = view.reason.unwrap_or_default();
        kind_fits
            && iface.as_ref().is_none_or(concerns)
            && (reason.is_empty() || reason.iter().any(|wanted| wanted == told))
    }

    fn show(&self, view: &EventView) -> Result<(), Failure> {
        match self.arguments.output.output {
            Format::Json => print_json(view),
            Format::Table => {
                let mut page = Page::for_standard_output();
                put_on(&mut page, view);
                Ok(page.print().map_err(anyhow::Error::from)?)
            }
        }
    }

    /// Tells what each endpoint did not tell since the last time.
    fn tell_missed(&mut self) -> Result<(), Failure> {
        for (slot, name) in self.names.slots() {
            let missed = self.reader.missed(slot)?;
            if missed == Missed::default()
                || self.arguments.iface.as_ref().is_some_and(|iface| *iface != name)
            {
                continue;
            }
            self.missed.suppressed = self.missed.suppressed.saturating_add(missed.suppressed);
            self.missed.lost = self.missed.lost.saturating_add(missed.lost);
            let time = text_of(SystemTime::now());
            match self.arguments.output.output {
                Format::Json => print_json(&MissedView {
                    time,
                    kind: "missed",
                    interface: &name,
                    suppressed: missed.suppressed,
                    lost: missed.lost,
                })?,
                Format::Table => {
                    let mut page = Page::for_standard_output();
                    let what = missed_text(missed);
                    page.toned(Tone::Quiet, &format!("{time} {name}: {what}"));
                    page.print().map_err(anyhow::Error::from)?;
                }
            }
        }
        Ok(())
    }

    /// Tells on standard error how much was seen and missed.
    fn tell_end(&self) {
        anstream::eprintln!(
            "{} events shown; {} suppressed (more than {EVENTS_A_SECOND} a second of one endpoint), {} lost",
            grouped(self.shown),
            grouped(self.missed.suppressed.into()),
            grouped(self.missed.lost.into())
        );
    }
}

fn missed_text(missed: Missed) -> String {
    let mut parts = Vec::new();
    if missed.suppressed > 0 {
        let number = grouped(missed.suppressed.into());
        parts.push(format!(
            "{number} more events were suppressed ({EVENTS_A_SECOND} a second are told)"
        ));
    }
    if missed.lost > 0 {
        let number = grouped(missed.lost.into());
        parts.push(format!("{number} events were lost: this command did not keep up"));
    }
    parts.join(", ")
}

/// Puts an event on one line.
fn put_on(page: &mut Page, view: &EventView) {
    let (tone, word) = match view.kind {
        Kind::Drop => (Tone::Bad, "drop"),
        Kind::Log => (Tone::Good, "log "),
    };
    page.part(Tone::Quiet, &view.time);
    page.part(tone, &format!(" {word} {}", view.reason.unwrap_or("allowed")));
    page.part(
        Tone::Plain,
        &format!(" at {} {}", view.interface, view.packet.line()),
    );
    if let Some(decision) = view.deciding() {
        let whose = format!("{} of {}", decision.direction.name(), decision.interface);
        page.part(Tone::Attention, &format!(" | {whose}: {}", decision.by()));
    }
    for decision in view
        .decisions
        .iter()
        .filter(|decision| !decision.logged_by.is_empty())
    {
        page.part(Tone::Good, &format!(" | logged by {}", decision.logged()));
    }
    page.line("");
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_string(value).map_err(anyhow::Error::from)?;
    line.push('\n');
    let mut output = io::stdout().lock();
    let written = output.write_all(line.as_bytes()).and_then(|()| output.flush());
    Ok(written.map_err(anyhow::Error::from)?)
}

/// Returns a time as RFC 3339 has it, in UTC, with microseconds.
fn text_of(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let time = time
        .replace_nanosecond(time.nanosecond() / 1000 * 1000)
        .unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

/// Holds the signals that end the command back, so that it ends in order.
fn signals() -> Result<SignalFd, Failure> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGTERM);
    mask.thread_block().map_err(anyhow::Error::from)?;
    Ok(SignalFd::new(&mask).map_err(anyhow::Error::from)?)
}

/// Waits for an event or a signal. Returns which there is.
fn wait(reader: &EventReader, signals: &SignalFd, limit: Duration) -> Result<(bool, bool), Failure> {
    use std::os::fd::AsFd as _;

    let mut ready = [
        PollFd::new(reader.descriptor(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    // Rounded up: at 0 milliseconds the loop would spin until the moment is there.
    let limit = PollTimeout::try_from(limit + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut ready, limit) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(anyhow::Error::from(error).into()),
    }
    let [readable, ended] = ready.map(|descriptor| descriptor.any() == Some(true));
    Ok((readable, ended))
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Observe(error) => error.into(),
            WatchError::Watched(_) => Self::new(
                error,
                1,
                "One process can watch at a time: end it, or read what it shows.",
            ),
            WatchError::Lock(_, ref source) if source.kind() == io::ErrorKind::PermissionDenied => Self::new(
                error,
                super::failure::NOT_PERMITTED,
                "The dataplane is root's: run the command as root.",
            ),
            WatchError::Lock(..) | WatchError::Map(_) | WatchError::Clock(_) => Self::new(error, 1, ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::decisions::{Decision, Direction, RuleName};
    use crate::observe::event_view::PacketView;

    fn rule(action: &str, index: u32) -> RuleName {
        RuleName {
            tier: "default".to_owned(),
            policy: "NetworkPolicy(openstack/web)".to_owned(),
            direction: Direction::Ingress,
            index,
            action: action.to_owned(),
            rule: "tcp to port 80".to_owned(),
        }
    }

    fn view(kind: Kind, reason: Option<&'static str>, verdict: &'static str, action: &str) -> EventView {
        EventView {
            time: "2026-11-26T15:00:00.25Z".to_owned(),
            kind,
            reason,
            hook: "from-workload",
            interface: "tapclient".to_owned(),
            endpoint: "openstack/client".to_owned(),
            packet: PacketView {
                protocol: "tcp".to_owned(),
                source: Some([10, 0, 0, 1].into()),
                destination: Some([10, 0, 0, 2].into()),
                source_port: Some(4000),
                destination_port: Some(80),
                ..PacketView::default()
            },
            decisions: vec![Decision {
                direction: Direction::Ingress,
                interface: "tapweb".to_owned(),
                endpoint: "openstack/web".to_owned(),
                verdict,
                decided_by: Some(rule(action, 1)),
                counter: 5,
                at_end_of: Vec::new(),
                logged_by: vec![rule("log", 0)],
            }],
        }
    }

    #[test]
    fn an_event_is_one_line_with_who_decided_and_who_logged() {
        let mut page = Page::plain();
        put_on(
            &mut page,
            &view(Kind::Drop, Some("ingress-policy"), "deny", "deny"),
        );
        put_on(&mut page, &view(Kind::Log, None, "allow", "allow"));
        insta::assert_snapshot!(page.text());
    }

    #[test]
    fn what_was_missed_says_why() {
        let text = missed_text(Missed {
            suppressed: 1234,
            lost: 1,
        });
        assert_eq!(
            text,
            "1,234 more events were suppressed (100 a second are told), 1 events were lost: this command did not keep up"
        );
    }
}
