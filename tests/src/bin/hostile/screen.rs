//! A run for people: what had to hold, and the figures behind it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use crate::checks::Check;
use crate::report::Run;

const TITLE: Style = AnsiColor::Cyan.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const QUIET: Style = Style::new().dimmed();

/// Writes a run.
pub(crate) fn write(run: &Run, output: &mut impl Write) -> io::Result<()> {
    writeln!(output, "\n{TITLE}{}{TITLE:#}: {}", run.name, run.about)?;
    for check in &run.checks {
        write_check(check, output)?;
    }
    for figure in figures(run) {
        writeln!(output, "       {QUIET}{figure}{QUIET:#}")?;
    }
    Ok(())
}

fn write_check(check: &Check, output: &mut impl Write) -> io::Result<()> {
    let Check {
        what, expected, seen, ..
    } = check;
    if check.ok {
        writeln!(output, "  {GOOD}ok  {GOOD:#} {what}: {seen}")
    } else {
        writeln!(output, "  {BAD}FAIL{BAD:#} {what}: {seen}; expected: {expected}")
    }
}

fn figures(run: &Run) -> Vec<String> {
    let (attacker, talk) = (&run.attacker, &run.connections);
    let mut figures = vec![
        format!(
            "attacker: {:.0} packets/s here, {:.0} on a host without this project ({:.2} by processor time), {:.0} \
             where all are thrown away ({:.2})",
            attacker.packets_per_second,
            attacker.bare_packets_per_second,
            attacker.cpu_ratio,
            attacker.sink_packets_per_second,
            attacker.sink_ratio
        ),
        format!(
            "connections under attack by those before: bytes {:.2}, new ones {:.2}; {} SYNs were sent again",
            talk.ratio.bytes, talk.ratio.new, talk.repeated_syns
        ),
    ];
    for (name, phase) in [("before", &talk.before), ("under attack", &talk.attack)] {
        figures.push(format!(
            "{name}: {:.0} bytes/s, there after {}; {:.1} new/s, open after {} (half, 99 %, all)",
            phase.bytes_per_second,
            milliseconds(phase.delays_ms),
            phase.new_per_second,
            milliseconds(phase.openings_ms)
        ));
    }
    let room = run
        .flows
        .room
        .map_or_else(String::new, |room| format!("; room for {room} each"));
    figures.push(format!(
        "flows: {} IPv4, {} IPv6{room}",
        run.flows.ipv4, run.flows.ipv6
    ));
    figures.push(format!("passed: {}", list(&run.counted.passed)));
    figures.push(format!("dropped: {}", list(&run.counted.dropped)));
    figures.extend(talk.losses.iter().map(|loss| format!("lost: {loss}")));
    figures
}

fn milliseconds([half, most, all]: [f64; 3]) -> String {
    format!("{half:.2}, {most:.1}, {all:.0} ms")
}

fn list(packets: &BTreeMap<String, u64>) -> String {
    let entries = packets
        .iter()
        .map(|(reason, packets)| format!("{reason} {packets}"));
    entries.collect::<Vec<_>>().join(", ")
}
