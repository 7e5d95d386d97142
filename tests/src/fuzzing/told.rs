//! What people read.

use std::io::Write as _;

use super::edges::{self, Part};

/// Prints a line on standard output.
pub fn line(text: &str) {
    // A closed pipe is no reason to fail.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Prints how often each feature of `what` was come past, and which edges of a part ran.
pub fn come_past(what: &str, features: impl Iterator<Item = (&'static str, u64)>, part: &Part) {
    let features: Vec<_> = features.collect();
    let hit = features.iter().filter(|(_, count)| *count > 0).count();
    for (feature, count) in &features {
        line(&format!("{count:>12}  {feature}"));
    }
    line(&format!(
        "features of {what}: {hit} of {} come past",
        features.len()
    ));
    for module in edges::by_module(part) {
        line(&format!(
            "{:>5} of {:>5} edges  {}",
            module.hit, module.edges, module.name
        ));
    }
}
