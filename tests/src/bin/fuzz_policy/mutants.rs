//! Known mistakes of the compiler: what the fuzzer does not find, it does not look at.

use std::time::Duration;

use calico_ebpf_tests::fuzzing::told::line;
use calico_ebpf_tests::fuzzing::workers::Order;
use calico_ebpf_userspace::compile::mutants::{Mutant, activate};

use crate::workers;

/// Makes each mistake until it is found, for at most `time`. Returns whether all were.
pub(crate) fn run(seed: u64, time: Duration) -> bool {
    let order = Order {
        seed,
        time,
        tells_progress: false,
    };
    let mut survivors = Vec::new();
    let widest = Mutant::ALL
        .iter()
        .map(|mutant| format!("{mutant:?}").len())
        .max()
        .unwrap_or(0);
    for mutant in Mutant::ALL {
        activate(Some(mutant));
        let ended = workers::run(order, false);
        activate(None);
        let name = format!("{mutant:?}");
        let (cases, seconds) = (ended.coverage.cases, ended.took.as_secs_f64());
        let outcome = if let Some(found) = &ended.found {
            format!(
                "found after {cases} cases, {seconds:.1} s, case {:#x} ({})",
                found.seed, found.failure.what
            )
        } else {
            survivors.push(name.clone());
            format!("NOT FOUND in {cases} cases, {seconds:.1} s")
        };
        line(&format!("{name:<widest$}  {}: {outcome}", mutant.description()));
    }
    if survivors.is_empty() {
        line(&format!("seed {seed}: every mutant was found"));
        return true;
    }
    line(&format!("seed {seed}: not found: {}", survivors.join(", ")));
    false
}
