//! The programs by themselves: a new verdict by number of rules and sets, and an established flow.

use aya::Ebpf;
use calico_ebpf_common::bench::Vary;
use calico_ebpf_common::maps::settings;

use super::Run;
use super::figures::{Figure, Goal};
use crate::bed::{self, Bed, run_program};
use crate::prog;
use crate::rules::{FIRST_MEMBER, Last, Mix, Policy, STEP};

/// `TC_ACT_UNSPEC`: to the host's stack.
const TO_STACK: u32 = u32::MAX;

/// Measures the rows of this file.
pub(super) fn measure(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if run.wants("verdict_vs_rules") {
        figures.extend(new_verdicts(run)?);
    }
    if run.wants("prog_established") {
        figures.extend(established(run)?);
    }
    Ok(figures)
}

/// A policy to be judged by; nothing is written.
struct Judge {
    /// What the row is called behind the temperature.
    name: String,
    object: Ebpf,
    hot: Vec<f64>,
    cold: Vec<f64>,
}

fn new_verdicts(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    let of_all_members = |rules, sets, mix| Policy {
        rules,
        sets,
        mix,
        members: run.sizes.members,
        last: Last::Everybody,
        ..Policy::default()
    };
    let by_rules = run.sizes.rules.iter().map(|rules| {
        (
            format!("{rules}_rules"),
            of_all_members(*rules, 10, Mix::NetsAndSets),
        )
    });
    let by_sets = run.sizes.sets.iter().map(|sets| {
        let policy = of_all_members(run.sizes.rules_of_sets, *sets, Mix::Sets);
        (format!("{sets}_sets"), policy)
    });
    let mut judges = Vec::new();
    for (name, policy) in by_rules.chain(by_sets) {
        run.say(&format!("verdict_vs_rules: table of {name}"));
        let bed = Bed {
            settings: vec![(settings::DRY_RUN, 1)],
            ..Bed::new(policy)
        };
        judges.push(Judge {
            name,
            object: bed.load()?,
            hot: Vec::new(),
            cold: Vec::new(),
        });
    }
    run.say("verdict_vs_rules: rounds");
    // The program's figures wander by some per cent from run to run: more and shorter rounds than others have.
    for _ in 0..run.sizes.rounds * 3 {
        for judge in &mut judges {
            judge.round(run)?;
        }
    }
    let [hot, cold] = [judges[0].hot.clone(), judges[0].cold.clone()];
    let mut figures = Vec::new();
    for (index, judge) in judges.into_iter().enumerate() {
        let rounds = [("hot", judge.hot, &hot, 1.05), ("cold", judge.cold, &cold, 1.3)];
        for (temperature, own, first, goal) in rounds {
            let pairs = own.iter().zip(first).map(|(own, first)| [*own, *first]);
            let figure = Figure::new(
                &format!("verdict_vs_rules/{temperature}/{}", judge.name),
                what_of(temperature),
                "with 1 rule",
                pairs.collect(),
            );
            // The first one is what the others are measured by.
            figures.push(if index == 0 {
                figure
            } else {
                figure.goal(Goal::RatioAtMost(goal))
            });
        }
    }
    Ok(figures)
}

fn what_of(temperature: &str) -> &'static str {
    if temperature == "hot" {
        "both ends' verdicts, the same packet again and again"
    } else {
        "sender's verdict, each packet to another member by chance"
    }
}

impl Judge {
    fn round(&mut self, run: &Run<'_>) -> anyhow::Result<()> {
        let frame = bed::frame(false);
        let by_chance = Vary {
            destinations: run.sizes.members,
            first_destination: FIRST_MEMBER,
            step: STEP,
            by_chance: 1,
            ..Vary::default()
        };
        for (vary, expected, figures) in [
            (Vary::default(), prog::REDIRECT, &mut self.hot),
            (by_chance, TO_STACK, &mut self.cold),
        ] {
            bed::vary(&mut self.object, vary)?;
            let empty = run_program(
                bed::program(&mut self.object, "bench_empty")?,
                &frame,
                run.sizes.repeats,
            )?;
            bed::vary(&mut self.object, vary)?;
            let program = bed::program(&mut self.object, "bench_from_workload")?;
            let (whole, action) = run_program(program, &frame, run.sizes.repeats)?;
            anyhow::ensure!(
                action == expected,
                "{}: the measured packet got TC action {action}, expected {expected}",
                self.name
            );
            figures.push(whole - empty.0);
        }
        Ok(())
    }
}

fn established(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut beds = Vec::new();
    for (name, v6, tcp) in [
        ("prog_established/v4", false, false),
        ("prog_established/v6", true, false),
        ("prog_established/tcp4", false, true),
        ("prog_established/tcp6", true, true),
    ] {
        run.say(name);
        let (object, frame) = prog::established(name, v6, tcp)?;
        beds.push((name, object, frame, Vec::new()));
    }
    for _ in 0..run.sizes.rounds * 3 {
        for (_, object, frame, rounds) in &mut beds {
            rounds.push(prog::in_look_ups(object, frame, run.sizes.repeats)?);
        }
    }
    for (name, _, _, rounds) in beds {
        let what = if name.contains("tcp") {
            "an established TCP connection: the same, and its window"
        } else {
            "an established flow: parse, conntrack, rewrite, redirect, everything on"
        };
        let figure = Figure::new(name, what, "one look-up in a hash map with a 16-byte key", rounds);
        figures.push(figure.goal(Goal::RatioAtMost(2.0)));
    }
    Ok(figures)
}
