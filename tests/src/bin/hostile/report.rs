//! The document: what was expected, what was seen, and the figures.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::case::{Outcome, Setting};
use crate::checks::{Check, checks, per};
use crate::counted::Counted;
use crate::mixture::Kind;
use crate::quota::Share;
use crate::sender::Sent;
use crate::talk::seen::{Counts, Loss, Sort, quantile};

/// The document of `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    pub(crate) ok: bool,
    /// Of each attack.
    pub(crate) seconds: u64,
    pub(crate) runs: Vec<Run>,
    /// Why it ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) checks: Vec<Check>,
    pub(crate) attacker: Attacker,
    pub(crate) connections: Connections,
    /// Flows in the conntrack tables at the end of the attack.
    pub(crate) flows: Tables,
    pub(crate) endpoints: Vec<Share>,
    /// Packets by what became of them, during the attack.
    pub(crate) counted: Counted,
}

#[derive(Debug, Serialize)]
pub(crate) struct Attacker {
    pub(crate) interface: String,
    pub(crate) sent: Sent,
    pub(crate) packets_per_second: f64,
    pub(crate) by_second: Vec<u64>,
    /// Frames of each kind in what is sent over and over.
    pub(crate) mixture: BTreeMap<Kind, usize>,
    /// The same frames on a host that forwards by the kernel alone, in slices before and after the attack.
    pub(crate) bare: Sent,
    pub(crate) bare_packets_per_second: f64,
    pub(crate) bare_forwarded: u64,
    /// The same frames on a tap whose frames are thrown away at once: what writing alone costs.
    pub(crate) sink: Sent,
    pub(crate) sink_packets_per_second: f64,
    /// Rate under this project by bare rate.
    pub(crate) ratio: f64,
    /// The same by the sender's processor time.
    pub(crate) cpu_ratio: f64,
    /// Rate under this project by that of writing alone.
    pub(crate) sink_ratio: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Connections {
    pub(crate) held: usize,
    pub(crate) before: Talk,
    pub(crate) attack: Talk,
    /// Rates under attack by those before it.
    pub(crate) ratio: Ratio,
    /// SYNs that were sent again under attack.
    pub(crate) repeated_syns: u64,
    /// Lost ones in words, the first few.
    pub(crate) losses: Vec<String>,
}

/// The talk in one phase.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Talk {
    pub(crate) seconds: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) new_per_second: f64,
    /// Half, 99 of 100 and all chunks arrived within.
    pub(crate) delays_ms: [f64; 3],
    /// The same of new connections until they were open.
    pub(crate) openings_ms: [f64; 3],
    pub(crate) losses: Vec<Lost>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Lost {
    pub(crate) sort: Sort,
    pub(crate) loss: Loss,
    pub(crate) count: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) bytes: f64,
    pub(crate) new: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Tables {
    pub(crate) ipv4: u64,
    pub(crate) ipv6: u64,
    pub(crate) room: Option<u32>,
}

impl Talk {
    fn new(counts: &mut Counts, seconds: f64) -> Self {
        let milliseconds =
            |values: &mut Vec<u32>| [0.5, 0.99, 1.0].map(|part| f64::from(quantile(values, part)) / 1000.0);
        let losses = counts.losses.iter();
        let losses = losses.map(|((sort, loss), count)| Lost {
            sort: *sort,
            loss: *loss,
            count: *count,
        });
        Self {
            seconds,
            bytes_per_second: per(counts.bytes, seconds),
            new_per_second: per(counts.answered, seconds),
            losses: losses.collect(),
            delays_ms: milliseconds(&mut counts.delays),
            openings_ms: milliseconds(&mut counts.openings),
        }
    }
}

impl Run {
    pub(crate) fn new(setting: &Setting, mut outcome: Outcome) -> Self {
        let checks = checks(&outcome);
        let before = Talk::new(&mut outcome.seen.before, outcome.before);
        let attack = Talk::new(&mut outcome.seen.attack, outcome.attack);
        Self {
            name: setting.name,
            about: setting.about,
            checks,
            attacker: Attacker {
                interface: outcome.attacker,
                sent: outcome.sent,
                packets_per_second: outcome.sent.packets_per_second(),
                by_second: outcome.by_second,
                mixture: outcome.mixture,
                bare: outcome.bare,
                bare_packets_per_second: outcome.bare.packets_per_second(),
                bare_forwarded: outcome.bare_forwarded,
                ratio: outcome.sent.packets_per_second() / outcome.bare.packets_per_second(),
                cpu_ratio: outcome.sent.packets_per_cpu_second() / outcome.bare.packets_per_cpu_second(),
                sink: outcome.sink,
                sink_packets_per_second: outcome.sink.packets_per_second(),
                sink_ratio: outcome.sent.packets_per_second() / outcome.sink.packets_per_second(),
            },
            connections: Connections {
                held: outcome.seen.held,
                ratio: Ratio {
                    bytes: attack.bytes_per_second / before.bytes_per_second,
                    new: attack.new_per_second / before.new_per_second,
                },
                before,
                attack,
                repeated_syns: outcome.repeated_syns,
                losses: outcome.seen.examples,
            },
            flows: Tables {
                ipv4: outcome.flows[0],
                ipv6: outcome.flows[1],
                room: outcome.flow_room,
            },
            endpoints: outcome.shares,
            counted: outcome.counted,
        }
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}
