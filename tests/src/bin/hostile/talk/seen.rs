//! What became of the connections, counted apart before the attack, under it and around them.

use std::collections::BTreeMap;

use serde::Serialize;

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// While the connections are made, and between the others.
    Around,
    /// Measured without the attack.
    Before,
    /// Under attack.
    Attack,
}

/// Which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sort {
    /// One of those that are held all the time.
    Held,
    /// One of those that are opened, used once and closed.
    New,
}

/// What happened to a connection that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Loss {
    /// It was told no when it was opened.
    Refused,
    /// Nobody answered in time.
    Unanswered,
    /// It ended before its end.
    Broken,
    /// A byte was another one.
    Damaged,
    /// What was sent did not arrive in time.
    Stalled,
}

/// Counts of one phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Bytes that were received and were right.
    pub(crate) bytes: u64,
    /// New connections that were begun.
    pub(crate) begun: u64,
    /// New connections that were opened, used and answered.
    pub(crate) answered: u64,
    pub(crate) losses: BTreeMap<(Sort, Loss), u64>,
    /// Microseconds from a write to the read of its last byte.
    pub(crate) delays: Vec<u32>,
    /// Microseconds until a new connection was open.
    pub(crate) openings: Vec<u32>,
}

impl Counts {
    pub(crate) fn lost(&self, sort: Sort) -> u64 {
        self.losses_where(|(of, loss)| of == sort && loss != Loss::Refused)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.losses_where(|(_, loss)| loss == Loss::Refused)
    }

    pub(crate) fn losses_where(&self, wanted: impl Fn((Sort, Loss)) -> bool) -> u64 {
        let losses = self.losses.iter().filter(|(key, _)| wanted(**key));
        losses.map(|(_, count)| count).sum()
    }
}

/// All counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Held connections that are open now.
    pub(crate) held: usize,
    pub(crate) around: Counts,
    pub(crate) before: Counts,
    pub(crate) attack: Counts,
    /// The first losses, in words.
    pub(crate) examples: Vec<String>,
    /// Whether everything that was said by connections that were not lost was heard, told at the end.
    pub(crate) is_whole: Option<bool>,
}

/// Losses that are told in words.
const EXAMPLES: usize = 8;

impl Seen {
    pub(crate) fn of(&mut self, phase: Phase) -> &mut Counts {
        match phase {
            Phase::Around => &mut self.around,
            Phase::Before => &mut self.before,
            Phase::Attack => &mut self.attack,
        }
    }

    pub(crate) fn lose(&mut self, phase: Phase, sort: Sort, loss: Loss, words: impl FnOnce() -> String) {
        *self.of(phase).losses.entry((sort, loss)).or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(words());
        }
    }

    /// Returns a count of all phases together.
    pub(crate) fn total(&self, count: impl Fn(&Counts) -> u64) -> u64 {
        [&self.around, &self.before, &self.attack]
            .into_iter()
            .map(count)
            .sum()
    }

    /// Connections that were lost at any time, refused ones included.
    pub(crate) fn all_losses(&self) -> u64 {
        self.total(|counts| counts.losses_where(|_| true))
    }
}

/// Returns the value below which this part of the values is; 0 of none.
pub(crate) fn quantile(values: &mut [u32], part: f64) -> u32 {
    values.sort_unstable();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index between nothing and the length"
    )]
    let index = (values.len() as f64 * part) as usize;
    let index = index.min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_from_losses_and_both_from_other_phases() {
        let mut seen = Seen::default();
        seen.lose(Phase::Attack, Sort::New, Loss::Refused, String::new);
        seen.lose(Phase::Attack, Sort::New, Loss::Unanswered, String::new);
        seen.lose(Phase::Attack, Sort::Held, Loss::Damaged, String::new);
        seen.lose(Phase::Before, Sort::Held, Loss::Stalled, String::new);
        assert_eq!(
            (
                seen.attack.refused(),
                seen.attack.lost(Sort::New),
                seen.attack.lost(Sort::Held)
            ),
            (1, 1, 1)
        );
        assert_eq!(seen.all_losses(), 4);
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let mut values = vec![5, 1, 4, 2, 3];
        assert_eq!(quantile(&mut values, 0.0), 1);
        assert_eq!(quantile(&mut values, 0.5), 3);
        assert_eq!(quantile(&mut values, 1.0), 5);
        assert_eq!(quantile(&mut [], 0.5), 0);
    }
}
