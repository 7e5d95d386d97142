//! `cargo xtask bench policy`: what policy costs at any size, each figure beside a baseline of the same run.

mod churn;
mod classes;
mod figures;
mod gso;
mod host;
mod paths;
mod plot;
mod publish;
mod sync;
mod updates;
mod verdicts;

use std::io::Write;

use crate::cpu_time::Pinned;
use figures::{Figure, Figures};

/// How large everything is.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Rounds of each measurement.
    rounds: usize,
    /// Members of the large sets.
    members: u32,
    /// Rules that verdicts and paths are measured with.
    rules: &'static [usize],
    /// Rules that Felix's side is measured with, and the most for nftables.
    felix_rules: &'static [usize],
    most_nft_rules: usize,
    /// Sets that verdicts are measured with, of as many rules as this.
    sets: &'static [usize],
    rules_of_sets: usize,
    /// Runs of a program in one round.
    repeats: u32,
    /// Processor time of one round of a path, in nanoseconds.
    path_nanoseconds: f64,
    /// Flows that packets go round.
    flows: u32,
    /// Entries of the large conntrack table.
    table: u32,
    /// Established flows in it.
    established: u32,
    /// Endpoints of the host whose policy changes, and of the one that starts.
    endpoints_changed: usize,
    endpoints_started: usize,
}

const WHOLE: Sizes = Sizes {
    rounds: 9,
    members: 100_000,
    rules: &[1, 10, 100, 1000, 10_000],
    felix_rules: &[1, 10, 100, 1000, 10_000],
    most_nft_rules: 1000,
    sets: &[10, 100, 1000],
    rules_of_sets: 1000,
    repeats: 100_000,
    path_nanoseconds: 15e6,
    flows: 60_000,
    table: 1_000_000,
    established: 10_000,
    endpoints_changed: 100,
    endpoints_started: 200,
};

/// Shows that each row can be measured; its figures mean nothing.
const QUICK: Sizes = Sizes {
    rounds: 1,
    members: 2000,
    rules: &[1, 10],
    felix_rules: &[1, 10],
    most_nft_rules: 10,
    sets: &[10, 20],
    rules_of_sets: 20,
    repeats: 2000,
    path_nanoseconds: 1e6,
    flows: 2000,
    table: 20_000,
    established: 100,
    endpoints_changed: 4,
    endpoints_started: 10,
};

/// What the user asked for.
pub(crate) struct Request {
    pub(crate) json: bool,
    pub(crate) quick: bool,
    pub(crate) rounds: Option<usize>,
    /// Rows whose name begins with one of these; all when empty.
    pub(crate) only: Vec<String>,
    pub(crate) write_docs: bool,
}

/// What measures some of the rows.
struct Part {
    /// Names of its rows begin with these.
    rows: &'static [&'static str],
    /// Its figures are processor time of one thread, which is kept on one processor.
    pinned: bool,
    measure: fn(&Run<'_>) -> anyhow::Result<Vec<Figure>>,
}

const PARTS: [Part; 8] = [
    Part {
        rows: &["verdict_vs_rules", "prog_established"],
        pinned: true,
        measure: verdicts::measure,
    },
    Part {
        rows: &["class_lookup_100k"],
        pinned: true,
        measure: classes::measure,
    },
    Part {
        rows: &["path_new_flow", "path_vs_iptables"],
        pinned: true,
        measure: paths::measure,
    },
    Part {
        rows: &["path_60k_flows"],
        pinned: true,
        measure: paths::measure_many_flows,
    },
    Part {
        rows: &["path_gso_60k"],
        pinned: true,
        measure: gso::measure,
    },
    Part {
        rows: &["update_member", "update_policy"],
        pinned: false,
        measure: updates::measure,
    },
    Part {
        rows: &["full_sync", "memory"],
        pinned: false,
        measure: sync::measure,
    },
    Part {
        rows: &["ct_churn", "ct_flood"],
        pinned: true,
        measure: churn::measure,
    },
];

/// One run of the benchmarks.
struct Run<'a> {
    sizes: Sizes,
    only: &'a [String],
    progress: &'a (dyn Fn(&str) + Sync),
}

impl Run<'_> {
    /// Returns whether the row `name`, or one whose name begins with it, is to be measured.
    fn wants(&self, name: &str) -> bool {
        let begins = |only: &String| only.starts_with(name) || name.starts_with(only.as_str());
        self.only.is_empty() || self.only.iter().any(begins)
    }

    fn say(&self, what: &str) {
        (self.progress)(what);
    }
}

/// Measures and prints.
pub(crate) fn run(request: &Request, progress: &(dyn Fn(&str) + Sync)) -> anyhow::Result<()> {
    let mut sizes = if request.quick { QUICK } else { WHOLE };
    sizes.rounds = request.rounds.unwrap_or(sizes.rounds).max(1);
    anyhow::ensure!(
        !request.write_docs || (!request.quick && request.only.is_empty() && sizes.rounds >= 7),
        "--write-docs is for a whole run of at least 7 rounds: leave out --quick, --only and fewer --rounds"
    );
    let run = Run {
        sizes,
        only: &request.only,
        progress,
    };
    calico_ebpf_userspace::agent::limit_processors();
    let mut measured = Vec::new();
    for part in &PARTS {
        if !part.rows.iter().any(|row| run.wants(row)) {
            continue;
        }
        run.say(&part.rows.join(", "));
        let pinned = part.pinned.then(Pinned::new).transpose()?;
        let rows = (part.measure)(&run)?;
        drop(pinned);
        measured.extend(rows.into_iter().filter(|row| run.wants(&row.name)));
    }
    let names: Vec<&str> = PARTS.iter().flat_map(|part| part.rows).copied().collect();
    anyhow::ensure!(
        !measured.is_empty(),
        "no row is called {:?}; rows begin with: {}",
        request.only,
        names.join(", ")
    );
    let figures = Figures::new(measured, request.quick, sizes.rounds);
    if request.write_docs {
        publish::write(&figures)?;
    }
    let mut output = anstream::stdout().lock();
    if request.json {
        serde_json::to_writer_pretty(&mut output, &figures)?;
        writeln!(output)?;
    } else {
        figures.write_table(&mut output)?;
    }
    Ok(())
}
