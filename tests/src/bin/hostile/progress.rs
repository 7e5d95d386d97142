//! What people see while it runs, on standard error: one line that changes on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _, stderr};

use crate::talk::seen::{Counts, Seen, Sort};

/// Without a terminal, a line for so many seconds.
const EVERY: u64 = 10;

pub(crate) struct Progress {
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            is_terminal: stderr().is_terminal(),
        }
    }

    pub(crate) fn title(&self, name: &str, about: &str) {
        self.keep(&format!("==> hostile: {name}: {about}"));
    }

    pub(crate) fn step(&self, text: &str) {
        self.keep(&format!("    {text}"));
    }

    /// The talk without the attack.
    pub(crate) fn talk(&self, second: u64, seconds: u64, counts: &Counts) {
        let text = format!(
            "before the attack: {} new connections answered, {} bytes checked",
            counts.answered, counts.bytes
        );
        self.tick(second, seconds, &text);
    }

    pub(crate) fn bare(&self, forwarded: f64, thrown_away: f64) {
        self.step(&format!(
            "without this project: {forwarded:.0} packets/s; thrown away at once: {thrown_away:.0}"
        ));
    }

    pub(crate) fn attack(&self, second: u64, seconds: u64, packets: u64, seen: &Seen) {
        let counts = &seen.attack;
        let text = format!(
            "attack: {packets} packets/s; {} connections held, {} new answered, {} lost, {} refused",
            seen.held,
            counts.answered,
            counts.lost(Sort::Held) + counts.lost(Sort::New),
            counts.refused()
        );
        self.tick(second, seconds, &text);
    }

    fn tick(&self, second: u64, seconds: u64, text: &str) {
        let text = format!("    {second:>3}/{seconds} s  {text}");
        if self.is_terminal && second < seconds {
            // A terminal that is gone is no reason to stop.
            let _ = write!(stderr(), "\r\x1b[K{text}");
        } else if second.is_multiple_of(EVERY) || second == seconds {
            self.keep(&text);
        }
    }

    fn keep(&self, text: &str) {
        let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
        let _ = writeln!(stderr(), "{clear}{text}");
    }
}
