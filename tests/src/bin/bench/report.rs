//! What is printed.

use std::io::Write;

use serde::Serialize;

/// Everything that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    benches: Vec<Bench>,
    machine: Machine,
}

/// One figure beside its baseline. Times are nanoseconds a packet, medians of the rounds.
#[derive(Serialize)]
pub(crate) struct Bench {
    pub(crate) name: String,
    pub(crate) ns: f64,
    pub(crate) baseline: String,
    pub(crate) baseline_ns: f64,
    /// `ns / baseline_ns`.
    pub(crate) ratio: f64,
    /// What the ratio must not exceed, or must reach where `goal_is_least`.
    pub(crate) goal: f64,
    pub(crate) goal_is_least: bool,
    pub(crate) met: bool,
    /// Each round: figure and baseline.
    pub(crate) rounds: Vec<[f64; 2]>,
}

impl Bench {
    /// Makes a bench whose ratio must not exceed `goal`.
    pub(crate) fn at_most(name: &str, baseline: &str, goal: f64, rounds: Vec<[f64; 2]>) -> Self {
        Self::new(name, baseline, goal, false, rounds)
    }

    /// Makes a bench whose ratio must reach `goal`.
    pub(crate) fn at_least(name: &str, baseline: &str, goal: f64, rounds: Vec<[f64; 2]>) -> Self {
        Self::new(name, baseline, goal, true, rounds)
    }

    fn new(name: &str, baseline: &str, goal: f64, goal_is_least: bool, rounds: Vec<[f64; 2]>) -> Self {
        let ns = median(rounds.iter().map(|round| round[0]));
        let baseline_ns = median(rounds.iter().map(|round| round[1]));
        let ratio = ns / baseline_ns;
        let met = if goal_is_least {
            ratio >= goal
        } else {
            ratio <= goal
        };
        Self {
            name: name.to_owned(),
            ns,
            baseline: baseline.to_owned(),
            baseline_ns,
            ratio,
            goal,
            goal_is_least,
            met,
            rounds,
        }
    }
}

/// Returns the middle value; 0 of none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Where it was measured.
#[derive(Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
}

impl Machine {
    /// The machine that this process runs on.
    pub(crate) fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo").lines().find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(": ")
                .map(|(_, name)| name.to_owned())
        });
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: cpu.unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        }
    }
}

impl Report {
    pub(crate) fn new(benches: Vec<Bench>) -> Self {
        Self {
            benches,
            machine: Machine::this(),
        }
    }

    /// Writes the table for people.
    pub(crate) fn write_table(&self, output: &mut impl Write) -> std::io::Result<()> {
        writeln!(
            output,
            "{} on {} ({} CPUs)",
            self.machine.kernel, self.machine.cpu, self.machine.cpus
        )?;
        writeln!(
            output,
            "{:<34} {:>9} {:>9} {:>7} {:>8}      baseline",
            "bench", "ns", "base ns", "ratio", "goal"
        )?;
        for bench in &self.benches {
            let sign = if bench.goal_is_least { ">=" } else { "<=" };
            let (colour, word) = if bench.met {
                (anstyle::AnsiColor::Green, "met")
            } else {
                (anstyle::AnsiColor::Red, "not")
            };
            let style = anstyle::Style::new().fg_color(Some(colour.into()));
            writeln!(
                output,
                "{:<34} {:>9.1} {:>9.1} {:>7.2} {sign}{:>6.2} {style}{word}{style:#}  {}",
                bench.name, bench.ns, bench.baseline_ns, bench.ratio, bench.goal, bench.baseline
            )?;
        }
        Ok(())
    }
}
