//! What people read at the end.

use std::time::Duration;

use calico_ebpf_tests::fuzzing::edges::Part;
use calico_ebpf_tests::fuzzing::told::{come_past, line};
use calico_ebpf_tests::parsing::{Coverage, Input};

use crate::workers::Found;

/// Modules of the host build that reading packets is in; the others are what programs do with what was read.
const PARSER: Part = Part {
    mangled: "calico_ebpf_on_host",
    dotted: "calico_ebpf_on_host..",
    name: "all of the parser",
    has: |module| {
        matches!(
            module,
            "on_host" | "parse" | "related" | "skb" | "packet" | "family"
        )
    },
};

/// Prints what was come past, and how quickly.
pub(crate) fn coverage(coverage: &Coverage, took: Duration) {
    come_past("frames", coverage.features(), &PARSER);
    let seconds = took.as_secs_f64();
    let by_second = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds;
    line(&format!(
        "{} frames ({:.0}/s), read {} times in the kernel ({:.0}/s), {} on a tap ({:.0}/s), in {seconds:.1} s",
        coverage.cases,
        by_second(coverage.cases),
        coverage.kernel_runs,
        by_second(coverage.kernel_runs),
        coverage.tap_frames,
        by_second(coverage.tap_frames),
    ));
}

/// Prints a failure, and how to see it again.
pub(crate) fn failure(found: &Found) {
    line(&format!("case {:#x}: {}", found.case, found.difference));
    let hex = |bytes: &[u8]| {
        let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.concat()
    };
    match &found.input {
        Input::Frame { frame, .. } => line(&format!("frame of {} bytes: {}", frame.len(), hex(frame))),
        Input::Tap { header, frame } => line(&format!(
            "on a tap, virtio-net header {}, frame of {} bytes: {}",
            hex(header),
            frame.len(),
            hex(frame)
        )),
    }
    line(&format!("again: cargo xtask fuzz parse --case {:#x}", found.case));
}
