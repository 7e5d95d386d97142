//! What people read at the end.

use std::time::Duration;

use calico_ebpf_tests::fuzzing::edges::Part;
use calico_ebpf_tests::fuzzing::told::{come_past, line};

use crate::coverage::Coverage;
use crate::history;
use crate::shrink::{Reproduction, describe};

/// The compiler; other modules of `compile` are no part of it.
const COMPILER: Part = Part {
    mangled: "calico_ebpf_userspace7compile",
    dotted: "calico_ebpf_userspace..compile..",
    name: "all of the compiler",
    has: |module| !matches!(module, "describe" | "generate" | "mutants" | "reference"),
};

/// Prints what was come past, and how quickly.
pub(crate) fn coverage(coverage: &Coverage, took: Duration) {
    come_past("policy", coverage.features(), &COMPILER);
    let seconds = took.as_secs_f64();
    let by_second = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds;
    line(&format!(
        "{} cases ({:.0}/s), {} changes ({:.0}/s), {} packets ({:.0}/s), {} of them in the kernel, in {seconds:.1} s",
        coverage.cases,
        by_second(coverage.cases),
        coverage.steps,
        by_second(coverage.steps),
        coverage.packets + coverage.kernel_packets,
        by_second(coverage.packets + coverage.kernel_packets),
        coverage.kernel_packets
    ));
}

/// Prints a failure, and how to see it again.
pub(crate) fn failure(reproduction: &Reproduction) {
    let failure = &reproduction.failure;
    line(&format!(
        "case {:#x}, after change {}: {}",
        reproduction.seed, failure.step, failure.what
    ));
    let needed: Vec<_> = (1..=history::STEPS)
        .filter(|step| !reproduction.left_out.contains(step))
        .collect();
    line(&format!(
        "changes that it needs: {needed:?}; {}",
        failure.engine.name()
    ));
    if let Some(probe) = &failure.probe {
        line(&format!("packet: {:?}", probe.facts));
        let name = |key: &Option<_>| key.as_ref().map_or("elsewhere".to_owned(), ToString::to_string);
        line(&format!(
            "from {} to {}",
            name(&probe.source),
            name(&probe.target)
        ));
    }
    let (title, state) = match (&reproduction.state, &failure.case) {
        (Some(state), _) => (
            "smallest policy that shows it without any change:",
            Some(&**state),
        ),
        (None, Some(case)) => ("policy after the last change:", Some(&case.state)),
        (None, None) => ("", None),
    };
    if let Some(state) = state {
        line(title);
        for text in describe(state) {
            line(&text);
        }
    }
    line(&format!(
        "again: cargo xtask fuzz policy --case {:#x}",
        reproduction.seed
    ));
}
