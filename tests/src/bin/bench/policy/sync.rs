//! A host that starts, with everything there is to be put in force; and what that takes of the kernel's memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_userspace::config::values::Config;
use calico_ebpf_userspace::report::AgentReport;

use super::Run;
use super::figures::{Figure, Goal};
use super::host::{Site, Working};
use super::updates::restore_milliseconds;
use crate::felix;
use crate::rules::{Last, Policy};

/// Lists of rules that the endpoints share.
const POLICY_SETS: usize = 10;
const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// `BPF_MAP_TYPE_HASH`: of this type and of the configured sizes are the conntrack maps.
const HASH: u64 = 1;

/// What one start took.
struct Started {
    milliseconds: f64,
    /// Of this: loading the programs.
    load_milliseconds: f64,
    /// Of this: compiling the table and putting it in force.
    table_milliseconds: f64,
    /// Lines of the table.
    lines: u32,
    /// Memory of all maps but conntrack, in MiB.
    mebibytes: f64,
}

/// What Felix's side took.
struct Restored {
    milliseconds: f64,
    /// Memory of the sets, in MiB.
    mebibytes: f64,
}

/// Measures the rows of this file.
pub(super) fn measure(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    let policy = Policy {
        members: run.sizes.members,
        last: Last::Everybody,
        ..Policy::default()
    };
    let mut rounds = Vec::new();
    for round in 0..run.sizes.rounds {
        run.say(&format!("full_sync: round {}", round + 1));
        let started = start(run, &policy, |config| config)?;
        rounds.push((started, restore(run, &policy)?));
    }
    let Some((last, restored)) = rounds.last() else {
        return Ok(Vec::new());
    };
    run.say("memory: with a table as large as needed");
    // Two versions, each rounded up to whole pages of 64 lines, and the page before them.
    let needed = last.lines.next_multiple_of(64) * 2 + 64;
    let fitted = start(run, &policy, |config| Config {
        bpf_policy_table_lines: needed,
        ..config
    })?;
    let host = format!(
        "{} endpoints share {POLICY_SETS} policy sets, {} members",
        run.sizes.endpoints_started, run.sizes.members
    );
    let baseline = "ipset restore and iptables-legacy-restore of the same";
    let pairs = |figure: fn(&Started) -> f64| -> Vec<[f64; 2]> {
        let both = rounds
            .iter()
            .map(|(ours, theirs)| [figure(ours), theirs.milliseconds]);
        both.collect()
    };
    let sets = "memory of the ip sets with the same members, rules not counted";
    Ok(vec![
        Figure::new(
            "full_sync",
            &format!("{host}: programs loaded and on every tap, table, settings and routes"),
            baseline,
            pairs(|ours| ours.milliseconds),
        )
        .in_unit("ms")
        .goal(Goal::RatioAtMost(0.5)),
        Figure::new(
            "full_sync/programs",
            &format!("{host}: of this loading the programs, which the verifier proves"),
            baseline,
            pairs(|ours| ours.load_milliseconds),
        )
        .in_unit("ms"),
        Figure::new(
            "full_sync/table",
            &format!("{host}: of this the table, compiled and put in force"),
            baseline,
            pairs(|ours| ours.table_milliseconds),
        )
        .in_unit("ms"),
        Figure::new(
            "memory/as_shipped",
            &format!("{host}: all maps but conntrack, parameters as they come"),
            sets,
            vec![[last.mebibytes, restored.mebibytes]],
        )
        .in_unit("MiB")
        .goal(Goal::ValueAtMost(10.0)),
        Figure::new(
            "memory/fitted",
            &format!("{host}: the same with BPFPolicyTableLines = {needed}, both versions"),
            sets,
            vec![[fitted.mebibytes, restored.mebibytes]],
        )
        .in_unit("MiB")
        .goal(Goal::ValueAtMost(10.0)),
    ])
}

fn start(run: &Run<'_>, policy: &Policy, change: impl FnOnce(Config) -> Config) -> anyhow::Result<Started> {
    let site = Site::new(run.sizes.endpoints_started)?;
    let config = change(site.config());
    let state = Arc::new(policy.state(&site.names, POLICY_SETS));
    site.namespace.run(|| {
        let started = Instant::now();
        let working = Working::start(&config, &site.names[0], &state)?;
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        let mut report = AgentReport::default();
        working.dataplane.describe(&state, &mut report);
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let table_milliseconds = working.dataplane.apply_milliseconds as f64;
        Ok(Started {
            milliseconds,
            load_milliseconds: working.load_milliseconds,
            table_milliseconds,
            lines: report.tables.lines,
            mebibytes: maps_mebibytes([config.bpf_map_size_conntrack, config.bpf_map_size_half_open])?,
        })
    })
}

fn restore(run: &Run<'_>, policy: &Policy) -> anyhow::Result<Restored> {
    let names = super::host::names(run.sizes.endpoints_started);
    let sets = felix::sets(policy, names.len());
    let rules = felix::rules(policy, &names, POLICY_SETS);
    let namespace = Netns::host();
    let started = Instant::now();
    namespace.feed("ipset", &["restore"], &sets);
    let of_sets = started.elapsed().as_secs_f64() * 1e3;
    let of_rules = restore_milliseconds(&namespace, "iptables-legacy-restore", &rules)?;
    let list = namespace.stdout("ipset", &["list", "-t"]);
    let bytes: Option<f64> = list
        .lines()
        .filter_map(|line| line.strip_prefix("Size in memory: "))
        .map(|bytes| bytes.parse::<f64>().ok())
        .sum();
    Ok(Restored {
        milliseconds: of_sets + of_rules,
        mebibytes: bytes.context("ipset tells sizes as numbers")? / MEBIBYTE,
    })
}

/// Returns the memory of all maps that this process holds but those of conntrack, as the kernel tells.
fn maps_mebibytes(conntrack_entries: [u32; 2]) -> anyhow::Result<f64> {
    let mut maps: BTreeMap<u64, f64> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo")? {
        // Descriptors of other threads come and go meanwhile.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        let (Some(number), Some(bytes)) = (field("map_id:"), field("memlock:")) else {
            continue;
        };
        let entries = conntrack_entries.map(u64::from);
        let conntrack = field("map_type:") == Some(HASH)
            && field("max_entries:").is_some_and(|count| entries.contains(&count));
        if !conntrack {
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            maps.insert(number, bytes as f64);
        }
    }
    anyhow::ensure!(
        maps.len() > 5,
        "only {} maps are open in this process",
        maps.len()
    );
    Ok(maps.values().sum::<f64>() / MEBIBYTE)
}
