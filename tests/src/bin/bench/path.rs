//! The path of an established flow from tap to tap: ours, a bare redirect, and Felix's rules.

use crate::Benches;
use crate::report::Bench;
use crate::road::{BATCH, Road, Surface};
use crate::rules::Policy;

/// Frames of one round.
const FRAMES: u32 = BATCH * 1500;
const FLOWS: u32 = 65_536;

/// Runs the benchmarks of this file.
pub(crate) fn run(
    rounds: usize,
    wanted: &dyn Fn(&str) -> bool,
    progress: &dyn Fn(&str),
    benches: &mut Benches,
) -> anyhow::Result<()> {
    let felix = [
        ("path_felix_legacy_established", "iptables-legacy-restore"),
        ("path_felix_nft_established", "iptables-nft-restore"),
    ];
    if !wanted("path_established") && !felix.iter().any(|(name, _)| wanted(name)) {
        return Ok(());
    }
    progress("path: taps and programs");
    let policy = Policy::default();
    let mut ours = Road::new(Surface::Ours, &policy, FLOWS)?;
    let mut bare = Road::new(Surface::Redirect, &policy, FLOWS)?;
    if wanted("path_established") {
        progress("path_established");
        let mut measured = Vec::new();
        for _ in 0..rounds {
            measured.push([ours.established(FRAMES)?, bare.established(FRAMES)?]);
        }
        benches.push(Bench::at_most(
            "path_established",
            "bare redirect",
            1.15,
            measured,
        ));
    }
    for (name, restore) in felix {
        if !wanted(name) {
            continue;
        }
        progress(name);
        let mut iptables = Road::new(Surface::Iptables(restore), &policy, FLOWS)?;
        let mut measured = Vec::new();
        for _ in 0..rounds.min(9) {
            measured.push([iptables.established(FRAMES)?, ours.established(FRAMES)?]);
        }
        benches.push(Bench::at_least(
            name,
            "path_established of this dataplane",
            3.0,
            measured,
        ));
    }
    Ok(())
}
