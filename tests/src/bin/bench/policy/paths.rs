//! The whole path from tap to tap: new and established flows by number of rules, beside a bare redirect, a program that
//! walks the rules, and iptables.

use anyhow::Context;
use calico_ebpf_common::maps::FLOW_ENTRIES;

use super::figures::{Figure, Goal};
use super::{Run, Sizes};
use crate::road::{BATCH, NEW_PORTS, Road, Surface};
use crate::rules::Policy;

/// Frames that a road is tried with, to know how many a round may have.
const TRIAL: u32 = BATCH * 2;
/// Room for all new flows of one road.
const FLOWS: u32 = 131_072;
/// Felix's side, by what it is called in rows.
const IPTABLES: [(&str, &str); 2] = [
    ("legacy", "iptables-legacy-restore"),
    ("nft", "iptables-nft-restore"),
];

/// A road under one policy, and what it needed in each round.
struct Lane {
    road: Road,
    rules: usize,
    frames: Frames,
    established: Vec<f64>,
    new: Vec<f64>,
}

/// Frames of a round.
#[derive(Clone, Copy)]
struct Frames {
    established: u32,
    new: u32,
}

/// Measures new flows, and established ones beside iptables.
pub(super) fn measure(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    let sizes = &run.sizes;
    let mut lanes = Vec::new();
    let mut add = |surface: Surface, rules: usize| -> anyhow::Result<()> {
        run.say(&format!("path: {surface:?} with {rules} rules"));
        lanes.push(Lane::new(sizes, surface, rules)?);
        Ok(())
    };
    add(Surface::Redirect, 1)?;
    for rules in sizes.rules {
        add(Surface::Ours, *rules)?;
        add(Surface::Linear, *rules)?;
    }
    for (kind, restore) in IPTABLES {
        for rules in sizes.felix_rules {
            if kind == "legacy" || *rules <= sizes.most_nft_rules {
                add(Surface::Iptables(restore), *rules)?;
            }
        }
    }
    run.say("path: rounds");
    for _ in 0..sizes.rounds {
        for lane in &mut lanes {
            lane.round()?;
        }
    }
    let mut figures = Vec::new();
    let bare = find(&lanes, Surface::Redirect, 1)?;
    for rules in sizes.rules {
        let ours = find(&lanes, Surface::Ours, *rules)?;
        figures.push(
            Figure::new(
                &format!("path_new_flow/{rules}_rules"),
                "tap to tap, every packet opens a flow",
                "bare redirect",
                pairs(&ours.new, &bare.established),
            )
            .goal(Goal::RatioAtMost(2.3)),
        );
    }
    for rules in sizes.rules {
        let (linear, ours) = (
            find(&lanes, Surface::Linear, *rules)?,
            find(&lanes, Surface::Ours, *rules)?,
        );
        figures.push(Figure::new(
            &format!("path_new_flow/linear_walk/{rules}_rules"),
            "the same by a program that walks the rules, each set one look-up in an LPM trie",
            "this dataplane",
            pairs(&linear.new, &ours.new),
        ));
    }
    for (kind, restore) in IPTABLES {
        for rules in sizes.felix_rules {
            let Ok(iptables) = find(&lanes, Surface::Iptables(restore), *rules) else {
                continue;
            };
            let ours = find(&lanes, Surface::Ours, *rules)?;
            figures.extend(beside_iptables(kind, iptables, ours));
        }
    }
    Ok(figures)
}

fn beside_iptables(kind: &str, iptables: &Lane, ours: &Lane) -> [Figure; 2] {
    let rules = ours.rules;
    let established = Figure::new(
        &format!("path_vs_iptables/{kind}/{rules}_rules/established"),
        "tap to tap by Felix's rules, an established flow",
        "this dataplane",
        pairs(&iptables.established, &ours.established),
    );
    let new = Figure::new(
        &format!("path_vs_iptables/{kind}/{rules}_rules/new"),
        "tap to tap by Felix's rules, every packet opens a flow",
        "this dataplane",
        pairs(&iptables.new, &ours.new),
    );
    let new = match rules {
        100 => new.goal(Goal::RatioAtLeast(20.0)),
        1000 => new.goal(Goal::RatioAtLeast(150.0)),
        _ => new,
    };
    let established = match rules {
        10 | 100 | 1000 => established.goal(Goal::RatioAtLeast(3.0)),
        _ => established,
    };
    [established, new]
}

fn find(lanes: &[Lane], surface: Surface, rules: usize) -> anyhow::Result<&Lane> {
    lanes
        .iter()
        .find(|lane| lane.road.surface == surface && lane.rules == rules)
        .with_context(|| format!("{surface:?} was not measured with {rules} rules"))
}

fn pairs(figures: &[f64], baselines: &[f64]) -> Vec<[f64; 2]> {
    let both = figures.iter().zip(baselines);
    both.map(|(figure, baseline)| [*figure, *baseline]).collect()
}

impl Lane {
    fn new(sizes: &Sizes, surface: Surface, rules: usize) -> anyhow::Result<Self> {
        let mut road = Road::new(surface, &Policy::of(rules), FLOWS)?;
        road.established(TRIAL)?;
        let established = frames(sizes, road.established(TRIAL)?, u32::MAX);
        let new = if surface == Surface::Redirect {
            0
        } else {
            let rounds = u32::try_from(sizes.rounds)?;
            frames(sizes, road.new_flows(TRIAL)?, (NEW_PORTS - TRIAL) / rounds)
        };
        Ok(Self {
            road,
            rules,
            frames: Frames { established, new },
            established: Vec::new(),
            new: Vec::new(),
        })
    }

    fn round(&mut self) -> anyhow::Result<()> {
        // The walk's established flow costs what a look-up and a redirect cost.
        if self.road.surface != Surface::Linear {
            self.established
                .push(self.road.established(self.frames.established)?);
        }
        if self.frames.new > 0 {
            self.new.push(self.road.new_flows(self.frames.new)?);
        }
        Ok(())
    }
}

/// Returns the frames of a round, whole batches of them.
fn frames(sizes: &Sizes, nanoseconds: f64, most: u32) -> u32 {
    let wanted = (sizes.path_nanoseconds / nanoseconds.max(50.0)).clamp(0.0, 96_000.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a range of u32"
    )]
    let wanted = wanted as u32;
    (wanted.min(most) / BATCH).max(1) * BATCH
}

/// Measures packets that go round many flows.
pub(super) fn measure_many_flows(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    // The table that operators get: its size decides how far apart entries are.
    let mut road = Road::new(Surface::Ours, &Policy::default(), FLOW_ENTRIES)?;
    let flows = run.sizes.flows;
    let mut opened = 0;
    while opened < flows {
        let next = (flows - opened).min(BATCH * 128) / BATCH * BATCH;
        road.new_flows(next.max(BATCH))?;
        opened += next.max(BATCH);
    }
    let mut rounds = Vec::new();
    for _ in 0..run.sizes.rounds {
        let many = road.round_robin(flows / BATCH * BATCH, flows)?;
        let one = road.established(flows / BATCH * BATCH)?;
        rounds.push([many, one]);
    }
    Ok(vec![
        Figure::new(
            "path_60k_flows",
            &format!("tap to tap, packets go round {flows} established flows"),
            "packets of one flow",
            rounds,
        )
        .goal(Goal::RatioAtMost(1.35)),
    ])
}
